"""DHCP for softwires: codecs, and the protocols above them."""
