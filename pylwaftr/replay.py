"""A replay: the router's real worker over net_pcap ports, from files to files, until all is through."""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from pylwaftr import eal_args, pcap
from pylwaftr.config import Config
from pylwaftr.daemon.eal import start_eal, stop_eal
from pylwaftr.daemon.router import Router, Totals, bound_table
from pylwaftr.eal_args import Buffers
from pylwaftr.ports import pcap_device

# One round of tries for a next hop takes 3 s; whoever still waits then is dropped, so more than that is a fault.
PATIENCE_S = 10.0
POLL_S = 0.001
SECRET = 1  # identifications and flow labels are the same every time

Progress = Sequence[tuple[int, bool]]  # per worker: frames received, and whether none of them waits for a next hop


class ReplayFault(Exception):
    """The replay cannot be made as asked for; the text says why."""


class StuckFault(Exception):
    """The replay came to no end; the text says how far it was."""


@dataclass(frozen=True, slots=True)
class Files:
    v4_in: Path | None
    v6_in: Path | None
    v4_out: Path | None
    v6_out: Path | None
    counters: Path | None

    @property
    def inputs(self) -> tuple[Path | None, Path | None]:
        return self.v4_in, self.v6_in

    @property
    def outputs(self) -> tuple[Path | None, Path | None]:
        return self.v4_out, self.v6_out


def check(files: Files) -> None:
    """No file may be written that is also read or written twice. Raises ReplayFault."""
    read = {_identity(path): path for path in files.inputs if path is not None}
    written: dict[object, Path] = {}
    for path in (*files.outputs, files.counters):
        if path is None or not _replaceable(path):
            continue
        identity = _identity(path)
        if identity in read:
            raise ReplayFault(f"{path}: is an input, and would be overwritten")
        if identity in written:
            raise ReplayFault(f"{path}: is to be written twice")
        written[identity] = path


def _identity(path: Path) -> object:
    try:
        status = path.stat()
    except OSError:
        return path.resolve()
    return status.st_dev, status.st_ino


def _replaceable(path: Path) -> bool:
    """False for /dev/null and the like, which are written as they are."""
    return path.is_file() or not path.exists()


class Output:
    """A file that appears whole or not at all: written beside its place, and moved there by `finish`."""

    def __init__(self, path: Path) -> None:
        self._target = path.resolve()
        direct = not _replaceable(path)
        self.writes = self._target if direct else self._target.with_name(f".{self._target.name}.{os.getpid()}.part")
        if path.is_dir():
            raise ReplayFault(f"{path}: cannot be written: it is a folder")
        if direct:
            return
        try:
            self.writes.open("wb").close()
        except OSError as fault:
            raise ReplayFault(f"{path}: cannot be written: {fault.strerror}") from None

    def finish(self) -> None:
        if self.writes != self._target:
            self.writes.replace(self._target)

    def abandon(self) -> None:
        if self.writes != self._target:
            self.writes.unlink(missing_ok=True)


class Workspace:
    """A folder of links to the files of a replay. DPDK's device strings know no comma or equals sign in a path, and
    net_pcap wants a file for every queue: what is not given stands there as an empty one."""

    def __init__(self, files: Files) -> None:
        self._files = files
        self._outputs: list[Output] = []

    def __enter__(self) -> Workspace:
        self._folder = tempfile.TemporaryDirectory(prefix="pylwaftr-replay-", dir=_plain_folder())
        try:
            self._fill(Path(self._folder.name))
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def _fill(self, folder: Path) -> None:
        self.inputs: list[Path] = []
        self.outputs: list[Path] = []
        for side, source, target in zip(("v4", "v6"), self._files.inputs, self._files.outputs, strict=True):
            self.inputs.append(folder / f"{side}-in.pcap")
            self.outputs.append(folder / f"{side}-out.pcap")
            if source is None:
                self.inputs[-1].write_bytes(pcap.EMPTY)
            else:
                self.inputs[-1].symlink_to(source.resolve())
            if target is not None:
                self.outputs[-1].symlink_to(self._output(target))
        self.counters = None if self._files.counters is None else self._output(self._files.counters)

    def _output(self, path: Path) -> Path:
        self._outputs.append(Output(path))
        return self._outputs[-1].writes

    def devices(self, one_port: bool) -> list[str]:
        """Ports for the configuration's ports. One port has a queue for each side."""
        if one_port:
            return [pcap_device(0, self.inputs, self.outputs)]
        return [pcap_device(i, self.inputs[i : i + 1], self.outputs[i : i + 1]) for i in (0, 1)]

    def finish(self) -> None:
        """The outputs take their places."""
        for output in self._outputs:
            output.finish()

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        for output in self._outputs:
            output.abandon()
        self._folder.cleanup()


def _plain_folder() -> str:
    for folder in (tempfile.gettempdir(), "/tmp", "/dev/shm"):
        if not set(folder) & set(",=[]") and os.access(folder, os.W_OK):
            return folder
    raise ReplayFault("no folder for temporary files: set TMPDIR to one whose name has neither commas nor equals signs")


class Watch:
    """Tells when all is through: every frame of the inputs was received, and none waits for a next hop."""

    def __init__(self, expected: int, now: float) -> None:
        self._expected = expected
        self._seen = 0
        self._since = now

    def done(self, progress: Progress, now: float) -> bool:
        """Raises StuckFault when nothing has moved for too long."""
        received = sum(count for count, _ in progress)
        if received >= self._expected and all(quiescent for _, quiescent in progress):
            return True
        if received != self._seen:
            self._seen, self._since = received, now
        if now - self._since > PATIENCE_S:
            raise StuckFault(f"the replay is stuck: {received} of {self._expected} frames were read")
        return False


def run(config: Config, workspace: Workspace, buffers: Buffers, expected: int) -> Totals:
    """Sends the inputs through one worker and returns the counters. Raises StartFault, StuckFault."""
    start_eal(eal_args.replay_vector(buffers, os.sched_getaffinity(0)), None)
    try:
        one_port = config.interfaces.one_port
        router = Router(
            config, bound_table(config), workspace.devices(one_port), [1], buffers, SECRET, split_queues=one_port
        )
        try:
            router.start()
            watch = Watch(expected, time.monotonic())
            while not watch.done(router.engine.progress(), time.monotonic()):
                router.engine.punted()  # nobody is there to answer
                time.sleep(POLL_S)
            router.engine.stop()  # what is held is dropped and counted; the files are closed
            return router.totals()
        finally:
            router.engine.close()
    finally:
        stop_eal()


def counters_json(totals: Mapping[str, int]) -> str:
    return json.dumps(totals, indent=2) + "\n"
