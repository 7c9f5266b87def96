"""CSV: a header line with the field names in any order, then one binding a line."""

import csv
import difflib
import io

import numpy as np
import numpy.typing as npt

from pylwaftr.binding_files import columns
from pylwaftr.binding_files.columns import Chars, Flags
from pylwaftr.binding_files.records import CHUNK, Chunk, Collector, Loaded, Record, Unusable, number_in_text
from pylwaftr.rows import FIELDS

NUMBERS = ("psid_offset", "psid_len", "psid")


def read(data: bytes, default_br: bytes) -> Loaded:
    data = data.removeprefix(b"\xef\xbb\xbf")
    if b"\0" in data:
        raise Unusable("has octets of value 0 and is not a CSV file", data.count(b"\n", 0, data.index(b"\0")) + 1)
    if b'"' in data:
        data = _unquoted(data)
    if b" " in data:
        data = data.replace(b", ", b",").replace(b" ,", b",")
    first = data[: data.find(b"\n") % (len(data) + 1)]  # all of it if there is no line end
    collector = Collector(default_br)
    names = _header(first, collector)
    _Body(data, names, collector).read(len(first) + 1)
    return collector.loaded()


def _unquoted(data: bytes) -> bytes:
    """The same lines without quotes; a comma or line end inside quotes cannot be part of any field and becomes a ;"""
    reader = csv.reader(io.StringIO(data.decode("utf-8", "replace"), newline=""))
    lines: list[str] = []
    try:
        for fields in reader:
            lines.append(",".join(text.replace(",", ";").replace("\n", ";").replace("\r", ";") for text in fields))
            lines.extend([""] * (reader.line_num - len(lines)))
    except csv.Error as fault:
        raise Unusable(f"is not CSV: {fault}", reader.line_num) from None
    return "\n".join(lines).encode()


def _header(line: bytes, collector: Collector) -> list[str]:
    names = [name.strip() for name in line.decode("utf-8", "replace").split(",")]
    if not line.strip():
        raise Unusable(f"begins with an empty line; the first line names the columns: {','.join(FIELDS)}")
    missing = [name for name in ("ipv4", "b4_ipv6") if name not in names]
    if missing:
        wanted = f"it names the columns: {','.join(FIELDS)}"
        raise Unusable(f"the first line has no column {' and '.join(missing)}; {wanted}")
    for index, name in enumerate(names):
        if name in names[:index]:
            raise Unusable(f"the first line names the column {name} twice")
        if name not in FIELDS:
            near = difflib.get_close_matches(name, FIELDS, n=1)
            remedy = f"did you mean {near[0]}?" if near else f"the columns are {', '.join(FIELDS)}"
            collector.fault(1, name[:40] or "header", f"is not a field of a binding; {remedy}")
    return names


class _Body:
    """The lines after the header, in blocks of CHUNK lines."""

    def __init__(self, data: bytes, names: list[str], collector: Collector) -> None:
        self.data, self.names, self.collector = data, names, collector
        # The spare octets let every window of MAX_WIDTH begin at a field.
        end = b"" if data.endswith(b"\n") else b"\n"
        self.octets: Chars = np.frombuffer(data + end + bytes(columns.MAX_WIDTH), np.uint8)
        self.used = len(self.octets) - columns.MAX_WIDTH

    def read(self, begin: int) -> None:
        ends = np.flatnonzero(self.octets[: self.used] == ord("\n"))
        ends = ends[ends >= begin]
        starts = np.concatenate([[begin], ends[:-1] + 1]) if len(ends) else ends
        numbers = np.arange(2, len(ends) + 2)
        for at in range(0, len(ends), CHUNK):
            part = slice(at, at + CHUNK)
            self._block(starts[part], ends[part], numbers[part])

    def _block(
        self, starts: npt.NDArray[np.int64], ends: npt.NDArray[np.int64], numbers: npt.NDArray[np.int64]
    ) -> None:
        stops = ends - (self.octets[ends - 1] == ord("\r"))
        filled = stops > starts
        starts, ends, stops, numbers = starts[filled], ends[filled], stops[filled], numbers[filled]
        if not len(starts):
            return
        base = int(starts[0])
        commas = np.flatnonzero(self.octets[base : ends[-1]] == ord(",")) + base
        first = np.searchsorted(commas, starts)
        found = np.searchsorted(commas, ends) - first + 1
        for index in np.flatnonzero(found != len(self.names)).tolist():
            if bytes(self.octets[starts[index] : stops[index]]).strip():
                message = f"has {found[index]} fields, the first line names {len(self.names)}"
                self.collector.fault(int(numbers[index]), "line", message)
        good = found == len(self.names)
        starts, stops, numbers, first = starts[good], stops[good], numbers[good], first[good]
        bounds = [starts - 1, *(commas[first + i] for i in range(len(self.names) - 1)), stops]
        fields = {
            name: columns.gather(self.octets, bounds[index] + 1, bounds[index + 1])
            for index, name in enumerate(self.names)
            if name in FIELDS
        }

        def record(index: int) -> Record:
            line = self.data[starts[index] : stops[index]].decode("utf-8", "replace").split(",")
            pairs = [(name, text.strip() or None) for name, text in zip(self.names, line, strict=True)]
            return {n: number_in_text(t) if n in NUMBERS and t else t for n, t in pairs if n in FIELDS}

        self.collector.add(_parsed(fields), numbers, record)


def _parsed(fields: dict[str, Chars]) -> Chunk:
    numbers = [columns.parse_uint(fields[name]) if name in fields else None for name in NUMBERS]
    b4 = columns.parse_ipv6(fields["b4_ipv6"])
    br = None
    if "br_ipv6" in fields and not columns.empty(fields["br_ipv6"]).all():
        br = _addresses(fields["br_ipv6"])
    return Chunk(columns.parse_ipv4(fields["ipv4"]), b4, br, *numbers)


def _addresses(chars: Chars) -> tuple[npt.NDArray[np.uint8], Flags]:
    """A column without prefix lengths; most tables have one BR address in all rows, which is then parsed once."""
    alike = bool((chars == chars[:, :1]).all())
    octets, length, taken = columns.parse_ipv6(np.ascontiguousarray(chars[:, :1]) if alike else chars)
    taken = taken & (length < 0)
    if alike:
        count = chars.shape[1]
        return np.broadcast_to(octets, (count, 16)), np.broadcast_to(taken, (count,)).copy()
    return octets, taken
