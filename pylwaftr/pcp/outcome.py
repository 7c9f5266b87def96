"""What the server did and what is to be done now, in this order: keep `records`, bind, unbind, send.

Bindings and records are the net effect of the whole batch. If they cannot be made durable or do not forward, the caller
gives the outcome to `PcpServer.revert` and sends nothing of it.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

from pylwaftr.rows import Rows, no_rows


class Sender(NamedTuple):
    """Whom a request came from."""

    tunnel: bytes  # the B4's address, 16 octets; empty = the management listener
    br: bytes  # ours, 16 octets
    address: bytes  # source inside the softwire, or the peer on the management side; 16 octets (RFC 6887 section 5)
    port: int


class Send(NamedTuple):
    """A datagram that nobody asked for."""

    payload: bytes
    tunnel: bytes  # as of Sender
    br: bytes
    source: bytes  # of the server, 16 octets; its port is 5351
    destination: bytes
    port: int


class Event(NamedTuple):
    """For the log: a refused grab, a subscriber that moved, a loss."""

    kind: str
    tunnel: bytes
    text: str


@dataclass(slots=True)
class Outcome:
    replies: list[bytes | None] = field(default_factory=list)  # one a request
    more: list[tuple[int, bytes]] = field(default_factory=list)  # further answers: to which request, what
    bind: Rows = field(default_factory=no_rows)  # before unbind, so that nothing falls between
    unbind: Rows = field(default_factory=no_rows)  # as they were
    records: dict[bytes, bytes | None] = field(default_factory=dict)  # None deletes
    sends: list[Send] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    counted: Counter[str] = field(default_factory=Counter)  # requests by what became of them
    displaced: list[int] = field(default_factory=list)  # keys of mappings that gave way to bindings of others
    before: dict[int, bytes | None] = field(default_factory=dict, repr=False)  # mappings, for revert

    @property
    def reply(self) -> bytes | None:
        """Of a single request."""
        return self.replies[0]

    @property
    def changes_nothing(self) -> bool:
        return not self.records and not len(self.bind) and not len(self.unbind)
