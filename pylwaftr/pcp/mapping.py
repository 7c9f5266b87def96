"""A mapping and its record. The record is what the store keeps and what the server holds in memory: a mapping costs its
octets there, and giving back an older state is giving back older octets."""

from __future__ import annotations

import struct
from typing import NamedTuple

from pylwaftr.pcp.pool import key_of, parts

ACTIVE, FREED = 1, 2  # bound; given back, and kept for whoever had it
THIRD_PARTY = 1  # flag: belongs to a client on the management side

_VERSION = 1
RECORD = struct.Struct("<BBBBHH12s16s16s16sddI")
_UNTIL = struct.Struct("<d")
_STORE_KEY = struct.Struct(">cIBH")
_ROW = struct.Struct("<IHBB16s16s")  # BINDING_ROW

EPOCH_KEY = b"epoch"
EPOCH_RECORD = struct.Struct("<d")


class Mapping(NamedTuple):
    state: int
    flags: int
    protocol: int  # this and the internal port: of the request that made it
    internal_port: int
    client_port: int  # the last one, for what is sent unasked
    nonce: bytes
    b4: bytes
    br: bytes
    client: bytes  # address of the PCP client, 16 octets
    until: float  # seconds since 1970: when it expires; of a freed one, since when it is free
    moved: float  # when it last went to another B4 address; 0 = never
    lifetime: int  # as granted
    description: bytes = b""
    third_party: bytes = b""  # options as they came, for what is sent unasked

    @property
    def active(self) -> bool:
        return self.state == ACTIVE

    def remaining(self, now: float) -> int:
        return max(0, round(self.until - now))


def encode(mapping: Mapping) -> bytes:
    *fixed, description, third_party = mapping
    record = RECORD.pack(_VERSION, *fixed)
    if description or third_party:
        record += len(description).to_bytes() + description + third_party
    return record


def decode(record: bytes) -> Mapping:
    """Raises ValueError for what is no record."""
    if len(record) < RECORD.size or record[0] != _VERSION or record[1] not in (ACTIVE, FREED):
        raise ValueError(f"{len(record)} octets {record[:4].hex()}… are no PCP mapping")
    _, *fixed = RECORD.unpack_from(record)
    tail = record[RECORD.size :]
    texts = (tail[1 : 1 + tail[0]], tail[1 + tail[0] :]) if tail else (b"", b"")
    return Mapping._make((*fixed, *texts))


def until(record: bytes) -> float:
    moment: float = _UNTIL.unpack_from(record, 68)[0]
    return moment


def key_at(ipv4: int, psid_len: int, port: int) -> int:
    return key_of(ipv4, psid_len, port >> (16 - psid_len))


def store_key(key: int) -> bytes:
    ipv4, psid_len, psid = parts(key)
    return _STORE_KEY.pack(b"m", ipv4, psid_len, psid)


def key_of_store(octets: bytes) -> int:
    """Raises ValueError."""
    try:
        kind, ipv4, psid_len, psid = _STORE_KEY.unpack(octets)
    except struct.error as fault:
        raise ValueError(f"key {octets.hex()}: {fault}") from None
    if kind != b"m" or psid_len > 16 or psid >> psid_len:
        raise ValueError(f"key {octets.hex()} names no port set")
    return int(ipv4) << 21 | int(psid_len) << 16 | int(psid)


def bound_row(key: int, record: bytes | None) -> bytes | None:
    """Octets of its binding row; None if it is not bound."""
    if record is None or record[1] != ACTIVE:
        return None
    ipv4, psid_len, psid = parts(key)
    return _ROW.pack(ipv4, psid, psid_len, 0, record[20:36], record[36:52])
