"""Records with the field names of bindings.entries to rows: in columns where it can be done, one by one where not."""

import difflib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from pylwaftr import addresses
from pylwaftr.binding_files.columns import Flags
from pylwaftr.rows import BINDING_ROW, FIELDS, Octets, Rows, array, built_b4, built_b4s, no_rows, row

CHUNK = 16384  # rows parsed at a time: a column of them fits the processor's cache
MAX_FAULTS = 100  # more are only counted

T = TypeVar("T")
Lines = npt.NDArray[np.int64]
Record = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class RowFault:
    line: int
    field: str
    message: str


class Unusable(Exception):
    """The file as a whole cannot be read."""

    def __init__(self, message: str, line: int = 1) -> None:
        self.line = line
        super().__init__(message)


class BadFields(Exception):
    """A record that is no binding; `faults` are (field, message)."""

    def __init__(self, faults: list[tuple[str, str]]) -> None:
        self.faults = faults
        super().__init__("; ".join(f"{name}: {message}" for name, message in faults))


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a reader found: every row that can be understood, its line, and what is wrong with the others.

    `lines` are record numbers where a file has no lines; `more_faults` counts the bad rows that are not in `faults`.
    """

    rows: Rows
    lines: Lines
    faults: tuple[RowFault, ...] = ()
    more_faults: int = 0


@dataclass(frozen=True, slots=True)
class Chunk:
    """Parsed columns of equally many records; each with the flags of the fields that were taken.

    A number that no record has is None; br None = the default for all.
    """

    ipv4: tuple[npt.NDArray[np.uint32], Flags]
    b4: tuple[Octets, npt.NDArray[np.int16], Flags]
    br: tuple[Octets, Flags] | None
    psid_offset: tuple[npt.NDArray[np.int64], Flags] | None
    psid_len: tuple[npt.NDArray[np.int64], Flags] | None
    psid: tuple[npt.NDArray[np.int64], Flags] | None


class Collector:
    """Gathers rows, lines and faults of one file."""

    def __init__(self, default_br: bytes, leaf_names: Mapping[str, str] | None = None) -> None:
        self._default_br = default_br
        self._leaf_names = leaf_names or {}
        self._rows: list[Rows] = []
        self._lines: list[Lines] = []
        self._faults: list[RowFault] = []
        self._more = 0

    @property
    def faulty(self) -> bool:
        return bool(self._faults)

    def fault(self, line: int, name: str, message: str) -> None:
        if len(self._faults) < MAX_FAULTS:
            self._faults.append(RowFault(line, self._leaf_names.get(name, name), message))
        else:
            self._more += 1

    def add(self, chunk: Chunk, lines: Lines, record: Callable[[int], Record], usable: Flags | None = None) -> None:
        """`record(i)` is record i as it is written, for those that the columns did not take."""
        rows, taken = _assemble(chunk, self._default_br)
        if usable is not None:
            taken &= usable
        # The others take their places among the rows: which of two overlapping rows came first is part of the fault.
        single: dict[int, tuple[Any, ...]] = {}
        for index in np.flatnonzero(~taken).tolist():
            if len(self._faults) >= MAX_FAULTS:
                self._more += 1
                continue
            try:
                single[index] = read_record(record(index), self._default_br)
            except BadFields as bad:
                for name, message in bad.faults:
                    self.fault(int(lines[index]), name, message)
        for index, values in single.items():
            rows[index] = array([values])[0]
            taken[index] = True
        self._rows.append(rows[taken])
        self._lines.append(lines[taken])

    def loaded(self) -> Loaded:
        rows = np.concatenate(self._rows) if self._rows else no_rows()
        lines = np.concatenate(self._lines) if self._lines else np.zeros(0, np.int64)
        return Loaded(rows, lines, tuple(sorted(self._faults, key=lambda fault: fault.line)), self._more)


def _assemble(chunk: Chunk, default_br: bytes) -> tuple[Rows, Flags]:
    (ipv4, taken), (prefixes, lengths, b4_taken) = chunk.ipv4, chunk.b4
    none = np.zeros(len(ipv4), np.int64)
    offset = length = psid = none
    taken = taken & b4_taken
    if chunk.psid_offset is not None:
        offset, taken = chunk.psid_offset[0], taken & chunk.psid_offset[1] & (chunk.psid_offset[0] <= 16)
    if chunk.psid_len is not None:
        length, taken = chunk.psid_len[0], taken & chunk.psid_len[1] & (chunk.psid_len[0] <= 16)
    if chunk.psid is not None:
        psid, taken = chunk.psid[0], taken & chunk.psid[1] & (chunk.psid[0] <= 65535)
        taken = taken & ((psid == 0) | (chunk.psid_len is not None))
    else:
        taken = taken & (length == 0)
    whole = length == 0
    rows = np.zeros(len(ipv4), BINDING_ROW)
    rows["ipv4"], rows["psid_len"] = ipv4, np.where(taken, length, 0)
    rows["psid_offset"], rows["psid"] = np.where(whole | ~taken, 0, offset), np.where(whole | ~taken, 0, psid)
    rows["b4"], clean = built_b4s(prefixes, lengths, ipv4, rows["psid"].astype(np.int64))
    rows["br"] = np.frombuffer(default_br, np.uint8)
    if chunk.br is not None:
        rows["br"], taken = chunk.br[0], taken & chunk.br[1]
    return rows, taken & clean


def read_record(record: Record, default_br: bytes) -> tuple[Any, ...]:
    """One record to one row. Raises BadFields with all that is wrong with it."""
    reader = _Fields(record)
    offset = reader.number("psid_offset", 16)
    length = reader.number("psid_len", 16)
    psid = reader.number("psid", 65535)
    ipv4 = reader.address("ipv4", addresses.ipv4, required=True)
    b4 = reader.address("b4_ipv6", addresses.b4_address, required=True)
    br = reader.address("br_ipv6", addresses.ipv6, required=False)
    if length is None and psid and not reader.bad("psid_len"):
        reader.faults.append(("psid_len", "is missing, but there is a psid; give both, or neither for a whole address"))
    if length and psid is None and not reader.bad("psid"):
        reader.faults.append(("psid", f"is missing; psid_len {length} needs a psid from 0 to {(1 << length) - 1}"))
    if reader.faults or ipv4 is None or b4 is None:
        raise BadFields(reader.faults)
    length, psid = length or 0, (psid or 0) if length else 0
    return row(int(ipv4), offset or 0, length, psid, built_b4(b4, ipv4, psid), default_br if br is None else br.packed)


# A number that a format requires and that is not there: neither a number nor, as None is, left to its default.
MISSING = "missing"


@dataclass(slots=True)
class _Fields:
    record: Record
    faults: list[tuple[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        for name in self.record:
            if name not in FIELDS:
                near = difflib.get_close_matches(name, FIELDS, n=1)
                remedy = f"did you mean {near[0]}?" if near else f"the fields are {', '.join(FIELDS)}"
                self.faults.append((name[:40], f"is not a field of a binding; {remedy}"))

    def bad(self, name: str) -> bool:
        return any(name == bad for bad, _ in self.faults)

    def number(self, name: str, high: int) -> int | None:
        value = self.record.get(name)
        if value is None:
            return None
        if type(value) is not int:
            self.faults.append((name, f"is {_short(value)}; write a whole number from 0 to {high}"))
        elif not 0 <= value <= high:
            self.faults.append((name, f"is {str(value)[:24]}; the range is 0 to {high}"))
        else:
            return value
        return None

    def address(self, name: str, parse: Callable[[str], T], required: bool) -> T | None:
        value = self.record.get(name)
        if value is None:
            if required:
                self.faults.append((name, "is missing"))
            return None
        try:
            if not isinstance(value, str):
                raise ValueError(f"is {_short(value)}; write an address as a string")
            return parse(value)
        except ValueError as fault:
            self.faults.append((name, str(fault)))
            return None


def _short(value: object) -> str:
    if value == MISSING:
        return MISSING
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."


def number_in_text(text: str) -> object:
    """A field of a text file: a number, nothing, or what stands there."""
    text = text.strip()
    if re.fullmatch(r"[0-9]{1,9}|0[xX][0-9a-fA-F]{1,8}", text, re.ASCII):
        return int(text, 16 if text[:2] in ("0x", "0X") else 10)
    return text or None
