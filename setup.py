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
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pybind11
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT / "scripts"))

import generate_grpc as protos  # noqa: E402
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
                # Python's own flags have -g: a third of the time. Cython writes conversions that nobody uses.
                extra_compile_args=["-O3", "-g0", "-Wno-unused-function"],
            )
            for p in cython
        ]
        found += cythonize(
            modules,
            build_dir="build/cython",
            language_level=3,
            quiet=True,
            nthreads=jobs(),
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
            link = compile_core(next(ext for ext in everything if ext.name == CORE), core)
            self.parallel = jobs()
            self.extensions = [ext for ext in everything if ext.name != CORE]
            # Half of what link-time optimisation takes has one thread: the Cython modules are compiled meanwhile.
            with ThreadPoolExecutor(max_workers=1) as pool:
                linked = pool.submit(link)
                super().run()
                linked.result()
            build_stub(core)
        except BuildError as fault:
            raise SystemExit(f"pylwaftr cannot be built: {fault}") from None
        finally:
            self.extensions = everything
            lock.close()


def jobs() -> int:
    return int(os.environ.get("PYLWAFTR_JOBS") or os.cpu_count() or 1)


def header_of(source: Path) -> Path:
    """What is precompiled for this file: with pybind11 only where Python is known, as tests/test_layers.py has it."""
    python = source.stem == "module" or source.stem.startswith("py_") or source.stem.endswith("_py")
    return ROOT / "csrc" / "precompiled" / ("python.hpp" if python else "system.hpp")


def compile_core(ext: Extension, target: Path) -> Callable[[], None]:
    """What is left to do, when this returns, is to link."""
    cxx = os.environ.get("CXX") or "g++"
    march = os.environ.get("PYLWAFTR_MARCH") or "native"
    needed = native_build.cpu_flags(cxx, march)
    dpdk = native_build.find_dpdk()
    include = ["-isystem", pybind11.get_include(), "-isystem", sysconfig.get_path("include")]
    command = [cxx, *native_build.COMMON, *native_build.WARNINGS, f"-march={march}", *dpdk.compile_flags, *include]
    versions = f"DPDK {dpdk.version}, {native_build.compiler_version(cxx)}, {' '.join(needed)}"
    folder = ROOT / "build" / "native"
    sources = [ROOT / source for source in ext.sources]
    objects = native_build.compile_all(command, sources, folder, versions, jobs(), header_of)
    write_if_changed(
        target.parent / "_build_info.py",
        f'"""Made by setup.py: what the compiled core was built for."""\n\n'
        f"MARCH = {march!r}\nCPU_FLAGS: tuple[str, ...] = {needed!r}\nDPDK = {dpdk.version!r}\n",
    )
    return partial(native_build.link, cxx, objects, [*dpdk.link_flags, "-lpcap"], target, folder)


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
    try:
        protos.generate(ROOT / "proto", out)
    except protos.ProtoFault as fault:
        raise BuildError(str(fault)) from None


if __name__ == "__main__":
    setup(ext_modules=extensions(), cmdclass={"build_ext": BuildAll})
