"""`python -m pylwaftr.bench.router_process CONFIG WORDS BINDINGS`: what `pylwaftr run` does, with sources of traffic.

They are on the receive queues of the one worker before it begins to poll: random ones of so many bindings of
_core.bench_rows(). WORDS is the file of paced.py.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pylwaftr import _core
from pylwaftr.bench.paced import SIDES, Words
from pylwaftr.bench.parent import end_with_parent
from pylwaftr.config import Config, ConfigFaults, load
from pylwaftr.daemon import run, start
from pylwaftr.daemon.router import Router, StartFault
from pylwaftr.ports import PortSpec


class _Sources:
    def __init__(self, words: Words, bindings: int) -> None:
        self._words, self._bindings = words, bindings
        self._kept: list[Any] = []

    def router(self, config: Config, specs: list[PortSpec], extra_args: Sequence[str], taken: Sequence[str]) -> Router:
        made = start.started(config, specs, extra_args, taken)
        self._words.begin(_core.bench_tsc_hz(), config.dataplane.rx_descriptors)
        sides = config.interfaces
        for port, (direction, side) in enumerate(zip(SIDES, (sides.v4, sides.v6), strict=True)):
            sizes, mac = [_core.BenchSource.least(direction)], side.mac
            assert mac is not None
            source = _core.BenchSource(port, 0, direction, self._bindings, sizes, mac, self._words.of(port))
            self._kept.append(source)
        return made


def main(config_file: str, words_file: str, bindings: str) -> int:
    end_with_parent()
    try:
        config = load(config_file)
        logging.basicConfig(level=config.logging.level.upper(), format="%(asctime)s %(levelname)s %(message)s")
        sources = _Sources(Words(Path(words_file)), int(bindings))
        run.run(config, (), lambda: print("ready", flush=True), (), sources.router)
    except (ConfigFaults, StartFault) as fault:
        print(fault, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
