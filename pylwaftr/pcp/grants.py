"""What a MAP request does to the mappings of its subscriber (RFC 6887 sections 11 and 15, RFC 7753 section 4).

A lwAFTR rewrites no ports: a set is the same inside and outside, and a single port inside it needs no state of its own.
"""

from __future__ import annotations

from collections.abc import Mapping as MappingOf
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np

from pylwaftr.pcp.choice import Owned, Refused, choose
from pylwaftr.pcp.codec import MapRequest, MapResponse, encode_response
from pylwaftr.pcp.mapping import ACTIVE, FREED, THIRD_PARTY, Mapping
from pylwaftr.pcp.mappings import Mappings
from pylwaftr.pcp.numbers import FOREVER, IPV4_MAPPED, Result
from pylwaftr.pcp.options import Description, Option, PortSet, PreferFailure, encode
from pylwaftr.pcp.outcome import Event, Sender
from pylwaftr.pcp.pool import describe, ports_of
from pylwaftr.pcp.settings import Settings
from pylwaftr.pcp.statics import Statics
from pylwaftr.rows import text6

MOST_ANSWERS = 16  # to one request (RFC 7753 section 7: amplification)
KEPT_TEXT = 128  # octets of a description (RFC 7220 section 3.2)


Barred = MappingOf[bytes, Result]  # B4s for which the table takes no binding, and what they are told


@dataclass(slots=True)
class Client:
    """Who asks: `b4` and `br` name the softwire that a mapping is for."""

    b4: bytes
    br: bytes
    sender: Sender
    third_party: bool = False


class Grants:
    def __init__(self, settings: Settings, mappings: Mappings, statics: Statics) -> None:
        self.settings = settings
        self.mappings = mappings
        self.statics = statics
        self.events: list[Event] = []
        self.barred: Barred = {}
        self.recovering_until = 0.0

    def map(self, request: MapRequest, client: Client, epoch: int, now: float) -> list[bytes]:
        """The answers, the one to the request itself first. Raises Refused, and has changed nothing then."""
        owned = self.mappings.of(self.mappings.subscriber(client.b4))
        active = [(key, mapping) for key, mapping in owned if mapping.active]
        here = [(key, one) for key, one in active if one.b4 == client.b4 and (one.br == client.br or _third(one))]
        takeover = False
        mine = here or [(key, one) for key, one in active if one.nonce == request.nonce]
        if not mine and active and not self._room(client, active):
            mine = active  # somebody else's, but there is no place beside them
        found = _matching(mine, request)
        if found:
            takeover = self._own_nonce(found, request, client, here, now)
            if not request.lifetime:
                return [self._delete(found, request, epoch, now)]
        else:
            fixed = self._static(request, client, epoch)
            if fixed is not None:
                return [fixed]
            if not request.lifetime:  # nothing to delete is as good as deleted (RFC 6887 section 15.1)
                return [_answer(request, 0, epoch, request.external_port, request.external, request.options)]
        moving = [] if here else self._moving(mine, request, client, active, now)
        try:
            for key, mapping in moving:
                self.mappings.put(key, mapping._replace(b4=client.b4, br=client.br, moved=now))
            if found:
                answers = self._refresh(found, request, client, takeover, epoch, now)
            else:
                answers = [self._new(owned, request, client, epoch, now)]
        except Refused:  # no trace of what was not done (RFC 6887 section 7.3)
            for key, mapping in moving:
                self.mappings.put(key, mapping)
            raise
        if moving:
            self._log("moved", client, f"{describe(moving[0][0])} from {text6(moving[0][1].b4)}")
        return answers

    # --- whose

    def _own_nonce(self, found: Owned, request: MapRequest, client: Client, here: Owned, now: float) -> bool:
        """Whether the nonce is replaced. Raises Refused for that of somebody else (RFC 6887 section 11.3)."""
        foreign = next((mapping for _, mapping in found if mapping.nonce != request.nonce), None)
        if foreign is None:
            return False
        if self.settings.nonce_policy == "subscriber" and here and not client.third_party and not _third(foreign):
            self._log("nonce_replaced", client, f"{describe(found[0][0])} now obeys another nonce")
            return True
        self._log("nonce_refused", client, f"{describe(found[0][0])} belongs to {text6(foreign.b4)}, another nonce")
        raise Refused(Result.NOT_AUTHORIZED, foreign.remaining(now))

    def _room(self, client: Client, active: Owned) -> bool:
        """RFC 7785 section 4.1: softwires of the subscriber, whoever made their bindings."""
        softwires = {(mapping.b4, mapping.br) for _, mapping in active} | {(client.b4, client.br)}
        if len(self.statics):
            rows = self.statics.of_prefix(client.b4, self.settings.mask)
            softwires |= {(row["b4"].tobytes(), row["br"].tobytes()) for row in rows}
        return len(softwires) <= self.settings.max_softwires

    def _moving(self, mine: Owned, request: MapRequest, client: Client, active: Owned, now: float) -> Owned:
        """RFC 7785 section 4.3: what the subscriber has goes to the address that it was last seen at."""
        going = [(key, mapping) for key, mapping in mine if mapping.nonce == request.nonce]
        staying = [(key, mapping) for key, mapping in active if mapping.nonce != request.nonce]
        if not going:
            return ()
        self._not_barred(client)
        what = f"{describe(going[0][0])} from {text6(going[0][1].b4)}"
        if not client.third_party:
            if self.settings.on_new_address == "reject":
                self._log("move_refused", client, what)
                raise Refused(Result.NOT_AUTHORIZED, going[0][1].remaining(now))
            wait = max(mapping.moved for _, mapping in going) + self.settings.min_change_interval_s - now
            if wait > 0:
                self._log("move_refused", client, f"{what}, the last move was too short ago")
                raise Refused(Result.NOT_AUTHORIZED, ceil(wait))
        if not self._room(client, staying):
            self._log("move_refused", client, f"{what}, there is another softwire")
            raise Refused(Result.USER_EX_QUOTA)
        return going

    def follow(self, key: int, b4: bytes, br: bytes, now: float) -> None:
        """By data: only within the subscriber's prefix, and only what its old address has."""
        seen = self.mappings.get(key)
        subscriber = self.mappings.subscriber(b4)
        if seen is None or self.settings.on_new_address != "data" or seen.b4 == b4:
            return
        client = Client(b4, br, Sender(b4, br, seen.client, seen.client_port))
        what = f"{describe(key)} from {text6(seen.b4)} by data"
        if self.mappings.subscriber(seen.b4) != subscriber:
            self._log("move_refused", client, f"{what}, of another subscriber")
            return
        active = [(key, mapping) for key, mapping in self.mappings.of(subscriber) if mapping.active]
        going = [(key, mapping) for key, mapping in active if mapping.b4 == seen.b4]
        staying = [(key, mapping) for key, mapping in active if mapping.b4 != seen.b4]
        last = max(mapping.moved for _, mapping in going)
        if now < last + self.settings.min_change_interval_s or not self._room(client, staying):
            self._log("move_refused", client, what)
            return
        self._log("moved", client, what)
        for key, mapping in going:
            self.mappings.put(key, mapping._replace(b4=b4, br=br, moved=now))

    # --- what is there

    def _refresh(
        self, found: Owned, request: MapRequest, client: Client, takeover: bool, epoch: int, now: float
    ) -> list[bytes]:
        if request.port_set is None:
            _single(found[0][0], request)
        granted = self.granted(request.lifetime)
        text = _description(request)
        answers: list[bytes] = []
        for key, _ in sorted(found[:MOST_ANSWERS], key=lambda one: not _holds(one[0], request.internal_port)):
            mapping = self.mappings.get(key)
            assert mapping is not None
            lifetime = granted
            if self.mappings.pools.of(key) is None:  # drained: what was granted holds, and no more
                lifetime = min(granted, mapping.remaining(now))
            mapping = mapping._replace(
                until=now + lifetime,
                lifetime=lifetime,
                client=client.sender.address,
                client_port=client.sender.port,
                nonce=request.nonce if takeover else mapping.nonce,
                description=mapping.description if text is None else text,
            )
            self.mappings.put(key, mapping)
            asked = request if not answers else request._replace(internal_port=mapping.internal_port)
            answers.append(self._granted(asked, key, lifetime, epoch))
        return answers

    def _delete(self, found: Owned, request: MapRequest, epoch: int, now: float) -> bytes:
        """RFC 7753 section 4.4: a set goes as a whole, and only by a request for a set."""
        if request.port_set is not None:
            for key, mapping in found:
                if self.mappings.pools.of(key) is None:
                    self.mappings.remove(key)
                else:
                    self.mappings.put(key, mapping._replace(state=FREED, until=now))
        return _answer(request, 0, epoch, request.external_port, request.external, request.options)

    def _static(self, request: MapRequest, client: Client, epoch: int) -> bytes | None:
        """A binding that somebody else made for this very softwire (RFC 6887 section 11.3)."""
        if not len(self.statics):
            return None
        rows = self.statics.of_prefix(client.b4, 128)
        low, high = _wanted(request)
        for row in rows:
            if row["br"].tobytes() != client.br and not client.third_party:
                continue
            first, last = _first_range(row)
            if last < low or high < first:
                continue
            if not request.lifetime:
                raise Refused(Result.NOT_AUTHORIZED)
            return self._report(request, int(row["ipv4"]), first, last, FOREVER, epoch, legacy=False)
        return None

    # --- what is not there

    def _new(self, owned: Owned, request: MapRequest, client: Client, epoch: int, now: float) -> bytes:
        settings = self.settings
        if request.port_set is None:
            raise Refused(Result.NOT_AUTHORIZED if request.internal_port else Result.UNSUPP_PROTOCOL)
        if request.protocol not in settings.protocols:
            raise Refused(Result.UNSUPP_PROTOCOL)
        self._not_barred(client)
        if not self._room(client, self._now_active(owned)):
            raise Refused(Result.USER_EX_QUOTA)
        sets = sum(mapping.active for _, mapping in owned)
        if len(self.statics):
            sets += len(self.statics.of_prefix(client.b4, settings.mask))
        if sets >= settings.max_sets:
            raise Refused(Result.USER_EX_QUOTA)
        hint = (request.external, request.external_port)
        recovering = now < self.recovering_until
        key = choose(self.mappings.pools, settings, owned, request.port_set.ports, hint, now, recovering)
        granted = self.granted(request.lifetime)
        mapping = Mapping(
            state=ACTIVE,
            flags=THIRD_PARTY if client.third_party else 0,
            protocol=request.protocol,
            internal_port=request.internal_port,
            client_port=client.sender.port,
            nonce=request.nonce,
            b4=client.b4,
            br=client.br,
            client=client.sender.address,
            until=now + granted,
            moved=0.0,
            lifetime=granted,
            description=_description(request) or b"",
            third_party=_third_party_options(request) if client.third_party else b"",
        )
        self.mappings.put(key, mapping)
        self._forget(owned, key, now)
        return self._granted(request, key, granted, epoch)

    def _not_barred(self, client: Client) -> None:
        if (why := self.barred.get(client.b4)) is not None:
            raise Refused(why)

    def _now_active(self, owned: Owned) -> Owned:
        """As they are after a move."""
        found = [(key, self.mappings.get(key)) for key, mapping in owned if mapping.active]
        return [(key, mapping) for key, mapping in found if mapping is not None]

    def _forget(self, owned: Owned, taken: int, now: float) -> None:
        """What it had once is remembered for one set each that it may have, and while it is in quarantine."""
        rested = now - self.settings.quarantine_s
        old = sorted((m.until, key) for key, m in owned if not m.active and key != taken and m.until <= rested)
        for _, key in old[: max(0, len(old) - self.settings.max_sets)]:
            self.mappings.remove(key)

    # --- answers

    def granted(self, wanted: int) -> int:
        return min(max(wanted, self.settings.min_s), self.settings.max_s)

    def _granted(self, request: MapRequest, key: int, lifetime: int, epoch: int) -> bytes:
        first, last = ports_of(key)
        pool = self.mappings.pools.of(key)
        return self._report(request, key >> 21, first, last, lifetime, epoch, pool is not None and pool.legacy)

    def _report(
        self, request: MapRequest, ipv4: int, first: int, last: int, lifetime: int, epoch: int, legacy: bool
    ) -> bytes:
        external = IPV4_MAPPED + ipv4.to_bytes(4)
        if request.port_set is None:
            _single_of(ipv4, first, last, request)
            return _answer(request, lifetime, epoch, request.internal_port, external, _processed(request, None))
        inside = request.internal_port if legacy else first
        ports = PortSet(last - first + 1, inside, request.port_set.parity)
        return _answer(request, lifetime, epoch, first, external, _processed(request, ports))

    def _log(self, kind: str, client: Client, text: str) -> None:
        self.events.append(Event(kind, client.b4, text))


def _third(mapping: Mapping) -> bool:
    return mapping.flags & THIRD_PARTY != 0


def _wanted(request: MapRequest) -> tuple[int, int]:
    """Internal ports that the request is about."""
    if request.port_set is not None:
        return request.port_set.ports
    return (request.internal_port, request.internal_port) if request.internal_port else (1, 65535)


def _holds(key: int, port: int) -> bool:
    first, last = ports_of(key)
    return first <= port <= last


def _matching(mine: Owned, request: MapRequest) -> list[tuple[int, Mapping]]:
    """RFC 7753 section 4.4.1: what a request refreshes.

    By the port that it was made with first: who was given 26624-28671 for 1-65535 may renew 1-2048, which is another
    range and still the same mapping.
    """
    if request.port_set is not None:
        same = [(k, m) for k, m in mine if m.protocol == request.protocol and m.internal_port == request.internal_port]
        if same:
            return same
    low, high = _wanted(request)
    met = []
    for key, mapping in mine:
        first, last = ports_of(key)
        if (
            first <= high
            and low <= last
            and (not mapping.protocol or not request.protocol or mapping.protocol == request.protocol)
        ):
            met.append((key, mapping))
    if not request.internal_port and request.port_set is None:  # all ports or nothing (RFC 6887 section 11.3)
        met = [(key, mapping) for key, mapping in met if ports_of(key) == (1, 65535)]
    return met


def _single(key: int, request: MapRequest) -> None:
    _single_of(key >> 21, *ports_of(key), request)


def _single_of(ipv4: int, first: int, last: int, request: MapRequest) -> None:
    """One port of a set: what the suggestion says matters to PREFER_FAILURE only (RFC 6887 section 13.2)."""
    if not request.internal_port and (first, last) != (1, 65535):
        raise Refused(Result.UNSUPP_PROTOCOL)
    if any(isinstance(one, PreferFailure) for one in request.options):
        given = (IPV4_MAPPED + ipv4.to_bytes(4), request.internal_port)
        if given != (request.external, request.external_port):
            raise Refused(Result.CANNOT_PROVIDE_EXTERNAL)


def _first_range(row: np.void) -> tuple[int, int]:
    """PORT_SET names one range, so of a set with offset bits the first is told."""
    offset, length, psid = int(row["psid_offset"]), int(row["psid_len"]), int(row["psid"])
    if not length:
        return 1, 65535
    size = 1 << (16 - offset - length)
    first = (0x10000 >> offset if offset else 0) + psid * size
    return first, first + size - 1


def _description(request: MapRequest) -> bytes | None:
    """What is kept of it; None if there is none. A single port has no state that could keep one."""
    found = next((one for one in request.options if isinstance(one, Description)), None)
    return None if found is None or request.port_set is None else found.cut(KEPT_TEXT).text


def _third_party_options(request: MapRequest) -> bytes:
    return encode(one for one in request.options if one.code in (1, 13))


def _processed(request: MapRequest, ports: PortSet | None) -> tuple[Option, ...]:
    """The options of the answer, in the order of the request. One port is no set (RFC 7753 section 4.2)."""
    found: list[Option] = []
    for one in request.options:
        if isinstance(one, PortSet):
            if ports is not None and ports.size > 1:
                found.append(ports)
        elif isinstance(one, Description):
            if ports is not None:
                found.append(one.cut(KEPT_TEXT))
        else:
            found.append(one)
    return tuple(found)


def _answer(
    request: MapRequest, lifetime: int, epoch: int, port: int, external: bytes, options: Sequence[Option]
) -> bytes:
    return encode_response(
        MapResponse(
            Result.SUCCESS,
            lifetime,
            epoch,
            request.nonce,
            request.protocol,
            request.internal_port,
            port,
            external,
            tuple(options),
        )
    )
