"""What `pylwaftr capture` and a running router say to each other on DPDK's telemetry socket, as octets.

A command is "/name,parameters", a reply {"/name": answer}; whoever connects is greeted first.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

LIST, START, STOP, STATE = "/", "/lwaftr/capture_start", "/lwaftr/capture_stop", "/lwaftr/capture_state"
MAX_COMMAND = 1023  # octets that DPDK reads
MAX_REPLY = 1 << 16


class CaptureFault(Exception):
    """There will be no capture; the text is one sentence."""


@dataclass(frozen=True, slots=True)
class Wanted:
    file: str  # absolute: the router opens it
    packets: int
    seconds: float
    snap: int
    filter: str = ""


@dataclass(frozen=True, slots=True)
class State:
    state: str  # none | running | finished | refused
    ended_by: str = ""  # count | time | request | error
    error: str = ""
    seen: int = 0  # frames that passed the filter
    written: int = 0
    missed: int = 0
    octets: int = 0


def start_command(wanted: Wanted) -> bytes:
    """Raises CaptureFault."""
    fields = {
        "file": wanted.file,
        "packets": wanted.packets,
        "milliseconds": max(1, round(wanted.seconds * 1000)),
        "snap": wanted.snap,
        "filter": wanted.filter,
    }
    command = f"{START},{urlencode(fields, quote_via=quote, safe='')}".encode()
    if len(command) > MAX_COMMAND:
        raise CaptureFault(f"file name and filter are too long by {len(command) - MAX_COMMAND} octets")
    return command


def greeted_by(greeting: bytes) -> int | None:
    """The process that answers on this socket."""
    pid = _object(greeting).get("pid")
    return pid if isinstance(pid, int) else None


def is_router(reply: bytes) -> bool:
    """Of a reply to LIST: whether captures can be had there."""
    commands = _object(reply).get(LIST)
    return isinstance(commands, list) and START in commands


def state_of(command: str, reply: bytes) -> State:
    """Raises CaptureFault."""
    answer = _object(reply).get(command)
    if not isinstance(answer, dict):
        raise CaptureFault("the router is about to end, or is another program")
    state = State(**{name: answer[name] for name in State.__slots__ if name in answer})
    if state.state == "refused":
        raise CaptureFault(f"the router refuses: {state.error}")
    return state


def _object(text: bytes) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
