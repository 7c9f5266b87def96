"""Runs a script with a real engine in a process of its own, for DPDK starts once in the life of one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

HEAD = """
import json, os, select, sys, time
import numpy as np
from pathlib import Path
from pylwaftr import _core, eal_args
from tests.lane_router import numeric4, row_array
from tests.softwires import changed
from tests.vector_config import bindings, settings
from tests.frames import PEER_MAC, ip4, ip6

folder = Path(sys.argv[1])
base = changed(settings(), {
    "v4.next_hop_mac": PEER_MAC["v4"], "v6.next_hop_mac": PEER_MAC["v6"],
    "pcp": {"enabled": True, "addresses": [b"\\xc0\\0\\0\\1"], "rate_limit": (0, 0)},
})
buffers = eal_args.Buffers(8192, 2048, 1024)
cpus = sorted(os.sched_getaffinity(0))
places = ",".join(f"{lcore}@({','.join(map(str, cpus))})" for lcore in range(3))  # they float
words = eal_args.replay_vector(buffers, cpus)
_core.eal_init([f"--lcores={places}" if word.startswith("--lcores") else word for word in words])
own = [int.from_bytes(a) for a, _ in base["v4"]["addresses"]]
table = _core.BindingTable(1000, own, [a for a, _ in base["v6"]["addresses"]] + base["br_addresses"])
assert not table.bind(row_array(bindings()), 0, 1)["refused"]

def engine_of(v4, v6, settings=base, workers=1, rss="outer"):
    return _core.Engine(settings, table, [v4, v6], [1, 2][:workers], mbufs=buffers.count,
                        data_room=buffers.data_room, held_limit=buffers.held_limit, secret=1, rss=rss)

NAMES = [entry[0] for entry in _core.COUNTERS]

def counter(name):
    return int(engine.counters()[:, NAMES.index(name)].sum())

def moved():
    return {name: counter(name) for name in NAMES if counter(name) and name not in ("idle_polls", "busy_cycles")}

def wait_for(true, seconds=20):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, moved()
        time.sleep(0.001)

def done(**told):
    engine.stop()
    engine.close()
    _core.eal_cleanup()
    print("TOLD" + json.dumps(told))
"""


def told(script: str, folder: Path, *arguments: str) -> dict[str, Any]:
    """What the script says at its end; `done` in HEAD does."""
    words = [sys.executable, "-c", HEAD + script, str(folder), *arguments]
    ran = subprocess.run(
        words, capture_output=True, text=True, timeout=120, check=False, cwd=Path(__file__).parent.parent
    )
    assert ran.returncode == 0, ran.stderr
    found: dict[str, Any] = json.loads(ran.stdout.rpartition("TOLD")[2])
    return found
