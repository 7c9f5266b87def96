"""The build: instruction sets and refused CPUs, what is compiled again, pins, stub, gRPC code, wheel; test stages."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

from pylwaftr import cpu

ROOT = Path(__file__).resolve().parent.parent


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"build_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


native_build = load(ROOT / "scripts" / "native_build.py")
setup = load(ROOT / "setup.py")
runner = load(ROOT / "scripts" / "run_tests.py")

# --- instruction sets ------------------------------------------------------------------------------------------------

CPUINFO = """processor\t: 0
model name\t: Example
flags\t\t: fpu sse2 pni ssse3 sse4_2 popcnt
processor\t: 1
flags\t\t: avx2
"""

LACKING = [
    ("all there", ("pni", "sse4_2"), CPUINFO, []),
    ("one not there", ("pni", "avx2", "bmi2"), CPUINFO, ["avx2", "bmi2"]),  # the other CPU's do not count
    ("built for nothing special", (), CPUINFO, []),
    ("a kernel that names no flags", ("avx2",), "processor\t: 0\nFeatures\t: fp asimd\n", []),
    ("an empty text", ("avx2",), "", []),
]


@pytest.mark.parametrize("what, needed, text, lacking", LACKING, ids=[row[0] for row in LACKING])
def test_missing_features(what: str, needed: tuple[str, ...], text: str, lacking: list[str]) -> None:
    assert cpu.missing(needed, text.splitlines(keepends=True)) == lacking


MARCH = [
    ("x86-64-v2", {"pni", "ssse3", "sse4_2", "popcnt"}, {"avx", "avx2", "fma"}),
    ("x86-64-v3", {"sse4_2", "avx", "avx2", "fma", "bmi1", "bmi2", "abm", "movbe", "f16c"}, {"avx512f"}),
    ("x86-64-v4", {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}, {"avx512_vnni"}),
]


@pytest.mark.parametrize("march, has, has_not", MARCH, ids=[row[0] for row in MARCH])
def test_features_of_an_instruction_set(march: str, has: set[str], has_not: set[str]) -> None:
    flags = set(native_build.cpu_flags("g++", march))
    assert has <= flags
    assert not has_not & flags


def test_this_cpu_has_what_native_asks_for() -> None:
    with cpu.CPUINFO.open() as lines:
        assert cpu.missing(native_build.cpu_flags("g++", "native"), lines) == []


@pytest.mark.parametrize(
    "march, why", [("x86-64", "x86-64-v2 is the least"), ("pdp11", "PYLWAFTR_MARCH=pdp11: g[+]{2} knows no such")]
)
def test_instruction_sets_that_are_refused(march: str, why: str) -> None:
    with pytest.raises(native_build.BuildError, match=why):
        native_build.cpu_flags("g++", march)


def test_start_on_a_cpu_without_the_instruction_set(tmp_path: Path) -> None:
    package = tmp_path / "pylwaftr"
    package.mkdir()
    for name in ("__init__.py", "cpu.py"):
        (package / name).write_text((ROOT / "pylwaftr" / name).read_text())
    (package / "_build_info.py").write_text("MARCH = 'x86-64-v9'\nCPU_FLAGS = ('pni', 'avx4096')\n")
    command = [sys.executable, "-c", "import pylwaftr"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "built for the instruction set 'x86-64-v9', and this CPU lacks avx4096" in done.stderr
    assert "PYLWAFTR_MARCH" in done.stderr
    assert "Traceback" not in done.stderr


# --- DPDK ------------------------------------------------------------------------------------------------------------


def test_dpdk_headers_are_not_ours_to_warn_about() -> None:
    given = ["-I/usr/include/dpdk", "-include", "rte_config.h", "-march=corei7", "-DX"]
    assert native_build.as_system_headers(given) == ["-isystem", "/usr/include/dpdk", "-include", "rte_config.h", "-DX"]


def test_missing_dpdk_names_the_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PKG_CONFIG_LIBDIR", str(tmp_path))
    with pytest.raises(native_build.BuildError, match="apt-get install libdpdk-dev"):
        native_build.find_dpdk()
    with pytest.raises(native_build.BuildError, match="apt-get install pkg-config"):
        native_build.find_dpdk("no-such-pkg-config")


# --- what is compiled again ------------------------------------------------------------------------------------------


class Tree:
    """two.cpp includes a header, one.cpp does not."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "a header.hpp").write_text("inline int f() { return 1; }\n")
        (root / "one.cpp").write_text("int g() { return 2; }\n")
        (root / "two.cpp").write_text('#include "a header.hpp"\nint h() { return f(); }\n')

    def build(self, *flags: str, versions: str = "1") -> set[str]:
        """The objects that were made anew."""
        out = self.root / "out"
        before = {path.name: path.stat().st_ino for path in out.glob("*.o")}
        stamps = {path.name: path.stat().st_mtime_ns for path in out.glob("*.o")}
        sources = [self.root / "one.cpp", self.root / "two.cpp"]
        objects = native_build.compile_all(["g++", *flags], sources, out, versions, 2)
        assert [path.name for path in objects] == ["one.o", "two.o"]
        return {
            path.name
            for path in objects
            if before.get(path.name) != path.stat().st_ino or stamps[path.name] != path.stat().st_mtime_ns
        }


def test_what_is_compiled_again(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    assert tree.build() == {"one.o", "two.o"}
    assert tree.build() == set()
    (tmp_path / "a header.hpp").write_text("inline int f() { return 3; }\n")
    assert tree.build() == {"two.o"}
    (tmp_path / "one.cpp").write_text("int g() { return 4; }\n")
    assert tree.build() == {"one.o"}
    assert tree.build("-O1") == {"one.o", "two.o"}
    assert tree.build("-O1", versions="2") == {"one.o", "two.o"}
    (tmp_path / "out" / "one.o").unlink()
    assert tree.build("-O1", versions="2") == {"one.o"}


def test_all_compiler_errors_are_told_and_tried_again(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    (tmp_path / "one.cpp").write_text("int g() { return }\n")
    (tmp_path / "two.cpp").write_text("int h() { return }\n")
    for _ in range(2):
        with pytest.raises(native_build.BuildError, match=r"(?s)one\.cpp:1.*two\.cpp:1|two\.cpp:1.*one\.cpp:1"):
            tree.build()


def test_a_header_is_compiled_once_for_the_files_that_take_it(tmp_path: Path) -> None:
    """What is found by a precompiled header only is not found by a file that defines something for its own reading."""
    header = tmp_path / "system.hpp"
    header.write_text("#ifdef FOR_ONE\nint asked();\n#endif\nconstexpr int kTwo = 2;\n")
    one, two = tmp_path / "one.cpp", tmp_path / "two.cpp"
    one.write_text('#define FOR_ONE\n#include "system.hpp"\nint (*f)() = asked;\nint g() { return kTwo; }\n')
    two.write_text("int h() { return kTwo; }\n")
    out = tmp_path / "out"
    for flags in (["-O1"], ["-O2"]):
        native_build.compile_all(["g++", *flags], [one, two], out, "1", 2, lambda _: header)
        made = (out / "system.hpp.gch").stat().st_mtime_ns
    two.touch()
    native_build.compile_all(["g++", "-O2"], [one, two], out, "1", 2, lambda _: header)
    assert (out / "system.hpp.gch").stat().st_mtime_ns == made
    header.write_text("constexpr int kThree = 3;\n")
    two.touch()
    with pytest.raises(native_build.BuildError, match=r"two\.cpp:1.*kTwo"):
        native_build.compile_all(["g++", "-O2"], [one, two], out, "1", 2, lambda _: header)


def test_what_is_linked_again(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A wheel gets the file that the tree has: linking takes a minute. A mapped file is never written into."""
    tree, out = Tree(tmp_path), tmp_path / "out"
    in_tree, in_wheel = tmp_path / "tree" / "core.so", tmp_path / "wheel" / "core.so"

    def link(target: Path, *flags: str) -> bool:
        native_build.link("g++", sorted(out.glob("*.o")), flags, target, out)
        return "linking core.so" in capfd.readouterr().out

    tree.build("-fPIC", *native_build.OPTIMISED)
    assert link(in_tree)
    assert not link(in_wheel)
    assert in_wheel.read_bytes() == in_tree.read_bytes()
    before = in_tree.stat()
    assert not link(in_tree)
    assert in_tree.stat().st_ino == before.st_ino, "it was not touched"
    (tmp_path / "one.cpp").write_text("int g() { return 5; }\n")
    tree.build("-fPIC", *native_build.OPTIMISED)
    assert link(in_wheel)
    assert not link(in_tree)
    assert in_tree.stat().st_ino != before.st_ino
    assert link(in_tree, "-lm")
    in_tree.unlink()
    assert not link(in_tree, "-lm")
    assert in_tree.exists()


# --- the package -----------------------------------------------------------------------------------------------------


def pins(name: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for line in (ROOT / "requirements" / name).read_text().splitlines():
        if line.startswith("-r "):
            found |= pins(line.removeprefix("-r "))
        elif line and not line.startswith("#"):
            package, pin, version = line.partition("==")
            assert re.fullmatch(r"==[\w.]+", pin + version), f"{name}: {line}: not an exact version"
            found[package] = version
    return found


def test_versions_are_pinned_and_said_once() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    build = dict(line.split("==") for line in project["build-system"]["requires"])
    assert build.items() <= pins("build.txt").items()
    runtime = {re.split(r"[<>=]", line)[0] for line in project["project"]["dependencies"]}
    assert runtime <= pins("run.txt").keys()
    assert pins("build.txt").items() <= pins("dev.txt").items()


def test_the_stub_names_what_the_core_has() -> None:
    core = importlib.import_module("pylwaftr._core")
    tree = ast.parse((ROOT / "pylwaftr" / "_core.pyi").read_text())
    named: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            named.add(node.name)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            named.add(node.target.id)
    assert {name for name in dir(core) if not name.startswith("__")} <= named


def test_grpc_code_is_a_package_of_ours(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    protos = tmp_path / "proto" / "border"
    protos.mkdir(parents=True)
    (protos / "kinds.proto").write_text('syntax = "proto3";\npackage border;\nmessage Thing { string name = 1; }\n')
    (protos / "router.proto").write_text(
        'syntax = "proto3";\npackage border;\nimport "border/kinds.proto";\nimport "google/protobuf/empty.proto";\n'
        "service Router { rpc Get(google.protobuf.Empty) returns (Thing); }\n"
    )
    monkeypatch.setattr(setup, "ROOT", tmp_path)
    out = tmp_path / "pylwaftr" / "api" / "generated"
    setup.generate_grpc(out)
    for folder in (out.parent, out.parent.parent):
        (folder / "__init__.py").touch()
    program = (
        "from pylwaftr.api.generated.border import kinds_pb2, router_pb2, router_pb2_grpc\n"
        "print(kinds_pb2.Thing(name='x').name, router_pb2_grpc.RouterServicer.Get.__name__)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("x Get\n", 0), done.stderr
    assert "class Thing" in (out / "border" / "kinds_pb2.pyi").read_text()
    assert "class RouterStub" in (out / "border" / "router_pb2_grpc.pyi").read_text()
    made = (out / "__init__.py").stat().st_mtime_ns
    setup.generate_grpc(out)
    assert (out / "__init__.py").stat().st_mtime_ns == made


def test_nothing_is_generated_without_protos(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(setup, "ROOT", tmp_path)
    setup.generate_grpc(tmp_path / "generated")
    assert not (tmp_path / "generated").exists()


@pytest.mark.slow
def test_the_wheel_is_complete(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-q",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(tmp_path),
        ".",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        scripts = next(archive.read(name).decode() for name in names if name.endswith("entry_points.txt"))
    assert {"pylwaftr/py.typed", "pylwaftr/_core.pyi", "pylwaftr/_build_info.py", "pylwaftr/__init__.py"} <= names
    yang = {path.name for path in (ROOT / "pylwaftr/binding_files/yang").iterdir()}
    assert {name.rpartition("/")[2] for name in names if "/yang/" in name} == yang
    assert [name for name in names if re.fullmatch(r"pylwaftr/_core\..*\.so", name)]
    assert not [name for name in names if name.startswith(("tests", "csrc", "bench"))]
    assert "pylwaftr = pylwaftr.cli.main:main" in scripts


# --- the stages of make test ------------------------------------------------------------------------------------------

STAGES = [  # what, commands, limit in seconds, passed, what is printed
    ("passes", ["echo 3 passed in 0.5s", "true"], 20.0, True, "example: ok, "),
    ("counts", ["echo 3 passed in 0.5s"], 20.0, True, ", 3 passed\n3 passed in 0.5s\n"),
    (
        "counts of all commands",
        ["echo 17 passed, 2 deselected in 0.5s", "echo 3 passed in 0.1s"],
        20.0,
        True,
        ", 17 passed, 2 deselected + 3 passed\n",
    ),
    ("tells of skips", ["echo 'SKIPPED [1] x: needs root'"], 20.0, True, "SKIPPED [1] x: needs root"),
    ("a later command does not mend it", ["echo why; false", "true"], 20.0, False, "why\n"),
    ("an earlier one neither", ["true", "exit 3"], 20.0, False, "example: FAILED, "),
    (
        "too late, and deaf to SIGTERM",
        ["trap '' TERM; sleep 60 & wait; sleep 60"],
        0.5,
        False,
        "not finished after 0 s: ended",
    ),
]


@pytest.mark.parametrize("what, commands, limit, passed, printed", STAGES, ids=[row[0] for row in STAGES])
def test_verdict_of_a_stage(
    what: str,
    commands: list[str],
    limit: float,
    passed: bool,
    printed: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(runner, "LOGS", tmp_path)
    monkeypatch.setattr(runner, "PATIENCE", 0.5)
    stage = runner.Stage("example", [["bash", "-c", command] for command in commands], limit)
    assert runner.judge(stage) is passed
    assert printed in capsys.readouterr().out


def test_a_missing_tool_fails_its_stage(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(runner, "LOGS", tmp_path)
    assert not runner.judge(runner.Stage("example", [["no-such-tool"]], 5))
    assert "no-such-tool is missing: make setup" in capsys.readouterr().out


@pytest.mark.parametrize("room, there", [(1 << 40, True), (1 << 20, False)], ids=["room", "none"])
def test_files_of_tests_lie_in_memory_if_there_is_room_and_are_gone_after_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, room: int, there: bool
) -> None:
    memory, logs = tmp_path / "memory", tmp_path / "logs"
    for folder in (memory, logs):
        folder.mkdir()
    monkeypatch.setattr(runner, "LOGS", logs)
    monkeypatch.setattr(runner, "MEMORY", memory)
    monkeypatch.setattr(runner, "room", lambda: room)
    assert runner.judge(
        runner.Stage("example", [["bash", "-c", f'echo "$0" $(ls {memory} | wc -l)']], 60, in_memory=True)
    )
    said = (logs / "example.log").read_text().splitlines()[-1]
    assert bool(re.fullmatch(rf"--basetemp={memory}/lw-\w+/t 1", said)) is there, said
    assert list(memory.iterdir()) == []


def test_room_in_memory_is_what_there_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert runner.room() >= 0
    monkeypatch.setattr(runner, "MEMORY", tmp_path / "nowhere")
    assert runner.room() == 0
