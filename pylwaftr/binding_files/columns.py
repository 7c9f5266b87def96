"""Columns of text to arrays of numbers, a whole column at a time.

A table of a million bindings is 3 million addresses; `ipaddress` needs some 4 us for each. These parsers walk over the
characters of all fields at once: one step per character position, each step a few array operations. They take the
plain forms and say which fields they did not take; those few go one by one to the readable parser (binding_files),
which also words the fault. So a form that is left out here costs time, never a wrong answer.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Chars = npt.NDArray[np.uint8]  # (characters, fields), zero-padded: position-major, as the parsers walk
Flags = npt.NDArray[np.bool_]

MAX_WIDTH = 48  # the longest address is 39 characters, with its prefix length 43; longer fields are taken by nobody

_HEX = np.full(256, 255, np.uint8)
for _value, _digits in enumerate(zip("0123456789abcdef", "0123456789ABCDEF", strict=True)):
    for _digit in _digits:
        _HEX[ord(_digit)] = _value


def gather(data: Chars, starts: npt.NDArray[np.int64], ends: npt.NDArray[np.int64]) -> Chars:
    """The slices data[start:end] as columns; one that is too long comes out empty.

    `data` needs MAX_WIDTH octets behind the last start.
    """
    lengths = ends - starts
    lengths = np.where(lengths > MAX_WIDTH, 0, lengths)
    width = int(lengths.max(initial=0))
    windows = np.lib.stride_tricks.sliding_window_view(data, max(width, 1))[starts]
    return np.ascontiguousarray((windows * (np.arange(max(width, 1)) < lengths[:, None])).T)


def from_texts(texts: Sequence[object]) -> Chars:
    """A column of strings; what is not a string, not ASCII or too long comes out empty."""
    usable = [t if type(t) is str and len(t) <= MAX_WIDTH and t.isascii() and "\0" not in t else "" for t in texts]
    width = max(1, max(map(len, usable), default=0))
    column = np.array([t.encode() for t in usable], f"S{width}")
    return np.ascontiguousarray(column.view(np.uint8).reshape(len(usable), width).T)


def empty(chars: Chars) -> Flags:
    return np.asarray(chars[0] == 0) if len(chars) else np.ones(chars.shape[1], np.bool_)


def parse_uint(chars: Chars) -> tuple[npt.NDArray[np.int64], Flags]:
    """Decimal numbers of up to five digits; (values, taken)."""
    count = chars.shape[1]
    values, digits, taken = np.zeros(count, np.int64), np.zeros(count, np.uint8), np.ones(count, np.bool_)
    for chars_here in chars:
        digit = chars_here - np.uint8(48)
        here = digit < 10
        taken &= here | (chars_here == 0)
        values = np.where(here & taken, values * 10 + digit, values)
        digits += here
        taken &= digits <= 5
    return values, taken & (digits > 0)


def parse_ipv4(chars: Chars) -> tuple[npt.NDArray[np.uint32], Flags]:
    """Dotted quads without leading zeros; (addresses in host order, taken)."""
    count = chars.shape[1]
    address, octet = np.zeros(count, np.uint32), np.zeros(count, np.uint16)
    dots, digits, taken = np.zeros(count, np.uint8), np.zeros(count, np.uint8), np.ones(count, np.bool_)
    for chars_here in chars:
        digit = chars_here - np.uint8(48)
        here, dot = digit < 10, chars_here == ord(".")
        taken &= here | dot | (chars_here == 0)
        taken &= ~(here & (digits > 0) & (octet == 0))  # 01 is octal to some
        taken &= ~(dot & (digits == 0))
        octet = np.where(here & taken, octet * 10 + digit, octet).astype(np.uint16)
        taken &= octet <= 255
        digits = np.where(here, digits + 1, digits).astype(np.uint8)
        address = np.where(dot, (address << 8) | octet, address).astype(np.uint32)
        dots += dot
        octet[dot], digits[dot] = 0, 0
    return ((address << 8) | octet).astype(np.uint32), taken & (dots == 3) & (digits > 0)


def parse_ipv6(chars: Chars) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int16], Flags]:
    """Hexadecimal groups with at most one ::, and maybe /length; (octets (fields, 16), length or -1, taken)."""
    address, length, taken = _split_length(chars)
    colon = address == ord(":")
    value = _HEX[address]
    taken &= ((value < 16) | colon | (address == 0)).all(0)
    double = np.zeros_like(colon)
    double[1:] = colon[1:] & colon[:-1]
    segment = np.cumsum(colon, 0, dtype=np.uint8)  # which of the pieces between colons a character belongs to
    colons = segment[-1].copy()
    taken &= colons <= 8
    pieces = _pieces(value, np.minimum(segment, 9))
    widths = pieces >> 16
    taken &= (widths <= 4).all(1)
    # An empty piece is right in the middle of the one ::, and before or behind it at the ends of the text.
    starts = double[1] if len(double) > 1 else np.zeros_like(taken)
    ends = (double & (np.vstack([address[1:], np.zeros_like(address[:1])]) == 0)).any(0)
    doubles = double.sum(0)
    empties = ((widths == 0) & (np.arange(10) <= colons[:, None])).sum(1)
    taken &= (doubles <= 1) & (empties == doubles + starts + ends)
    taken &= np.where(doubles == 0, colons == 7, colons + 1 - empties <= 7)
    gap = np.where(doubles == 0, 8, (segment * double).max(0).astype(np.int64) - 1)
    right = np.where(doubles == 0, 0, colons - gap - ends)
    groups = _placed((pieces & 0xFFFF).astype(np.uint32), gap, gap - starts, right)
    return groups.astype(">u2").view(np.uint8).reshape(-1, 16), length, taken


def _pieces(value: npt.NDArray[np.uint8], segment: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint32]:
    """Per field and piece: the number of digits in the upper 16 bits, the number they write in the lower."""
    pieces = np.zeros((value.shape[1], 10), np.uint32)
    flat = pieces.reshape(-1)
    first = np.arange(value.shape[1]) * 10
    for digit, piece in zip(value, segment, strict=True):
        at = np.flatnonzero(digit < 16)
        where = first[at] + piece[at]
        before = flat[where]
        flat[where] = ((before & 0xFFF) << 4 | digit[at]) + (((before >> 16) + 1) << 16)
    return pieces


def _placed(
    pieces: npt.NDArray[np.uint32],
    gap: npt.NDArray[np.int64],
    left: npt.NDArray[np.int64],
    right: npt.NDArray[np.int64],
) -> npt.NDArray[np.uint32]:
    """The eight groups: `left` pieces before the gap, `right` ones behind it, zeros between."""
    index = np.arange(8)[None, :]
    from_right = index - (8 - right[:, None])
    piece = np.where(index < left[:, None], index, np.where(from_right >= 0, from_right + gap[:, None] + 1, 0))
    used = (index < left[:, None]) | (from_right >= 0)
    return np.where(used, np.take_along_axis(pieces, np.clip(piece, 0, 9), 1), 0)


def _split_length(chars: Chars) -> tuple[Chars, npt.NDArray[np.int16], Flags]:
    """The column without /length, and the lengths."""
    if not len(chars):
        chars = np.zeros((1, chars.shape[1]), np.uint8)
    slash = chars == ord("/")
    length, taken = np.full(chars.shape[1], -1, np.int16), np.ones(chars.shape[1], np.bool_)
    at = np.flatnonzero(slash.any(0))
    if not len(at):
        return chars, length, taken
    behind = np.cumsum(slash[:, at], 0) > 0
    tail = np.where(behind & ~slash[:, at], chars[:, at], 0)
    shift = slash[:, at].argmax(0) + 1
    rows = np.minimum(np.arange(4)[:, None] + shift, len(chars) - 1)
    digits = np.where(np.arange(4)[:, None] + shift < len(chars), np.take_along_axis(tail, rows, 0), 0)
    values, good = parse_uint(digits.astype(np.uint8))
    leading_zero = (digits[0] == ord("0")) & (digits[1] != 0)
    good &= (values <= 128) & (slash[:, at].sum(0) == 1) & (digits[3] == 0) & ~leading_zero
    length[at], taken[at] = np.where(good, values, 0), good
    address = chars.copy()
    address[:, at] = np.where(behind, 0, chars[:, at])
    return address, length, taken
