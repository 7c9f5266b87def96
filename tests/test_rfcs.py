"""docs/rfcs.md and docs/counters.md cannot rot: every name in them exists, and they are what their sources make."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from scripts import made_file, make_counters_doc, make_rfcs
from scripts.make_rfcs import Requirement, Section

ROOT = Path(__file__).resolve().parent.parent

# The specification's numbering: every requirement is in the table, whatever its state.
NUMBERS = {
    "DP": [(1, 16), (20, 39), (50, 63), (70, 91), (100, 108), (110, 132), (140, 152), (160, 185), (190, 205)],
    "B4": [(10, 15), (20, 28), (30, 31)],
    "OP": [(1, 10)],
    "PCP": [(1, 58), (60, 106), (110, 117), (120, 123), (130, 143)],
    "LQ": [(1, 18), (20, 43), (50, 67), (70, 94), (100, 128), (130, 137), (140, 161), (170, 184)],
}
ALL = [f"{kind}-{n:03}" for kind, runs in NUMBERS.items() for first, last in runs for n in range(first, last + 1)]


def everything() -> list[Requirement]:
    return [r for section in make_rfcs.sections() for r in section.requirements]


# --- where a name is defined -----------------------------------------------------------------------------------------

# Not a call: something like a type stands before the name, and neither an operator nor a statement's keyword.
_CPP_FUNCTION = r"^[ \t]*+(?!return\b|else\b|throw\b|case\b)[\w:<>,&*\[\] \t]*[\w>\]&*][ \t&*]+(?:\w+::)*{}\("
_CPP_TYPE = r"\b(?:struct|class|enum class|using) {}\b"
_CPP_VALUE = r"^[ \t]*+\w[\w:<>, ]*[ \t&*]{}(?:\{{[^}}]*\}})?(?:;| = |,)"
_CPP_COUNTER = r"^LW_COUNTER\({},"
CPP = (_CPP_FUNCTION, _CPP_TYPE, _CPP_VALUE, _CPP_COUNTER)


def defined_in_cpp(text: str, name: str) -> bool:
    return any(re.search(pattern.format(re.escape(name)), text, re.MULTILINE) for pattern in CPP)


@cache
def names_in_python(path: Path) -> frozenset[str]:
    """Functions, classes, methods and what is assigned at the top."""
    found: set[str] = set()
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
    for node in tree.body:
        targets = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        )
        found |= {target.id for target in targets if isinstance(target, ast.Name)}
    return frozenset(found)


def place_of_code(file: str) -> Path:
    return ROOT / ("pylwaftr" if file.endswith(".py") else "csrc") / file


def place_of_test(module: str) -> Path:
    if module == "lab":
        return ROOT / "pylwaftr" / "lab" / "scenarios.py"
    if module.startswith("lab/"):
        return ROOT / "pylwaftr" / f"{module}.py"
    return ROOT / "tests" / (module if module.startswith("native/") else f"test_{module}.py")


def fault(path: Path, name: str) -> str | None:
    if not path.is_file():
        return f"{path.relative_to(ROOT)} does not exist"
    known = name in names_in_python(path) if path.suffix == ".py" else defined_in_cpp(path.read_text(), name)
    return None if known else f"{path.relative_to(ROOT)} defines no {name or 'nothing'}"


def runs_something(path: Path, name: str) -> bool:
    """A test function, a table of rows, a step of the lab, a program's part."""
    return name.startswith("test_") or name.isupper() or path.suffix == ".cpp" or path.parent.name == "lab"


def faults_of(requirement: Requirement) -> Iterator[str]:
    examples = make_rfcs.shown_by(make_rfcs.examples(), requirement.id)
    for entry in requirement.code:
        file, _, name = entry.partition("::")
        if said := fault(place_of_code(file), name):
            yield said
    for entry in requirement.tests:
        module, _, name = entry.partition("::")
        path = place_of_test(module)
        if said := fault(path, name):
            yield said
        elif not runs_something(path, name):
            yield f"{entry} is no test"
    if requirement.state not in make_rfcs.STATES:
        yield f"the state {requirement.state} is none of {make_rfcs.STATES}"
    if requirement.state == "met" and not requirement.code:
        yield "met, but no code is named"
    if requirement.state == "met" and not requirement.tests and not examples:
        yield "met, but no test is named and no example shows it"
    if (requirement.state == "met") == bool(requirement.note):
        yield "what is not met says what is missing, and nothing else has a note"
    if "|" in requirement.text + requirement.note or not requirement.text or not requirement.source:
        yield "text and source are one table cell each"


# --- the tables ------------------------------------------------------------------------------------------------------


def test_every_requirement_is_there_once_and_in_order() -> None:
    assert [r.id for r in everything()] == ALL


@pytest.mark.parametrize("requirement", everything(), ids=lambda r: str(r.id))
def test_requirement(requirement: Requirement) -> None:
    assert list(faults_of(requirement)) == []


def test_every_example_shows_requirements_of_the_table() -> None:
    examples = make_rfcs.examples()
    assert len(examples) == 285
    unknown = {name: ids for name, ids in examples.items() if not ids or set(ids) - set(ALL)}
    assert unknown == {}
    page = make_rfcs.PAGE.read_text()
    for name, ids in examples.items():
        assert f"| `{name}` | {', '.join(ids)} |" in page


def test_requirements_named_elsewhere_exist() -> None:
    """In counters, comments and names of rows."""
    paths = [
        p for d, e in (("csrc", "[chd]*"), ("pylwaftr", "py"), ("tests", "py")) for p in (ROOT / d).rglob(f"*.{e}")
    ]
    named = {
        (path.name, found)
        for path in paths
        if path.name != Path(__file__).name and "generated" not in path.parts
        for found in re.findall(r"\b(?:DP|B4|OP|PCP|LQ)-\d{3}\b", path.read_text())
    }
    assert len(named) > 100
    assert {(name, found) for name, found in named if found not in ALL} == set()


def test_the_page_is_up_to_date() -> None:
    assert make_rfcs.main(["--check"]) == 0, "run scripts/make_rfcs.py"


# --- counters --------------------------------------------------------------------------------------------------------


def test_the_page_of_counters_is_up_to_date() -> None:
    assert make_counters_doc.main(["--check"]) == 0, "run scripts/make_counters_doc.py"


def test_the_page_of_counters_has_them_all() -> None:
    found = make_counters_doc.entries(make_counters_doc.SOURCE.read_text())
    page = make_counters_doc.PAGE.read_text()
    assert len(found) == len({entry.name for entry in found}) > 90
    for entry in found:
        assert page.count(f"| `{entry.name}` |") == 1
        assert entry.requirement == "-" or entry.requirement in ALL
        assert entry.help
    assert "sum(rx) = sum(edge) + sum(drop) + sum(held)" in page


def test_a_counter_that_is_not_understood_is_a_fault() -> None:
    with pytest.raises(ValueError, match="not understood"):
        make_counters_doc.entries('LW_COUNTER(a, rx, packets, "-" "b")')
    with pytest.raises(ValueError, match="without a heading"):
        make_counters_doc.entries('LW_COUNTER(a, lost, packets, "-", "b")')


def test_a_made_file_is_written_or_judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                          capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    monkeypatch.setattr(made_file, "ROOT", tmp_path)
    out, maker = tmp_path / "page.md", "scripts/make_page.py"
    assert made_file.main(out, "new", maker, ["--check"]) == 1, "it is not there"
    out.write_text("old")
    assert made_file.main(out, "new", maker, ["--check"]) == 1
    assert capsys.readouterr().err == "page.md is not up to date: run scripts/make_page.py\n" * 2
    assert made_file.main(out, "new", maker, ["--chekc"]) == 2
    assert "make_page.py [--check]" in capsys.readouterr().err
    assert (out.read_text(), made_file.main(out, "new", maker, [])) == ("old", 0)
    assert (out.read_text(), made_file.main(out, "new", maker, ["--check"])) == ("new", 0)


# --- the rules themselves --------------------------------------------------------------------------------------------

CPP_NAMES = [  # text, name, is it defined there
    ("void drop(Context& ctx) {", "drop", True),
    ("  drop(ctx, item);", "drop", False),
    ("  return drop(ctx, item);", "drop", False),
    ("  const bool found = find(key);", "find", False),
    ("inline bool Table::find(Key key) const {", "find", True),
    ("std::optional<Reason> A::judge(const Row& row) {", "judge", True),
    ("  std::uint16_t held{};", "held", True),
    ("  held = 3;", "held", False),
    ("enum class Hairpin : std::uint8_t { local };", "Hairpin", True),
    ('LW_COUNTER(encap, edge, packets, "-", "x")', "encap", True),
    ("// drop() is called", "drop", False),
]


@pytest.mark.parametrize("text, name, there", CPP_NAMES)
def test_what_defines_a_name(text: str, name: str, there: bool) -> None:
    assert defined_in_cpp(text, name) == there


WRONG = [  # what is changed, what is said
    ({"code": ("ipv4.cpp::gone",)}, "csrc/ipv4.cpp defines no gone"),
    ({"code": ("gone.cpp::x",)}, "csrc/gone.cpp does not exist"),
    ({"tests": ("packet_rows::test_gone",)}, "tests/test_packet_rows.py defines no test_gone"),
    ({"tests": ("packet_rows::_marked",)}, "packet_rows::_marked is no test"),
    ({"code": ()}, "met, but no code is named"),
    ({"tests": (), "id": "DP-999"}, "met, but no test is named and no example shows it"),
    ({"state": "maybe"}, "the state maybe is none of"),
    ({"state": "not yet"}, "what is not met says what is missing"),
    ({"note": "but"}, "what is not met says what is missing"),
]


@pytest.mark.parametrize("changes, said", WRONG, ids=[said for _, said in WRONG])
def test_what_is_wrong_is_said(changes: dict[str, object], said: str) -> None:
    sound = {"id": "DP-001", "level": "MUST", "text": "a", "source": "b", "code": ("ipv4.cpp::check_ipv4",),
             "tests": ("packet_rows::test_row",)}  # fmt: skip
    assert list(faults_of(Requirement(**sound))) == []  # type: ignore[arg-type]
    found = list(faults_of(Requirement(**{**sound, **changes})))  # type: ignore[arg-type]
    assert any(fault.startswith(said) for fault in found), found


def test_the_page_tells_what_is_not_met() -> None:
    section = Section("A", (Requirement("DP-001", "MUST", "t", "s", state="not yet", note="later"),))
    page = make_rfcs.page([section], {"x": ("DP-001",)})
    assert "1 requirements: 0 met, 0 partly, 1 not yet, 0 does not arise." in page
    assert "| DP-001 | MUST | t | not yet | later |" in page
    assert "| DP-001 | MUST | t | s |  | *examples* `x` | not yet: later |" in page
