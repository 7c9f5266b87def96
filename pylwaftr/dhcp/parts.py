"""What the two connections of a session share."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from pylwaftr.dhcp.active import Active
from pylwaftr.dhcp.alone import Alone
from pylwaftr.dhcp.bulk import Bulk
from pylwaftr.dhcp.connection import Connection, Timers
from pylwaftr.dhcp.events import Channel, Event, Moved
from pylwaftr.dhcp.polling import Polling
from pylwaftr.dhcp.profiles import Profile
from pylwaftr.dhcp.progress import Progress
from pylwaftr.dhcp.retry import Attempts


@dataclass(slots=True)
class Parts:
    profile: Profile
    timers: Timers
    counts: Counter[str]
    links: dict[Channel, Connection]
    attempts: dict[Channel, Attempts]
    active: Active
    bulk: Bulk
    alone: Alone
    polling: Polling
    progress: Progress = field(default_factory=Progress)
    events: list[Event] = field(default_factory=list)
    xid: int = 0  # the last

    def next_xid(self) -> int:
        """Unique on a connection and never 0; 24 bits do for DHCPv4 too."""
        self.xid = self.xid % 0xFFFFFF + 1
        return self.xid

    @property
    def owed(self) -> bool:
        """A full bulk, and now."""
        return self.active.saved.resync and not self.alone.puts_off(self.active.wishes)

    def moved(self, channel: Channel, before: str, after: str, reason: str = "") -> None:
        if before != after:
            self.events.append(Moved(channel, before, after, reason))
