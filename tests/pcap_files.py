"""Classic pcap files of Ethernet frames, written and read here: the product's own reader is not its own judge."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path

_MAGIC = {0xA1B2C3D4: 1_000_000, 0xA1B23C4D: 1_000_000_000}  # micro- and nanosecond files
_ETHERNET = 1


def write(path: Path, frames: Sequence[bytes]) -> Path:
    records = (struct.pack("<IIII", 0, number, len(frame), len(frame)) + frame for number, frame in enumerate(frames))
    path.write_bytes(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 262144, _ETHERNET) + b"".join(records))
    return path


def read(path: Path) -> list[bytes]:
    data = path.read_bytes()
    order = next(o for o in "<>" if struct.unpack(o + "I", data[:4])[0] in _MAGIC)
    _, major, _, _, _, _, link = struct.unpack(order + "IHHiIII", data[:24])
    assert (major, link) == (2, _ETHERNET), path
    at = 24
    frames: list[bytes] = []
    while at < len(data):
        _, _, captured, length = struct.unpack(order + "IIII", data[at : at + 16])
        assert captured == length, f"{path}: frame {len(frames)} is cut"
        frames.append(data[at + 16 : at + 16 + captured])
        at += 16 + captured
    return frames
