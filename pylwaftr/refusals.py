"""What is said of a row that is refused: what is wrong and what to do."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pylwaftr.changes import Refusal, Report, Source
from pylwaftr.rows import Rows, describe

MOST = 1000  # of a batch, or of a stream at its end, are told; each takes 5 us in the writer's turn

TEXTS = {
    "bad_params": "psid_offset + psid_len has to be at most 16 (RFC 7597 section 5.1)",
    "psid_range": "the PSID has to be less than 2 to the power of psid_len",
    "bad_address": "one of its addresses is never forwarded (martian, multicast or unspecified); correct it",
    "own_address": "one of its addresses is this router's own, or B4 and BR are the same; correct it",
    "overlap": "an address is bound whole or in sets of ports, not both; remove what is bound of it first",
    "other_params_on_address": "all bindings of an address have the same psid_offset and psid_len; remove those that "
    "differ first",
    "duplicate_in_batch": "its key is in the batch already; remove one",
    "outranked": "it is bound by the configuration; change it there",
    "too_many_br": "the table knows as many BR addresses as it can (65535); use one of them",
    "table_full": "the table is full; raise dataplane.max_bindings or remove bindings",
    "already_exists": "it is bound already; update it, or remove it first",
    "etag_mismatch": "it has been changed since it was read; read it again",
    "not_found": "it is not bound",
}

# The same, of a key at which whoever asks has a row that waits.
WAITING = {
    "already_exists": "{owner} has one already, which waits behind another source; update that",
    "etag_mismatch": "{owner} has one that waits behind another source, and this is not its etag; get that, by source",
}


def refusal(row: np.void, index: int, reason: str, waits_of: int | None = None) -> Refusal:
    """`waits_of`: the source whose row waits."""
    text = TEXTS.get(reason, reason)
    if waits_of is not None:
        text = WAITING.get(reason, text).format(owner=Source(waits_of).label)
    return Refusal(index, reason, f"{describe(row)}: {text}")


def refused(rows: Rows, index: Sequence[int], reason: str) -> Report:
    """The rows at `index`, all for one reason."""
    told = tuple(refusal(rows[i], i, reason) for i in index[:MOST])
    return Report(refused=told, more_refused=len(index) - len(told))
