"""`pylwaftr gen-bindings`: binding tables from a plan of addresses, for first steps and for tests."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network
from pathlib import Path

import click
import numpy as np
import numpy.typing as npt

from pylwaftr import addresses
from pylwaftr.cli import binding_output
from pylwaftr.cli.common import BAD_INPUT, end
from pylwaftr.cli.connection import as_json
from pylwaftr.rows import BINDING_ROW, PREFIX_MASKS, Octets, Rows, built_b4s


@click.command("gen-bindings")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--ipv4", required=True, metavar="PREFIX", help="The public addresses.")
@click.option("--b4", required=True, metavar="PREFIX", help="The subscribers' prefixes come out of this one.")
@click.option(
    "--b4-len", type=click.IntRange(1, 128), default=56, show_default=True, help="Length of a subscriber's prefix."
)
@click.option("--br", required=True, metavar="ADDRESS", help="The router's end of all softwires.")
@click.option(
    "--psid-len", type=click.IntRange(0, 16), default=6, show_default=True, help="0 = an address for each subscriber."
)
@click.option("--psid-offset", type=click.IntRange(0, 15), default=0, show_default=True)
@click.option(
    "--skip",
    type=click.IntRange(0, 65535),
    default=1,
    show_default=True,
    help="So many first PSIDs of each address are left out: with offset 0 they hold the system ports.",
)
@click.option("--count", type=click.IntRange(1), help="At most so many bindings. Not given: all that fit.")
@as_json
def gen_bindings(
    file: Path,
    ipv4: str,
    b4: str,
    b4_len: int,
    br: str,
    psid_len: int,
    psid_offset: int,
    skip: int,
    count: int | None,
    as_json: bool,
) -> None:
    """Write a binding table to FILE (.csv, .jsonl, .json, .snapshot): port sets in order, each to the next subscriber.

    The B4 addresses are built from the subscriber's prefix, IPv4 address and PSID (RFC 7596 section 5.1).
    """
    binding_output.check(file)
    try:
        pool = addresses.network4(ipv4 if "/" in ipv4 else f"{ipv4}/32")
        prefix, own = addresses.network6(b4), addresses.ipv6(br)
        rows = _made(pool, prefix, b4_len, own.packed, psid_len, psid_offset, skip if psid_len else 0, count)
    except ValueError as fault:
        end(str(fault), BAD_INPUT, "INVALID_FIELD")
    binding_output.save(file, rows, 1460, 1500, as_json)


def _made(
    pool: IPv4Network,
    prefix: IPv6Network,
    b4_len: int,
    br: bytes,
    psid_len: int,
    psid_offset: int,
    skip: int,
    count: int | None,
) -> Rows:
    """Raises ValueError."""
    if psid_len and psid_len + psid_offset > 16:
        raise ValueError(f"--psid-offset {psid_offset} and --psid-len {psid_len} are more than the 16 bits of a port")
    each = (1 << psid_len) - skip
    if each <= 0:
        raise ValueError(f"--skip {skip} leaves none of the {1 << psid_len} port sets")
    if not prefix.prefixlen <= b4_len <= prefix.prefixlen + 40:
        raise ValueError(
            f"--b4-len {b4_len}: the range is {prefix.prefixlen} to {min(prefix.prefixlen + 40, 128)} here"
        )
    subscribers = 1 << (b4_len - prefix.prefixlen)
    wanted = min(pool.num_addresses * each, count or pool.num_addresses * each)
    if wanted > subscribers:
        raise ValueError(f"{prefix} has {subscribers} prefixes of length {b4_len}, and {wanted} bindings are wanted")
    number = np.arange(wanted, dtype=np.int64)
    rows = np.zeros(wanted, BINDING_ROW)
    rows["ipv4"] = int(pool.network_address) + number // each
    rows["psid"] = number % each + skip if psid_len else 0
    rows["psid_len"], rows["psid_offset"] = psid_len, psid_offset if psid_len else 0
    rows["br"] = np.frombuffer(br, np.uint8)
    prefixes = _prefixes(prefix, b4_len, number)
    rows["b4"] = built_b4s(prefixes, np.full(wanted, b4_len, np.int16), rows["ipv4"], rows["psid"].astype(np.int64))[0]
    return rows


def _prefixes(prefix: IPv6Network, length: int, number: npt.NDArray[np.int64]) -> Octets:
    """The n-th prefix of that length: two halves of 64 bits, as numpy knows no wider number."""
    base = int(prefix.network_address)
    high, low = np.full(len(number), base >> 64, np.uint64), np.full(len(number), base & (1 << 64) - 1, np.uint64)
    wide = number.astype(np.uint64)
    if length <= 64:
        high += wide << np.uint64(64 - length)
    else:
        low += wide << np.uint64(128 - length)
        high += wide >> np.uint64(length - 64) if length - 64 < 64 else np.uint64(0)
    octets = np.stack([high, low], axis=1).astype(">u8").view(np.uint8).reshape(-1, 16)
    return np.asarray(octets & PREFIX_MASKS[length])
