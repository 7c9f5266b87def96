"""Looks through a classic pcap file of Ethernet frames before the data plane reads it: is it one, is it whole, and what
does it need. (libpcap would only end early, in the middle of a replay.)
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MAX_FRAME = 65535  # what a packet buffer chain can count
ETHERNET = 1

_FILE_HEADER = 24
_RECORD_HEADER = 16
_MAX_RECORD = 262144  # libpcap takes more for a damaged file
_MICROSECONDS, _NANOSECONDS = 0xA1B2C3D4, 0xA1B23C4D
_NOT_CLASSIC = {
    b"\x0a\x0d\x0d\x0a": "a pcapng file: convert it with editcap -F pcap",
    b"\x1f\x8b\x08": "compressed with gzip: unpack it first",
    b"\x28\xb5\x2f\xfd": "compressed with zstd: unpack it first",
    b"\xfd7zX": "compressed with xz: unpack it first",
    b"\x34\xcd\xb2\xa1": "a modified pcap with longer records: convert it with editcap -F pcap",
    b"\xa1\xb2\xcd\x34": "a modified pcap with longer records: convert it with editcap -F pcap",
}
_LINK_TYPES = {
    0: "BSD loopback",
    101: "raw IP",
    113: "Linux cooked",
    228: "raw IPv4",
    229: "raw IPv6",
    276: "Linux cooked",
}

EMPTY = struct.pack("<IHHiIII", _MICROSECONDS, 2, 4, 0, 0, MAX_FRAME, ETHERNET)  # a file without records


class PcapFault(Exception):
    """The file cannot be replayed; the text names it, what it is and what to do."""


@dataclass(frozen=True, slots=True)
class Inspection:
    frames: int
    longest: int  # octets
    cut_short: int  # frames that the capture did not keep whole
    may_wait: int  # frames that the stages may have to hold for others: at most that many are inside at once


def inspect(path: Path) -> Inspection:
    """Reads all record headers. Raises PcapFault."""
    try:
        if not path.is_file():
            what = "is not a regular file" if path.exists() else "does not exist"
            raise PcapFault(f"{path}: {what}")
        if path.stat().st_size == 0:
            raise PcapFault(f"{path}: is empty: even a pcap without frames has a header")
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _inspect(path, data)
    except OSError as fault:
        raise PcapFault(f"{path}: cannot be read: {fault.strerror}") from None


def frames(path: Path) -> Iterator[bytes]:
    """The octets of each record. Raises PcapFault before the first one."""
    count = inspect(path).frames
    data = path.read_bytes()
    order, _ = _file_header(path, data)
    record = struct.Struct(order + "8xII")
    at = _FILE_HEADER
    for _ in range(count):
        captured, _ = record.unpack_from(data, at)
        at += _RECORD_HEADER + captured
        yield data[at - captured : at]


def _inspect(path: Path, data: mmap.mmap) -> Inspection:
    order, snapshot = _file_header(path, data)
    record = struct.Struct(order + "8xII")
    frames = longest = cut_short = may_wait = 0
    at, end = _FILE_HEADER, len(data)
    while at < end:
        frames += 1
        start = at + _RECORD_HEADER
        if start > end:
            raise PcapFault(f"{path}: is cut off: the header of record {frames} is not whole")
        captured, original = record.unpack_from(data, at)
        at = start + captured
        if captured > MAX_FRAME or captured > snapshot:
            raise PcapFault(f"{path}: record {frames} {_too_long(captured, snapshot)}")
        if at > end:
            raise PcapFault(f"{path}: is cut off: record {frames} has {end - start} of its {captured} octets")
        longest = max(longest, captured)
        cut_short += captured < original
        may_wait += _may_wait(data, start, at)
    return Inspection(frames, longest, cut_short, may_wait)


def _file_header(path: Path, data: mmap.mmap | bytes) -> tuple[str, int]:
    """Byte order and snapshot length."""
    for magic, meaning in _NOT_CLASSIC.items():
        if data[: len(magic)] == magic:
            raise PcapFault(f"{path}: is {meaning}")
    for order in "<>":
        if len(data) >= 4 and struct.unpack_from(order + "I", data)[0] in (_MICROSECONDS, _NANOSECONDS):
            break
    else:
        raise PcapFault(f"{path}: is not a pcap file: it starts with {data[:4].hex(' ')}")
    if len(data) < _FILE_HEADER:
        raise PcapFault(f"{path}: is cut off: {len(data)} octets are no whole pcap header")
    major, minor, snapshot, network = struct.unpack_from(order + "HH8xII", data, 4)
    if (major, minor) != (2, 4):
        raise PcapFault(f"{path}: has pcap version {major}.{minor}; 2.4 is needed: convert it with editcap -F pcap")
    link_type = network & 0x03FFFFFF  # the bits above tell of a frame check sequence
    if link_type != ETHERNET:
        name = f" ({_LINK_TYPES[link_type]})" if link_type in _LINK_TYPES else ""
        raise PcapFault(f"{path}: has link type {link_type}{name}; Ethernet (1) is needed")
    return order, snapshot if 0 < snapshot < 1 << 31 else _MAX_RECORD


def _too_long(captured: int, snapshot: int) -> str:
    if captured > _MAX_RECORD:
        return f"claims {captured} octets: the file is damaged there"
    if captured > MAX_FRAME:
        return f"has {captured} octets: a frame of more than {MAX_FRAME} cannot be replayed"
    return f"has {captured} octets, more than the file's snapshot length of {snapshot}: set that right with editcap"


_TAGS = frozenset((b"\x81\x00", b"\x88\xa8"))
_EXTENSIONS = frozenset((0, 43, 44, 51, 60, 135, 139, 140))


def _may_wait(data: mmap.mmap, at: int, end: int) -> bool:
    """True for a fragment, and for what is not looked into so far as to tell."""
    kind = data[at + 12 : at + 14]
    while kind in _TAGS:
        at += 4
        kind = data[at + 12 : at + 14]
    ip = at + 14
    if kind == b"\x08\x00":
        return _is_ipv4_fragment(data, ip, end)
    if kind == b"\x86\xdd" and ip + 40 <= end:
        next_header = data[ip + 6]
        return next_header in _EXTENSIONS or (next_header == 4 and _is_ipv4_fragment(data, ip + 40, end))
    return False


def _is_ipv4_fragment(data: mmap.mmap, ip: int, end: int) -> bool:
    return ip + 8 <= end and (data[ip + 6] & 0x3F or data[ip + 7]) != 0
