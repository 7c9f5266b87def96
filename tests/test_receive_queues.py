"""dataplane.rx_descriptors: what the ports are asked for. No port without hardware tells what it has."""

from __future__ import annotations

from typing import Any

import pytest

from pylwaftr import _core, config, eal_args
from pylwaftr.daemon.router import Router, empty_table
from tests.config_text import text


@pytest.mark.parametrize("given, wanted", [("", 1024), ("dataplane: {rx_descriptors: 256}", 256)])
def test_the_ports_are_asked_for_what_is_configured(monkeypatch: pytest.MonkeyPatch, given: str, wanted: int) -> None:
    asked: dict[str, Any] = {}

    class Engine:
        remarks: tuple[str, ...] = ()

        def __init__(self, *_: Any, **named: Any) -> None:
            asked.update(named)

    monkeypatch.setattr(_core, "Engine", Engine)
    loaded = config.load_text(text(given))
    Router(loaded, empty_table(loaded), ["net_null0", "net_null1"], [1], eal_args.buffers(1500, 2, 1, 1000), 0)
    assert asked["rx_descriptors"] == wanted
