"""Says what changes at links and next hops."""

from __future__ import annotations

import logging
from typing import Any

from pylwaftr.daemon.eal import log_eal
from pylwaftr.daemon.router import Router

log = logging.getLogger("pylwaftr")


class Observer:
    """Says what changes at links and next hops, and announces again when a link comes back."""

    def __init__(self, router: Router) -> None:
        self._router = router
        self._up: dict[str, bool] = {}
        self._resolved: dict[str, bool] = {}

    def look(self) -> None:
        log_eal()
        for port in self._router.engine.ports():
            self._link(port["device"], port["link_up"])
        for side, neighbor in self._router.engine.neighbors().items():
            self._neighbor(side, neighbor)

    def _link(self, device: str, up: bool) -> None:
        before = self._up.get(device)
        self._up[device] = up
        if before == up or (before is None and up):
            return
        log.warning("%s: link is %s", device, "up" if up else "down")
        if up:
            self._router.engine.announce()

    def _neighbor(self, side: str, neighbor: dict[str, Any]) -> None:
        resolved = neighbor["mac"] is not None
        if self._resolved.get(side) == resolved:
            return
        self._resolved[side] = resolved
        if resolved:
            log.info("%s next hop is at %s", side, neighbor["mac"].hex(":"))
        else:
            log.warning("%s next hop is not resolved yet: asking for it again and again", side)
