"""Two workers and who of them gets what: queues as the device fills them, or software that hands frames over."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from random import Random
from typing import Any

import pytest

from tests import pcap_files
from tests.engine_rig import told
from tests.frames import dissect, ethernet, fragments4, fragments6, hop, ip4, sent, udp
from tests.softwires import INET, encap, from_b4
from tests.vector_config import Binding, bindings

HOSTS = [f"198.51.100.{n}" for n in range(1, 41)]


def _port(row: Binding) -> int:
    """The last of its first range."""
    size = 1 << (16 - row.psid_offset - row.psid_len)
    block = 1 << (16 - row.psid_offset) if row.psid_offset else 0
    return block + row.psid * size + size - 1


DOWN = [udp(host, row.ipv4, 53, _port(row), size=n) for n in range(20, 24) for row in bindings() for host in HOSTS]
UP = [from_b4(udp(row.ipv4, INET, _port(row), 53, size=n), row) for n in range(20, 180) for row in bindings()]

RUN = """
def device(number, side, queues, out=2):
    read = ",".join(f"rx_pcap={folder}/{side}{queue}.pcap" for queue in range(queues))
    written = ",".join(f"tx_pcap={folder}/{side}-out{queue}.pcap" for queue in range(out))
    return f"net_pcap{number},{read},{written}"
expected, queues, rss = int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
engine = engine_of(device(0, "v4", queues), device(1, "v6", queues), workers=2, rss=rss)
engine.start()
wait_for(lambda: sum(received for received, _ in engine.progress()) == expected)
time.sleep(0.05)
stats = engine.worker_stats()
counted = moved()
engine.stop()
done(counted=counted, workers=[[int(n) for n in row[:2]] for row in engine.counters()], lost=engine.mbufs_in_use(),
     queues=[[q["rx_packets"] for q in w["queues"]] for w in stats], remarks=list(engine.remarks))
"""


def run(
    folder: Path, v4: list[list[bytes]], v6: list[list[bytes]], rss: str
) -> tuple[dict[str, Any], dict[str, list[list[bytes]]]]:
    """Frames by side and queue. What the run told, and what left by side and worker."""
    for side, queues in (("v4", v4), ("v6", v6)):
        for queue, frames in enumerate(queues):
            pcap_files.write(folder / f"{side}{queue}.pcap", [ethernet(side, packet) for packet in frames])
    expected = sum(map(len, v4)) + sum(map(len, v6))
    found = told(RUN, folder, str(expected), str(len(v4)), rss)
    left = {side: [pcap_files.read(folder / f"{side}-out{queue}.pcap") for queue in range(2)] for side in ("v4", "v6")}
    assert found["lost"] == 0
    return found, left


@pytest.mark.parametrize("rss", ["outer", "inner"])
def test_a_device_that_fills_one_queue(rss: str, tmp_path: Path) -> None:
    found, left = run(tmp_path, [DOWN, []], [UP, []], rss)
    assert found["workers"] == [[len(DOWN), len(UP)], [0, 0]]
    assert found["queues"] == [[len(DOWN), len(UP)], [0, 0]]
    assert "handed_over" not in found["counted"]
    assert [len(frames) for frames in left["v6"]] == [len(DOWN), 0]
    remarks = found["remarks"]
    assert len(remarks) == (rss == "inner")
    assert all("net_pcap1" in text and "cannot spread packets by inner headers" in text for text in remarks)


@pytest.mark.parametrize("queues", [2, 1])
def test_software_spreads_it(queues: int, tmp_path: Path) -> None:
    """Also over more workers than there are queues. As long as no ring is full, each stream stays in order."""
    down, up = DOWN[::8], UP[: 12 * 16]
    empty: list[list[bytes]] = [[]] * (queues - 1)
    found, left = run(tmp_path, [down, *empty], [up, *empty], "software")
    assert found["queues"] == [[len(down), len(up)], [0, 0] if queues == 2 else []]
    counted = found["counted"]
    assert (counted["encap"], counted["decap"]) == (len(down), len(up))
    (v4_first, v6_first), (v4_second, v6_second) = found["workers"]
    assert (v4_first + v4_second, v6_first + v6_second) == (len(down), len(up))
    assert counted["handed_over"] == v4_second + v6_second
    assert 0.3 * len(down) < v4_second < 0.7 * len(down)
    assert 0.1 * len(up) < v6_second < 0.9 * len(up)
    assert _streams(up_of(up)) == _streams([frame[14:] for frames in left["v4"] for frame in frames])


def up_of(packets: list[bytes]) -> list[bytes]:
    return [hop(packet[40:]) for packet in packets]


def _streams(packets: list[bytes]) -> dict[bytes, list[bytes]]:
    """The packets of each address and port, in order."""
    streams = defaultdict(list)
    for packet in packets:
        streams[packet[12:16] + packet[20:22]].append(packet)
    return streams


def test_more_than_the_rings_hold(tmp_path: Path) -> None:
    """What another worker has no room for is served by the one that has it."""
    found, left = run(tmp_path, [DOWN, []], [UP, []], "software")
    assert (found["counted"]["encap"], found["counted"]["decap"]) == (len(DOWN), len(UP))
    made = [sent("v6", encap(hop(packet), _row(packet)))[1] for packet in DOWN]
    assert sorted(frame for frames in left["v6"] for frame in frames) == sorted(made)
    assert sorted(frame[14:] for frames in left["v4"] for frame in frames) == sorted(up_of(UP))


def _row(packet: bytes) -> Binding:
    port = int.from_bytes(packet[22:24])
    return next(row for row in bindings() if ip4(row.ipv4) == packet[16:20] and _port(row) == port)


def test_each_subscriber_has_one_worker(tmp_path: Path) -> None:
    """As long as no ring is full: few packets at a time."""
    few = UP[: 12 * 20]
    found, left = run(tmp_path, [[], []], [few[::2], few[1::2]], "software")
    owners = defaultdict(set)
    for worker, frames in enumerate(left["v4"]):
        for frame in frames:
            payload = dissect(frame).payload
            owners[payload[12:16] + payload[20:22]].add(worker)
    assert len(owners) > 8
    assert all(len(workers) == 1 for workers in owners.values())
    assert found["counted"]["decap"] == len(few)


def test_fragments_in_different_queues_find_each_other(tmp_path: Path) -> None:
    """Outer fragments are put together, IPv4 fragments follow their first one, whatever queue each came in."""
    random = Random(5)
    outer: list[bytes] = []
    inner: list[bytes] = []
    whole: list[bytes] = []
    for number, row in enumerate(bindings() * 4):
        whole.append(from_b4(udp(row.ipv4, INET, _port(row), 53, size=1200, ident=number), row))
        outer += fragments6(whole[-1], 600, number)
        inner += fragments4(udp(HOSTS[number % 40], row.ipv4, 53, _port(row), size=1200, ident=number), 500)
    random.shuffle(outer)
    random.shuffle(inner)
    found, left = run(tmp_path, [inner[::2], inner[1::2]], [outer[::2], outer[1::2]], "software")
    counted = found["counted"]
    assert counted["reassembled"] == counted["decap"] == len(bindings()) * 4
    assert counted["encap"] == len(inner)
    assert not [name for name in counted if name.startswith("drop")]
    assert sorted(frame[14:] for frames in left["v4"] for frame in frames) == sorted(
        hop(packet[40:]) for packet in whole
    )


def test_an_unknown_way_to_spread(tmp_path: Path) -> None:
    script = """
try:
    engine_of("net_null0", "net_null1", rss="psid")
except ValueError as fault:
    print("TOLD" + json.dumps({"fault": str(fault)}))
    _core.eal_cleanup()
"""
    assert told(script, tmp_path)["fault"] == "rss has to be outer | inner | software"
