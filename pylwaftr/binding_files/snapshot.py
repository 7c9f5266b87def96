"""The binary snapshot: a header and the rows as they lie in memory, little-endian.

 0  magic      8 octets
 8  version    u16, 1
10  header     u16, octets before the first row
12  row        u32, octets of one row
16  count      u64, rows
24  checksum   u32, CRC-32 of the rows
28  checksum   u32, CRC-32 of octets 0 to 27
"""

import struct
import zlib

import numpy as np

from pylwaftr.binding_files.records import Loaded, Unusable
from pylwaftr.rows import BINDING_ROW, Rows

MAGIC = b"\x89LWAFTR\n"  # not text, and broken by anything that translates line ends
VERSION = 1
_HEADER = struct.Struct("<8sHHIQI")
_CHECK = struct.Struct("<I")
SIZE = _HEADER.size + _CHECK.size


def write(rows: Rows) -> bytes:
    body = np.ascontiguousarray(rows, BINDING_ROW).tobytes()
    header = _HEADER.pack(MAGIC, VERSION, SIZE, BINDING_ROW.itemsize, len(rows), zlib.crc32(body))
    return header + _CHECK.pack(zlib.crc32(header)) + body


def read(data: bytes) -> Loaded:
    if len(data) < SIZE or not data.startswith(MAGIC):
        raise Unusable("is not a snapshot of bindings, or only its beginning")
    if zlib.crc32(data[: _HEADER.size]) != _CHECK.unpack_from(data, _HEADER.size)[0]:
        raise Unusable("the header of the snapshot is damaged (checksum); restore the file")
    _, version, start, size, count, check = _HEADER.unpack_from(data)
    if version != VERSION or start != SIZE or size != BINDING_ROW.itemsize:
        raise Unusable(f"is a snapshot of version {version}; this program reads version {VERSION}")
    if len(data) - SIZE != count * size:
        raise Unusable(f"the snapshot should hold {count} rows and has octets for {(len(data) - SIZE) / size:g}")
    if zlib.crc32(memoryview(data)[SIZE:]) != check:
        raise Unusable("the rows of the snapshot are damaged (checksum); restore the file")
    return Loaded(np.frombuffer(data, BINDING_ROW, offset=SIZE).copy(), np.arange(1, count + 1))
