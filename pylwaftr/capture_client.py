"""The outer file of `pylwaftr capture`: finds a running router's telemetry socket, and talks to it."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from pylwaftr.capture import (
    LIST,
    MAX_REPLY,
    START,
    STATE,
    STOP,
    CaptureFault,
    State,
    Wanted,
    greeted_by,
    is_router,
    start_command,
    state_of,
)

ANSWER_S = 5.0
POLL_S = 0.1


class Connection:
    """To the telemetry socket of one DPDK process. Raises OSError."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            self._socket.settimeout(ANSWER_S)
            self._socket.connect(str(path))
            self.pid = greeted_by(self._socket.recv(MAX_REPLY))
        except BaseException:
            self._socket.close()
            raise

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def ask(self, command: bytes) -> bytes:
        self._socket.sendall(command)
        if reply := self._socket.recv(MAX_REPLY):
            return reply
        raise ConnectionResetError("connection closed")


def sockets() -> list[Path]:
    """Where DPDK processes of this user put their sockets; several without a file prefix share a folder."""
    own = os.environ.get("RUNTIME_DIRECTORY")
    fallback = Path("/var/run") if os.geteuid() == 0 else Path(os.environ.get("XDG_RUNTIME_DIR", "/tmp"))
    folders = {Path("/var/run/dpdk"), fallback / "dpdk"} | ({Path(own) / "dpdk"} if own else set())
    return sorted(path for folder in folders for path in folder.glob("*/dpdk_telemetry.v2*"))


def routers() -> list[tuple[Path, int | None]]:
    """Sockets of running routers, and their processes."""
    found = []
    for path in sockets():
        try:
            with Connection(path) as connection:
                if is_router(connection.ask(LIST.encode())):
                    found.append((path, connection.pid))
        except OSError:  # left behind, or not ours
            continue
    return found


def own_socket() -> Path | None:
    """That of this process."""
    return next((path for path, pid in routers() if pid == os.getpid()), None)


def only_router() -> Path:
    """Raises CaptureFault."""
    found = routers()
    if not found:
        hint = "" if os.geteuid() == 0 else ", or its telemetry socket is not yours: try as root"
        raise CaptureFault(f"no running router was found{hint}; give its telemetry socket with --socket")
    if len(found) > 1:
        listed = ", ".join(f"{path} (process {pid})" for path, pid in found)
        raise CaptureFault(f"several routers are running: choose one with --socket: {listed}")
    return found[0][0]


def capture(path: Path, wanted: Wanted, seen: Callable[[State], None]) -> State:
    """Returns when the file is complete: by its bounds, or earlier by SIGINT or SIGTERM. Raises CaptureFault."""
    command = start_command(wanted)
    with _stop_signals() as stopped:
        try:
            with Connection(path) as connection:
                state = state_of(START, connection.ask(command))
                while state.state == "running":
                    seen(state)
                    time.sleep(POLL_S)
                    then = STOP if stopped() else STATE
                    state = state_of(then, connection.ask(then.encode()))
                return state
        except ConnectionError as fault:
            raise CaptureFault(f"{path}: {_lost(fault)}") from None
        except OSError as fault:
            raise CaptureFault(f"{path}: no router can be asked there: {fault.strerror or fault}") from None


def _lost(fault: ConnectionError) -> str:
    if isinstance(fault, ConnectionRefusedError):
        return "no router answers there"
    return "the router has ended, and the capture with it"


@contextmanager
def _stop_signals() -> Iterator[Callable[[], bool]]:
    asked: list[int] = []

    def note(number: int, _: FrameType | None) -> None:
        asked.append(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
