"""bindings.entries and bindings.file to one checked array of rows."""

import numpy as np
import numpy.typing as npt

from pylwaftr import binding_files, rows
from pylwaftr.config.faults import Fault, Report
from pylwaftr.config.model import Bindings, Config, Entry, Interfaces, Softwire
from pylwaftr.config.row_checks import Finding, Surroundings, findings
from pylwaftr.config.services import Pcp, Subscribers
from pylwaftr.rows import Rows

MAX_SHOWN = 100  # faults about rows; more are only counted


class Table:
    """The rows of the configuration and where each is written: entries first, in their order, then the file."""

    def __init__(self, report: Report, bindings: Bindings, default_br: bytes) -> None:
        self.report = report
        self.entries = bindings.entries
        self.file = bindings.file
        loaded = self._read_file(default_br)
        entry_rows = rows.array([_entry_row(entry, default_br) for entry in self.entries])
        self.rows: Rows = np.concatenate([entry_rows, loaded.rows])
        self.lines: npt.NDArray[np.int64] = loaded.lines
        self.usable = report.sound("bindings")

    def _read_file(self, default_br: bytes) -> binding_files.Loaded:
        nothing = binding_files.Loaded(rows.no_rows(), np.zeros(0, np.int64))
        if self.file is None:
            return nothing
        try:
            loaded = binding_files.load(self.file, default_br)
        except OSError as fault:
            self.report.error("bindings.file", f"{self.file} cannot be read: {fault.strerror or fault}")
            return nothing
        except binding_files.Unusable as fault:
            self._fault(fault.line, "file", str(fault))
            return nothing
        for row in loaded.faults:
            self._fault(row.line, row.field, row.message)
        if loaded.more_faults:
            self.report.error("bindings.file", f"{self.file} has {loaded.more_faults} more faults that are not shown")
        return loaded

    def _fault(self, line: int, path: str, message: str, warning: bool = False) -> None:
        self.report.add(Fault(str(self.file), line, path, message, warning))
        if not warning:
            self.report.spoil("bindings.file")

    def where(self, index: int) -> str:
        file, line = self._place(index)
        return f"{file}:{line}"

    def _place(self, index: int) -> tuple[str, int]:
        if index < len(self.entries):
            return self.report.file, self.entries[index].line
        return str(self.file), int(self.lines[index - len(self.entries)])

    def check(self, around: Surroundings, max_bindings: int) -> None:
        if len(self.rows) > max_bindings and self.report.sound("dataplane.max_bindings"):
            remedy = "raise dataplane.max_bindings"
            self.report.error("bindings", f"has {len(self.rows)} rows, the table {max_bindings}; {remedy}")
        found = findings(self.rows, around, self.where)
        self._show([finding for finding in found if not finding.warning])
        self._show([finding for finding in found if finding.warning])

    def _show(self, found: list[Finding]) -> None:
        """The first faults in the order of the rows; the number of the rest."""
        pairs = sorted((int(i), at) for at, finding in enumerate(found) for i in finding.rows[:MAX_SHOWN])
        total = sum(len(finding.rows) for finding in found)
        for index, at in pairs[:MAX_SHOWN]:
            finding = found[at]
            if index >= len(self.entries):
                self._fault(self._place(index)[1], finding.field, finding.message(index), finding.warning)
            elif finding.warning:
                self.report.warn(f"{self.entries[index].path}.{finding.field}", finding.message(index))
            else:
                self.report.error(f"{self.entries[index].path}.{finding.field}", finding.message(index))
        if total > MAX_SHOWN:
            if found[0].warning:
                self.report.warn("bindings", f"{total - MAX_SHOWN} more warnings about rows are not shown")
            else:
                self.report.error("bindings", f"{total - MAX_SHOWN} more faults of rows are not shown")


def _entry_row(entry: Entry, default_br: bytes) -> tuple[object, ...]:
    psid = entry.psid if entry.psid_len else 0
    b4 = rows.built_b4(entry.b4, entry.ipv4, psid)
    br = default_br if entry.br is None else entry.br.packed
    return rows.row(int(entry.ipv4), entry.psid_offset, entry.psid_len, entry.psid, b4, br)


def surroundings(sides: Interfaces, softwire: Softwire, subscribers: Subscribers, pcp: Pcp) -> Surroundings:
    return Surroundings(
        own_v4=frozenset(int(own.ip) for own in sides.v4.addresses),
        own_v6=frozenset(own.ip.packed for own in sides.v6.addresses),
        server_v4=frozenset(int(address) for address in pcp.server_addresses if pcp.enabled),
        br=tuple(address.packed for address in softwire.br_addresses),
        mask=subscribers.mask,
        max_softwires=subscribers.max_softwires,
    )


def around(config: Config) -> Surroundings:
    return surroundings(config.interfaces, config.softwire, config.subscribers, config.pcp)


def check_pools(report: Report, table: Rows, pcp: Pcp) -> None:
    """A static binding inside a pool only takes its set out of it if both divide the address alike (DP-025)."""
    for index, pool in enumerate(pcp.pools if report.sound("pcp.pools", "bindings") else ()):
        inside = (table["ipv4"] & int(pool.ipv4.netmask)) == int(pool.ipv4.network_address)
        length, offset = table["psid_len"], table["psid_offset"]
        other = np.flatnonzero(inside & (length > 0) & ((length != pool.psid_len) | (offset != 0)))
        if len(other):
            example = rows.describe(table[other[0]])
            remedy = "an address has one psid_offset and psid_len: change the pool or move them out of it"
            message = f"{len(other)} bindings inside the pool differ, such as {example}; {remedy}"
            report.error(f"pcp.pools[{index}].psid_len", message)
