"""`pylwaftr capture` against running routers: every frame with its verdict, bounds, and files that are always whole."""

from __future__ import annotations

import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pylwaftr import capture, capture_client
from pylwaftr.capture import CaptureFault, State, Wanted
from tests import pcap_files, pcapng_files
from tests.frames import IPIP, OWN_MAC, PEER_MAC, ethernet, hop, ipv6, sent, udp
from tests.test_run import PYLWAFTR, Running, running

INET, PUBLIC, B4, BR = "198.51.100.10", "203.0.113.1", "2001:db8:1::1", "2001:db8:aa::1"
VLAN = 7  # of the IPv6 side
CONFIG = f"""
interfaces:
  v4: {{port: "net_pcap0,rx_pcap=%s,infinite_rx=1", mac: "{OWN_MAC["v4"].hex(":")}",
        addresses: [192.0.2.1/24], next_hop_mac: "{PEER_MAC["v4"].hex(":")}"}}
  v6: {{port: "net_pcap1,rx_pcap=%s,infinite_rx=1", mac: "{OWN_MAC["v6"].hex(":")}", vlan: {VLAN},
        addresses: ["2001:db8:ffff::2/64"], next_hop_mac: "{PEER_MAC["v6"].hex(":")}", mtu: 1540}}
softwire: {{br_addresses: ["{BR}"]}}
icmp: {{unbound_v4: false}}
bindings:
  entries:
    - {{ipv4: {PUBLIC}, psid_len: 6, psid: 1, b4_ipv6: "{B4}"}}
dataplane: {{hugepages: never, lcores: [1]}}
state: {{directory: state}}
pcp: {{enabled: false}}
api: {{listen: null}}
metrics: {{listen: null}}
"""

DOWN, LOST = udp(INET, PUBLIC, 53, 1024), udp(INET, PUBLIC, 53, 1023)
UP = udp(PUBLIC, INET, 1024, 53, size=301)
FORGED = udp(PUBLIC, INET, 4000, 53)
V4_IN = [ethernet("v4", DOWN), ethernet("v4", LOST)]
V6_IN = [
    ethernet("v6", ipv6(B4, BR, IPIP, UP), vlan=VLAN),
    ethernet("v6", ipv6(B4, BR, IPIP, UP), vlan=VLAN + 1),
]
SEEN = {  # frame -> interface, direction, comment
    V4_IN[0]: (0, pcapng_files.IN, "v4 encap (DP-050): IPv4 packets that left inside a softwire towards their B4"),
    V4_IN[1]: (
        0, pcapng_files.IN, "v4 drop_no_binding (DP-059): no binding for the destination address and port"
    ),
    V6_IN[0]: (1, pcapng_files.IN, "v6 decap (DP-070): IPv4 packets that left a softwire towards the internet"),
    V6_IN[1]: (
        1, pcapng_files.IN, "v6 drop_l2_vlan: frame with another VLAN tag than its side, or untagged where one is set"
    ),
    sent("v4", hop(UP))[1]: (0, pcapng_files.OUT, "v4 sent"),
}  # fmt: skip


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("capture")
    path = folder / "config.yaml"
    v4, v6 = pcap_files.write(folder / "v4.pcap", V4_IN), pcap_files.write(folder / "v6.pcap", V6_IN)
    path.write_text(CONFIG % (v4, v6))
    return path


def socket_of(router: Running) -> Path:
    router.wait_for("ready\n")
    found = re.search(r"telemetry socket: (\S+)", router.log)
    assert found is not None, router.log
    return Path(found[1])


@pytest.fixture(scope="module")
def router(config: Path) -> Iterator[Path]:
    with running(config) as process:
        yield socket_of(process)
        assert process.end() == 0


def command(file: Path, *options: str) -> list[str]:
    return [PYLWAFTR, "capture", "-w", str(file), *options]


def captured(file: Path, *options: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command(file, *options), capture_output=True, text=True, timeout=60, check=False)
    assert "Traceback" not in done.stderr
    return done


def wait_for_packets(file: Path) -> None:
    deadline = time.monotonic() + 30
    while not file.exists() or file.stat().st_size < 4096:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_every_frame_has_its_verdict(router: Path, tmp_path: Path) -> None:
    file = tmp_path / "all.pcapng"
    done = captured(file, "--socket", str(router), "--count", "2000")
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(rf"{file}: 2000 frames, \d+ octets(, \d+ missed)? \(enough packets\)\n", done.stdout)
    now = time.time_ns()
    read = pcapng_files.read(file)
    assert len(read.packets) == 2000
    assert read.interfaces == ["dpdk:0", "dpdk:1"]
    verdicts = {frame: set[tuple[int, int, str]]() for frame in SEEN}
    softwire = set()
    for packet in read.packets:
        assert packet.length == len(packet.octets)
        assert packet.queue == 0
        assert abs(now - packet.ns) < 60e9
        kind = packet.interface, packet.direction, packet.comment
        if kind == (1, pcapng_files.OUT, "v6 sent"):
            softwire.add(packet.octets[18 + 40 :])
        else:
            verdicts[packet.octets].add(kind)
    assert verdicts == {frame: {kind} for frame, kind in SEEN.items()}
    assert softwire == {hop(DOWN)}


@pytest.mark.parametrize(
    "text, comments",
    [
        ("udp dst port 1023", {SEEN[V4_IN[1]][2]}),
        ("ip6", {SEEN[V6_IN[0]][2], SEEN[V6_IN[1]][2], "v6 sent"}),  # a filter sees no tag
        ("ip6 src host 2001:db8:1::1", {SEEN[V6_IN[0]][2], SEEN[V6_IN[1]][2]}),
        ("ip6 proto 4 and ip6 protochain 4", {SEEN[V6_IN[0]][2], SEEN[V6_IN[1]][2], "v6 sent"}),  # libpcap runs it
    ],
)
def test_only_what_the_filter_passes(router: Path, tmp_path: Path, text: str, comments: set[str]) -> None:
    done = captured(tmp_path / "f", "--socket", str(router), "--count", "300", "-f", text, "--quiet")
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    read = pcapng_files.read(tmp_path / "f")
    assert {packet.comment for packet in read.packets} == comments
    assert read.comment == f"captured by pylwaftr; filter: {text}"
    tagged = {packet.octets[12:14] == b"\x81\x00" for packet in read.packets if packet.interface == 1}
    assert tagged <= {True}  # nothing was changed by looking


@pytest.mark.parametrize("snap", [14, 61, 128])
def test_the_snap_length(router: Path, tmp_path: Path, snap: int) -> None:
    file = tmp_path / "s"
    assert captured(file, "--socket", str(router), "--count", "100", "--snap-length", str(snap)).returncode == 0
    packets = pcapng_files.read(file).packets
    whole = {frame[:snap]: len(frame) for frame in SEEN}
    for packet in packets:
        assert len(packet.octets) == min(snap, packet.length)
        if packet.comment != "v6 sent" and snap > 50:
            assert whole[packet.octets] == packet.length


def test_time_ends_it_and_nothing_is_unaccounted_for(router: Path, tmp_path: Path) -> None:
    states: list[State] = []
    wanted = Wanted(str(tmp_path / "t"), 10**9, 0.4, 64)
    state = capture_client.capture(router, wanted, states.append)
    assert (state.state, state.ended_by) == ("finished", "time")
    assert state.seen == state.written + state.missed > 0
    assert all(one.state == "running" for one in states)
    read = pcapng_files.read(tmp_path / "t")
    assert len(read.packets) == state.written
    now = time.time_ns()
    assert [ns for ns in read.totals_ns if abs(now - ns) > 60e9] == []
    assert sum(received for received, _ in read.totals.values()) == state.seen
    assert sum(dropped for _, dropped in read.totals.values()) == state.missed


def test_nothing_passes_the_filter(router: Path, tmp_path: Path) -> None:
    done = captured(tmp_path / "n", "--socket", str(router), "--seconds", "0.2", "-f", "arp")
    assert done.stdout == f"{tmp_path / 'n'}: 0 frames, 0 octets (the time is over)\n"
    assert pcapng_files.read(tmp_path / "n").totals == {0: (0, 0), 1: (0, 0)}


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_capture_is_whole(router: Path, tmp_path: Path, how: signal.Signals) -> None:
    file = tmp_path / "stopped"
    words = command(file, "--socket", str(router), "--count", "1000000000", "--snap-length", "14", "-f", "port 1023")
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        wait_for_packets(file)
        second = captured(tmp_path / "second", "--socket", str(router))
        process.send_signal(how)
        out, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    read = pcapng_files.read(file)
    assert f"{len(read.packets)} frames" in out
    assert "(stopped)" in out
    assert len(read.totals) == 2
    assert second.returncode == 1
    assert second.stderr.startswith("pylwaftr: the router refuses: another capture is running")
    assert not (tmp_path / "second").exists()


def test_a_capture_is_whole_when_its_router_ends(config: Path, tmp_path: Path) -> None:
    own = tmp_path / "config.yaml"
    own.write_text(config.read_text())
    file = tmp_path / "cut"
    with running(own) as process:
        path = socket_of(process)
        words = command(file, "--socket", str(path), "--count", "1000000000", "--snap-length", "14", "-f", "port 1023")
        with subprocess.Popen(words, stderr=subprocess.PIPE, stdout=subprocess.PIPE) as client:
            wait_for_packets(file)
            assert process.end() == 0
            client.communicate(timeout=30)
        assert client.returncode in (0, 1)  # whether it could still be told the end
        assert len(pcapng_files.read(file).totals) == 2
        assert captured(tmp_path / "no", "--socket", str(path)).returncode == 1


def test_it_changes_nothing_for_packets(router: Path, tmp_path: Path) -> None:
    def stats() -> dict[str, int]:
        with capture_client.Connection(router) as connection:
            return dict(capture._object(connection.ask(b"/lwaftr/stats"))["/lwaftr/stats"])

    before = stats()
    for number in range(20):
        wanted = Wanted(str(tmp_path / "again"), 50 + number, 5, 96)
        assert capture_client.capture(router, wanted, lambda _: None).ended_by == "count"
    after = stats()
    moved = {name for name, value in after.items() if value != before[name]}
    assert moved - {"busy_cycles", "idle_polls"} == {
        "rx_v4", "rx_v6", "rx_v4_bytes", "rx_v6_bytes", "tx_v4", "tx_v6", "tx_v4_bytes", "tx_v6_bytes",
        "encap", "decap", "drop_no_binding", "drop_l2_vlan",
    }  # fmt: skip


def test_it_is_found_among_the_sockets(router: Path) -> None:
    assert router in [path for path, _ in capture_client.routers()]


@pytest.mark.needs_root
def test_a_full_disk_is_said(router: Path, tmp_path: Path) -> None:
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(tmp_path)], check=False).returncode:
        pytest.skip("needs to mount a tmpfs")
    try:
        done = captured(tmp_path / "x", "--socket", str(router), "--count", "100000")
        assert done.returncode == 1
        assert re.fullmatch(rf"pylwaftr: {tmp_path / 'x'}: .+ after \d+ frames\n", done.stderr)
        assert (tmp_path / "x").stat().st_size <= 65536
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)
    assert captured(tmp_path / "y", "--socket", str(router), "--count", "10").returncode == 0


@pytest.mark.needs_tshark
def test_wireshark_reads_it(router: Path, tmp_path: Path) -> None:
    file = tmp_path / "w.pcapng"
    assert captured(file, "--socket", str(router), "--count", "200").returncode == 0
    fields = ["-T", "fields", "-e", "frame.comment", "-e", "frame.packet_flags_direction"]
    done = subprocess.run(["tshark", "-r", str(file), *fields], capture_output=True, text=True, check=True)
    lines = {tuple(line.split("\t")) for line in done.stdout.splitlines()}
    known = {(comment, f"0x{direction:08x}") for _, direction, comment in SEEN.values()}
    assert lines <= known | {("v6 sent", "0x00000002")}
    assert len(lines) > 1


def test_files_that_cannot_be_written(router: Path, tmp_path: Path) -> None:
    (tmp_path / "real").touch()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    rows = [("no/such/folder", "No such file or directory"), ("link", "symbolic links"), ("fifo", "No such device")]
    subprocess.run(["mkfifo", str(tmp_path / "fifo")], check=True)
    for name, said in rows:
        done = captured(tmp_path / name, "--socket", str(router))
        assert (done.returncode, said in done.stderr, done.stderr.count("\n")) == (1, True, 1), done.stderr
    full = captured(Path("/dev/full"), "--socket", str(router))
    assert (full.returncode, full.stderr) == (1, "pylwaftr: the router refuses: not a regular file: /dev/full\n")


@pytest.mark.parametrize(
    "parameters, said",
    [
        (b"", "file is an absolute path"),
        (b"file=x", "file is an absolute path"),
        (b"file=%2", "two hexadecimal digits"),
        (b"file=%2g", "two hexadecimal digits"),
        (b"file=%00", "two hexadecimal digits"),
        (b"file", "NAME=VALUE"),
        (b"file=/x&packets=0", "packets is a number from 1 to"),
        (b"file=/x&packets=-1", "packets is a number from 1 to"),
        (b"file=/x&snap=99999", "snap is a number from 14 to"),
        (b"file=/x&milliseconds=99999999999999999999", "milliseconds is a number from 1 to"),
        (b"file=/x&more=1", "a capture has no more"),
        (b"file=/nix/x&filter=foo%20bar", "the filter: "),
    ],
)
def test_requests_that_are_refused(router: Path, parameters: bytes, said: str) -> None:
    with capture_client.Connection(router) as connection:
        reply = connection.ask(capture.START.encode() + b"," + parameters)
        with pytest.raises(CaptureFault, match=said):
            capture.state_of(capture.START, reply)
