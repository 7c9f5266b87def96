"""What the documents tell people to type exists: commands, their options, files they name, the configuration shown."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import yaml

from pylwaftr import config
from pylwaftr.cli.main import main

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "configs" / "pylwaftr.service"]


def commands(text: str) -> Iterator[str]:
    """Lines of blocks and spans of code, from the program's name on; what was printed or is left out is cut off."""
    code = re.findall(r"```[a-z]*\n(.*?)```", text, re.S) + re.findall(
        r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.S)
    )
    for line in "\n".join(code).replace("\\\n", " ").splitlines():
        if found := re.match(r"(?:\$ |sudo |\.venv/bin/|ExecStart=\S*/)*pylwaftr (\S.*)", line):
            yield re.split(r"  #|\s[>|]\s|…|\|", found[1])[0]


NAMED = sorted({(page.name, words) for page in PAGES for words in commands(page.read_text())})


def resolved(words: list[str]) -> tuple[click.Command, list[str]]:
    """The command that the words name, and its arguments."""
    command: click.Command = main
    context = click.Context(main)
    while isinstance(command, click.Group) and words:
        found = command.get_command(context, words[0])
        if found is None:
            break
        command, words = found, words[1:]
    return command, words


@pytest.mark.parametrize("page, words", NAMED, ids=[f"{page}: {words}" for page, words in NAMED])
def test_a_command_and_its_options_exist(page: str, words: str) -> None:
    command, rest = resolved(shlex.split(words, comments=True))
    assert command is not main or rest[0].startswith("-"), f"there is no command {rest[0]}"
    known = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)} | {
        "--help",
        "-h",
    }
    options = [word.partition("=")[0] for word in rest if re.match(r"--?[a-z]", word)]
    assert [option for option in options if option not in known] == []


def test_there_are_many() -> None:
    assert len(NAMED) > 40


def test_the_configuration_of_the_walk_is_valid() -> None:
    (text,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    assert yaml.safe_load(text)["bindings"]
    assert config.load_text(text).warnings == ()


def test_the_packet_of_the_walk_is_forwarded(tmp_path: Path) -> None:
    readme = (ROOT / "README.md").read_text()
    (text,), (packet,) = re.findall(r"```yaml\n(.*?)```", readme, re.S), re.findall(r"--hex (\w+)", readme)
    (tmp_path / "lwaftr.yaml").write_text(text)
    words = [sys.executable, "-m", "pylwaftr", "explain", "-c", "lwaftr.yaml", "--side", "v4", "--hex", packet]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert "encap (DP-050)" in done.stdout, done.stderr


def test_links_lead_somewhere() -> None:
    pages = [page for page in PAGES if page.suffix == ".md"]
    links = {
        (page, link) for page in pages for link in re.findall(r"\]\(([^)#\s]+)", page.read_text()) if "://" not in link
    }
    assert len(links) > 30
    assert {(page.name, link) for page, link in links if not (page.parent / link).exists()} == set()


WRONG = [("bindings frobnicate x", "frobnicate"), ("nothing at all", "nothing")]


@pytest.mark.parametrize("words, left", WRONG)
def test_what_does_not_exist_is_seen(words: str, left: str) -> None:
    command, rest = resolved(words.split())
    assert isinstance(command, click.Group)
    assert rest[0] == left
