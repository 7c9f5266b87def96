"""--json of the commands that run until they are stopped: lines of JSON on standard output."""

from __future__ import annotations

import json
import signal
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from pylwaftr.cli import b4
from pylwaftr.cli.main import main
from tests.test_run import PYLWAFTR, START_S, config_file, running


def told(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_a_router(tmp_path: Path) -> None:
    with running(config_file(tmp_path), "--json", "--show-counters", "0.2") as router:
        router.wait_for('"per_second"')
        assert router.end() == 0, router.log
        ready, *rates, last = told(router.out)
    assert ready == {"ready": True}
    assert {name for line in rates for name in line} == {"per_second"}
    assert set(rates[0]["per_second"]) == set(last["counters"])
    assert last["counters"]["rx_v4"] > 0


def test_a_router_that_cannot_start(tmp_path: Path) -> None:
    file = config_file(tmp_path)
    words = [PYLWAFTR, "run", "-c", str(file), "--json", "--", "--no-such-argument"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=START_S, check=False)
    found = json.loads(done.stderr.splitlines()[-1])["error"]
    assert (done.returncode, done.stdout, found["reason"], found["exit_status"]) == (1, "", "START_FAILED", 1)
    file.write_text("qqq: 1")
    done = subprocess.run(words, capture_output=True, text=True, timeout=START_S, check=False)
    assert (done.returncode, json.loads(done.stderr)["error"]["reason"]) == (2, "SETTINGS_FAULTY")


def test_a_server_of_leases(tmp_path: Path) -> None:
    (journal := tmp_path / "journal").touch()
    words = ["leasequery-server", "--allow-plaintext", "--listen", "[::1]:0", "--journal", str(journal), "--json"]
    with subprocess.Popen([PYLWAFTR, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        (port,) = json.loads(process.stdout.readline())["listening"]
        assert port > 0
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=START_S)
    assert all(line["level"] for line in told(log))


def test_a_b4(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(_plan: object, report: Any) -> None:
        report("bound to 203.0.113.5")

    monkeypatch.setattr(b4, "run", run)
    monkeypatch.setattr(b4, "require_tools", lambda: None)
    monkeypatch.setattr("os.geteuid", lambda: 0)
    words = ["b4", "--aftr", "2001:db8::1", "--tunnel-source", "auto", "--pcp", "--json"]
    result = CliRunner().invoke(main, words)
    ((time, message),) = [(line["time"], line["message"]) for line in told(result.stdout)]
    assert (result.exit_code, message, datetime.fromisoformat(time).tzinfo) == (0, "bound to 203.0.113.5", UTC)
