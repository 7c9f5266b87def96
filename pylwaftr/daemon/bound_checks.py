"""Settings that would come, against what is bound: the bindings of operators, leases and PCP are in no file.

What would lose packets, and nobody but the operator can mend, is a fault: nothing is applied. The rest is a warning.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from ipaddress import IPv6Address

import numpy as np
import numpy.typing as npt

from pylwaftr import row_sets
from pylwaftr.changes import Source
from pylwaftr.config import Config, Fault
from pylwaftr.config.binding_rows import around
from pylwaftr.row_sets import Mask, Sourced
from pylwaftr.rows import Octets, describe

_EXAMPLES = 3
_UNSERVED = "a BR address that is not served is used by {}, which forward nothing; add it to softwire.br_addresses"

Bound = Callable[[], Sourced]  # all that is wanted, bound or waiting; asked for only if it matters


def faults(old: Config, new: Config, bound: Bound) -> list[Fault]:
    """Of what the reload would change; whatever is wrong already does not keep other changes away."""
    was, will = around(old), around(new)
    gone = [br for br in was.br if br not in will.br]
    own_v4, server_v4 = will.own_v4 - was.own_v4, will.server_v4 - was.server_v4
    own_v6, br = will.own_v6 - was.own_v6, set(will.br) - set(was.br)
    if not (gone or own_v4 or server_v4 or own_v6 or br):
        return []
    wanted = bound()
    ipv4, b4 = wanted.rows["ipv4"], wanted.rows["b4"]
    in_no_file = wanted.sources != Source.CONFIG
    own = "would be the router's own address, but is that of {}; give them another, or remove them, and reload then"
    # The new file has them no more, or otherwise: but addresses are taken over before bindings.
    changed = (
        "would be the router's own address, but is that of {} until a reload has changed them: do that reload first"
    )
    server = own.replace("router's own", "PCP server's")
    taken = (
        ("interfaces.v4.addresses", np.isin(ipv4, list(own_v4))),
        ("interfaces.v6.addresses", _is_one_of(b4, own_v6)),
        ("softwire.br_addresses", _is_one_of(b4, br)),
    )
    found: list[tuple[str, str, bool]] = []
    for path, mask in taken:
        found += _named(path, own, wanted, mask & in_no_file)
        found += _named(path, changed, wanted, mask & ~in_no_file)
    found += _named("pcp.server_addresses", server, wanted, np.isin(ipv4, list(server_v4)) & in_no_file)
    for address in gone:
        found += _left(IPv6Address(address), new, wanted.select(in_no_file & _is_one_of(wanted.rows["br"], [address])))
    return [Fault(new.source, 1, path, text, warning) for path, text, warning in found]


def seen_twice(look: Bound, settle: Callable[[], object]) -> Sourced:
    """`look` is beside a writer, and misses a row that goes from bound to waiting just then. When what was on its way
    is done (`settle`), that is where it went."""
    first = look()
    settle()
    then = look()
    known = row_sets.found(first.ids(), row_sets.distinct(then.ids()))[0]
    return Sourced.join([then, first.select(~known)])


def unserved(config: Config, bound: Sourced) -> list[str]:
    """Of a start: what is bound by a BR address that the configuration has no more. Leases are given another."""
    other = ~_is_one_of(bound.rows["br"], around(config).br) & (bound.sources != Source.DHCP)
    return [said for _, said, _ in _named("", _UNSERVED, bound, other)]


def meanwhile(old: Config, new: Config, bound: Bound) -> list[str]:
    """Behind a reload: what `faults` would have said, had it been bound before. Leases and B4s are given another."""
    was, will = around(old), around(new)
    gone, server_v4 = set(was.br) - set(will.br), will.server_v4 - was.server_v4
    if not (gone or server_v4):
        return []
    wanted = bound()
    unserved = (wanted.sources == Source.OPERATOR) & _is_one_of(wanted.rows["br"], gone)
    server = (wanted.sources != Source.CONFIG) & np.isin(wanted.rows["ipv4"], list(server_v4))
    text = "an address of the PCP server is that of {}; give them another, or remove them"
    found = [*_named("", _UNSERVED, wanted, unserved), *_named("", text, wanted, server)]
    return [said for _, said, _ in found]


def _left(address: IPv6Address, new: Config, wanted: Sourced) -> Iterator[tuple[str, str, bool]]:
    """An operator's binding stays as it is; leases are given another BR address, and with PCP a B4 asks for it."""
    path = "softwire.br_addresses"
    first = new.softwire.br_addresses[0]
    remedies = {
        Source.OPERATOR: "they would forward nothing: give them another, or remove them, and reload then",
        Source.DHCP: f"they get {first}, and their B4s have to use it",
        Source.PCP: "they forward nothing until their B4s ask again through another",
    }
    for source, remedy in remedies.items():
        text = f"{address} is no longer served, but used by {{}}; {remedy}"
        mine = wanted.select(wanted.sources == source)
        every = np.ones(len(mine), np.bool_)
        for at, said, _ in _named(path, text, mine, every):
            yield at, said, source != Source.OPERATOR


def _named(path: str, text: str, wanted: Sourced, mask: Mask) -> Iterator[tuple[str, str, bool]]:
    """How many there are, of whom, and some of them."""
    found = wanted.select(mask)
    if not len(found):
        return
    found = found.in_order(found.ids())
    counts = [(Source(source), int((found.sources == source).sum())) for source in np.unique(found.sources)]
    of = " and ".join(f"{count} binding{'s' * (count != 1)} of {source.label}" for source, count in counts)
    examples = ", ".join(describe(row) for row in found.rows[:_EXAMPLES])
    yield path, text.format(f"{of} ({'such as ' * (len(found) > _EXAMPLES)}{examples})"), False


def _is_one_of(octets: Octets, addresses: Collection[bytes]) -> npt.NDArray[np.bool_]:
    found = np.zeros(len(octets), np.bool_)
    for address in addresses:
        found |= (octets == np.frombuffer(address, np.uint8)).all(1)
    return found
