"""docs/api.md and the .proto files say what the code does."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

from pylwaftr.api import errors, security
from pylwaftr.api.limits import Limits
from pylwaftr.api.once import MAX_ID
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


CONVENTIONS = {  # field -> where all of its name are explained, in common.proto
    "validate_only": "VALIDATE_ONLY.",
    "request_id": "REQUEST_ID.",
    "etag": "ETAG.",
    "revision": "REVISION.",
    "page_size": "PAGES.",
    "page_token": "PAGES.",
    "next_page_token": "PAGES.",
}


def test_every_method_service_and_field_has_a_comment() -> None:
    bare = []
    for file in (ROOT / "proto").rglob("*.proto"):
        lines = file.read_text().splitlines()
        for above, line in itertools.pairwise(lines):
            field = re.fullmatch(r"\s+(?:[\w.<>, ]+ )?(\w+) = \d+;", line)  # or a value of an enum
            if field and (field[1] in CONVENTIONS or field[1].endswith("_UNSPECIFIED")):
                continue
            if (field or re.match(r"\s*(rpc|service) ", line)) and not above.lstrip().startswith("//"):
                bare.append(f"{file.name}: {line.strip()}")
    assert bare == []


def test_what_fields_have_in_common_is_explained() -> None:
    page = (ROOT / "proto" / "lwaftr" / "v1" / "common.proto").read_text()
    assert [field for field, heading in CONVENTIONS.items() if f"\n// {heading} " not in page] == []


def test_limits_are_those_of_the_code() -> None:
    """As the .proto files and docs/api.md have them."""
    limits = Limits()
    protos = " ".join(
        " ".join(line.strip().removeprefix("//").strip() for line in file.read_text().splitlines())
        for file in (ROOT / "proto").rglob("*.proto")
    )
    assert f"TOO_MANY_STREAMS if {limits.loads} loads and replacements run" in protos
    assert f"At most {limits.dumps} at a time" in protos
    assert f"At most {limits.watches} watches" in protos
    assert f"At most {limits.samplers} such streams run" in protos
    assert f"At most {limits.histories} such questions" in protos
    assert f"not take a message for {limits.write_s:g} seconds" in protos
    assert f"within ten minutes and {limits.remembered} changes" in protos
    assert limits.remembered_s == 600
    assert f"of up to {MAX_ID} characters" in protos
    page = " ".join(PAGE.split())
    kinds = (limits.loads, limits.watches, limits.samplers, limits.histories, limits.dumps)
    assert "{} loads, {} watches, {} streams of counters, {} queries of the history, {} dumps".format(*kinds) in page
    assert f"{limits.streams_per_connection} calls on one connection" in page
    assert f"more than {limits.calls} calls run" in page


def test_every_service_and_command_is_there() -> None:
    for service in security.SERVICES:
        assert service.rpartition(".")[2] in PAGE
    shown = set(re.findall(r"^pylwaftr ([a-z-]+)", PAGE, re.MULTILINE))
    assert shown <= main.COMMANDS.keys()
