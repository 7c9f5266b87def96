"""Compiled tables that get no memory to grow: what they have stays, and is found."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from pylwaftr.dhcp import slots
from pylwaftr.dhcp.slots import SlotTable, _longer

LIMITED = """
import resource
from collections import Counter
import numpy as np
from pylwaftr._softwires import Softwires
from pylwaftr.dhcp._index import KeyIndex
from pylwaftr.dhcp.codec_lease import LEASE_ROW
from pylwaftr.dhcp.leases import Leases, Policy
from pylwaftr.dhcp.slots import SlotTable
from pylwaftr.dhcp.winners import Winners
from pylwaftr.pcp._by_prefix import ByPrefix
from pylwaftr.rows import BINDING_ROW

count = 1 << 20
many = np.zeros(count, BINDING_ROW)
many["ipv4"] = np.arange(count)
many["b4"][:, 4:8] = np.arange(count, dtype=">u4").view(np.uint8).reshape(-1, 4)
keys, slots = np.arange(count, dtype=np.uint64), np.arange(count, dtype=np.int32)
first = many["b4"][0].tobytes()
leases = Leases([Policy("A")], bytes(16))
leases._winners.b4s.put(keys[: (1 << 19) - 9], slots[: (1 << 19) - 9])
news = np.zeros(64, LEASE_ROW)
news["ipv4"], news["psid_len"], news["psid"], news["state"], news["has"] = 1 << 24, 6, slots[:64], 1, 255
news["b4"][:, 0], news["b4"][:, 15] = 32, slots[:64]
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (24 << 20), resource.RLIM_INFINITY))
"""

TABLES = {
    "softwires": "table = Softwires(64); grow = lambda: table.add(many, 1); "
    "there = lambda: (table.of(first), table.remove(many[:1]).tolist(), table.of(first)) == (1, [True], 0)",
    "keys": "table = KeyIndex(); grow = lambda: table.put(keys, slots); there = lambda: table.find(keys[:1])[0] == 0",
    "places": "table = KeyIndex(); grow = lambda: table.place(keys, slots); "
    "there = lambda: len(table) == 0 and (table.find(keys) == -1).all()",
    "more places": "table = KeyIndex(); table.place(keys[::-1][:9].copy(), slots); "
    "twice = np.repeat(keys[: 1 << 19], 2); "
    "grow = lambda: table.place(twice, np.arange(9, 9 + len(twice), dtype=np.int32)); "
    "there = lambda: len(table) == 9 and table.find(keys[::-1][:9].copy()).tolist() == list(range(9))",
    "addresses": "table = SlotTable(); grow = lambda: table.places(keys << np.uint64(26)); "
    "there = lambda: table._address_count == len(table._addresses) == 0",
    "claims": "table = Winners(bytes(16), Counter()); [table.add(number, '', 0) for number in range(4)]; "
    "grow = lambda: table.make_room(1 << 17); there = lambda: not table.table.room(1 << 17)",
    "leases": "table = leases; grow = lambda: leases.heard('A', news, 0); "
    "there = lambda: len(leases.take().bind) == len(leases) == 0",
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


COLUMNS = {
    "slots": (lambda table: table.grow(4096), "keys b4 owner was was_b4 changed"),
    "addresses": (
        lambda table: table.places(np.arange(2000, dtype=np.uint64) << np.uint64(26)),
        "division programmed contested",
    ),
}


def longer_until(fails_at: int) -> Any:
    left = iter(range(fails_at))

    def longer(*column: Any) -> Any:
        if next(left, None) is None:
            raise MemoryError
        return _longer(*column)

    return longer


@pytest.mark.parametrize("name", COLUMNS)
def test_no_column_is_shorter_than_the_one_that_says_how_long_they_are(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The compiled way looks at the first alone, and writes into all of them."""
    grow, columns = COLUMNS[name]
    for fails_at in range(len(columns.split())):
        table = SlotTable()
        with monkeypatch.context() as without:
            without.setattr(slots, "_longer", longer_until(fails_at))
            with pytest.raises(MemoryError):
                grow(table)
        lengths = [len(getattr(table, column)) for column in columns.split()]
        assert lengths[0] == min(lengths), fails_at
        grow(table)
        assert min(len(getattr(table, column)) for column in columns.split()) > lengths[0]
