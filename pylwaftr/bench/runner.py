"""Starts the measuring process and hears what it says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from pylwaftr.bench.parent import named
from pylwaftr.bench.plan import Plan, to_json


class RunFault(Exception):
    """Nothing was measured; the text says why. `bad_input`: what was asked for cannot be had."""

    def __init__(self, text: str, bad_input: bool = False) -> None:
        super().__init__(text)
        self.bad_input = bad_input


def run(plan: Plan, progress: Callable[[str], None]) -> dict[str, Any]:
    """The document {machine, commit, plan, results}. Raises RunFault."""
    command = [sys.executable, "-m", "pylwaftr.bench.child"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, env=named(os.environ)) as child:
        try:
            return _heard(child, plan, progress)
        except BaseException:
            child.kill()
            raise


def _heard(child: subprocess.Popen[str], plan: Plan, progress: Callable[[str], None]) -> dict[str, Any]:
    assert child.stdin is not None
    assert child.stdout is not None
    assert child.stderr is not None
    json.dump(to_json(plan), child.stdin)
    child.stdin.close()
    for line in child.stdout:
        message = json.loads(line)
        if "document" in message:
            document: dict[str, Any] = message["document"]
            return document
        if "fault" in message:
            raise RunFault(message["fault"], message["bad_input"])
        progress(message["progress"])
    last = child.stderr.read().strip().rpartition("\n")[2]
    raise RunFault(f"the measuring process ended with {child.wait()}: {last or 'it said nothing'}")
