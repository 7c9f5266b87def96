"""What a command says when the connection does not come up: one line of its own, and what helps."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.api_router import LOCAL, Served, parts
from tests.test_api_security import Authority, secure
from tests.test_run import PYLWAFTR

OURS, OTHERS = "ours", "others"
CLOSED = "it closed the connection): does it want TLS (--ca), or another certificate (--cert, --key)?"
WAYS = [  # CA, certificate and key (of whom), name, what is said
    (None, None, None, CLOSED),
    (OURS, None, None, CLOSED),
    (OURS, OTHERS, None, CLOSED),
    (OTHERS, OURS, None, "its certificate is not of this CA): give --ca the one that signed it"),
    (
        OURS,
        OURS,
        "router.example.net",
        "its certificate is for another name): call it by that name, or give --server-name",
    ),
    (OURS, "key twice", None, "TLS cannot begin): are --cert and --key, and --ca, what they should be?"),
]


def said(words: Sequence[object]) -> tuple[int, str]:
    done = subprocess.run(
        [PYLWAFTR, "health", *map(str, words)], capture_output=True, text=True, timeout=60, check=False
    )
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    "ca, own, name, cause", WAYS, ids=["plaintext", "no certificate", "unknown", "CA", "name", "key"]
)
def test_what_is_wrong_with_the_connection(
    tmp_path: Path, ca: str | None, own: str | None, name: str | None, cause: str
) -> None:
    who = {of: Authority(tmp_path / of) for of in (OURS, OTHERS)}
    pairs = {of: authority.issue("client", "boss.example.net", common="boss") for of, authority in who.items()}
    pairs["key twice"] = (pairs[OURS][1], pairs[OURS][1])
    words: list[object] = ["--ca", who[ca].ca] if ca else []
    words += ["--cert", pairs[own][0], "--key", pairs[own][1]] if own else []
    words += ["--server-name", name] if name else []
    with Served(parts(), secure(who[OURS])) as served:
        status, told = said(["--server", served.target, *words])
    assert (status, told) == (1, f"pylwaftr: {served.target} does not answer ({cause}\n")


def test_tls_to_a_server_without_it() -> None:
    with Served(parts(), LOCAL) as served:
        status, told = said(["--server", served.target, "--tls"])
    assert (status, told.count("\n")) == (1, 1)
    assert told.startswith(f"pylwaftr: {served.target} does not answer (it does not speak TLS): leave out --tls, ")
