"""How far a session may be behind its server, and what went wrong with it last."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Fault:
    at: float
    text: str


class Progress:
    def __init__(self) -> None:
        self.began: float | None = None
        self.known: float | None = None  # all that the server knew at that moment has reached us
        self.fault: Fault | None = None

    def begin(self, now: float) -> None:
        self.began = now

    def reached(self, at: float) -> None:
        self.known = at if self.known is None else max(at, self.known)

    def behind_s(self, now: float) -> float:
        """Since when there may be news that have not reached us; since the beginning, if there was no such moment."""
        since = self.known if self.known is not None else self.began
        return 0.0 if since is None else max(0.0, now - since)

    def failed(self, now: float, text: str) -> None:
        self.fault = Fault(now, text)
