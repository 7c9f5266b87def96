"""Captures over the API that the router writes to a file of its own: whoever asks has not the router's rights."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from pylwaftr.capture import CaptureFault, State, Wanted
from pylwaftr.daemon import diagnostics
from pylwaftr.daemon.diagnostics import Diagnostics


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Wanted]:
    """What the compiled core was asked for; it refuses the filter "refuse"."""
    found: list[Wanted] = []

    async def captured(wanted: Wanted) -> AsyncGenerator[State, None]:
        found.append(wanted)
        if wanted.filter == "refuse":
            raise CaptureFault("the filter is none")
        if wanted.filter == "gone":
            Path(wanted.file).unlink()
            raise CaptureFault("the filter is none")
        if wanted.filter == "nothing":
            yield State("running", "")
        Path(wanted.file).write_bytes(b"frames")
        yield State("finished", "count")

    monkeypatch.setattr(diagnostics, "_captured", captured)
    return found


def capture(file: Path, wanted_filter: str = "") -> list[Any]:
    async def all_of() -> list[Any]:
        made = Diagnostics(None, lambda: None)  # type: ignore[arg-type,return-value]
        return [piece async for piece in made.capture(Wanted(str(file), 1, 1.0, 64, wanted_filter))]

    return asyncio.run(all_of())


def test_a_new_file_is_its_owner_s_alone(asked: list[Wanted], tmp_path: Path) -> None:
    file = tmp_path / "new.pcapng"
    assert [piece.state.state for piece in capture(file)] == ["finished"]
    assert (file.read_bytes(), file.stat().st_mode & 0o777) == (b"frames", 0o600)


@pytest.mark.parametrize("what", ["file", "link", "dangling link", "folder"])
def test_what_is_there_is_not_written_over(asked: list[Wanted], tmp_path: Path, what: str) -> None:
    secret, file = tmp_path / "secret", tmp_path / "file"
    secret.write_text("mine")
    match what:
        case "file":
            file = secret
        case "link":
            file.symlink_to(secret)
        case "dangling link":
            file.symlink_to(tmp_path / "nothing")
        case "folder":
            file.mkdir()
    with pytest.raises(CaptureFault, match=r"cannot be made \(File exists\): give the name of a new file"):
        capture(file)
    assert (asked, secret.read_text(), (tmp_path / "nothing").exists()) == ([], "mine", False)


def test_a_capture_that_is_refused_leaves_no_file(asked: list[Wanted], tmp_path: Path) -> None:
    with pytest.raises(CaptureFault, match="the filter is none"):
        capture(tmp_path / "new.pcapng", "refuse")
    with pytest.raises(CaptureFault, match="No such file or directory"):
        capture(tmp_path / "no" / "folder")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_somebody_took_away_hides_no_refusal(asked: list[Wanted], tmp_path: Path) -> None:
    with pytest.raises(CaptureFault, match="the filter is none"):
        capture(tmp_path / "new.pcapng", "gone")


def test_a_client_that_leaves_before_the_first_frame_leaves_no_file(asked: list[Wanted], tmp_path: Path) -> None:
    file = tmp_path / "new.pcapng"

    async def leave() -> None:
        made = Diagnostics(None, lambda: None)  # type: ignore[arg-type,return-value]
        pieces = made.capture(Wanted(str(file), 1, 1.0, 64, "nothing"))
        assert (await anext(pieces)).state.state == "running"
        await pieces.aclose()  # type: ignore[attr-defined]

    asyncio.run(leave())
    assert list(tmp_path.iterdir()) == []
    assert [piece.state.state for piece in capture(file)] == ["finished"]
