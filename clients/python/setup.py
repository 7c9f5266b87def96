"""Gathers the client's files out of the repository that this folder is in. A wheel only: an sdist would lack them."""

from __future__ import annotations

import atexit
import re
import shutil
import sys
import tempfile
from pathlib import Path

from setuptools import Distribution, setup
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

import generate_grpc  # noqa: E402

MODULES = (
    "__init__.py",
    "cpu.py",
    "py.typed",
    "api/__init__.py",
    "api/channel.py",
    "api/client.py",
    "api/plain.py",
    "api/rows_plain.py",
)


class Gathered(build_py):
    def run(self) -> None:
        package = Path(self.build_lib) / "pylwaftr"
        for name in MODULES:
            (package / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / "pylwaftr" / name, package / name)
        generate_grpc.generate(ROOT / "proto", package / "api" / "generated")


class Refused(sdist):
    def run(self) -> None:
        raise SystemExit(
            "pylwaftr-client is built from the repository of pylwaftr, as a wheel: pip wheel clients/python"
        )


class Pure(Distribution):
    def has_pure_modules(self) -> bool:
        return True  # they are gathered, not listed


def version() -> str:
    found = re.search(r'^__version__ = "(.+)"$', (ROOT / "pylwaftr" / "__init__.py").read_text(), re.MULTILINE)
    assert found is not None
    return found[1]


# Nothing is left in the source tree, and nothing of an earlier build gets into this one.
scratch = tempfile.mkdtemp(prefix="pylwaftr-client-")
atexit.register(shutil.rmtree, scratch, ignore_errors=True)
setup(
    version=version(),
    cmdclass={"build_py": Gathered, "sdist": Refused},
    distclass=Pure,
    options={"build": {"build_base": f"{scratch}/build"}, "egg_info": {"egg_base": scratch}},
)
