"""`pylwaftr replay` as a command: files in, files out, counters; and what it says of bad input.

What the packets look like is the matter of test_vectors_replay; here it is the files, the ports and the end.
"""

from __future__ import annotations

import json
import os
import stat
import struct
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from pylwaftr import replay
from tests import pcap_files

TIMEOUT_S = 120
MAC4, MAC6 = "02:00:00:00:04:01", "02:00:00:00:06:01"
PEER4, PEER6 = "02:00:00:00:04:02", "02:00:00:00:06:02"

CONFIG = """
interfaces:
  v4: {port: "0000:81:00.0", mac: "%(mac4)s", addresses: [192.0.2.1/24], next_hop: 192.0.2.254%(peer4)s, mtu: %(mtu)d}
  v6: {port: "%(port6)s", mac: "%(mac6)s", addresses: ["2001:db8:ffff::2/64"], next_hop: "2001:db8:ffff::1"%(peer6)s,
       mtu: %(mtu6)d}
softwire: {br_addresses: ["2001:db8:aa::1"]}
dataplane: {hugepages: always, lcores: [1000], eal_args: ["--no-such-option"]}
bindings:
  entries:
    - {ipv4: 203.0.113.1, psid_len: 6, psid: 1, b4_ipv6: "2001:db8:101::1"}
"""


def config_text(stick: bool = False, resolved: bool = True, mtu: int = 1500) -> str:
    """With the demands of a router in service, which a replay does not have."""
    values: dict[str, Any] = {
        "mac4": MAC4,
        "mac6": MAC4 if stick else MAC6,
        "port6": "0000:81:00.0" if stick else "0000:81:00.1",
        "peer4": f', next_hop_mac: "{PEER4}"' if resolved else "",
        "peer6": f', next_hop_mac: "{PEER6}"' if resolved else "",
        "mtu": mtu,
        "mtu6": mtu + 40,
    }
    return CONFIG % values


def _checksum(data: bytes) -> int:
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def _ipv4(source: str, destination: str, payload: bytes, flags: int = 0, number: int = 0) -> bytes:
    addresses = bytes(map(int, f"{source}.{destination}".split(".")))
    start = struct.pack(">BBHHHBB", 0x45, 0, 20 + len(payload), number, flags, 64, 17)
    check = _checksum(start + b"\0\0" + addresses)
    return start + struct.pack(">H", check) + addresses + payload


def _udp(source: int, destination: int, payload: bytes) -> bytes:
    return struct.pack(">HHHH", source, destination, 8 + len(payload), 0) + payload


def _octets(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))


def from_internet(number: int = 0, size: int = 5, flags: int = 0, mac: str = MAC4) -> bytes:
    packet = _ipv4("198.51.100.7", "203.0.113.1", _udp(53, 1072, bytes(size)), flags, number)
    return _octets(mac) + _octets(PEER4) + b"\x08\x00" + packet


def from_b4(number: int = 0, size: int = 5, mac: str = MAC6) -> bytes:
    inner = _ipv4("203.0.113.1", "198.51.100.7", _udp(1072, 53, bytes(size)), 0, number)
    b4, br = "20010db801010000" + "0" * 15 + "1", "20010db800aa0000" + "0" * 15 + "1"
    outer = struct.pack(">IHBB", 6 << 28, len(inner), 4, 64) + bytes.fromhex(b4 + br)
    return _octets(mac) + _octets(PEER6) + b"\x86\xdd" + outer + inner


@dataclass
class Done:
    status: int
    stderr: str
    counters: dict[str, int] = field(default_factory=dict)
    v4: list[bytes] = field(default_factory=list)
    v6: list[bytes] = field(default_factory=list)


def command(config: Path, *options: object, user: int | None = None) -> subprocess.CompletedProcess[str]:
    words = [str(Path(sys.executable).with_name("pylwaftr")), "replay", "-c", str(config), *map(str, options)]
    return subprocess.run(words, capture_output=True, text=True, timeout=TIMEOUT_S, check=False, user=user)


def run(
    folder: Path, v4: Sequence[bytes] | None = None, v6: Sequence[bytes] | None = None, text: str | None = None
) -> Done:
    """Replays frames, with all outputs asked for."""
    config = folder / "config.yaml"
    config.write_text(config_text() if text is None else text)
    options: list[object] = []
    for side, frames in (("v4", v4), ("v6", v6)):
        if frames is not None:
            options += [f"--{side}-in", pcap_files.write(folder / f"{side}-in.pcap", frames)]
        options += [f"--{side}-out", folder / f"{side}-out.pcap"]
    done = command(config, *options, "--counters", folder / "counters.json")
    if done.returncode != 0:
        return Done(done.returncode, done.stderr)
    counters = json.loads((folder / "counters.json").read_text())
    left = [pcap_files.read(folder / f"{side}-out.pcap") for side in ("v4", "v6")]
    # Own announcements go to a group.
    to_peers = [[frame for frame in frames if not frame[0] & 1] for frames in left]
    return Done(0, done.stderr, counters, *to_peers)


def identifications(frames: Sequence[bytes], at: int) -> list[int]:
    return [int(struct.unpack_from(">H", frame, at)[0]) for frame in frames]


def test_both_ways_in_the_order_of_the_files(tmp_path: Path) -> None:
    done = run(tmp_path, [from_internet(n) for n in range(300)], [from_b4(n) for n in range(200)])
    assert done.status == 0, done.stderr
    assert identifications(done.v6, 14 + 40 + 4) == list(range(300))
    assert identifications(done.v4, 14 + 4) == list(range(200))
    assert {done.counters[name] for name in ("rx_v4", "encap")} == {300}
    assert {done.counters[name] for name in ("rx_v6", "decap")} == {200}


def test_frames_for_another_router_are_told(tmp_path: Path) -> None:
    done = run(tmp_path, [from_internet(), from_internet(mac="02:00:00:00:99:99")])
    assert (done.status, len(done.v6)) == (0, 1)
    assert "warning: 1 frame for another MAC address than the router's: interfaces.v4.mac and" in done.stderr
    assert "another MAC" not in run(tmp_path, [from_internet()]).stderr


def test_counters_are_all_there_as_integers(tmp_path: Path) -> None:
    from pylwaftr import _core

    done = run(tmp_path, [from_internet()])
    assert list(done.counters) == [name for name, *_ in _core.COUNTERS]
    assert all(type(value) is int for value in done.counters.values())


def test_counters_as_json_on_standard_output(tmp_path: Path) -> None:
    done = run(tmp_path, [from_internet()])
    printed = command(tmp_path / "config.yaml", "--v4-in", tmp_path / "v4-in.pcap", "--json")
    assert printed.returncode == 0
    found = json.loads(printed.stdout)
    assert found.keys() == done.counters.keys()
    assert (found["rx_v4"], found["encap"]) == (1, 1)


def test_a_hundred_thousand_frames_and_none_is_lost(tmp_path: Path) -> None:
    done = run(tmp_path, [from_internet(n % 65536) for n in range(100_000)])
    assert done.counters["rx_v4"] == done.counters["encap"] == len(done.v6) == 100_000


def test_nothing_in_gives_valid_empty_files(tmp_path: Path) -> None:
    done = run(tmp_path)
    assert (done.status, done.v4, done.v6) == (0, [], [])
    assert done.counters["rx_v4"] == done.counters["rx_v6"] == 0


@pytest.mark.parametrize("asked", ["--v4-out", "--v6-out", "--counters", None])
def test_each_output_is_optional(tmp_path: Path, asked: str | None) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(config_text())
    given = pcap_files.write(tmp_path / "in.pcap", [from_internet()])
    done = command(config, "--v4-in", given, *([asked, tmp_path / "out"] if asked else []))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out").exists() == (asked is not None)
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "out") == ["config.yaml", "in.pcap"]


def test_on_a_stick_outputs_are_split_by_what_a_frame_carries(tmp_path: Path) -> None:
    """And inputs are not: each may hold what the other side's would."""
    mixed = [from_b4(7, mac=MAC4), from_internet(1)]
    done = run(tmp_path, mixed, [from_b4(8, mac=MAC4), from_internet(2)], config_text(stick=True))
    assert done.status == 0, done.stderr
    assert {frame[12:14] for frame in done.v4} == {b"\x08\x00"}
    assert {frame[12:14] for frame in done.v6} == {b"\x86\xdd"}
    assert sorted(identifications(done.v4, 14 + 4)) == [7, 8]
    assert sorted(identifications(done.v6, 14 + 40 + 4)) == [1, 2]


def test_a_next_hop_that_does_not_answer_gets_one_round_of_tries(tmp_path: Path) -> None:
    done = run(tmp_path, [from_internet()], text=config_text(resolved=False))
    assert (done.status, done.v6) == (0, [])
    assert done.counters["drop_next_hop_unresolved"] == 1
    assert done.counters["ndp_sent"] == 3
    assert done.counters["held_next_hop"] == 0


def test_a_next_hop_that_answers_in_the_file_is_used(tmp_path: Path) -> None:
    reply = bytes.fromhex("0001080006040002") + _octets(PEER4) + bytes([192, 0, 2, 254])
    arp = _octets(MAC4) + _octets(PEER4) + b"\x08\x06" + reply + _octets(MAC4) + bytes([192, 0, 2, 1])
    text = config_text(resolved=False).replace('"2001:db8:ffff::1"', f'"2001:db8:ffff::1", next_hop_mac: "{PEER6}"')
    done = run(tmp_path, [arp], [from_b4()], text)
    assert [frame[:6] for frame in done.v4] == [_octets(PEER4)], done


def test_held_fragments_are_dropped_and_counted_at_the_end(tmp_path: Path) -> None:
    later = [from_internet(n, size=40, flags=0x0005) for n in range(3000)]
    done = run(tmp_path, later)
    assert done.counters["rx_v4"] == 3000
    assert done.counters["held_fragment_v4"] == 0
    assert sum(value for name, value in done.counters.items() if name.startswith("drop_fragment_v4")) == 3000


def test_frames_larger_than_a_buffer(tmp_path: Path) -> None:
    """An MTU of 1500 has buffers of 2048 octets; these frames come in five."""
    done = run(tmp_path, [from_internet(n, size=9000) for n in range(5)], text=config_text(mtu=1500))
    assert done.status == 0, done.stderr
    assert done.counters["rx_v4"] == 5
    whole = run(tmp_path, [from_internet(n, size=8900) for n in range(5)], text=config_text(mtu=9000))
    assert len(whole.v6) == 5
    assert len(whole.v6[0]) == 14 + 40 + 28 + 8900


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("magic", [0xA1B2C3D4, 0xA1B23C4D])
def test_every_kind_of_classic_file(tmp_path: Path, order: str, magic: int) -> None:
    frame = from_internet()
    (tmp_path / "config.yaml").write_text(config_text())
    (tmp_path / "in.pcap").write_bytes(
        struct.pack(order + "IHHiIII", magic, 2, 4, 0, 0, 65535, 1)
        + struct.pack(order + "IIII", 0, 0, len(frame), len(frame))
        + frame
    )
    out = tmp_path / "out.pcap"
    assert command(tmp_path / "config.yaml", "--v4-in", tmp_path / "in.pcap", "--v6-out", out).returncode == 0
    assert len([frame for frame in pcap_files.read(out) if not frame[0] & 1]) == 1


def test_frames_of_no_octets_and_of_all(tmp_path: Path) -> None:
    done = run(tmp_path, [b"", b"\x02", bytes(65535), from_internet()])
    assert done.status == 0, done.stderr
    assert done.counters["rx_v4"] == 4
    assert len(done.v6) == 1


def test_paths_that_dpdk_could_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "a,b=c [d] 'e' ü"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    done = run(folder, [from_internet()])
    assert done.status == 0, done.stderr
    assert len(done.v6) == 1


@pytest.mark.needs_root
def test_outputs_that_are_no_files_are_written_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(config_text())
    given = pcap_files.write(tmp_path / "in.pcap", [from_internet()])
    null = tmp_path / "null"  # not the machine's own: a fault here would replace it
    os.mknod(null, stat.S_IFCHR | 0o666, os.makedev(1, 3))
    done = command(tmp_path / "config.yaml", "--v4-in", given, "--v6-out", null, "--v4-out", null)
    assert done.returncode == 0, done.stderr
    assert null.is_char_device()


@pytest.mark.needs_root
def test_without_root() -> None:
    nobody = 65534
    probe = subprocess.run([sys.executable, "-c", "import pylwaftr"], user=nobody, capture_output=True, check=False)
    if probe.returncode != 0:
        pytest.skip("the virtual environment is not readable for others")
    with tempfile.TemporaryDirectory() as name:  # the folders of pytest are for root alone
        folder = Path(name)
        folder.chmod(0o777)
        (folder / "config.yaml").write_text(config_text())
        given = pcap_files.write(folder / "in.pcap", [from_internet()])
        out = folder / "out.pcap"
        done = command(folder / "config.yaml", "--v4-in", given, "--v6-out", out, user=nobody)
        assert done.returncode == 0, done.stderr
        assert out.stat().st_uid == nobody
        assert len(pcap_files.read(out)) >= 1


# --- bad input: one line, exit status 2, nothing written ---


HEADER = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1)
BAD_FILES = [
    ("garbage", b"this is not a capture", "is not a pcap file"),
    ("pcapng", b"\x0a\x0d\x0d\x0a" + bytes(60), "a pcapng file: convert it with editcap"),
    ("empty", b"", "is empty"),
    ("cut off", HEADER + bytes(10), "is cut off"),
]


@pytest.mark.parametrize("what, data, says", BAD_FILES)
def test_input_that_is_no_pcap(tmp_path: Path, what: str, data: bytes, says: str) -> None:
    (tmp_path / "config.yaml").write_text(config_text())
    (tmp_path / "in.pcap").write_bytes(data)
    out = tmp_path / "out.pcap"
    done = command(tmp_path / "config.yaml", "--v4-in", tmp_path / "in.pcap", "--v6-out", out)
    assert done.returncode == 2, what
    assert done.stderr.startswith(f"pylwaftr: {tmp_path / 'in.pcap'}: "), done.stderr
    assert says in done.stderr
    assert done.stderr.count("\n") == 1
    assert not out.exists()


def test_bad_places_and_usage(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(config_text())
    given = pcap_files.write(tmp_path / "in.pcap", [from_internet()])
    (tmp_path / "link.pcap").symlink_to(given)
    out = tmp_path / "out.pcap"
    before = given.read_bytes()
    for options, says in [
        (("--v4-in", tmp_path / "none.pcap"), "does not exist"),
        (("--v4-in", given, "--v6-out", given), "is an input"),
        (("--v4-in", given, "--v6-out", tmp_path / "link.pcap"), "is an input"),
        (("--v4-out", out, "--v6-out", out), "is to be written twice"),
        (("--v4-out", out, "--counters", tmp_path / "." / "out.pcap"), "is to be written twice"),
        (("--v4-out", tmp_path / "nowhere" / "out.pcap"), "cannot be written"),
        (("--v4-out", tmp_path), "cannot be written"),
        (("--v4-inn", given), "No such option"),
    ]:
        done = command(tmp_path / "config.yaml", *options)
        assert (done.returncode, says in done.stderr) == (2, True), (options, done.stderr)
        assert "Traceback" not in done.stderr
    assert given.read_bytes() == before
    assert not out.exists()


def test_a_faulty_configuration_lists_all_faults(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(config_text().replace("psid: 1", "psid: 64").replace("mtu: 1500", "mtu: 1"))
    done = command(tmp_path / "config.yaml")
    assert done.returncode == 2
    assert "psid" in done.stderr
    assert "mtu" in done.stderr
    assert done.stderr.count(f"{tmp_path / 'config.yaml'}:") >= 2


# --- the parts ---


def test_the_watch_waits_for_all_frames_and_all_workers() -> None:
    watch = replay.Watch(10, now=0.0)
    assert not watch.done([(4, True), (5, True)], 1.0)
    assert not watch.done([(5, False), (5, True)], 2.0)
    assert watch.done([(5, True), (5, True)], 3.0)


def test_the_watch_loses_patience_only_when_nothing_moves() -> None:
    watch = replay.Watch(10, now=0.0)
    for second in range(1, 10):
        assert not watch.done([(second, True)], second * 9.0)
    with pytest.raises(replay.StuckFault, match="9 of 10 frames"):
        watch.done([(9, True)], 100.0)


def test_an_output_appears_only_when_it_is_finished(tmp_path: Path) -> None:
    target = tmp_path / "out.pcap"
    target.write_text("the last one")
    for end, left in (("abandon", "the last one"), ("finish", "the new one")):
        output = replay.Output(target)
        output.writes.write_text("the new one")
        assert target.read_text() == "the last one"
        getattr(output, end)()
        assert target.read_text() == left
        assert list(tmp_path.iterdir()) == [target]
