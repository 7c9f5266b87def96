"""PCP (RFC 6887) with PORT_SET (RFC 7753): codec, server, pools, and the client of the lwB4."""
