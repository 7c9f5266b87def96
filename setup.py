"""Builds pylwaftr: the C++ extension and its type stub, the Cython modules, the gRPC code.

Environment:
  PYLWAFTR_MARCH  instruction set, as for -march: `native` (this host, the default), or a portable baseline such as
                  x86-64-v3 or x86-64-v2. A CPU without it is refused by name when pylwaftr starts.
  PYLWAFTR_JOBS   compilers at the same time (default: one per core)
  CXX             the C++20 compiler (default: g++)
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

import pybind11
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT / "scripts"))

import native_build  # noqa: E402
from native_build import BuildError  # noqa: E402

CORE = "pylwaftr._core"


def extensions() -> list[Extension]:
    """The C++ core, and one extension per .pyx. Sources are given relative to setup.py, as setuptools wants them."""
    found = [Extension(CORE, sorted(str(p.relative_to(ROOT)) for p in (ROOT / "csrc").glob("*.cpp")))]
    cython = sorted((ROOT / "pylwaftr").rglob("*.pyx"))
    if cython:
        from Cython.Build import cythonize

        modules = [
            Extension(
                ".".join(p.relative_to(ROOT).with_suffix("").parts),
                [str(p.relative_to(ROOT))],
                extra_compile_args=["-O3"],
            )
            for p in cython
        ]
        found += cythonize(
            modules,
            build_dir="build/cython",
            language_level=3,
            quiet=True,
            compiler_directives={"embedsignature": True},
        )
    return found


def write_if_changed(path: Path, text: str) -> None:
    if not path.exists() or path.read_text() != text:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


class BuildAll(build_ext):
    def run(self) -> None:
        core = Path(self.get_ext_fullpath(CORE))  # in the tree, or in build/lib for a wheel
        everything = self.extensions
        (ROOT / "build").mkdir(exist_ok=True)
        lock = (ROOT / "build" / "lock").open("w")
        fcntl.flock(lock, fcntl.LOCK_EX)  # two builds at once would compile into the same files
        try:
            generate_grpc(core.parent / "api" / "generated")
            build_core(next(ext for ext in everything if ext.name == CORE), core)
            self.extensions = [ext for ext in everything if ext.name != CORE]
            super().run()
            build_stub(core)
        except BuildError as fault:
            raise SystemExit(f"pylwaftr cannot be built: {fault}") from None
        finally:
            self.extensions = everything
            lock.close()


def build_core(ext: Extension, target: Path) -> None:
    cxx = os.environ.get("CXX") or "g++"
    march = os.environ.get("PYLWAFTR_MARCH") or "native"
    jobs = int(os.environ.get("PYLWAFTR_JOBS") or os.cpu_count() or 1)
    needed = native_build.cpu_flags(cxx, march)
    dpdk = native_build.find_dpdk()
    include = ["-isystem", pybind11.get_include(), "-isystem", sysconfig.get_path("include")]
    command = [cxx, *native_build.COMMON, *native_build.WARNINGS, f"-march={march}", *dpdk.compile_flags, *include]
    versions = f"DPDK {dpdk.version}, {native_build.compiler_version(cxx)}, {' '.join(needed)}"
    folder = ROOT / "build" / "native"
    objects = native_build.compile_all(command, [ROOT / source for source in ext.sources], folder, versions, jobs)
    write_if_changed(
        target.parent / "_build_info.py",
        f'"""Made by setup.py: what the compiled core was built for."""\n\n'
        f"MARCH = {march!r}\nCPU_FLAGS: tuple[str, ...] = {needed!r}\nDPDK = {dpdk.version!r}\n",
    )
    native_build.link(cxx, objects, [*dpdk.link_flags, "-lpcap"], target, folder / "link.cmd")


def build_stub(core: Path) -> None:
    """_core.pyi. The core has to be imported for it, so a build for another kind of CPU goes without."""
    stub = core.parent / "_core.pyi"
    if stub.exists() and stub.stat().st_mtime_ns > core.stat().st_mtime_ns:
        return
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, str(ROOT / "scripts" / "make_stub.py"), str(core.parent.parent), CORE, out]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode == 3:
            print(f"no type stub for {CORE}: {done.stderr.strip()}")
        elif done.returncode:
            raise BuildError(f"the type stub of {CORE} could not be made:\n{done.stdout}{done.stderr}")
        else:
            shutil.copyfile(Path(out) / f"{CORE.replace('.', '/')}.pyi", stub)


def generate_grpc(out: Path) -> None:
    """Python code and its types for everything in proto/, importable below pylwaftr.api.generated."""
    protos = sorted((ROOT / "proto").rglob("*.proto"))
    newest = max((p.stat().st_mtime_ns for p in protos), default=0)
    stamp = out / "__init__.py"
    if not protos or (stamp.exists() and stamp.stat().st_mtime_ns > newest):
        return
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    flags = [f"--{kind}_out={out}" for kind in ("python", "pyi", "grpc_python", "mypy_grpc")]
    protoc = [sys.executable, "-m", "grpc_tools.protoc", f"-I{ROOT / 'proto'}", *flags, *map(str, protos)]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])  # the mypy plug-in's place
    done = subprocess.run(protoc, capture_output=True, text=True, check=False, env=os.environ | {"PATH": path})
    if done.returncode:
        raise BuildError(f"protoc refused proto/:\n{done.stderr}")
    # protoc writes imports as if its output were on sys.path.
    ours = "|".join(sorted({re.escape(p.relative_to(ROOT / "proto").parts[0].removesuffix(".proto")) for p in protos}))
    absolute = re.compile(rf"^(from|import) ((?:{ours})(?:_pb2(?:_grpc)?)?\b)", re.MULTILINE)
    for file in [*out.rglob("*.py"), *out.rglob("*.pyi")]:
        file.write_text(absolute.sub(as_member_of_package, file.read_text()))
    for folder in {p.parent for p in out.rglob("*_pb2.py")} | {out}:
        for parent in [folder, *(p for p in folder.parents if p.is_relative_to(out))]:
            (parent / "__init__.py").write_text("")
    os.utime(stamp)


def as_member_of_package(statement: re.Match[str]) -> str:
    word, module = statement.groups()
    where = "pylwaftr.api.generated"
    return f"from {where} import {module}" if word == "import" else f"from {where}.{module}"


if __name__ == "__main__":
    setup(ext_modules=extensions(), cmdclass={"build_ext": BuildAll})
