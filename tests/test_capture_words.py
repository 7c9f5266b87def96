"""`pylwaftr capture` without a router: what it refuses by itself, and what it makes of answers."""

from __future__ import annotations

from pathlib import Path

import pytest

from pylwaftr import capture, capture_client
from pylwaftr.capture import CaptureFault, Wanted
from tests.test_capture import captured

REFUSED = [  # options, exit status, what is said
    (["-f", "foo bar"], 2, "is no pcap filter"),
    (["--count", "0"], 2, "--count"),
    (["--seconds", "0"], 2, "--seconds"),
    (["--snap-length", "20000"], 2, "--snap-length"),
    (["--socket", "/nowhere"], 1, "/nowhere: no router can be asked there: No such file or directory"),
]


@pytest.mark.parametrize("options, status, said", REFUSED)
def test_what_is_refused(tmp_path: Path, options: list[str], status: int, said: str) -> None:
    done = captured(tmp_path / "x", *options)
    assert done.returncode == status
    assert said in done.stderr
    assert done.stdout == ""
    assert not (tmp_path / "x").exists()


def test_a_request_that_is_too_long() -> None:
    with pytest.raises(CaptureFault, match="too long by"):
        capture.start_command(Wanted("/x", 1, 1, 14, "udp or " * 200 + "tcp"))


def test_replies_of_others() -> None:
    assert capture.greeted_by(b'{"version":"DPDK 22.11.11","pid":7194,"max_output_len":16384}') == 7194
    assert capture.greeted_by(b"[]") is None
    assert not capture.is_router(b'{"/":["/","/eal/params"]}')
    assert not capture.is_router(b"\xff")
    with pytest.raises(CaptureFault, match="another program"):
        capture.state_of(capture.STATE, b'{"/lwaftr/capture_state":null}')


@pytest.mark.parametrize(
    "found, said",
    [([], "no running router was found"), ([(Path("/a"), 1), (Path("/b"), 2)], r"choose one with --socket: /a \(pro")],
)
def test_which_router(monkeypatch: pytest.MonkeyPatch, found: list[tuple[Path, int]], said: str) -> None:
    monkeypatch.setattr(capture_client, "routers", lambda: found)
    with pytest.raises(CaptureFault, match=said):
        capture_client.only_router()
