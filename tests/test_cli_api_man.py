"""The manual pages: one for each command, and none that groff complains about."""

from __future__ import annotations

import shutil
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


@pytest.mark.skipif(shutil.which("groff") is None, reason="needs groff")
def test_groff_has_no_complaint(folder: Path) -> None:
    for page in sorted(folder.iterdir()):
        done = subprocess.run(["groff", "-man", "-Tutf8", "-ww", "-z", page], capture_output=True, text=True)
        assert (page.name, done.stderr) == (page.name, "")
