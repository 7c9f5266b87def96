"""The source of traffic on a net_null port: what arrives at which poll, what is missed, who may have it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pylwaftr import _core
from tests.engine_rig import told

HZ = 2_000_000_000
UNLIMITED = (1 << 64) - 1
US = HZ // 1_000_000

# What, (time in us, rate, ring) of each poll for 64 at most; what each got, and how many were missed in the end.
ARRIVALS: list[tuple[str, list[tuple[float, int, int]], list[int], int]] = [
    ("none before the first poll", [(500, 1_000_000, 0), (500, 1_000_000, 0)], [0, 0], 0),
    ("a frame each microsecond", [(0, 1_000_000, 0), (1, 1_000_000, 0), (11, 1_000_000, 0)], [0, 1, 10], 0),
    ("parts of frames add up", [(n / 4, 1_000_000, 0) for n in range(9)], [0, 0, 0, 0, 1, 0, 0, 0, 1], 0),
    ("thirds do not get lost", [(n * 1_000, 333, 0) for n in range(7)], [0, 0, 0, 0, 1, 0, 0], 0),
    ("a late poll leaves some behind", [(0, 1_000_000, 0), (100, 1_000_000, 0), (100, 1_000_000, 0)], [0, 64, 36], 0),
    (
        "what finds the ring full is missed",
        [(0, 1_000_000, 128), (1000, 1_000_000, 128), (1000, 0, 128), (1000, 0, 128)],
        [0, 64, 64, 0],
        872,
    ),
    ("no ring is one of 4096", [(0, 10**9, 0), (5, 10**9, 0), (5, 0, 0)], [0, 64, 64], 5000 - 4096),
    ("none at rate 0", [(0, 0, 0), (10**6, 0, 0)], [0, 0], 0),
    ("a new rate is for the time to come", [(0, 0, 0), (1000, 1_000_000, 0), (1010, 1_000_000, 0)], [0, 0, 10], 0),
    ("an old rate is for the time gone by", [(0, 1_000_000, 0), (10, 0, 0), (20, 0, 0)], [0, 10, 0], 0),
    ("as many as are polled", [(0, UNLIMITED, 0), (0, UNLIMITED, 0), (9, UNLIMITED, 0)], [64, 64, 64], 0),
    (
        "as many as are polled leaves nothing behind",
        [(0, UNLIMITED, 0), (1000, 1_000_000, 0), (1003, 1_000_000, 0)],
        [64, 0, 3],
        0,
    ),
    (
        "who waits comes before those that are polled for",
        [(0, 1_000_000, 0), (200, 1_000_000, 0), (200, UNLIMITED, 0), (200, 0, 0)],
        [0, 64, 64, 64],
        0,
    ),
    ("time that goes back is none", [(50, 1_000_000, 0), (20, 1_000_000, 0), (25, 1_000_000, 0)], [0, 0, 5], 0),
    (
        "a pause of an hour is no more than a ring",
        [(0, 10**8, 0), (3.6e9, 10**8, 0), (3.6e9, 0, 0)],
        [0, 64, 64],
        360_000_000_000 - 4096,
    ),
]


@pytest.mark.parametrize("polls, given, missed", [row[1:] for row in ARRIVALS], ids=[row[0] for row in ARRIVALS])
def test_arrivals(polls: list[tuple[float, int, int]], given: list[int], missed: int) -> None:
    pacer = _core.BenchPacer(HZ)
    assert [pacer.poll(7 + int(at * US), rate, ring, 64) for at, rate, ring in polls] == given
    offered, all_given, all_missed, count = pacer.counts
    assert (all_given, all_missed, count) == (sum(given), missed, len(polls))
    waiting = 0
    while more := pacer.poll(0, 0, 0, 64):
        waiting += more
    assert offered == all_given + all_missed + waiting


def test_long_runs_keep_the_rate() -> None:
    """Polls at odd times: nothing is rounded away."""
    pacer = _core.BenchPacer(HZ)
    now = 1
    while now < HZ:
        pacer.poll(now, 1_234_567, 0, 64)
        now += 12_347
    pacer.poll(HZ + 1, 0, 0, 64)
    assert pacer.counts[0] == 1_234_567


def test_frames_without_buffers_are_missed() -> None:
    pacer = _core.BenchPacer(HZ)
    assert pacer.poll(0, UNLIMITED, 0, 64) == 64
    pacer.lose(14)
    assert pacer.counts == (64, 50, 14, 1)


# --- on a queue --------------------------------------------------------------------------------------------------

HEAD = """
rows = _core.bench_rows(0, 100)
table = _core.BindingTable(1000, own, [a for a, _ in base["v6"]["addresses"]] + base["br_addresses"])
assert not table.bind(rows, 0, 1)["refused"]
base = changed(base, {"br_addresses": [rows["br"][0].tobytes()]})
def words_of(rate, ring=0):
    words = np.zeros(16, np.uint64)
    words[:2] = rate, ring
    return words
def source(port, queue, words, direction="encap", octets=(64,), **more):
    return _core.BenchSource(port, queue, direction, 100, list(octets), base["v4"]["mac"], words, **more)
MOST = (1 << 64) - 1
NULL = "net_null0,copy=0,no-rx=1", "net_null1,copy=0,no-rx=1"
"""

RUNNING = """
engine = engine_of(*NULL)
engine.start()
ports = [queue["port"] for queue in engine.worker_stats()[0]["queues"]]
v4, v6 = words_of(0), words_of(0)
sources = [
    source(ports[0], 0, v4),
    _core.BenchSource(ports[1], 0, "decap", 100, [94, 590], base["v6"]["mac"], v6, tcp=True),
]
wait_for(lambda: v4[12] > 1000)
quiet = moved()
v4[0], v6[0] = 200_000, MOST
wait_for(lambda: v4[9] > 20_000)
v4[0] = v6[0] = 0
last = int(v4[12])
wait_for(lambda: v4[12] > last + 100)
counted, told = moved(), [v4.tolist(), v6.tolist()]
for one in sources:
    one.detach()
    one.detach()
v4[0] = MOST
received = sum(n for n, _ in engine.progress())
time.sleep(0.02)
later = moved()
done(quiet=quiet, counted=counted, told=told, still=later == counted, lost=engine.mbufs_in_use())
"""


@pytest.mark.parametrize("no_rx", [True, False], ids=["no-rx=1", "a port with frames"])
def test_a_running_router_receives_what_a_source_gives(tmp_path: Path, no_rx: bool) -> None:
    script = HEAD + RUNNING
    if not no_rx:  # then what net_null brings when no source is on it has to be harmless: zeros are foreign frames
        script = script.replace(",no-rx=1", "").replace("still=later == counted", "still=True")
    found = told(script, tmp_path)
    for words, counter in zip(found["told"], ("encap", "decap"), strict=True):
        offered, given, missed, longest, polls = words[8:13]
        assert offered == given + missed
        assert given > 0
        assert polls > 1000
        assert longest > 0
        assert found["counted"][counter] == given
    assert found["counted"]["rx_v4"] >= found["told"][0][9]
    if no_rx:
        assert found["quiet"] == {}
        assert {name for name in found["counted"] if name.startswith("drop")} == set()
        assert found["still"]
        assert found["lost"] == 0


SEVERAL = """
engine = engine_of(*NULL, workers=2)
queues = [(queue["port"], queue["queue"]) for worker in engine.worker_stats() for queue in worker["queues"]]
words = [words_of(MOST) for _ in range(3)]
v4 = [queue for queue in queues if queue[0] == queues[0][0]]
sources = [source(*queue, one, seed=seed) for seed, (queue, one) in enumerate(zip(v4, words))]
refused = []
def refuse(*arguments, **more):
    try:
        source(*arguments, **more)
    except Exception as fault:
        refused.append([type(fault).__name__, str(fault)])
refuse(*v4[0], words[2])
sources[0].detach()
sources[0] = source(*v4[0], words[2])
v6 = queues[1][0]
refuse(v6, 7, words[0])
refuse(99, 0, words[0])
refuse(v6, 0, words[0][:8])
refuse(v6, 0, np.zeros(16))
refuse(v6, 0, words[0], pool="none")
refuse(v6, 0, words[0], octets=[20])
refuse(v6, 0, words[0], direction="up")
engine.start()
wait_for(lambda: all(one[9] > 1000 for one in words[1:]))
engine.stop()
sources.clear()
done(refused=refused, workers=[int(row[NAMES.index("encap")]) for row in engine.counters()],
     given=[int(one[9]) for one in words])
"""


def test_a_queue_has_one_source_and_each_worker_its_own(tmp_path: Path) -> None:
    found: dict[str, Any] = told(HEAD + SEVERAL, tmp_path)
    assert found["workers"] == [found["given"][2], found["given"][1]]
    assert found["given"][0] == 0
    kinds, texts = zip(*found["refused"], strict=True)
    assert kinds == ("EalError",) * 3 + ("ValueError", "TypeError", "EalError", "ValueError", "ValueError")
    for text, part in zip(texts, ("a source on it already", "no such receive queue", "no such port"), strict=False):
        assert part in text
    assert "named none" in texts[5]


OTHER_PORT = """
from tests.frames import sent
from tests import pcap_files
pcap_files.write(folder / "in.pcap", [])
engine = engine_of(f"net_pcap0,rx_pcap={folder}/in.pcap", "net_null1,no-rx=1")
port = engine.worker_stats()[0]["queues"][0]["port"]
try:
    source(port, 0, words_of(0))
    fault = ""
except _core.EalError as caught:
    fault = str(caught)
done(fault=fault)
"""


def test_only_a_wire_that_is_none_is_replaced(tmp_path: Path) -> None:
    assert "is net_pcap" in told(HEAD + OTHER_PORT, tmp_path)["fault"]


def test_each_binding_has_a_56_of_its_own() -> None:
    """So the fleet can be subscribers of mask 56, its last member too."""
    for first in (0, 1000, (1 << 28) - 1000):
        rows = _core.bench_rows(first, 1000)
        prefixes = {row["b4"].tobytes()[:7] for row in rows}
        assert len(prefixes) == 1000
        assert all(prefix[:2] == b"\x3f\xff" and prefix[2] < 16 for prefix in prefixes)
