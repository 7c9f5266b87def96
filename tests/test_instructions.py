"""scripts/instructions.py: what is outside of the band, and what to do about it."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

PATH = Path(__file__).parent.parent / "scripts" / "instructions.py"
_spec = importlib.util.spec_from_file_location("instructions", PATH)
assert _spec is not None
assert _spec.loader is not None
instructions = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(instructions)

ROWS = [
    ("the same", 400.0, None),
    ("a little more", 419.0, None),
    ("a little less", 381.0, None),
    ("more", 425.0, "encap: 425.0 instructions a packet, 6.2% more than the 400.0"),
    ("less", 350.0, "encap: 350.0 instructions a packet, 12.5% less than the 400.0"),
]


@pytest.mark.parametrize("counted, said", [row[1:] for row in ROWS], ids=[row[0] for row in ROWS])
def test_the_band(counted: float, said: str | None) -> None:
    faults = instructions.judge({"encap": counted, "decap": 1.0}, {"encap": 400.0, "decap": 1.0})
    assert len(faults) == (said is not None)
    if said is not None:
        assert faults[0].startswith(said)
        assert "scripts/instructions.py --update" in faults[0]


def test_the_band_that_is_kept() -> None:
    kept = json.loads(instructions.BAND.read_text())["instructions_per_packet"]
    assert set(kept) == {"encap", "decap", "hairpin"}
    assert all(50 < value < 2000 for value in kept.values())
