"""A running engine and its control side: requests and answers, new settings under traffic, what its workers tell."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import pcap_files
from tests.engine_rig import told
from tests.frames import IPIP, ethernet, ipv6, sent, udp
from tests.softwires import B1, INET, TUNNEL4, from_b4

ASKS = [from_b4(udp("192.0.0.2", TUNNEL4, port, 5351, size=60), B1) for port in range(1, 2001)]
ANSWERS = [ipv6(B1.br, B1.b4, IPIP, udp(TUNNEL4, "192.0.0.2", 5351, port, size=60)) for port in range(1, 2001)]

PUNT = """
engine = engine_of("net_null0,no-rx=1", f"net_pcap1,rx_pcap={folder}/in.pcap,tx_pcap={folder}/out.pcap")
answers = (folder / "answers").read_bytes()
lengths = np.fromfile(folder / "lengths", np.uint32)
readable = lambda ms: bool(select.select([engine.punt_fd], [], [], ms / 1000)[0])
refused_early = engine.inject(answers, lengths)  # no worker runs yet
quiet_before = not readable(20)
before = time.monotonic_ns()
engine.start()
asked, kinds, calls, stale = [], set(), 0, 0
while len(asked) < len(lengths):
    assert readable(20_000), (len(asked), moved())
    rows, octets = engine.punted()
    calls += 1
    stale += readable(0) and not len(rows)
    kinds |= set(rows["kind"].tolist())
    asked += [octets[at:at + length].hex() for at, length in zip(rows["offset"].tolist(), rows["length"].tolist())]
    assert all(before <= at <= time.monotonic_ns() for at in rows["at_ns"].tolist())
quiet_after = not readable(20)
sent = 0
while sent < len(lengths):
    sent += engine.inject(answers[int(lengths[:sent].sum()):], lengths[sent:])
wait_for(lambda: counter("tx_v6") == len(lengths))
counted = moved()
engine.stop()
done(asked=asked, kinds=sorted(kinds), refused_early=refused_early, quiet=[quiet_before, quiet_after], counted=counted,
     after=engine.inject(answers, lengths), empty=len(engine.punted()[0]))
"""


def test_requests_come_and_answers_go(tmp_path: Path) -> None:
    pcap_files.write(tmp_path / "in.pcap", [ethernet("v6", packet) for packet in ASKS])
    (tmp_path / "answers").write_bytes(b"".join(ANSWERS))
    (tmp_path / "lengths").write_bytes(b"".join(len(one).to_bytes(4, "little") for one in ANSWERS))
    found = told(PUNT, tmp_path)
    assert found["asked"] == [packet.hex() for packet in ASKS]
    assert found["kinds"] == [1]
    assert found["quiet"] == [True, True]
    octets = sum(len(one) + 14 for one in ANSWERS)
    assert found["counted"] == {
        "rx_v6": 2000, "rx_v6_bytes": sum(len(one) + 14 for one in ASKS), "punt_pcp": 2000,
        "injected": 2000, "tx_v6": 2000, "tx_v6_bytes": octets,
    }  # fmt: skip
    assert (found["refused_early"], found["after"], found["empty"]) == (0, 0, 0)
    assert pcap_files.read(tmp_path / "out.pcap") == [sent("v6", packet)[1] for packet in ANSWERS]


DOWN = ethernet("v4", udp(INET, B1.ipv4, 53, 1024))
TRAFFIC = """
v4 = f"net_pcap0,rx_pcap={folder}/v4.pcap,infinite_rx=1"
def hop_limit(value, **more):
    return changed(base, {"hop_limit": value, "v6.egress_filter": f"ip6[7] = {value}", **more})
"""

SWAP = """
engine = engine_of(v4, "net_null1,no-rx=1", hop_limit(10))
engine.start()
wait_for(lambda: counter("encap") > 1000)
for value in 100 * (20, 10):
    assert engine.apply(hop_limit(value)) == []
    now = counter("encap")
    wait_for(lambda: counter("encap") > now)
mixed = counter("drop_filter_out")
engine.apply(changed(base, {"v6.egress_filter": "less 1"}))
after = counter("encap")
refused = counter("drop_filter_out")
wait_for(lambda: counter("drop_filter_out") > refused + 1000)
done(mixed=mixed, late=counter("encap") - after)
"""


def test_settings_are_swapped_under_traffic(tmp_path: Path) -> None:
    """The filter of each lets pass only what was made under the same settings. When apply() returns, none is made
    under the old ones."""
    pcap_files.write(tmp_path / "v4.pcap", [DOWN] * 64)
    found = told(TRAFFIC + SWAP, tmp_path)
    assert found["mixed"] == 0
    assert found["late"] == 0


GROW = """
engine = engine_of(v4, "net_null1,no-rx=1")
engine.start()
wait_for(lambda: counter("encap") > 1000)
for _ in range(100):
    now = counter("encap")
    table.grow(table.capacity + 20)
    wait_for(lambda: counter("encap") > now)
missed = counter("drop_no_binding")
address, psid = int.from_bytes(ip4(sys.argv[2])), int(sys.argv[3])
table.unbind(np.array([address], np.uint32), np.array([psid], np.uint16), 0)
wait_for(lambda: counter("drop_no_binding") > 1000)
after = counter("encap")
wait_for(lambda: counter("drop_no_binding") > 2000)
done(missed=missed, late=counter("encap") - after, capacity=table.capacity)
"""


def test_the_table_grows_under_traffic(tmp_path: Path) -> None:
    """A worker is in the middle of a burst whenever the old table goes: it is given back only behind that. All is
    found all the time, and what changes then changes for the worker."""
    pcap_files.write(tmp_path / "v4.pcap", [DOWN] * 64)
    found = told(TRAFFIC + GROW, tmp_path, B1.ipv4, str(B1.psid))
    assert found == {"missed": 0, "late": 0, "capacity": 3000}


FIXED = """
engine = engine_of(v4, "net_null1,no-rx=1", hop_limit(10))
faults = []
def tries(settings):
    try:
        engine.apply(settings)
    except ValueError as fault:
        faults.append(str(fault))
def everything():
    many = {"one_port": True, "hop_limit": 30}
    for side, mac in (("v4", b"\\2\\0\\0\\0\\0\\7"), ("v6", None)):
        many |= {f"{side}.mac": mac, f"{side}.mtu": 1400}
    return changed(base, {**many, "reassembly.max_packets": 7})
engine.start()
for bad in (everything(), changed(base, {"hop_limit": 300}),
            changed(base, {"v4.addresses": [(ip4("203.0.113.1"), 24)], "hop_limit": 30}),
            changed(base, {"v6.addresses": [(ip6("2001:db8:1:100:0:cb00:7101:1"), 64)], "hop_limit": 30})):
    tries(bad)
now = counter("encap")
wait_for(lambda: counter("encap") > now + 1000)
mixed = counter("drop_filter_out")
remarks = engine.apply(changed(base, {"br_addresses": [ip6("2001:db8:aa::1")]}))
engine.stop()
stopped = engine.apply(hop_limit(40))
done(faults=faults, mixed=mixed, remarks=remarks, stopped=stopped)
"""

NAMED = ["one_port", "v4.mac", "v6.mac", "v4.mtu", "v6.mtu", "reassembly.max_packets"]


def test_what_only_a_restart_can_change(tmp_path: Path) -> None:
    pcap_files.write(tmp_path / "v4.pcap", [DOWN] * 64)
    found = told(TRAFFIC + FIXED, tmp_path)
    assert found["faults"] == [
        f"settings: only a restart can change {', '.join(NAMED)}",
        "settings: hop_limit: is out of range",
        *["settings: addresses: a binding has one of the own addresses: unbind it first"] * 2,
    ]
    assert found["mixed"] == 0  # none of it was applied
    assert found["remarks"] == ["3 bindings name a BR address that is not served: add it to br_addresses"]
    assert found["stopped"] == []


STATS = """
engine = engine_of(v4, "net_null1,no-rx=1")
idle = engine.worker_stats()
engine.start()
wait_for(lambda: counter("encap") > 1000)
running = engine.worker_stats()
engine.stop()
stopped = engine.worker_stats()
done(idle=idle, running=running, stopped=stopped, received=[counter("rx_v4"), counter("rx_v6")],
     busy=counter("busy_cycles"))
"""


def test_what_a_worker_tells(tmp_path: Path) -> None:
    pcap_files.write(tmp_path / "v4.pcap", [DOWN] * 64)
    found = told(TRAFFIC + STATS, tmp_path)
    queues = [{"port": 0, "queue": 0, "rx_packets": 0}, {"port": 1, "queue": 0, "rx_packets": 0}]
    assert found["idle"] == [
        {"lcore": 1, "numa": 0, "running": False, "queues": queues, "busy_cycles": 0, "idle_cycles": 0}
    ]
    (running,), (stopped,) = found["running"], found["stopped"]
    assert running["running"]
    assert running["busy_cycles"] > 0
    assert stopped["running"] is False
    assert [queue["rx_packets"] for queue in stopped["queues"]] == found["received"]
    assert stopped["busy_cycles"] == found["busy"]
    assert stopped["idle_cycles"] > 0


@pytest.mark.parametrize("what", ["hop_limit", "reassembly"])
def test_settings_have_to_be_whole(what: str, tmp_path: Path) -> None:
    pcap_files.write(tmp_path / "v4.pcap", [DOWN])
    script = f"""
engine = engine_of(v4, "net_null1,no-rx=1")
bad = dict(base)
del bad[{what!r}]
try:
    engine.apply(bad)
except ValueError as fault:
    done(fault=str(fault))
"""
    assert told(TRAFFIC + script, tmp_path)["fault"] == f"settings: {what}: is missing"
