"""The PCP client of a lwB4: asks a lwAFTR for port sets and keeps them (RFC 6887 sections 8 and 11, RFC 7753). No I/O.

The caller hands in datagrams and the time, sends what `datagrams_to_send` gives, calls `handle_timer` when `timer` is
reached, and does what `events` tell. Time is a clock that never goes back; `rng` should not be predictable, for the
nonce comes from it, and what spreads the packets of many clients.

A mapping that was granted stays granted until it runs out or an answer changes it, whatever errors come meanwhile: the
lwB4 goes on forwarding and lets the lwAFTR judge.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv4Address, IPv6Address

from pylwaftr.pcp import codec, timing
from pylwaftr.pcp.client_values import (
    Event,
    Grant,
    Granted,
    Kept,
    Lost,
    NotUsed,
    Recovering,
    Refused,
    Saved,
    Wanted,
    another,
    grant_of,
)
from pylwaftr.pcp.codec import AnnounceResponse, MapResponse, OtherVersion
from pylwaftr.pcp.numbers import NO_IPV4, NONCE, SERVER_PORT, Result, Unanswerable, address16
from pylwaftr.pcp.options import PortSet

MAX_LIFETIME_S = 86400  # whatever a server says (section 15)
ERROR_FLOOR_S = 30  # deployed servers send errors of lifetime 0
VERSION_HOLD_S = 1800  # section 9
SPREAD_S = 5.0  # what many clients notice at once is answered after a random part of this (section 14.1.3)
UNBOUND_HOLD_S, UNBOUND_MAX_S = 60.0, 1024.0  # between two reactions to ICMPv6 1/5
PROBE_S = 3600.0  # while NOT_AUTHORIZED holds
TRIES, ROUND_S = 4, 900.0  # of one address of several; until the round begins again (RFC 7488 section 3)

Address = IPv4Address | IPv6Address

LWAFTR, LWB4 = IPv4Address("192.0.0.1"), IPv4Address("192.0.0.2")  # inside a softwire (RFC 6333 section 5.7)


class State(Enum):
    WAITING = "waiting"  # to ask at `due`
    REQUESTING = "requesting"
    BOUND = "bound"
    RENEWING = "renewing"
    DELETING = "deleting"


@dataclass(frozen=True, slots=True)
class Options:
    address: Address = LWB4  # ours, towards the server
    servers: tuple[Address, ...] = (LWAFTR,)  # addresses of one server
    lifetime: int = 7200
    use_single_port: bool = False  # a server that gives one port where a set was asked for


class _Mapping:
    """One MAP request and what came of it."""

    def __init__(self, wanted: Wanted, kept: Kept | None) -> None:
        self.wanted = wanted
        self.kept = kept  # what is suggested
        self.state = State.WAITING
        self.grant: Grant | None = None
        self.granted_at = 0.0
        self.due: float | None = None
        self.hold_until = float("-inf")  # the lifetime of an error
        self.rt: float | None = None
        self.tries = 0


class Client:
    def __init__(self, options: Options, rng: random.Random, saved: Saved | None = None) -> None:
        self._options = options
        self._rng = rng
        # Kept over a restart: with another nonce the server would refuse us for the rest of the lifetime.
        self._nonce = saved.nonce if saved is not None else rng.randbytes(NONCE)
        self._kept = {(kept.protocol, kept.internal_port): kept for kept in (saved.kept if saved else ())}
        self._mappings: dict[tuple[int, int], _Mapping] = {}
        self._epoch = timing.EpochCheck()
        self._server = 0
        self._blocked_until = float("-inf")  # for new mappings; `_silent_until`: for everything
        self._silent_until = float("-inf")
        self._unbound_hold = UNBOUND_HOLD_S
        self._unbound_after = float("-inf")
        self._probe_at: float | None = None
        self._out: list[tuple[bytes, Address]] = []
        self._events: list[Event] = []

    # what the caller reads

    def datagrams_to_send(self) -> list[tuple[bytes, Address]]:
        """Each with the address that it goes to, port 5351."""
        out, self._out = self._out, []
        return out

    def events(self) -> list[Event]:
        events, self._events = self._events, []
        return events

    def timer(self) -> float | None:
        times = [self._probe_at]
        for mapping in self._mappings.values():
            times += [mapping.due, mapping.grant.expires if mapping.grant else None]
        return min((time for time in times if time is not None), default=None)

    def state(self, wanted: Wanted) -> State | None:
        mapping = self._mappings.get(wanted.key)
        return mapping.state if mapping else None

    def grants(self) -> tuple[Grant, ...]:
        return tuple(mapping.grant for mapping in self._mappings.values() if mapping.grant is not None)

    def saved(self) -> Saved:
        """What the next run of this client should know; it changes with Granted events only."""
        kept = {key: mapping.kept for key, mapping in self._mappings.items() if mapping.kept is not None}
        return Saved(self._nonce, tuple((self._kept | kept).values()))

    # what the caller does

    def start(self, now: float, wanted: Sequence[Wanted] = (Wanted(),)) -> None:
        for one in wanted:
            self.ask(one, now)

    def ask(self, wanted: Wanted, now: float) -> None:
        """For one more mapping, or for one that was given back, again."""
        mapping = _Mapping(wanted, self._kept.get(wanted.key))
        self._mappings[wanted.key] = mapping
        self._request(mapping, now)

    def ask_another(self, now: float) -> Wanted | None:
        """For a further set; None if there is no room beside those that we have and asked for."""
        wanted = another(self.grants(), set(self._mappings))
        if wanted is not None:
            self.ask(wanted, now)
        return wanted

    def delete(self, now: float) -> None:
        """Gives everything back, with one packet each, which nobody waits for."""
        for mapping in self._mappings.values():
            mapping.state, mapping.due, mapping.grant = State.DELETING, None, None
            self._transmit(mapping, now)
        self._probe_at = None

    def icmp_code5(self, now: float) -> None:
        """ICMPv6 type 1 code 5 about a packet of ours came from the lwAFTR: it has no binding for us."""
        held = [m for m in self._mappings.values() if m.state in (State.BOUND, State.RENEWING)]
        if now < self._unbound_after or not held:
            return
        repeated = now < self._unbound_after + self._unbound_hold
        self._unbound_hold = min(2 * self._unbound_hold, UNBOUND_MAX_S) if repeated else UNBOUND_HOLD_S
        self._unbound_after = now + self._unbound_hold
        self._events.append(Recovering("the lwAFTR has no binding for us"))
        for mapping in held:
            self._ask_within(mapping, SPREAD_S, now)

    def reprovision(self, now: float) -> None:
        """Our tunnel address is another one: asks for everything at once, with the same nonce and suggestions."""
        self._events.append(Recovering("our tunnel address changed"))
        self._recover(0.0, now)

    def unreachable(self, now: float) -> None:
        """A hard ICMP error about our packets to the server: its next address at once, if it has one."""
        if self._next_server(now):
            for mapping in self._mappings.values():
                if mapping.state is State.REQUESTING:
                    self._request(mapping, now)

    def handle_timer(self, now: float) -> None:
        for mapping in self._mappings.values():
            if mapping.grant is not None and now >= mapping.grant.expires:
                self._expire(mapping, now)
            elif mapping.due is not None and now >= mapping.due:
                self._on_due(mapping, now)
        if self._probe_at is not None and now >= self._probe_at:
            self._probe(now)

    def receive(self, datagram: bytes, source: tuple[Address, int], now: float) -> None:
        """What came to our port, or to 5350; of several answers each counts."""
        if source != (self._options.servers[self._server], SERVER_PORT):
            return
        try:
            response = codec.decode_response(datagram)
        except Unanswerable:
            return
        if isinstance(response, AnnounceResponse):
            if response.result == Result.SUCCESS and not self._epoch.is_valid(response.epoch, now):
                self._events.append(Recovering("the server announces that it lost its state"))
                self._recover(SPREAD_S, now)
        elif isinstance(response, OtherVersion):
            self._other_version(response, now)
        elif isinstance(response, MapResponse) and response.nonce == self._nonce:
            mapping = self._mappings.get((response.protocol, response.internal_port))
            if mapping is not None:
                self._answered(mapping, response, now)

    # a mapping's way

    def _request(self, mapping: _Mapping, now: float) -> None:
        """Now, or when the server is to be asked again."""
        may = max(mapping.hold_until, self._silent_until)
        if mapping.grant is None:
            may = max(may, self._blocked_until)
        if now < may:
            mapping.state, mapping.due = State.WAITING, may
            return
        mapping.state, mapping.tries, mapping.rt = State.REQUESTING, 1, None
        self._transmit(mapping, now)
        self._schedule_retransmission(mapping, now)

    def _schedule_retransmission(self, mapping: _Mapping, now: float) -> None:
        mapping.rt = timing.retransmission(mapping.rt, self._rng.uniform)
        mapping.due = now + mapping.rt

    def _transmit(self, mapping: _Mapping, now: float) -> None:
        lifetime = 0 if mapping.state is State.DELETING else self._options.lifetime
        if now >= self._silent_until:
            datagram = codec.encode_request(self._message(mapping, lifetime))
            self._out.append((datagram, self._options.servers[self._server]))

    def _message(self, mapping: _Mapping, lifetime: int) -> codec.MapRequest:
        """First request, retransmission and renewal are the same, but for what is suggested."""
        wanted, kept = mapping.wanted, mapping.kept if lifetime else None
        options = (PortSet(wanted.size, wanted.internal_port),) if wanted.size > 1 else ()
        return codec.MapRequest(
            lifetime,
            address16(self._options.address),
            self._nonce,
            wanted.protocol,
            wanted.internal_port,
            kept.external_port if kept else 0,
            address16(kept.external) if kept else NO_IPV4,
            options,
        )

    def _on_due(self, mapping: _Mapping, now: float) -> None:
        if mapping.state is State.WAITING:
            self._request(mapping, now)
        elif mapping.state is State.REQUESTING:
            if mapping.tries >= TRIES and len(self._options.servers) > 1:
                self._next_server(now)
                self._request(mapping, now)
                return
            mapping.tries += 1
            self._transmit(mapping, now)
            self._schedule_retransmission(mapping, now)
        else:
            mapping.state = State.RENEWING
            self._transmit(mapping, now)
            self._schedule_renewal(mapping, now)

    def _schedule_renewal(self, mapping: _Mapping, now: float) -> None:
        assert mapping.grant is not None
        elapsed = now - mapping.granted_at
        after = timing.renewal(mapping.grant.lifetime, elapsed, self._rng.uniform)
        mapping.due = None if after is None else mapping.granted_at + after

    def _expire(self, mapping: _Mapping, now: float) -> None:
        assert mapping.grant is not None
        self._events.append(Lost(mapping.wanted, mapping.grant))
        mapping.grant = None
        if mapping.state in (State.BOUND, State.RENEWING):
            self._request(mapping, now)

    def _next_server(self, now: float) -> bool:
        """Moves on to the server's next address; after the last one a pause."""
        if len(self._options.servers) < 2:
            return False
        self._server = (self._server + 1) % len(self._options.servers)
        if self._server == 0:
            self._silent_until = now + ROUND_S
        return True

    def _recover(self, spread: float, now: float, beside: _Mapping | None = None) -> None:
        """Every mapping is asked for again, for the server is not what it was, and neither are its refusals."""
        self._probe_at = None
        self._blocked_until = float("-inf")
        for mapping in self._mappings.values():
            if mapping is not beside and mapping.state is not State.DELETING:
                mapping.hold_until = float("-inf")
                self._ask_within(mapping, spread, now)

    def _ask_within(self, mapping: _Mapping, spread: float, now: float) -> None:
        if spread:
            mapping.state = State.WAITING
            mapping.due = now + self._rng.uniform(0, spread)  # and not before an error's lifetime is over
        else:
            self._request(mapping, now)

    # answers

    def _answered(self, mapping: _Mapping, response: MapResponse, now: float) -> None:
        valid = self._epoch.is_valid(response.epoch, now)
        if mapping.state is State.DELETING:
            if response.result == Result.NO_RESOURCES:  # section 8.3: nothing at all meanwhile
                self._silent_until = now + hold_of(response)
        elif response.result == Result.SUCCESS:
            self._succeeded(mapping, response, now)
        else:
            self._refused(mapping, response, now)
        if not valid:
            self._events.append(Recovering("the server lost its state"))
            self._recover(0.0, now, beside=mapping)

    def _succeeded(self, mapping: _Mapping, response: MapResponse, now: float) -> None:
        lifetime = min(response.lifetime, MAX_LIFETIME_S)
        if not lifetime:
            self._taken_away(mapping, now)
            return
        grant, fault = grant_of(mapping.wanted, response, now + lifetime, lifetime)
        if fault:
            self._events.append(NotUsed(mapping.wanted, fault))
        if grant is None or (grant.size == 1 < mapping.wanted.size and not self._options.use_single_port):
            if mapping.grant is None:
                mapping.state, mapping.due = State.WAITING, now + min(lifetime, VERSION_HOLD_S)
            return
        before, unasked = mapping.grant, mapping.state is State.BOUND
        mapping.grant, mapping.granted_at, mapping.state = grant, now, State.BOUND
        mapping.hold_until = float("-inf")
        mapping.kept = Kept(*mapping.wanted.key, grant.external, grant.first)
        self._events.append(Granted(mapping.wanted, grant, before))
        self._schedule_renewal(mapping, now)
        if unasked and before is not None and not grant.is_same(before):
            self._on_due(mapping, now)  # a Mapping Update: a renewal ends its copies (section 14.2)

    def _taken_away(self, mapping: _Mapping, now: float) -> None:
        """A lifetime of 0 for what we have: the server took it back."""
        if mapping.grant is not None and mapping.state in (State.BOUND, State.RENEWING):
            self._events.append(Lost(mapping.wanted, mapping.grant))
            mapping.grant = None
            mapping.state, mapping.due = State.WAITING, now + ERROR_FLOOR_S

    def _refused(self, mapping: _Mapping, response: MapResponse, now: float) -> None:
        hold = hold_of(response)
        self._events.append(Refused(mapping.wanted, response.result, hold))
        if response.result == Result.NO_RESOURCES:
            self._blocked_until = now + hold
        self._hold(mapping, now + hold)
        if response.result == Result.NOT_AUTHORIZED and mapping.grant is None and hold > PROBE_S:
            self._probe_at = now + PROBE_S

    def _hold(self, mapping: _Mapping, until: float) -> None:
        mapping.hold_until = until
        if mapping.state is State.REQUESTING:
            mapping.state = State.WAITING
        if mapping.state in (State.WAITING, State.RENEWING):
            mapping.due = until

    def _other_version(self, response: OtherVersion, now: float) -> None:
        asked = [m for m in self._mappings.values() if m.state in (State.REQUESTING, State.RENEWING)]
        hold = min(max(response.lifetime or VERSION_HOLD_S, ERROR_FLOOR_S), VERSION_HOLD_S)
        for mapping in asked:
            self._events.append(Refused(mapping.wanted, Result.UNSUPP_VERSION, hold, response.version))
            self._hold(mapping, now + hold)

    def _probe(self, now: float) -> None:
        """Its answer's epoch shows whether the server has forgotten whom it refused us for."""
        waiting = any(mapping.state is State.WAITING for mapping in self._mappings.values())
        self._probe_at = now + PROBE_S if waiting else None
        if waiting and now >= self._silent_until:
            request = codec.AnnounceRequest(address16(self._options.address))
            self._out.append((codec.encode_request(request), self._options.servers[self._server]))


def hold_of(response: MapResponse) -> int:
    """For how long an error's request is not repeated."""
    return min(max(response.lifetime, ERROR_FLOOR_S), MAX_LIFETIME_S)
