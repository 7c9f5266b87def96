"""A lightweight 4over6 border router (lwAFTR, RFC 7596) on DPDK."""

from __future__ import annotations

import sys

from pylwaftr import cpu

__version__ = "0.1.0"

try:
    cpu.require()
except cpu.UnsupportedCpu as _fault:
    # Nothing of this package can run here: whoever started the program gets the sentence, not the way to it.
    sys.excepthook = lambda _kind, fault, _trace: print(f"pylwaftr: {fault}", file=sys.stderr)
    raise
