"""Compiled tables that get no memory to grow: what they have stays, and is found."""

from __future__ import annotations

import subprocess
import sys

import pytest

LIMITED = """
import resource
import numpy as np
from pylwaftr._softwires import Softwires
from pylwaftr.dhcp._index import KeyIndex
from pylwaftr.pcp._by_prefix import ByPrefix
from pylwaftr.rows import BINDING_ROW

count = 1 << 20
many = np.zeros(count, BINDING_ROW)
many["ipv4"] = np.arange(count)
many["b4"][:, 4:8] = np.arange(count, dtype=">u4").view(np.uint8).reshape(-1, 4)
keys, slots = np.arange(count, dtype=np.uint64), np.arange(count, dtype=np.int32)
first = many["b4"][0].tobytes()
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (24 << 20), resource.RLIM_INFINITY))
"""

TABLES = {
    "softwires": "table = Softwires(64); grow = lambda: table.add(many, 1); "
    "there = lambda: (table.of(first), table.remove(many[:1]).tolist(), table.of(first)) == (1, [True], 0)",
    "keys": "table = KeyIndex(); grow = lambda: table.put(keys, slots); there = lambda: table.find(keys[:1])[0] == 0",
    "prefixes": "table = ByPrefix(64); table.add(many[:9].view(np.uint8)); "
    "grow = lambda: table.add(many.view(np.uint8)); there = lambda: table.has(first) and len(table) == 9",
}

TRIED = """
try:
    grow()
except MemoryError:
    assert there()
    del table
    print("none, and nothing lost")
"""


@pytest.mark.parametrize("table", TABLES)
def test_without_memory_nothing_is_lost(table: str) -> None:
    script = f"{LIMITED}\n{TABLES[table]}\n{TRIED}"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (0, "none, and nothing lost\n"), done.stderr
