"""docs/api.md and the .proto files say what the code does."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

from pylwaftr.api import errors, security
from pylwaftr.cli import main
from pylwaftr.refusals import TEXTS

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "api.md").read_text()


def named() -> dict[str, str]:
    """Reason -> code, of the table of errors."""
    found = {}
    for line in PAGE.splitlines():
        if row := re.fullmatch(r"\| ([A-Z_, ]+) \| ([A-Z_]+) \| .+ \|", line):
            found |= dict.fromkeys(row[1].split(", "), row[2])
    return found


def test_every_reason_is_explained() -> None:
    sources = "".join(path.read_text() for path in (ROOT / "pylwaftr" / "api").glob("*.py"))
    in_code = set(re.findall(r'"([A-Z]+_[A-Z_]+)"', sources)) - {"SOURCE_OPERATOR"} | {"COMPACTED", "INTERNAL"}
    in_code -= {name for name in in_code if name.startswith(("ROLE_", "MAX_", "SERVING", "NOT_SERVING"))}
    reasons = {name for name in in_code if not hasattr(errors.Code, name)} | {"ROLE_TOO_LOW"}
    refusals = {errors.REASONS.get(reason, reason.upper()) for reason in TEXTS}
    assert (reasons | refusals) - named().keys() == set()
    assert named().keys() - (reasons | refusals | {"INTERNAL", "OVERLAP", "SUBSCRIBER_LIMIT"}) == set()


def test_the_codes_of_refusals() -> None:
    for reason in TEXTS:
        code = errors.CODES.get(reason, errors.Code.INVALID_ARGUMENT).name
        assert named()[errors.REASONS.get(reason, reason.upper())] == code


def test_every_method_and_service_has_a_comment() -> None:
    bare = []
    for file in (ROOT / "proto").rglob("*.proto"):
        lines = file.read_text().splitlines()
        for above, line in itertools.pairwise(lines):
            if re.match(r"\s*(rpc|service) ", line) and not above.lstrip().startswith("//"):
                bare.append(f"{file.name}: {line.strip()}")
    assert bare == []


def test_every_service_and_command_is_there() -> None:
    for service in security.SERVICES:
        assert service.rpartition(".")[2] in PAGE
    shown = set(re.findall(r"^pylwaftr ([a-z-]+)", PAGE, re.MULTILINE))
    assert shown <= main.COMMANDS.keys()
