"""Rows to text: CSV, JSON lines, RFC 8676 JSON; piece by piece, so that a million rows are never all text at once."""

import json
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from pylwaftr.rows import FIELDS, Rows, describe, text4, text6


@dataclass(frozen=True, slots=True)
class Instance:
    """The mandatory leaves of a bind-instance around its table."""

    softwire_num_max: int
    softwire_payload_mtu: int
    softwire_path_mru: int
    name: str = "pylwaftr"
    enable_hairpinning: bool = True


Fields = tuple[str, int, int, int, str, str]


def _fields(rows: Rows) -> Iterator[Fields]:
    """In the order of FIELDS."""
    brs: dict[bytes, str] = {}  # few, and in every row
    numbers = (rows[name].tolist() for name in ("ipv4", "psid_offset", "psid_len", "psid"))
    b4s, br_octets = rows["b4"].tobytes(), rows["br"].tobytes()
    for index, (ipv4, offset, length, psid) in enumerate(zip(*numbers, strict=True)):
        at = slice(16 * index, 16 * index + 16)
        br = br_octets[at]
        if br not in brs:
            brs[br] = text6(br)
        yield text4(ipv4), offset, length, psid, text6(b4s[at]), brs[br]


def csv(rows: Rows) -> Iterator[str]:
    yield ",".join(FIELDS) + "\n"
    for ipv4, offset, length, psid, b4, br in _fields(rows):
        yield f"{ipv4},{offset},{length},{psid},{b4},{br}\n"


def jsonl(rows: Rows) -> Iterator[str]:
    for fields in _fields(rows):
        yield json.dumps(dict(zip(FIELDS, fields, strict=True))) + "\n"


def rfc8676(rows: Rows, instance: Instance) -> Iterator[str]:
    """Raises ValueError for what the module cannot hold: k = 16, and two entries of one B4 address (its key)."""
    if len(beyond := rows[rows["psid_len"] > 15]):
        raise ValueError(f"{describe(beyond[0])}: RFC 8676 ends at psid-len 15")
    if len(np.unique(np.ascontiguousarray(rows["b4"]).view("V16"))) != len(rows):
        raise ValueError("RFC 8676 has one entry for each B4 address, and this table has several for some")
    frame = {
        "name": instance.name,
        "softwire-num-max": instance.softwire_num_max,
        "softwire-payload-mtu": instance.softwire_payload_mtu,
        "softwire-path-mru": instance.softwire_path_mru,
        "enable-hairpinning": instance.enable_hairpinning,
    }
    head = json.dumps(frame)[:-1]
    yield f'{{"ietf-softwire-br:br-instances": {{"binding": {{"bind-instance": [{head}, '
    yield '"binding-table": {"binding-entry": ['
    separator = "\n"
    for ipv4, offset, length, psid, b4, br in _fields(rows):
        yield (
            f'{separator}{{"binding-ipv6info": "{b4}", "binding-ipv4-addr": "{ipv4}", "port-set": '
            f'{{"psid-offset": {offset}, "psid-len": {length}, "psid": {psid}}}, "br-ipv6-addr": "{br}"}}'
        )
        separator = ",\n"
    yield "\n]}}]}}}\n"
