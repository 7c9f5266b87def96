"""What a benchmark starts ends with it, also when it is killed."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pylwaftr.bench import live, parent, plan, runner

ROOT = Path(__file__).resolve().parent.parent
ECHO = [sys.executable, "-m", "pylwaftr.bench.parent", "echo", "done"]
GONE = {parent._NAME: "1"}  # it was another one's child when it began


@pytest.mark.parametrize("of", [parent.named(os.environ), dict(os.environ)], ids=["the parent's", "nobody's"])
def test_a_command_runs_for_its_parent(of: dict[str, str]) -> None:
    assert subprocess.run(ECHO, env=of, capture_output=True, text=True, check=True).stdout == "done\n"


@pytest.mark.parametrize(
    "command",
    [
        ECHO,
        [sys.executable, "-m", "pylwaftr.bench.child"],
        [sys.executable, "-m", "pylwaftr.bench.router_process", "router.yaml", "words", "1"],
    ],
    ids=["a command", "measuring", "a router"],
)
def test_nothing_begins_for_a_parent_that_ended_before(command: list[str]) -> None:
    done = subprocess.run(
        command, env={**os.environ, **GONE}, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "whoever asked for this measurement has ended\n"


def test_children_know_their_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    given = []

    def start(*_: object, env: dict[str, str], **__: object) -> None:
        given.append(env)
        raise InterruptedError

    monkeypatch.setattr(subprocess, "Popen", start)
    with pytest.raises(InterruptedError):
        runner.run(plan.Start(plan.Common()), print)
    monkeypatch.setenv(parent._NAME, "1")  # this one's own
    given.append(live.environment())
    assert [one[parent._NAME] for one in given] == [str(os.getpid())] * 2


SERVES = """
import sys
from pathlib import Path
from pylwaftr.bench.sync_leases import lease_server
with lease_server(Path(sys.argv[1])) as server:
    print(server.process.pid, flush=True)
    sys.stdin.read()
"""


def test_the_lease_server_of_a_killed_benchmark_ends(tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    journal.touch()
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", SERVES, str(journal)], cwd=ROOT, stdin=pipe, stdout=pipe) as bench:
        assert bench.stdout is not None
        server = os.pidfd_open(int(bench.stdout.readline()))
        bench.kill()
        ended = bool(select.select([server], [], [], 20)[0])
    if not ended:
        signal.pidfd_send_signal(server, signal.SIGKILL)
    os.close(server)
    assert ended
