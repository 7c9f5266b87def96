"""The way of frames through the stages of a lane of its own, beside the workers: for `explain`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from pylwaftr import _core
from pylwaftr.config import Config, core_settings
from pylwaftr.daemon.router import COUNTERS
from pylwaftr.explain.story import Given, Story, Use, Way, tell

# Where a configuration has none of its own: an explanation does not wait for a next hop.
_OWN_MAC = {"v4": bytes.fromhex("020000000401"), "v6": bytes.fromhex("020000000601")}
_NEXT_HOP = {"v4": bytes.fromhex("0200000004fe"), "v6": bytes.fromhex("0200000006fe")}
_BUFFERS = 512
_USES = {_core.USE_NONE: "none", _core.USE_WHOLE: "whole", _core.USE_SHARED: "shared"}
_WAYS = {
    counter.name: Way(counter.name, counter.kind, counter.requirement, counter.help)
    for counter in COUNTERS
    if counter.kind in ("edge", "drop", "held")
}


def explain(config: Config, table: _core.BindingTable, frames: Iterable[Given]) -> Iterator[Story]:
    """The way of each frame, in order. EAL has to run.

    Frames meet the same lane one after the other, so fragments and errors find what earlier frames left behind. Next
    hops count as resolved, and a frame for another MAC address is dropped as it would be on the wire.
    """
    settings = core_settings(config)
    for side, mac in _OWN_MAC.items():
        settings[side]["mac"] = settings[side]["mac"] or mac
    lane = _core.Lane(settings, table, _BUFFERS)
    for side, mac in _NEXT_HOP.items():
        lane.set_next_hop(side, mac)
    lane.watch()
    for number, given in enumerate(frames, 1):
        yield _explained(lane, table, number, _framed(given, settings))
    lane.drop_held()


def _framed(given: Given, settings: dict[str, dict[str, object]]) -> Given:
    if not given.bare:
        return given
    side = settings[given.side]
    mac, vlan = side["mac"], side["vlan"]
    assert isinstance(mac, bytes)
    tag = b"" if vlan is None else b"\x81\x00" + int(str(vlan)).to_bytes(2)
    kind = b"\x86\xdd" if given.side == "v6" else b"\x08\x00"
    return Given(given.side, mac + _NEXT_HOP[given.side] + tag + kind + given.octets)


def _explained(lane: _core.Lane, table: _core.BindingTable, number: int, given: Given) -> Story:
    before = lane.counters()
    lane.feed(given.side, given.octets)
    after = lane.counters()
    ends = lane.take_ends()
    lane.punted()  # nobody else takes it
    moved = {name: value - before[name] for name, value in after.items()}
    uses = {end["key"][0]: _use(table, end["key"][0]) for end in ends if "key" in end}
    return tell(number, given.side, given.octets, ends, moved, lane.take(), _WAYS, uses)


def _use(table: _core.BindingTable, address: int) -> Use:
    kind, offset, length = table.classify(address)
    return Use(_USES[kind], offset, length)
