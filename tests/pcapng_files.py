"""pcapng files as blocks, read here: neither the writer's own code nor tshark's idea of what may be missing."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

SECTION, INTERFACE, STATISTICS, PACKET = 0x0A0D0D0A, 1, 5, 6
COMMENT, NAME, FLAGS, QUEUE, IF_RECEIVED, IF_DROPPED = 1, 2, 2, 6, 4, 5
IN, OUT = 1, 2


@dataclass(frozen=True, slots=True)
class Packet:
    interface: int
    ns: int
    octets: bytes
    length: int
    comment: str
    direction: int
    queue: int


@dataclass(frozen=True, slots=True)
class File:
    interfaces: list[str]
    packets: list[Packet]
    totals: dict[int, tuple[int, int]]  # interface -> received, dropped
    totals_ns: list[int]
    comment: str


def blocks(data: bytes) -> list[tuple[int, bytes]]:
    """Every block has its length at both ends, and the last one ends the file."""
    found, at = [], 0
    while at < len(data):
        kind, length = struct.unpack_from("<II", data, at)
        assert length >= 12, at
        assert length % 4 == 0, at
        assert at + length <= len(data), "the last block is not whole"
        assert struct.unpack_from("<I", data, at + length - 4) == (length,)
        found.append((kind, data[at + 8 : at + length - 4]))
        at += length
    return found


def options(data: bytes) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    at = 0
    while at < len(data):
        code, length = struct.unpack_from("<HH", data, at)
        if code == 0:
            assert (length, at + 4) == (0, len(data))
            break
        assert code not in found
        found[code] = data[at + 4 : at + 4 + length]
        at += 4 + (length + 3) // 4 * 4
    return found


def packet(body: bytes) -> Packet:
    interface, high, low, captured, length = struct.unpack_from("<IIIII", body)
    said = options(body[20 + (captured + 3) // 4 * 4 :])
    (flags,), (queue,) = struct.unpack("<I", said[FLAGS]), struct.unpack("<I", said[QUEUE])
    return Packet(
        interface, high << 32 | low, body[20 : 20 + captured], length, said[COMMENT].decode(), flags & 3, queue
    )


def read(path: Path) -> File:
    file = File([], [], {}, [], "")
    for number, (kind, body) in enumerate(blocks(path.read_bytes())):
        assert (kind == SECTION) == (number == 0)
        if kind == SECTION:
            assert struct.unpack_from("<IHH", body) == (0x1A2B3C4D, 1, 0)
            file = File([], [], {}, [], options(body[16:])[COMMENT].decode())
        elif kind == INTERFACE:
            assert struct.unpack_from("<H", body) == (1,)
            file.interfaces.append(options(body[8:])[NAME].decode())
        elif kind == STATISTICS:
            interface, high, low = struct.unpack_from("<III", body)
            said = options(body[12:])
            file.totals_ns.append(high << 32 | low)
            (received,), (dropped,) = struct.unpack("<Q", said[IF_RECEIVED]), struct.unpack("<Q", said[IF_DROPPED])
            file.totals[interface] = received, dropped
        else:
            assert kind == PACKET
            file.packets.append(packet(body))
    return file
