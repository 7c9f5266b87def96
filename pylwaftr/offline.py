"""`explain` without a running router: the stages of a configuration, and no port."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator

from pylwaftr import eal_args
from pylwaftr.config import Config
from pylwaftr.daemon import way
from pylwaftr.daemon.eal import start_eal, stop_eal
from pylwaftr.daemon.router import bound_table
from pylwaftr.explain.story import Given, Story


def explain(config: Config, frames: Iterable[Given]) -> Iterator[Story]:
    """The way of each frame through the stages of this configuration, in order (way.explain). Raises StartFault."""
    start_eal(eal_args.replay_vector(eal_args.replay_buffers(1500, 0, 0, 0), os.sched_getaffinity(0)), None)
    try:
        yield from way.explain(config, bound_table(config), frames)
    finally:
        stop_eal()
