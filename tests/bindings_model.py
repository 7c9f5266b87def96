"""What several sources want and what is bound of it, as a dictionary: the oracle of test_bindings_steps.py."""

from __future__ import annotations

from dataclasses import dataclass, field

from tests.table_model import Key, Row

Wanted = dict[tuple[int, Key], Row]  # by source and key
Bound = dict[Key, tuple[Row, int]]


@dataclass
class Model:
    """What every source wants; what is bound follows from that alone.

    Whether a row was put since `begin` is not known of one that a higher source displaces, nor of one that is taken
    back: those count as fresh, so that a sweep spares them.
    """

    capacity: int
    wanted: Wanted = field(default_factory=dict)
    fresh: set[tuple[int, Key]] = field(default_factory=set)

    def bound(self) -> Bound:
        bound: Bound = {}
        for ipv4 in {key[0] for _, key in self.wanted}:
            here = sorted((source, key, r) for (source, key), r in self.wanted.items() if key[0] == ipv4)
            division = here[0][2].params
            for source, key, r in here:
                if r.params == division:
                    bound.setdefault(key, (r, source))
        return bound

    def waiting(self) -> Wanted:
        return {name: self.wanted[name] for name, is_bound in self.status().items() if not is_bound}

    def status(self) -> dict[tuple[int, Key], bool]:
        bound = self.bound()
        return {(s, key): bound.get(key) == (r, s) for (s, key), r in self.wanted.items()}

    def put(self, batch: list[Row], source: int, replacing: bool) -> bool:
        batch = [one.plain for one in batch]
        wanted = dict(self.wanted)
        if replacing:
            addresses = {one.ipv4: one.params for one in batch}
            wanted = {
                (s, key): r
                for (s, key), r in wanted.items()
                if s != source or addresses.get(r.ipv4, r.params) == r.params
            }
        own = {key[0]: r.params for (s, key), r in wanted.items() if s == source}
        for one in batch:
            if (one.k and one.psid >= 2**one.k) or own.setdefault(one.ipv4, one.params) != one.params:
                return False
        if len({one.key for one in batch}) < len(batch):
            return False
        kept, self.wanted = self.wanted, wanted | {(source, one.key): one for one in batch}
        if len(self.bound()) > self.capacity:
            self.wanted = kept
            return False
        self.fresh |= {(source, one.key) for one in batch}
        return True

    def remove(self, names: list[Key], source: int) -> bool:
        kept = self.wanted
        bound = self.bound()
        whole = {key[0] for key, (r, s) in bound.items() if r.k == 0 and s == source}
        names = [(ipv4, 0) if ipv4 in whole else (ipv4, psid) for ipv4, psid in names]
        self.wanted = {name: r for name, r in kept.items() if name[0] != source or name[1] not in names}
        return self._fits(kept)

    def sweep(self, source: int) -> bool:
        kept = self.wanted
        self.wanted = {name: r for name, r in kept.items() if name[0] != source or name in self.fresh}
        return self._fits(kept)

    def _fits(self, kept: Wanted) -> bool:
        if len(self.bound()) <= self.capacity:
            return True
        self.wanted = kept
        return False
