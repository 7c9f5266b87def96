"""Messages to rows and back. A batch becomes one structured array; every bad field is refused by its path."""

from __future__ import annotations

import math
import socket
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Network
from typing import Any

import numpy as np
import numpy.typing as npt
from google.protobuf.timestamp_pb2 import Timestamp

from pylwaftr import addresses, row_sets, rows
from pylwaftr.api.generated.lwaftr.v1 import bindings_pb2, common_pb2
from pylwaftr.binding_files import columns
from pylwaftr.binding_files.records import Chunk, Collector
from pylwaftr.changes import Keys, Refusal, Report, Sources, etag
from pylwaftr.config.row_checks import Finding, Surroundings, field_findings
from pylwaftr.rows import BINDING_ROW, Rows
from pylwaftr.store import Life

MAX_ROWS = 65536  # of packed rows in a message
MAX_BINDINGS = 10_000  # in a list
DEFAULT_PAGE = 1000
MAX_SHOWN = 64  # violations in an error: trailers are small
MAX_REFUSALS = 1000  # of one batch of a stream
CUT = " ..."  # behind a text that is longer than there is room for
_FEW = 32  # bindings

_NO_LENGTH = "is given without psid_len; for the whole address both are 0"


@dataclass(frozen=True, slots=True)
class Violation:
    path: str
    text: str


def _octets(text: str) -> int:
    return len(text.encode())


def clipped(text: str, most: int, octets: Callable[[str], int] = _octets) -> str:
    """At most so many octets of it."""
    if len(text) <= most and octets(text) <= most:
        return text
    text = text[: most - len(CUT)]
    while octets(text) > most - len(CUT):
        text = text[: len(text) * 7 // 8]
    return text + CUT


def more(count: int) -> str:
    """Behind the first of so many violations."""
    return f" (and {count - 1} more)" if count > 1 else ""


class Invalid(Exception):
    """Fields of a request are wrong. `total` counts also the violations that are not listed."""

    def __init__(self, violations: Sequence[Violation], total: int = 0, reason: str = "INVALID_FIELD") -> None:
        self.violations = tuple(violations)
        self.total = max(total, len(violations))
        self.reason = reason
        super().__init__(f"{violations[0].path}: {violations[0].text}{more(self.total)}")


def invalid(path: str, text: str, reason: str = "INVALID_FIELD") -> Invalid:
    return Invalid([Violation(path, text)], reason=reason)


class Fields:
    """Reads fields one by one, each with this as its context: what is wrong with any of them is said of all at the end.

    A field that is wrong is not assigned: nothing may be done before `end`.
    """

    def __init__(self) -> None:
        self._found: list[Violation] = []

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: object, fault: BaseException | None, __: object) -> bool:
        if not isinstance(fault, Invalid):
            return False
        self._found += fault.violations
        return True

    def end(self) -> None:
        """Raises Invalid."""
        if self._found:
            raise Invalid(self._found)


def page_size(wanted: int) -> int:
    if wanted > MAX_BINDINGS:
        raise invalid("page_size", f"is {wanted}; the range is 1 to {MAX_BINDINGS}")
    return wanted or DEFAULT_PAGE


def from_bindings(given: Sequence[common_pb2.Binding], around: Surroundings, path: str = "bindings") -> Rows:
    """Raises Invalid with every bad field, such as bindings[3].psid."""
    if len(given) > MAX_BINDINGS:
        raise invalid(path, f"has {len(given)} elements, at most {MAX_BINDINGS} are taken; send rows", "TOO_MANY")
    return _parsed(given, around, lambda index, field: f"{path}[{index}].{field}")


def from_binding(given: common_pb2.Binding, around: Surroundings) -> Rows:
    octets = _plain(given, around)
    if octets is not None:
        return np.frombuffer(octets, BINDING_ROW)
    return _parsed([given], around, lambda _, field: f"binding.{field}")


def _plain(given: common_pb2.Binding, around: Surroundings) -> bytes | None:
    """One sound binding whose B4 is an address, without the columns, which cost 30 times as much for one.

    None: look closer. What is taken here is taken there, and comes to the same row.
    """
    try:
        ipv4 = socket.inet_pton(socket.AF_INET, given.ipv4)
        b4 = socket.inet_pton(socket.AF_INET6, given.b4_ipv6)
        br = socket.inet_pton(socket.AF_INET6, given.br_ipv6) if given.br_ipv6 else around.br[0]
    except (OSError, ValueError):
        return None
    offset, length, psid = given.psid_offset, given.psid_len, given.psid
    if ipv4[0] in (0, 127) or ipv4[0] >= 224 or ipv4[:3] == b"\xc0\0\0" or not any(b4[:10]) or b4[0] >= 0xFE:
        return None
    address = int.from_bytes(ipv4)
    if br not in around.br or b4 in around.br or b4 in around.own_v6:
        return None
    if address in around.own_v4 or address in around.server_v4:
        return None
    if length == 0:
        return rows.PACKED.pack(address, 0, 0, 0, b4, br) if offset <= 16 and not psid else None
    if offset + length > 16 or psid >> length:
        return None
    return rows.PACKED.pack(address, psid, length, offset, b4, br)


def _parsed(given: Sequence[common_pb2.Binding], around: Surroundings, path: Callable[[int, str], str]) -> Rows:
    named: list[str] = []
    if len(given) <= _FEW:  # the readable parser takes them all: 50 us each, where columns cost 2 ms in all
        none = np.zeros(len(given), np.bool_)
        ipv4 = np.zeros(len(given), np.uint32), none
        b4 = np.zeros((len(given), 16), np.uint8), np.zeros(len(given), np.int16), none
    else:
        ipv4 = columns.parse_ipv4(columns.from_texts([binding.ipv4 for binding in given]))
        b4 = columns.parse_ipv6(columns.from_texts([binding.b4_ipv6 for binding in given]))
        named = [binding.br_ipv6 for binding in given]
    br = None
    if any(named):
        octets, length, taken = columns.parse_ipv6(columns.from_texts(named))
        br = octets, taken & (length < 0)
    numbers = [_numbers([getattr(b, name) for b in given]) for name in ("psid_offset", "psid_len", "psid")]
    collector = Collector(around.br[0])
    lines = np.arange(len(given))
    collector.add(Chunk(ipv4, b4, br, *numbers), lines, lambda index: _record(given[index]))
    loaded = collector.loaded()
    violations = [Violation(path(fault.line, fault.field), fault.message) for fault in loaded.faults]
    # A forgotten length would give the whole address away.
    for index in np.flatnonzero((numbers[1][0] == 0) & (numbers[2][0] != 0)).tolist():
        violations.append(Violation(path(index, "psid"), _NO_LENGTH))
    more = len(violations) + loaded.more_faults
    found = field_findings(loaded.rows, around)
    _refuse(violations, more, found, lambda index, field: path(int(loaded.lines[index]), field))
    return loaded.rows


def _record(given: common_pb2.Binding) -> dict[str, Any]:
    texts = {name: getattr(given, name) or None for name in ("ipv4", "b4_ipv6", "br_ipv6")}
    return texts | {name: getattr(given, name) for name in ("psid_offset", "psid_len", "psid")}


def _numbers(values: list[int]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    array = np.array(values, np.int64)
    return array, array <= 65535


def from_packed(octets: bytes, around: Surroundings, first: int = 0, shown: int = MAX_SHOWN) -> Rows:
    """Packed rows; `first` is the number of the first one, for the paths of refusals."""
    found = unchecked_rows(octets, first)
    whole = found["psid_len"] == 0
    without = ~row_sets.words(found)[:, 3:].any(1)
    forgotten = Finding(np.flatnonzero(whole & (found["psid"] != 0)), "psid", lambda _: _NO_LENGTH)
    if without.any() or (found["psid_offset"][whole]).any():
        found = found.copy()
        found["br"][without] = np.frombuffer(around.br[0], np.uint8)
        found["psid_offset"][whole] = 0
    checks = [forgotten, *field_findings(found, around)]
    _refuse([], 0, checks, lambda index, field: f"rows[{first + index}].{field}", shown)
    return found


def unchecked_rows(octets: bytes, first: int = 0) -> Rows:
    """Only that they are rows, and not too many."""
    place = f"behind the first {first} rows of the stream: " if first else ""
    count, rest = divmod(len(octets), BINDING_ROW.itemsize)
    if rest:
        remedy = f"a row has {BINDING_ROW.itemsize} octets"
        raise invalid("rows", f"{place}has {len(octets)} octets, which is no whole number of rows; {remedy}")
    if count > MAX_ROWS:
        raise invalid("rows", f"{place}has {count} rows; at most {MAX_ROWS} are taken in one message", "TOO_MANY")
    return np.frombuffer(octets, BINDING_ROW)


def _refuse(
    violations: list[Violation],
    total: int,
    found: Sequence[Finding],
    path: Callable[[int, str], str],
    shown: int = MAX_SHOWN,
) -> None:
    total += sum(len(finding.rows) for finding in found)
    if not total:
        return
    pairs = sorted((int(i), at) for at, finding in enumerate(found) for i in finding.rows[:shown])
    for index, at in pairs[: shown - len(violations)]:
        violations.append(Violation(path(index, found[at].field), found[at].message(index)))
    raise Invalid(violations[:shown], total)


def from_key(ipv4: str, psid: int, path: str = "") -> tuple[int, int]:
    found = []
    try:
        address = int(addresses.ipv4(ipv4))
    except ValueError as fault:
        found.append(Violation(f"{path}ipv4", str(fault)))
    if psid > 65535:
        found.append(Violation(f"{path}psid", f"is {psid}; the range is 0 to 65535"))
    if found:
        raise Invalid(found)
    return address, psid


def from_keys(given: Sequence[common_pb2.BindingKey]) -> Keys:
    if len(given) > MAX_BINDINGS:
        raise invalid("keys", f"has {len(given)} elements, at most {MAX_BINDINGS} are taken; send rows", "TOO_MANY")
    ipv4, taken = columns.parse_ipv4(columns.from_texts([key.ipv4 for key in given]))
    psid, fits = _numbers([key.psid for key in given])
    fields = Fields()
    for index in np.flatnonzero(~(taken & fits)).tolist():
        with fields:
            ipv4[index] = from_key(given[index].ipv4, given[index].psid, f"keys[{index}].")[0]
    fields.end()
    return ipv4, psid.astype(np.uint16)


def ipv4(address: int) -> IPv4Address:
    return IPv4Address(address)


def from_port(port: int, path: str) -> int:
    if port > 65535:
        raise invalid(path, f"is {port}; the range is 0 to 65535")
    return port


def prefix4(text: str, path: str) -> IPv4Network:
    try:
        return addresses.network4(text if "/" in text else f"{addresses.ipv4(text)}/32")
    except ValueError as fault:
        raise invalid(path, str(fault)) from None


def prefix6(text: str, path: str) -> IPv6Network:
    try:
        return addresses.network6(text if "/" in text else f"{addresses.ipv6(text)}/128")
    except ValueError as fault:
        raise invalid(path, str(fault)) from None


def from_source(source: int, path: str) -> int | None:
    """The API's number to the table's; 0 = none given."""
    if source not in common_pb2.Source.values():
        raise invalid(path, f"is {source}, which is no Source")
    return source - 1 if source else None


def binding(row: np.void, source: int, waits: bool = False) -> common_pb2.Binding:
    """Of one binding, so with its ports."""
    octets = row.tobytes()
    message = _binding(octets, source, waits)
    message.ports.extend(_ranges(message.psid_offset, message.psid_len, message.psid))
    return message


@lru_cache(1024)  # an operator divides addresses in one way or two
def _ranges(offset: int, length: int, psid: int) -> tuple[common_pb2.PortRange, ...]:
    return tuple(common_pb2.PortRange(first=first, last=last) for first, last in rows.ports(offset, length, psid))


def bindings(found: Rows, sources: Sources, waits: bool = False) -> list[common_pb2.Binding]:
    octets, size = packed(found), BINDING_ROW.itemsize
    return [_binding(octets[at * size : (at + 1) * size], source, waits) for at, source in enumerate(sources.tolist())]


def _binding(octets: bytes, source: int, waits: bool) -> common_pb2.Binding:
    ipv4, psid, length, offset, b4, br = rows.PACKED.unpack(octets)
    return common_pb2.Binding(
        ipv4=rows.text4(ipv4),
        psid_offset=offset,
        psid_len=length,
        psid=psid,
        b4_ipv6=rows.text6(b4),
        br_ipv6=rows.text6(br),
        source=to_source(source),
        etag=etag(octets, source),
        waits=waits,
    )


def all_of(source: int, count: int) -> Sources:
    return np.full(count, source, np.uint8)


def to_source(source: int) -> Any:
    """The table's number to the API's."""
    return source + 1


def packed(found: Rows) -> bytes:
    return np.ascontiguousarray(found, BINDING_ROW).tobytes()


def report(done: Report) -> bindings_pb2.BatchReport:
    return bindings_pb2.BatchReport(
        added=done.added,
        replaced=done.replaced,
        unchanged=done.unchanged,
        removed=done.removed,
        outranked=done.outranked,
        revision=done.revision,
    )


def refusals(refused: Iterable[Refusal], first: int) -> list[common_pb2.Refusal]:
    return [common_pb2.Refusal(index=first + one.index, reason=one.reason.upper(), message=one.text) for one in refused]


def refusals_of(fault: Invalid, first: int) -> list[common_pb2.Refusal]:
    """Of packed rows: rows[17].psid becomes index 17, field psid. What is wrong with all of a message is with its
    first row."""
    found = []
    for violation in fault.violations:
        head, _, field = violation.path.partition("].")
        index = int(head.removeprefix("rows[")) if field else first
        found.append(common_pb2.Refusal(index=index, reason=fault.reason, message=violation.text, field=field))
    return found


def lives(found: Sequence[Life]) -> list[common_pb2.Life]:
    if not found:
        return []
    named = bindings(np.concatenate([one.row for one in found]), np.array([one.source for one in found], np.uint8))
    return [
        common_pb2.Life(
            binding=binding,
            began=timestamp(one.began),
            ended=None if one.ended is None else timestamp(one.ended),
        )
        for one, binding in zip(found, named, strict=True)
    ]


def timestamp(seconds: float) -> Timestamp:
    whole, micros = divmod(round(seconds * 1e6), 1_000_000)
    return Timestamp(seconds=whole, nanos=micros * 1000)


def seconds(moment: Timestamp, path: str) -> float:
    if not 0 <= moment.nanos < 1_000_000_000 or not -62135596800 <= moment.seconds <= 253402300799:
        raise invalid(path, "is no time between the years 1 and 9999")
    return moment.seconds + moment.nanos / 1e9


def interval(began: Timestamp | None, ended: Timestamp | None) -> tuple[float, float]:
    """Open ends are those of time."""
    first, last, fields = -math.inf, math.inf, Fields()
    if began is not None:
        with fields:
            first = seconds(began, "began")
    if ended is not None:
        with fields:
            last = seconds(ended, "ended")
    fields.end()
    if first > last:
        raise invalid("ended", "is before began")
    return first, last
