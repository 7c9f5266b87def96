"""Python code and its types for everything in proto/, importable below pylwaftr.api.generated."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

PACKAGE = "pylwaftr.api.generated"


class ProtoFault(Exception):
    """protoc does not take the files; the text has what it says."""


def generate(protos: Path, out: Path) -> None:
    """`out` becomes a package, if it is older than a file in `protos`. Raises ProtoFault."""
    files = sorted(protos.rglob("*.proto"))
    newest = max((file.stat().st_mtime_ns for file in files), default=0)
    stamp = out / "__init__.py"
    if not files or (stamp.exists() and stamp.stat().st_mtime_ns > newest):
        return
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".generated-") as folder:
        made = Path(folder) / "generated"
        made.mkdir()
        _compile(protos, files, made)
        # What runs in this tree meanwhile finds the old package or the new one, but for a moment.
        shutil.rmtree(out, ignore_errors=True)
        made.rename(out)
    os.utime(stamp)


def _compile(protos: Path, files: list[Path], out: Path) -> None:
    flags = [f"--{kind}_out={out}" for kind in ("python", "pyi", "grpc_python", "mypy_grpc")]
    protoc = [sys.executable, "-m", "grpc_tools.protoc", f"-I{protos}", *flags, *map(str, files)]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])  # the mypy plug-in's place
    done = subprocess.run(protoc, capture_output=True, text=True, check=False, env=os.environ | {"PATH": path})
    if done.returncode:
        raise ProtoFault(f"protoc refused proto/:\n{done.stderr}")
    # protoc writes imports as if its output were on sys.path.
    ours = "|".join(sorted({re.escape(file.relative_to(protos).parts[0].removesuffix(".proto")) for file in files}))
    absolute = re.compile(rf"^(from|import) ((?:{ours})(?:_pb2(?:_grpc)?)?\b)", re.MULTILINE)
    for file in [*out.rglob("*.py"), *out.rglob("*.pyi")]:
        file.write_text(absolute.sub(_as_member_of_package, file.read_text()))
    for folder in {file.parent for file in out.rglob("*_pb2.py")} | {out}:
        for parent in [folder, *(above for above in folder.parents if above.is_relative_to(out))]:
            (parent / "__init__.py").write_text("")


def _as_member_of_package(statement: re.Match[str]) -> str:
    word, module = statement.groups()
    return f"from {PACKAGE} import {module}" if word == "import" else f"from {PACKAGE}.{module}"
