"""Offloads of a real port: net_tap judges checksums of what the kernel sends and completes those of what it gets."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests import test_run

MACHINE = """
import json, subprocess, sys
from pylwaftr import _core, eal_args
from pylwaftr.config import core_settings, load

few = eal_args.Buffers(8192, 2048, 64)
_core.eal_init(eal_args.replay_vector(few, {0}))
engine = _core.Engine(core_settings(load(sys.argv[1])), _core.BindingTable(100, [], []),
                      ["net_tap0,iface=h1v4", "net_null1"], [1], mbufs=few.count, data_room=few.data_room,
                      held_limit=few.held_limit, offloads=sys.argv[2] == "on", secret=1)
engine.start()
for words in ("link set lo up", "address add 192.0.2.254/24 dev h1v4", "link set h1v4 up"):
    subprocess.run(["ip", *words.split()], check=True)
answers = [subprocess.run(["ping", "-c", "3", "-i", "0.2", "-W", "5", "-s", size, "192.0.2.1"], capture_output=True)
           for size in ("56", "4000")]
engine.stop()
port, names = engine.ports()[0], [name for name, *_ in _core.COUNTERS]
counters = dict(zip(names, engine.counters().sum(axis=0).tolist()))
print(json.dumps([[answer.returncode for answer in answers], port["offloads"], counters]))
engine.close()
_core.eal_cleanup()
"""


@pytest.mark.needs_netns
@pytest.mark.parametrize("offloads", ["on", "off"])
def test_the_kernel_is_answered(tmp_path: Path, offloads: str) -> None:
    """Pings in one piece and in fragments, which leave in fragments whose checksums the kernel checks."""
    config = test_run.config_file(tmp_path)
    words = ["unshare", "--net", sys.executable, "-c", MACHINE, str(config), offloads]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    answered, in_use, counters = json.loads(done.stdout.splitlines()[-1])
    assert answered == [0, 0], counters
    on = offloads == "on"
    assert (in_use["rx_ipv4_checksum"], in_use["tx_ipv4_checksum"], in_use["tx_segments"] > 1) == (on, on, on)
    assert counters["answered_echo_v4"] == 6
    assert counters["fragments_v4_made"] == 9
