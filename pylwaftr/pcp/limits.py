"""How many requests are looked at (RFC 6887 section 8.2: what is over may be dropped).

In whole seconds, for a clock is read once a batch. The data plane has limits of its own, before anything is copied;
this one holds whatever way a request came, and it goes by the subscriber, not by the tunnel.
"""

from __future__ import annotations

from pylwaftr.pcp.settings import Settings


class Limits:
    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.asked: dict[bytes, int] = {}  # subscriber -> requests in this second
        self.in_all = 0
        self._second = 0

    def begin(self, now: float) -> None:
        if int(now) != self._second:
            self._second, self.in_all = int(now), 0
            self.asked.clear()

    def admit(self, subscriber: bytes) -> bool:
        """Who asks too much is not counted against all: the others keep their room."""
        asked = self.asked.get(subscriber, 0)
        if asked >= self.settings.per_subscriber or self.in_all >= self.settings.per_s:
            return False
        self.asked[subscriber] = asked + 1
        self.in_all += 1
        return True
