"""What is said of an input file before it is replayed."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from pylwaftr import pcap

MICRO, NANO = 0xA1B2C3D4, 0xA1B23C4D


def header(order: str = "<", magic: int = MICRO, snapshot: int = 65535, link: int = 1, version: int = 4) -> bytes:
    return struct.pack(order + "IHHiIII", magic, 2, version, 0, 0, snapshot, link)


def record(frame: bytes, order: str = "<", original: int | None = None) -> bytes:
    return struct.pack(order + "IIII", 1, 2, len(frame), len(frame) if original is None else original) + frame


def inspect(tmp_path: Path, data: bytes) -> pcap.Inspection:
    file = tmp_path / "in.pcap"
    file.write_bytes(data)
    return pcap.inspect(file)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("magic", [MICRO, NANO])
def test_all_four_magics(tmp_path: Path, order: str, magic: int) -> None:
    data = header(order, magic) + record(bytes(60), order) + record(bytes(1514), order)
    assert inspect(tmp_path, data) == pcap.Inspection(2, 1514, 0, 0)


@pytest.mark.parametrize(
    "what, data, seen",
    [
        ("no frame", header(), pcap.Inspection(0, 0, 0, 0)),
        ("our own empty file", pcap.EMPTY, pcap.Inspection(0, 0, 0, 0)),
        ("a frame of no octets", header() + record(b""), pcap.Inspection(1, 0, 0, 0)),
        ("the largest frame", header() + record(bytes(65535)), pcap.Inspection(1, 65535, 0, 0)),
        ("snapshot length 0 means no limit", header(snapshot=0) + record(bytes(60)), pcap.Inspection(1, 60, 0, 0)),
        ("a frame cut by the capture", header() + record(bytes(60), original=90), pcap.Inspection(1, 60, 1, 0)),
        (
            "frame check sequences are there",
            header(link=1 | 0x44000000) + record(bytes(64)),
            pcap.Inspection(1, 64, 0, 0),
        ),
    ],
)
def test_whole_files(tmp_path: Path, what: str, data: bytes, seen: pcap.Inspection) -> None:
    assert inspect(tmp_path, data) == seen, what


@pytest.mark.parametrize(
    "data, says",
    [
        (b"", "is empty"),
        (b"hello, this is no capture at all", "is not a pcap file: it starts with 68 65 6c 6c"),
        (b"\xd4\xc3", "is not a pcap file"),
        (header()[:20], "20 octets are no whole pcap header"),
        (b"\x0a\x0d\x0d\x0a" + bytes(40), "pcapng file: convert it with editcap -F pcap"),
        (b"\x1f\x8b\x08" + bytes(40), "compressed with gzip"),
        (header(magic=0xA1B2CD34), "modified pcap"),
        (header(link=101), "link type 101 (raw IP); Ethernet (1) is needed"),
        (header(link=4711), "link type 4711; Ethernet"),
        (header(version=3), "version 2.3"),
        (header() + record(bytes(60)) + record(bytes(60))[:10], "the header of record 2 is not whole"),
        (header() + record(bytes(60))[:-1], "record 1 has 59 of its 60 octets"),
        (header() + record(bytes(65536)), "record 1 has 65536 octets: a frame of more than 65535"),
        (header() + struct.pack("<IIII", 0, 0, 1 << 31, 60), "record 1 claims 2147483648 octets"),
        (header(snapshot=100) + record(bytes(101)), "more than the file's snapshot length of 100"),
    ],
)
def test_files_that_cannot_be_replayed(tmp_path: Path, data: bytes, says: str) -> None:
    with pytest.raises(pcap.PcapFault) as fault:
        inspect(tmp_path, data)
    assert str(fault.value).startswith(f"{tmp_path / 'in.pcap'}: ")
    assert says in str(fault.value)
    assert "\n" not in str(fault.value)


def test_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(pcap.PcapFault, match="does not exist"):
        pcap.inspect(tmp_path / "nothing")
    with pytest.raises(pcap.PcapFault, match="is not a regular file"):
        pcap.inspect(tmp_path)


def test_every_truncation_is_told(tmp_path: Path) -> None:
    data = header() + record(bytes(20)) + record(bytes(3))
    whole = {24: 0, 24 + 36: 1, len(data): 2}
    for length in range(len(data) + 1):
        if length in whole:
            assert inspect(tmp_path, data[:length]).frames == whole[length]
        else:
            with pytest.raises(pcap.PcapFault):
                inspect(tmp_path, data[:length])


ETHER = bytes(12)
V4 = bytes.fromhex("45000054 0001 0000 4011 0000 c6336407 cb007101")
V4_MORE = V4[:6] + b"\x20\x00" + V4[8:]
V4_LAST = V4[:6] + b"\x00\x10" + V4[8:]
V4_DF = V4[:6] + b"\x40\x00" + V4[8:]


def v6(next_header: int, payload: bytes = bytes(20)) -> bytes:
    return bytes.fromhex("60000000 0014") + bytes([next_header, 64]) + bytes(32) + payload


@pytest.mark.parametrize(
    "what, frame, waits",
    [
        ("plain IPv4", ETHER + b"\x08\x00" + V4, 0),
        ("don't fragment is no fragment", ETHER + b"\x08\x00" + V4_DF, 0),
        ("first fragment", ETHER + b"\x08\x00" + V4_MORE, 1),
        ("last fragment", ETHER + b"\x08\x00" + V4_LAST, 1),
        ("fragment behind two tags", ETHER + bytes.fromhex("88a8000181000002 0800") + V4_MORE, 1),
        ("IPv6 fragment", ETHER + b"\x86\xdd" + v6(44), 1),
        ("extension header: not looked further", ETHER + b"\x86\xdd" + v6(60), 1),
        ("tunnelled IPv4", ETHER + b"\x86\xdd" + v6(4, V4), 0),
        ("tunnelled IPv4 fragment", ETHER + b"\x86\xdd" + v6(4, V4_LAST), 1),
        ("UDP in IPv6", ETHER + b"\x86\xdd" + v6(17), 0),
        ("ARP", ETHER + b"\x08\x06" + bytes(28), 0),
        ("runt", b"\x02", 0),
        ("only tags", ETHER + b"\x81\x00" * 9, 0),
        ("cut in the IPv4 header", ETHER + b"\x08\x00" + V4_MORE[:7], 0),
        ("cut in the tunnelled header", ETHER + b"\x86\xdd" + v6(4, V4_MORE[:7]), 0),
    ],
)
def test_what_may_have_to_wait_inside(tmp_path: Path, what: str, frame: bytes, waits: int) -> None:
    # A frame's end is the end: the next one, a fragment by all its octets, is not looked into.
    data = header() + record(frame) + record(b"\x20" * 64)
    assert inspect(tmp_path, data).may_wait == waits, what
