"""The reference lwB4: the subscriber's end of a lightweight 4over6 softwire (RFC 7596 section 5)."""
