"""The lab: a lwAFTR between real kernel hosts, in network namespaces of one machine (docs/lab.md)."""
