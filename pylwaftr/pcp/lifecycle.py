"""What happens to mappings without a request: restart, expiry, announcements, and what the operator does."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from ipaddress import IPv4Address, IPv4Network
from typing import NamedTuple

import numpy as np

from pylwaftr import row_sets
from pylwaftr.pcp import mapping as m
from pylwaftr.pcp.announce import Announcer, Target, Updates, peer_name
from pylwaftr.pcp.grants import Grants
from pylwaftr.pcp.mappings import Mappings
from pylwaftr.pcp.numbers import address16
from pylwaftr.pcp.outcome import Event, Outcome
from pylwaftr.pcp.pool import Pools, describe, reserved_bits
from pylwaftr.pcp.settings import Settings
from pylwaftr.pcp.statics import Statics
from pylwaftr.rows import BINDING_ROW, Rows

_RECOVERY_S = 120  # after a loss sets are given to those only who claim them
_LOOK_AT_ONCE = 1000  # mappings that may have expired: requests wait meanwhile
_B4_INSIDE = address16(IPv4Address("192.0.0.2"))


class PoolView(NamedTuple):
    """Port sets of a pool: all, bound ones, those given back that wait, and free ones."""

    ipv4: IPv4Network
    psid_len: int
    sets: int
    held: int
    given_back: int
    free: int


class Lifecycle:
    def __init__(self, settings: Settings, now: float) -> None:
        self.settings = settings
        self.counters: Counter[str] = Counter()  # the caller adds what outcomes have counted and became true
        self._epoch_base = now
        self._mappings = Mappings(Pools(settings.pools), settings.mask)
        self._statics = Statics(settings.mask, settings.others)
        self._grants = Grants(settings, self._mappings, self._statics)
        self._announcer = Announcer()
        self._updates = Updates()

    # --- batches

    def _finish(self, outcome: Outcome) -> Outcome:
        outcome.events += self._grants.events
        self._grants.events = []
        return self._mappings.take(outcome)

    def revert(self, outcome: Outcome) -> None:
        """Nothing of it happened: it could not be stored, or not be bound."""
        self._mappings.restore(outcome.before)

    # --- time

    def epoch(self, now: float) -> int:
        return max(0, int(now - self._epoch_base)) & 0xFFFFFFFF

    def timer(self) -> float | None:
        times = [self._mappings.timer(), self._announcer.timer(), self._updates.timer()]
        return min((time for time in times if time is not None), default=None)

    def handle_timer(self, now: float) -> Outcome:
        """What is due; if there is more than fits, `timer` is over at once again."""
        outcome = Outcome()
        for key in self._mappings.expired(now, _LOOK_AT_ONCE):
            self._give_back(key, now)
            self.counters["expired"] += 1
        epoch, settings = self.epoch(now), self.settings
        outcome.sends = self._announcer.due(now, epoch, settings.announce_per_s, settings.server)
        outcome.sends += self._updates.due(self._mappings, settings.server, epoch, now)
        return self._finish(outcome)

    def _give_back(self, key: int, now: float) -> None:
        mapping = self._mappings.get(key)
        if mapping is None:
            return
        if self._mappings.pools.of(key) is None:
            self._mappings.remove(key)
        else:
            self._mappings.put(key, mapping._replace(state=m.FREED, until=now))

    # --- restart

    def load(self, records: Mapping[bytes, bytes], now: float, lost: bool = False) -> Outcome:
        """What was stored, once, at the start. The epoch goes on if nothing of it is missing (RFC 6887 section 8.5).

        `lost`: the caller knows that something is; it then has `announce` tell the softwires that it knows.
        """
        outcome = Outcome()
        good: list[tuple[int, bytes]] = []
        for octets, record in records.items():
            if octets == m.EPOCH_KEY:
                continue
            try:
                m.decode(record)
                good.append((m.key_of_store(octets), record))
            except ValueError as fault:
                lost = True
                outcome.records[octets] = None
                outcome.events.append(Event("lost", b"", f"a stored mapping cannot be read and is dropped: {fault}"))
        self._mappings.load(good)
        base = records.get(m.EPOCH_KEY, b"")
        whole = len(base) == m.EPOCH_RECORD.size
        if whole and not lost:
            (self._epoch_base,) = m.EPOCH_RECORD.unpack(base)
            return outcome
        self._reset_epoch(outcome, now)
        if lost or records:
            self._grants.recovering_until = now + _RECOVERY_S
            outcome.events.append(Event("lost", b"", "mappings may be lost: the epoch begins anew"))
        return outcome

    def _reset_epoch(self, outcome: Outcome, now: float) -> None:
        self._epoch_base = now
        outcome.records[m.EPOCH_KEY] = m.EPOCH_RECORD.pack(now)

    def rows(self) -> Rows:
        """All that is bound by PCP."""
        found = (m.bound_row(key, record) for key, record in self._mappings.records.items())
        return np.frombuffer(b"".join(row for row in found if row is not None), BINDING_ROW)

    # --- announcements

    def announce(self, now: float, softwires: Rows | None = None) -> int:
        """To the clients known here and into further softwires (rows of any source). Returns how many softwires."""
        targets: dict[bytes, Target] = {}
        for row in softwires if softwires is not None else ():
            targets[row["b4"].tobytes()] = Target(row["br"].tobytes(), _B4_INSIDE, 0)
        for record in self._mappings.records.values():
            if record[1] == m.ACTIVE:
                targets.update(_targets(m.decode(record)))
        self._announcer.start(targets, now)
        return sum(bool(target.br) for target in targets.values())  # the others are on the management side

    @property
    def announcing(self) -> int:
        """Clients that were announced to and have not been heard of since."""
        return self._announcer.waiting

    # --- bindings of others

    def reserve(self, rows: Rows, now: float) -> Outcome:
        """Others bound these. A mapping that is in their way ends; its B4 asks anew."""
        outcome = Outcome()
        self._statics.add(rows)
        for pool, ipv4, bits in reserved_bits(self._mappings.pools, rows):
            for key in self._mappings.on_address(ipv4, pool.psid_len, bits):
                mapping = self._mappings.get(key)
                if mapping is not None and mapping.active:
                    text = f"{describe(key)} was bound by another source"
                    outcome.events.append(Event("displaced", mapping.b4, text))
                    outcome.displaced.append(key)
                self._mappings.remove(key)
            pool.reserve(ipv4, bits)
        return self._finish(outcome)

    def unreserve(self, rows: Rows, now: float, come: Rows | None = None) -> None:
        """Others no longer bind these. `come`: what is reserved next; a set that is in both is never free."""
        self._statics.remove(rows)
        if come is not None and len(come):
            sets, next_sets = row_sets.words(rows)[:, 0], row_sets.words(come)[:, 0]
            rows = row_sets.select(rows, ~row_sets.found(sets, row_sets.distinct(next_sets))[0])
        for pool, ipv4, bits in reserved_bits(self._mappings.pools, rows):
            held = sum(1 << (key & 0xFFFF) for key in self._mappings.on_address(ipv4, pool.psid_len, bits))
            pool.unreserve(ipv4, bits, held, now)

    # --- data from a new address

    def follow(self, ipv4: int, port: int, b4: bytes, br: bytes, now: float) -> Outcome:
        """A packet with that inner source came from a B4 that its binding does not name (RFC 7785 section 4.3).

        Where `on_new_address` is `data` the subscriber's mappings go there; in all other cases nothing changes.
        """
        key = self.find(ipv4, port)
        if key is not None:
            self._grants.follow(key, b4, br, now)
        return self._finish(Outcome())

    # --- the operator

    def reconfigure(self, settings: Settings) -> None:
        """Live. Mappings of a pool that went, or was cut otherwise, are drained: they last as long as was granted."""
        before, self.settings = self.settings, settings
        self._grants.settings = settings
        if (before.pools, before.mask) == (settings.pools, settings.mask):
            return
        self._statics.recut(settings.mask)
        pools = Pools(settings.pools)
        for pool, ipv4, bits in reserved_bits(pools, self._statics.all()):
            pool.reserve(ipv4, bits)
        self._mappings.recut(pools, settings.mask)

    def draining(self) -> list[int]:
        """Keys of mappings whose set no pool offers."""
        pools = self._mappings.pools
        return [key for key, record in self._mappings.records.items() if record[1] == m.ACTIVE and not pools.of(key)]

    def renumber(self, now: float) -> Outcome:
        """Moves what is being drained to sets of the pools, with a mapping update to each (RFC 6887 section 14.2)."""
        outcome = Outcome()
        moved = 0
        for key in self.draining():
            mapping = self._mappings.get(key)
            new = self._mappings.pools.any_set(max(1, mapping.internal_port), 65535, now) if mapping else None
            if mapping is None or new is None:
                continue
            self._mappings.put(new, mapping)
            self._mappings.remove(key)
            self._updates.add(new, mapping.until, now)
            outcome.events.append(Event("renumbered", mapping.b4, f"{describe(key)} to {describe(new)}"))
            moved += 1
        if moved:  # external addresses changed (section 8.5)
            self._reset_epoch(outcome, now)
        return self._finish(outcome)

    def release(self, key: int, now: float) -> Outcome:
        """Takes a mapping away; its set goes into quarantine. KeyError if there is none."""
        mapping = self._mappings.get(key)
        if mapping is None or not mapping.active:
            raise KeyError(key)
        self._give_back(key, now)
        return self._finish(Outcome())

    def clear(self, b4: bytes, now: float) -> Outcome:
        """Forgets all of a subscriber, before its prefix is given to somebody else (RFC 7785 section 4.6)."""
        for key in self._mappings.holders.get(self._mappings.subscriber(b4), ()):
            self._mappings.remove(key)
            pool = self._mappings.pools.of(key)
            if pool is not None:
                pool.free(key, now)
        return self._finish(Outcome())

    # --- views

    def find(self, ipv4: int, port: int) -> int | None:
        """The key of the mapping that has a port."""
        for psid_len in range(17):
            key = m.key_at(ipv4, psid_len, port)
            record = self._mappings.records.get(key)
            if record is not None and record[1] == m.ACTIVE:
                return key
        return None

    def mapping(self, key: int) -> m.Mapping | None:
        return self._mappings.get(key)

    def mappings(self, b4: bytes | None = None) -> Iterator[tuple[int, m.Mapping]]:
        """All, or all of the subscriber that a B4 address belongs to; those in quarantine too."""
        if b4 is not None:
            yield from self._mappings.of(self._mappings.subscriber(b4))
            return
        for key in list(self._mappings.records):  # a dump may take long, and goes on while they change
            record = self._mappings.records.get(key)
            if record is not None:
                yield key, m.decode(record)

    def pools(self) -> list[PoolView]:
        return [
            PoolView(pool.config.ipv4, pool.psid_len, pool.sets, pool.held, len(pool.freed), pool.free_sets())
            for pool in self._mappings.pools.all
        ]

    @property
    def active(self) -> int:
        return self._mappings.active


def _targets(mapping: m.Mapping) -> dict[bytes, Target]:
    """The B4, and a third party that asked for it."""
    if not mapping.flags & m.THIRD_PARTY:
        return {mapping.b4: Target(mapping.br, mapping.client, mapping.client_port)}
    owner = peer_name(mapping.client, mapping.client_port)
    return {
        mapping.b4: Target(mapping.br, _B4_INSIDE, 0),
        owner: Target(b"", mapping.client, mapping.client_port),
    }
