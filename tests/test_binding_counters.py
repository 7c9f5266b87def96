"""Packets and octets of each binding: which packets count, for whom, and that nobody inherits what others have used."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from pylwaftr import _core
from tests import pcap_files, test_replay
from tests.frames import PEER_MAC, edit4, ethernet, fragments4, udp
from tests.lane_router import SOURCE_CONFIG, Router, router, row_array
from tests.softwires import B1, B2, INET, WHOLE, changed, from_b4
from tests.vector_config import Binding, Settings, numeric4, settings

Counts = tuple[int, int, int, int]  # packets and octets in, packets and octets out
DF = 0x4000


def _in(to: Binding = B1, size: int = 18, **ip: int) -> bytes:
    return ethernet("v4", udp(INET, to.ipv4, 53, _port(to), size=size, **ip))


def _out(by: Binding = B1, to: str = INET, dport: int = 53, size: int = 18, **ip: int) -> bytes:
    return ethernet("v6", from_b4(udp(by.ipv4, to, _port(by), dport, size=size, **ip), by))


def _port(of: Binding) -> int:
    return {"b1": 1500, "b2": 2500, "b4": 9}[of.name]


def counts(lane: Router, of: Binding = B1) -> Counts:
    found = _all(lane.table)
    return found[numeric4(of.ipv4), of.psid]


def _all(table: _core.BindingTable) -> dict[tuple[int, int], Counts]:
    rows, _ = table.counts_chunk(0, 1 << 40)
    cells = ("packets_in", "octets_in", "packets_out", "octets_out")
    return {(int(row["ipv4"]), int(row["psid"])): tuple(int(row[cell]) for cell in cells) for row in rows}


# Octets are those of the IPv4 packet: 20 + 8 + 18 here. What it travelled in is not the subscriber's.
ROWS: list[tuple[str, str, Sequence[bytes], Settings, dict[str, Counts]]] = [
    ("in", "v4", [_in()], {}, {"b1": (1, 46, 0, 0)}),
    ("out", "v6", [_out()], {}, {"b1": (0, 0, 1, 46)}),
    ("out and padded", "v6", [_out() + bytes(9)], {}, {"b1": (0, 0, 1, 46)}),
    ("whole address", "v4", [_in(WHOLE), _in(WHOLE, size=100)], {}, {"b4": (2, 174, 0, 0)}),
    ("two of one address", "v4", [_in(), _in(B2), _in(B2)], {}, {"b1": (1, 46, 0, 0), "b2": (2, 92, 0, 0)}),
    (
        "from one to another",
        "v6",
        [_out(B1, B2.ipv4, 2500)],
        {},
        {"b1": (0, 0, 1, 46), "b2": (1, 46, 0, 0)},
    ),
    ("in fragments it counts once", "v4", [_in(size=1452)], {}, {"b1": (1, 1480, 0, 0)}),
    ("out in fragments it counts once", "v6", [_out(size=1400)], {"v4.mtu": 600}, {"b1": (0, 0, 1, 1428)}),
    ("no port of theirs", "v4", [ethernet("v4", udp(INET, B1.ipv4, 53, 63000))], {}, {}),
    ("spoofed", "v6", [ethernet("v6", from_b4(udp(B1.ipv4, INET, 2500, 53), B1))], {}, {}),
    ("expired", "v4", [ethernet("v4", edit4(udp(INET, B1.ipv4, 53, 1500), 8, b"\1"))], {}, {}),
    ("too big", "v6", [_out(size=1400, flags=DF)], {"v4.mtu": 600}, {}),
    ("refused by the filter of the way out", "v4", [_in()], {"v6.egress_filter": "not ip6"}, {}),
    ("hairpin is off", "v6", [_out(B1, B2.ipv4, 2500)], {"hairpin": "drop"}, {}),
]


# A watched lane uses the stages alone, others the short way of plain packets where they can.
@pytest.mark.parametrize("watched", [False, True], ids=["short-way", "stages"])
@pytest.mark.parametrize(("what", "side", "frames", "changes", "wanted"), ROWS, ids=[row[0] for row in ROWS])
def test_which_packets_count(
    what: str, side: str, frames: Sequence[bytes], changes: Settings, wanted: dict[str, Counts], watched: bool
) -> None:
    with router(changed(settings(), changes), accounts=True) as lane:
        if watched:
            lane.lane.watch()
        lane.send(side, *frames)
        for of in (B1, B2, WHOLE):
            assert counts(lane, of) == wanted.get(of.name, (0, 0, 0, 0)), of.name


def test_a_fragment_that_came_before_the_first_counts_when_it_goes() -> None:
    first, second = fragments4(udp(INET, B1.ipv4, 53, 1500, size=100), 100)
    with router(accounts=True) as lane:
        lane.send("v4", ethernet("v4", second))
        assert counts(lane) == (0, 0, 0, 0)
        lane.send("v4", ethernet("v4", first))
        assert counts(lane) == (2, len(first) + len(second), 0, 0)


@pytest.mark.parametrize("watched", [False, True], ids=["short-way", "stages"])
def test_a_burst_of_many_counts_for_each(watched: bool) -> None:
    """Plain packets and others by turns; out of softwires also from one into another."""
    expired = ethernet("v4", edit4(udp(INET, B1.ipv4, 53, 1500), 8, b"\1"))
    with router(accounts=True) as lane:
        if watched:
            lane.lane.watch()
        lane.burst("v4", [_in(B1), _in(B2), expired, _in(WHOLE, size=1452)] * 16)
        lane.burst("v6", [_out(B1), _out(B1, B2.ipv4, 2500), _out(B2), _out(B1, B2.ipv4, 63000)] * 16)
        assert counts(lane, B1) == (16, 16 * 46, 32, 32 * 46)
        assert counts(lane, B2) == (32, 32 * 46, 16, 16 * 46)
        assert counts(lane, WHOLE) == (16, 16 * 1480, 0, 0)


def test_a_packet_counts_when_it_leaves_not_while_it_waits_for_the_next_hop() -> None:
    lane = Router(resolved=False, accounts=True)
    lane.send("v4", _in())
    assert counts(lane) == (0, 0, 0, 0)
    lane.lane.set_next_hop("v6", PEER_MAC["v6"])
    lane.advance(1)
    assert counts(lane) == (1, 46, 0, 0)
    lane.check_end()


def test_a_packet_whose_next_hop_never_answers_does_not_count() -> None:
    lane = Router(resolved=False, accounts=True)
    lane.send("v4", _in())
    lane.advance(10_000)
    lane.check_end()
    assert counts(lane) == (0, 0, 0, 0)


# -------------------------------------------------------------------------------------------- bindings that come and go
def _unbind(lane: Router, of: Binding = B1) -> None:
    address = np.array([numeric4(of.ipv4)], np.uint32)
    report = lane.table.unbind(address, np.array([of.psid], np.uint16), SOURCE_CONFIG)
    assert report["removed"] == 1


def _bind(lane: Router, of: Binding = B1) -> None:
    assert not lane.table.bind(row_array([of]), SOURCE_CONFIG, 1)["refused"]


def test_a_binding_that_is_bound_again_goes_on_counting() -> None:
    with router(accounts=True) as lane:
        lane.send("v4", _in())
        _bind(lane)
        lane.send("v4", _in())
        assert counts(lane) == (2, 92, 0, 0)


def test_another_b4_counts_from_zero() -> None:
    other = Binding("b1", B1.ipv4, B1.psid_offset, B1.psid_len, B1.psid, "2001:db8:1::99", B1.br)
    with router(accounts=True) as lane:
        lane.send("v4", _in())
        _bind(lane, other)
        assert counts(lane) == (0, 0, 0, 0)
        lane.send("v4", _in(), _in())
        assert counts(lane) == (2, 92, 0, 0)


def test_nobody_inherits() -> None:
    """More changes than there are numbers for accounts: each is used again, and starts at zero."""
    with router(accounts=True) as lane:
        for _ in range(6_000):
            _unbind(lane)
            _bind(lane)
            assert counts(lane) == (0, 0, 0, 0)
            lane.lane.feed("v4", _in())
            lane.take()
        assert counts(lane) == (1, 46, 0, 0)
        assert counts(lane, B2) == (0, 0, 0, 0)


def test_a_packet_that_waited_does_not_count_for_the_next_holder_of_its_number() -> None:
    lane = Router(resolved=False, accounts=True)
    lane.send("v4", _in())
    for _ in range(6_000):
        _unbind(lane)
        _bind(lane)
    lane.lane.set_next_hop("v6", PEER_MAC["v6"])
    lane.advance(1)
    assert lane.count("encap") == 1
    assert all(cells == (0, 0, 0, 0) for cells in _all(lane.table).values())
    lane.check_end()


def test_counts_stay_with_their_bindings_while_entries_move() -> None:
    """A table that fills up moves its entries from slot to slot."""
    with router(accounts=True) as lane:
        room = lane.table.capacity - len(lane.table)
        rows = np.repeat(row_array([WHOLE]), room)
        rows["ipv4"] = np.arange(0x0A000000, 0x0A000000 + room)
        lane.send("v4", *[_in(B1)] * 3, *[_in(B2)] * 5)
        for at in range(0, room, 100):
            assert not lane.table.bind(rows[at : at + 100], SOURCE_CONFIG, 1)["refused"]
        assert (counts(lane, B1)[0], counts(lane, B2)[0]) == (3, 5)
        assert sum(cells[0] for cells in _all(lane.table).values()) == 8


def test_chunks_together_are_all_of_them() -> None:
    with router(accounts=True) as lane:
        lane.send("v4", _in())
        start, found = 0, {}
        while True:
            rows, start = lane.table.counts_chunk(start, 3)
            found |= {(int(row["ipv4"]), int(row["psid"])): int(row["packets_in"]) for row in rows}
            if start == 0:
                break
        assert len(found) == len(lane.table)
        assert sum(found.values()) == 1


def test_rows_tell_the_port_set() -> None:
    with router(accounts=True) as lane:
        rows, _ = lane.table.counts_chunk(0, 1 << 40)
        assert {tuple(row)[:4] for row in rows} == {tuple(row)[:4] for row in lane.table.dump()}


def test_without_accounts_there_is_nothing_to_ask() -> None:
    with router() as lane, pytest.raises(RuntimeError, match="not counted"):
        lane.table.counts_chunk(0, 1)


def test_the_workers_are_summed_up() -> None:
    with router(accounts=True) as one:
        two = _core.Lane(settings(), one.table)
        for lane, times in ((one.lane, 2), (two, 3)):
            for side, peer in PEER_MAC.items():
                lane.set_next_hop(side, peer)
            for _ in range(times):
                lane.feed("v4", _in())
        assert counts(one) == (5, 5 * 46, 0, 0)
        one.take(), two.take()
        del two
        assert counts(one) == (5, 5 * 46, 0, 0), "the sum never falls"


MACHINE = """
import sys
from pylwaftr import _core, eal_args
from pylwaftr.config import binding_rows, core_settings, load

config = load(sys.argv[1])
few = eal_args.Buffers(8192, 2048, 64)
_core.eal_init(eal_args.replay_vector(few, {0}))
table = _core.BindingTable(100, [], [], accounts=config.dataplane.binding_counters)
table.bind(binding_rows(config), _core.SOURCE_CONFIG, 0)
ports = [f"net_pcap0,rx_pcap={sys.argv[2]},tx_pcap={sys.argv[3]}", "net_pcap1,rx_pcap=%s,tx_pcap=%s" % (
    sys.argv[4], sys.argv[5])]
engine = _core.Engine(core_settings(config), table, ports, [1], mbufs=few.count, data_room=few.data_room,
                      held_limit=few.held_limit, secret=1)
engine.start()
while engine.progress()[0][0] < 5:
    pass
engine.stop()
print([tuple(int(cell) for cell in row) for row in engine.binding_counters()])
engine.close()
_core.eal_cleanup()
"""


def test_a_machine_tells_them(tmp_path: Path) -> None:
    """`dataplane.binding_counters`, and the counts of a router between two files."""
    config = tmp_path / "config.yaml"
    text = test_replay.config_text().replace("dataplane: {", "dataplane: {binding_counters: true, ")
    config.write_text(text)
    sides = (("v4", [test_replay.from_internet(n) for n in range(2)]), ("v6", [test_replay.from_b4() for _ in "abc"]))
    files = [
        str(path)
        for side, frames in sides
        for path in (pcap_files.write(tmp_path / f"{side}.pcap", frames), tmp_path / f"{side}-out.pcap")
    ]
    words = [sys.executable, "-c", MACHINE, str(config), *files]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == f"[({0xCB007101}, 1, 6, 0, 2, 66, 3, 99)]\n", done.stderr
