"""What a test may need of the machine, and which stage of `make test` runs it.

A test that cannot run here says why. With CI=true that is a failure: nothing may go unseen there.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import uvloop
from hypothesis import settings

# How long an example takes says how busy the machine is.
settings.register_profile("no clock", settings(deadline=None))
settings.load_profile("no clock")

asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())  # the router's

STAGES = {  # file name prefix -> marker
    "test_layers": "layers",
    "test_vectors": "vectors",
    "test_replay": "vectors",
    "test_lab": "lab",
}


def lacks_root() -> str | None:
    return None if os.geteuid() == 0 else "needs root"


@cache
def lacks_netns() -> str | None:
    if (reason := lacks_root()) is not None:
        return reason
    try:
        done = subprocess.run(["unshare", "--net", "ip", "link", "set", "lo", "up"], capture_output=True, text=True)
    except FileNotFoundError as fault:
        return f"needs network namespaces: {fault.filename} is missing"
    return None if done.returncode == 0 else f"needs network namespaces: {done.stderr.strip()}"


@cache
def lacks_hugepages() -> str | None:
    counts = Path("/sys/kernel/mm/hugepages").glob("hugepages-*/free_hugepages")
    return None if any(int(path.read_text()) for path in counts) else "needs free hugepages"


def lacks_tshark() -> str | None:
    return None if shutil.which("tshark") else "needs tshark"


# The machine's lack of hugepages is no fault: everything has to work without.
NEEDS: dict[str, tuple[Callable[[], str | None], bool]] = {  # marker -> (what is lacking, is that a failure in CI)
    "needs_root": (lacks_root, True),
    "needs_netns": (lacks_netns, True),
    "needs_tshark": (lacks_tshark, True),
    "needs_hugepages": (lacks_hugepages, False),
}


def pytest_runtest_setup(item: pytest.Item) -> None:
    for marker, (lack, matters) in NEEDS.items():
        if item.get_closest_marker(marker) is not None and (reason := lack()) is not None:
            if matters and os.environ.get("CI") == "true":
                pytest.fail(f"CI has to be able to run this: {reason}", pytrace=False)
            pytest.skip(reason)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        for prefix, marker in STAGES.items():
            if item.path.name.startswith(prefix):
                item.add_marker(marker)
