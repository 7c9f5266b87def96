"""What every binding must satisfy, alone and beside the others; on whole arrays, for there are millions of them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pylwaftr.row_sets import Ids, words
from pylwaftr.rows import PREFIX_MASKS, Rows, describe, text4, text6

Index = npt.NDArray[np.int64]
Halves = Sequence[Ids]  # of addresses, as they lie in memory: words are compared five times as fast as octets

_FIRST, _FIRST_TWO = np.uint64(0xFF), np.uint64(0xFFFF)
_LINK_LOCAL_BITS, _LINK_LOCAL = np.uint64(0xC0FF), np.uint64(0x80FE)  # of fe80::/10


@dataclass(frozen=True, slots=True)
class Finding:
    """The rows that fail one check. Messages are made only for those that are shown."""

    rows: Index
    field: str
    message: Callable[[int], str]
    warning: bool = False


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the rows are checked against."""

    own_v4: frozenset[int]
    own_v6: frozenset[bytes]
    server_v4: frozenset[int]  # addresses of the PCP server
    br: tuple[bytes, ...]
    mask: int
    max_softwires: int


def anywhere() -> Surroundings:
    """For who does not know the router's addresses and limits."""
    return Surroundings(frozenset(), frozenset(), frozenset(), (), 128, 1 << 30)


Where = Callable[[int], str]  # a row's place, for messages about two rows


def findings(rows: Rows, around: Surroundings, where: Where) -> list[Finding]:
    sound, of_rows = alone(rows)
    return [
        *of_rows,
        *_addresses(rows, around),
        *_together(rows, sound, where),
        *_softwires(rows, around, where),
        _system_ports(rows, sound),
    ]


def field_findings(rows: Rows, around: Surroundings) -> list[Finding]:
    """What is wrong with rows each by itself."""
    return [*alone(rows)[1], *_addresses(rows, around)]


def table_findings(rows: Rows, around: Surroundings, where: Where) -> list[Finding]:
    """What is wrong with rows by themselves and beside each other, whatever the subscribers' limits are."""
    sound, of_rows = alone(rows)
    return [*of_rows, *_addresses(rows, around), *_together(rows, sound, where)]


def alone(rows: Rows) -> tuple[npt.NDArray[np.bool_], list[Finding]]:
    """RFC 7597 section 5.1: a + k <= 16 and PSID < 2^k (DP-031)."""
    offset, length = rows["psid_offset"].astype(np.int64), rows["psid_len"].astype(np.int64)
    psid = rows["psid"].astype(np.int64)
    too_long = (offset + length > 16) | (length > 16)
    beyond = ~too_long & (length > 0) & (psid >= 1 << np.minimum(length, 16))

    def long(i: int) -> str:
        return f"psid_offset {offset[i]} and psid_len {length[i]} are {offset[i] + length[i]} bits; a port has 16"

    def high(i: int) -> str:
        return f"is {psid[i]}; with psid_len {length[i]} the range is 0 to {(1 << int(length[i])) - 1}"

    found = [Finding(np.flatnonzero(too_long), "psid_len", long), Finding(np.flatnonzero(beyond), "psid", high)]
    return ~(too_long | beyond), found


def _addresses(rows: Rows, around: Surroundings) -> list[Finding]:
    ipv4 = rows["ipv4"]
    _, *addresses = words(rows).T
    b4, br = addresses[:2], addresses[2:]

    def address4(reason: str) -> Callable[[int], str]:
        return lambda i: f"{text4(int(ipv4[i]))} {reason}"

    def address6(field: str, reason: str) -> Callable[[int], str]:
        return lambda i: f"{text6(rows[field][i].tobytes())} {reason}"

    top = ipv4 >> 24
    nobody = (top == 0) | (top == 127) | (top >= 224)
    own6 = _equals_any(b4, tuple(around.own_v6) + around.br)
    listed = _equals_any(br, around.br)
    inside = "is of 192.0.0.0/29, which stays in the softwire"
    no_b4 = "is no address that a B4 can have; give a global unicast address"
    remedy = "is not in softwire.br_addresses; add it there or use one of them"
    return [
        _finding(nobody, "ipv4", address4("is no address of a host (0/8, 127/8, 224/3)")),
        # RFC 7335 section 4: 192.0.0.0/29 never leaves the softwire.
        _finding((ipv4 & 0xFFFFFFF8) == 0xC0000000, "ipv4", address4(inside)),
        _finding(_isin(ipv4, around.own_v4), "ipv4", address4("is this router's own address (DP-063)")),
        _finding(_isin(ipv4, around.server_v4), "ipv4", address4("is the PCP server's address")),
        _finding(_no_b4(b4), "b4_ipv6", address6("b4", no_b4)),
        _finding(own6, "b4_ipv6", address6("b4", "is this router's own address (DP-061)")),
        _finding(~listed if around.br else np.zeros(len(rows), np.bool_), "br_ipv6", address6("br", remedy)),
    ]


def _finding(flags: npt.NDArray[np.bool_], field: str, message: Callable[[int], str]) -> Finding:
    return Finding(np.flatnonzero(flags), field, message)


def _isin(values: npt.NDArray[np.uint32], wanted: frozenset[int]) -> npt.NDArray[np.bool_]:
    return np.isin(values, np.array(sorted(wanted), np.uint32))


def _equals_any(halves: Halves, wanted: Sequence[bytes]) -> npt.NDArray[np.bool_]:
    head, tail = halves
    found = np.zeros(len(head), np.bool_)
    for address in wanted:
        high, low = np.frombuffer(address, np.uint64)
        found |= (head == high) & (tail == low)
    return found


def _no_b4(b4: Halves) -> npt.NDArray[np.bool_]:
    """Unspecified, loopback, IPv4-compatible and -mapped (::/80), link-local, multicast."""
    head, tail = b4
    low = (head == 0) & (tail & _FIRST_TWO == 0)
    link_local = head & _LINK_LOCAL_BITS == _LINK_LOCAL
    return np.asarray(low | link_local | (head & _FIRST == _FIRST))


def _together(rows: Rows, sound: npt.NDArray[np.bool_], where: Where) -> list[Finding]:
    """One (a, k) for each address, one row for each set: RFC 7597 section 5.1 (DP-024, DP-025)."""
    order = np.flatnonzero(sound)
    order = order[np.argsort(rows["ipv4"][order], kind="stable")]
    ipv4 = rows["ipv4"][order]
    begins = np.concatenate([[True], ipv4[1:] != ipv4[:-1]]) if len(order) else np.zeros(0, np.bool_)
    first = order[np.flatnonzero(begins)][np.cumsum(begins) - 1] if len(order) else order
    params = rows["psid_len"].astype(np.uint16) << 8 | rows["psid_offset"]
    other = params[order] != params[first]
    references = dict(zip(order[other].tolist(), first[other].tolist(), strict=True))

    def differs(i: int) -> str:
        ref = references[i]
        there = f"{where(ref)} has psid_offset {rows['psid_offset'][ref]} and psid_len {rows['psid_len'][ref]}"
        return f"{describe(rows[i])}: {there}; all bindings of an address have the same, or their ports overlap"

    same = order[~other]
    key = rows["ipv4"][same].astype(np.uint64) << np.uint64(16) | rows["psid"][same]
    by_key = same[np.argsort(key, kind="stable")]
    key = np.sort(key, kind="stable")
    twice = np.flatnonzero(key[1:] == key[:-1]) + 1
    previous = dict(zip(by_key[twice].tolist(), by_key[twice - 1].tolist(), strict=True))

    def again(i: int) -> str:
        return f"{describe(rows[i])} is bound already at {where(previous[i])}; remove one"

    return [
        Finding(np.sort(order[other]), "psid_len", differs),
        Finding(np.sort(by_key[twice]), "psid", again),
    ]


def _softwires(rows: Rows, around: Surroundings, where: Where) -> list[Finding]:
    """RFC 7785 section 3: distinct (B4, BR) pairs of one subscriber prefix (DP-036)."""
    prefix = rows["b4"] & PREFIX_MASKS[around.mask]
    halves = [np.ascontiguousarray(octets).view(">u8").astype(np.uint64) for octets in (rows["b4"], rows["br"], prefix)]
    b4, br, subscriber = halves
    order = np.lexsort((br[:, 1], br[:, 0], b4[:, 1], b4[:, 0]))
    b4, br, subscriber = b4[order], br[order], subscriber[order]
    new_pair, new_prefix = _changes(np.hstack([b4, br])), _changes(subscriber)
    pairs = np.bincount(np.cumsum(new_prefix) - 1, new_pair, minlength=1) if len(rows) else np.zeros(0)
    crowded = np.flatnonzero(pairs[np.cumsum(new_prefix) - 1] > around.max_softwires) if len(rows) else order
    seen: dict[bytes, dict[bytes, int]] = {}
    excess: dict[int, int] = {}
    for i in np.sort(order[crowded]).tolist():
        known = seen.setdefault(prefix[i].tobytes(), {})
        pair = rows["b4"][i].tobytes() + rows["br"][i].tobytes()
        if pair not in known and len(known) >= around.max_softwires:
            excess[i] = next(iter(known.values()))
        else:
            known.setdefault(pair, i)

    def message(i: int) -> str:
        address = f"{text6(prefix[i].tobytes())}/{around.mask}"
        limit = f"subscribers.max_softwires is {around.max_softwires}, and {where(excess[i])} came first"
        return f"{text6(rows['b4'][i].tobytes())} is one softwire too many for the subscriber {address}: {limit}"

    return [Finding(np.array(sorted(excess), np.int64), "b4_ipv6", message)]


def _changes(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
    if not len(values):
        return np.zeros(0, np.bool_)
    return np.concatenate([[True], (values[1:] != values[:-1]).any(1)])


def _system_ports(rows: Rows, sound: npt.NDArray[np.bool_]) -> Finding:
    """RFC 7596 section 5.1: a set with offset 0 that begins below 1024 (DP-028)."""
    size = np.int64(1) << (16 - np.minimum(rows["psid_len"], 16).astype(np.int64))
    low = (rows["psid_len"] > 0) & (rows["psid_offset"] == 0) & (rows["psid"] * size < 1024) & sound

    def message(i: int) -> str:
        return f"{describe(rows[i])} holds system ports (0 to 1023), which a shared address should keep back"

    return Finding(np.flatnonzero(low), "psid", message, warning=True)
