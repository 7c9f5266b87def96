"""Binding tables as files: csv with a header line, jsonl, RFC 8676 JSON, the binary snapshot, and Snabb's (read only).

Text is parsed in columns; a row that the column parsers do not take is read once more on its own, by the parser that
also reads the configuration's values, which either understands it or says why not.
"""

import os
from collections.abc import Iterable
from pathlib import Path

from pylwaftr.binding_files import csv_table, json_tables, rfc8676, snabb, snapshot, writers
from pylwaftr.binding_files.records import MAX_FAULTS, BadFields, Loaded, RowFault, Unusable, read_record
from pylwaftr.binding_files.writers import Instance
from pylwaftr.rows import Rows

__all__ = ["MAX_FAULTS", "BadFields", "Instance", "Loaded", "RowFault", "Unusable", "load", "read_record", "save"]

SUFFIXES = ".csv, .jsonl, .json (RFC 8676) or .snapshot"


def load(path: Path, default_br: bytes) -> Loaded:
    """All rows of the file. A snapshot is known by its first octets, the others by the suffix.

    Raises Unusable, and OSError when the file cannot be read.
    """
    data = path.read_bytes()
    if data.startswith(snapshot.MAGIC):
        return snapshot.read(data)
    suffix = path.suffix.lower()
    if suffix == ".csv":
        return csv_table.read(data, default_br)
    if suffix == ".jsonl":
        return json_tables.read_jsonl(data, default_br)
    if suffix == ".json":
        return rfc8676.read(data, default_br)
    if suffix == ".conf":
        return snabb.read(data, default_br)
    raise Unusable(
        f"is not a snapshot, and its name does not tell another format; name it {SUFFIXES}, or .conf (Snabb)"
    )


def save(path: Path, rows: Rows, instance: Instance | None = None) -> None:
    """Write the rows in the format of the suffix; the file is replaced as a whole or not at all.

    RFC 8676 needs `instance`. Raises ValueError for a suffix or rows that cannot be written, and OSError.
    """
    suffix = path.suffix.lower()
    pieces: Iterable[str]
    if suffix == ".snapshot":
        _replace(path, [snapshot.write(rows)])
        return
    if suffix == ".csv":
        pieces = writers.csv(rows)
    elif suffix == ".jsonl":
        pieces = writers.jsonl(rows)
    elif suffix == ".json" and instance is not None:
        pieces = writers.rfc8676(rows, instance)
    else:
        raise ValueError(f"{path.name}: the name tells no format; name it {SUFFIXES}")
    _replace(path, (piece.encode() for piece in pieces))


def _replace(path: Path, pieces: Iterable[bytes]) -> None:
    part = path.with_name(path.name + ".part")
    try:
        with part.open("wb") as stream:
            stream.writelines(pieces)
            stream.flush()
            os.fsync(stream.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
