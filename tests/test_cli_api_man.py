"""The manual pages: one for each command, in plain roff."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from pylwaftr.cli.main import COMMANDS

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("man")
    subprocess.run([sys.executable, str(ROOT / "scripts" / "make_man.py"), str(made)], check=True)
    return made


def test_every_command_has_a_page(folder: Path) -> None:
    names = {path.name for path in folder.iterdir()}
    assert {f"pylwaftr-{name}.1" for name in COMMANDS} | {"pylwaftr.1", "pylwaftr-bindings-import.1"} <= names
    text = (folder / "pylwaftr-lookup.1").read_text()
    assert "Exit status: 0 somebody, 3 nobody" in text
    assert r"\fB\-\-at TIME\fR" in text
    for page in folder.iterdir():
        assert ".SH EXIT STATUS\n0 done, 1 failed" in page.read_text()


def test_roff_reads_nothing_as_a_request_that_is_text(folder: Path) -> None:
    for page in sorted(folder.iterdir()):
        for line in page.read_text().splitlines():
            if line.startswith((".", "'")):
                assert line.split()[0] in (".TH", ".SH", ".PP", ".TP"), f"{page.name}: {line}"
            assert re.sub(r"\\(?:fB|fR|-|e|&)", "", line).count("\\") == 0, f"{page.name}: {line}"
