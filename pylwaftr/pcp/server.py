"""PCP server of the lwAFTR (RFC 6887, RFC 7753): requests and the time in; answers, bindings and records out.

The caller owns sockets and the clock; `now` is in seconds since 1970, for mappings and the epoch outlive the process.
What an outcome says is only true when the caller has made it so: see `outcome`. Outcomes are in order: one that is
reverted takes those behind it along, the last first.

A client is known by the tunnel that its request came through, never by its address inside: that is 192.0.0.2 for all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from ipaddress import IPv6Address

from pylwaftr.pcp._fast import Fast
from pylwaftr.pcp.announce import peer_name
from pylwaftr.pcp.choice import Refused
from pylwaftr.pcp.codec import (
    MANAGEMENT,
    SOFTWIRE,
    Accepts,
    AnnounceRequest,
    AnnounceResponse,
    MapRequest,
    MapResponse,
    decode_request,
    decode_response,
    encode_error,
    encode_response,
    option,
)
from pylwaftr.pcp.grants import Barred, Client
from pylwaftr.pcp.lifecycle import Lifecycle
from pylwaftr.pcp.limits import Limits
from pylwaftr.pcp.numbers import Malformed, Result, Unanswerable, error_lifetime, ipv4_of
from pylwaftr.pcp.options import Code, ThirdParty, ThirdPartyId
from pylwaftr.pcp.outcome import Outcome, Sender
from pylwaftr.pcp.pool import ports_of
from pylwaftr.pcp.settings import Settings

_AUTHORISED = Accepts(MANAGEMENT.opcodes, MANAGEMENT.options | {Code.THIRD_PARTY_ID})


class PcpServer(Lifecycle):
    def __init__(self, settings: Settings, now: float, compiled: bool = True) -> None:
        super().__init__(settings, now)
        self._limits = Limits(settings)
        self._over: set[int] = set()  # requests of the last batch that were over a limit
        self._fast = self._made_fast() if compiled else None

    def _made_fast(self) -> Fast:
        return Fast(self.settings, self._mappings, self._statics, self._grants, self._limits)

    def reconfigure(self, settings: Settings) -> None:
        super().reconfigure(settings)
        self._limits.settings = settings
        if self._fast is not None:
            self._fast = self._made_fast()

    # --- requests

    def receive(self, datagram: bytes, sender: Sender, now: float) -> Outcome:
        return self.receive_many([(datagram, sender)], now)

    def receive_many(
        self, requests: Sequence[tuple[bytes, Sender]], now: float, barred: Barred | None = None
    ) -> Outcome:
        """One batch, one commit: `replies` has an element a request, None for those that get no answer. `barred`: the
        batch was reverted, for nothing could be bound for these."""
        outcome = Outcome()
        epoch = self.epoch(now)
        self._grants.barred = barred or {}
        self._limits.begin(now)
        if not barred:
            self._over.clear()

        def answer(index: int, datagram: bytes, sender: Sender) -> bytes | None:
            if not self._admitted(index, sender, counted=bool(barred)):
                outcome.counted["rate_limited"] += 1
                return None
            answers = self._answers(datagram, sender, epoch, now, outcome.counted)
            outcome.more += [(index, further) for further in answers[1:]]
            return answers[0] if answers else None

        if self._fast is None or barred:
            outcome.replies = [answer(index, *request) for index, request in enumerate(requests)]
        else:
            before = self._fast.answered
            outcome.replies = self._fast.batch(requests, epoch, now, answer)
            outcome.counted["SUCCESS"] += self._fast.answered - before
        if self.announcing:
            for _, sender in requests:
                self._announcer.heard(sender.tunnel or peer_name(sender.address, sender.port))
        return self._finish(outcome)

    def _admitted(self, index: int, sender: Sender, counted: bool) -> bool:
        """A batch that is served again has been counted."""
        if not counted and sender.tunnel and not self._limits.admit(self._mappings.subscriber(sender.tunnel)):
            self._over.add(index)
        return index not in self._over

    def _answers(self, datagram: bytes, sender: Sender, epoch: int, now: float, counted: Counter[str]) -> list[bytes]:
        try:
            answers = self._accepted(datagram, sender, epoch, now)
        except Unanswerable:
            counted["ignored"] += 1
            return []
        except Malformed as fault:
            counted[fault.result.name] += 1
            return [encode_error(datagram, fault.result, error_lifetime(fault.result), epoch)]
        except Refused as refused:
            counted[refused.result.name] += 1
            lifetime = refused.lifetime
            if lifetime is None:
                lifetime = error_lifetime(refused.result)
            return [encode_error(datagram, refused.result, lifetime, epoch)]
        counted["SUCCESS"] += 1
        return answers

    def _accepted(self, datagram: bytes, sender: Sender, epoch: int, now: float) -> list[bytes]:
        if sender.tunnel:
            request = decode_request(datagram, sender.address, SOFTWIRE)
            if isinstance(request, AnnounceRequest):
                return [encode_response(AnnounceResponse(epoch))]
            assert isinstance(request, MapRequest)
            return self._grants.map(request, Client(sender.tunnel, sender.br, sender), epoch, now)
        request = decode_request(datagram, sender.address, _AUTHORISED if self.authorises(sender) else SOFTWIRE)
        client = self._third_party(request, sender) if isinstance(request, MapRequest) else None
        if client is None:  # section 8.2: nothing but THIRD_PARTY is taken there
            raise Unanswerable("no THIRD_PARTY on the management side")
        assert isinstance(request, MapRequest)
        return self._grants.map(request, client, epoch, now)

    def authorises(self, sender: Sender) -> bool:
        """Whether it may speak for others (RFC 6887 section 13.1)."""
        address = ipv4_of(sender.address) or IPv6Address(sender.address)
        return any(address in network for network in self.settings.third_parties)

    def _third_party(self, request: MapRequest, sender: Sender) -> Client | None:
        """The softwire that a third party speaks for: its tunnel address, or an inner one with THIRD_PARTY_ID."""
        named, identifier = option(request.options, ThirdParty), option(request.options, ThirdPartyId)
        if named is None:
            return None
        tunnel = named.internal
        if identifier is not None:  # RFC 7843 section 4.1
            if len(identifier.identifier) != 16:
                raise Refused(Result.UNSUPP_THIRD_PARTY_ID_LENGTH)
            if ipv4_of(tunnel) is None and tunnel != identifier.identifier:
                raise Refused(Result.THIRD_PARTY_ID_UNKNOWN)
            tunnel = identifier.identifier
        address = IPv6Address(tunnel)
        if ipv4_of(tunnel) is not None or not int(address) >> 125 == 1:  # 2000::/3
            raise Refused(Result.NOT_AUTHORIZED if identifier is None else Result.THIRD_PARTY_ID_UNKNOWN)
        return Client(tunnel, self.settings.br, sender, third_party=True)


def promises(reply: bytes, sets: Collection[int]) -> bool:
    """Whether an answer of the server grants any port of these sets (keys of a pool)."""
    try:
        said = decode_response(reply)
    except Unanswerable:  # an error about an opcode that nobody knows
        return False
    if not isinstance(said, MapResponse) or said.result != Result.SUCCESS or not said.lifetime:
        return False
    address = ipv4_of(said.external)
    if address is None:
        return False
    ranges = (ports_of(key) for key in sets if key >> 21 == int(address))
    return any(first <= said.external_port <= last for first, last in ranges)
