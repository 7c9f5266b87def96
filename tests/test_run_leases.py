"""A running router whose leasequery servers and BR addresses change under it, by reloads of its file."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pylwaftr.api.client import Client
from tests.test_run import PYLWAFTR, START_S, Running, config_file, running

ROOT = Path(__file__).resolve().parent.parent
API, METRICS = "127.0.0.1:9957", "127.0.0.1:9958"
OLD, NEW = "2001:db8:aa::1", "2001:db8:bb::1"


def lease(psid: int, state: str = "ACTIVE", ago: int = 60) -> str:
    told = {"at": int(time.time()) - ago, "state": state, "ipv4": "203.0.113.1", "psid_len": 6, "psid": psid}
    if state == "ACTIVE":
        told |= {"b4": f"2001:db8:{psid:x}::1", "client": f"ff0000{psid:02x}", "lifetime": 3600}
    return json.dumps(told) + "\n"


@contextmanager
def dhcp(folder: Path, name: str, *psids: int) -> Iterator[tuple[int, Path]]:
    """A leasequery server with these leases: its port, and its journal."""
    journal = folder / name
    journal.write_text("".join(map(lease, psids)))
    words = [PYLWAFTR, "leasequery-server", "--listen", "127.0.0.1:0", "--allow-plaintext", "--journal", str(journal)]
    child = subprocess.Popen([*words, "--quiet"], stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout is not None
        yield int(child.stdout.readline().split()[-1]), journal
    finally:
        child.terminate()
        child.wait()
        child.stdout.close()


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + START_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def take(router: Running, path: Path, text: str) -> None:
    before = router.log.count("keys changed")
    path.write_text(text)
    router.process.send_signal(signal.SIGHUP)
    until(lambda: router.log.count("keys changed") > before)


def asking(*ports: int) -> str:
    servers = [{"address": "127.0.0.1", "port": port, "require_tls": False, "timer_scale": 0.01} for port in ports]
    return f"leasequery: {json.dumps({'servers': servers})}\n"


def check_metrics() -> None:
    """What the dashboard asks about leases is there, for each server."""
    with urllib.request.urlopen(f"http://{METRICS}/metrics", timeout=60) as answer:
        offered = answer.read().decode()
    asked = set(re.findall(r"\blwaftr_lease\w+", (ROOT / "configs/grafana.json").read_text()))
    rare = {"lwaftr_lease_malformed_total"}  # when there is one
    assert sorted(name for name in asked - rare if offered.count(f"\n{name}{{") < 2) == []
    states = re.findall(r'lwaftr_lease_source_state\{.*state="(.*)"\} 1.0', offered)
    assert states == ["live", "live"]


def test_servers_and_br_addresses_change_under_a_running_router(tmp_path: Path) -> None:
    path = config_file(tmp_path)
    plain = path.read_text().replace("api: {listen: null}", f'api: {{listen: "{API}"}}')
    plain = plain.replace("metrics: {listen: null}", f'metrics: {{listen: "{METRICS}"}}')
    path.write_text(plain)
    with (
        dhcp(tmp_path, "one", 1, 2) as (one, journal),
        dhcp(tmp_path, "two", 2, 3) as (two, _),
        running(path) as router,
        Client(API) as client,
    ):
        router.wait_for("ready\n")

        def bound() -> dict[int, str]:
            return {binding.psid: binding.br_ipv6 for binding in client.bindings()}

        take(router, path, plain + asking(one))
        until(lambda: set(bound()) == {1, 2})
        take(router, path, plain + asking(one, two))
        until(lambda: set(bound()) == {1, 2, 3})
        assert sorted(source.name for source in client.lease_sources()) == sorted(
            f"127.0.0.1:{port}" for port in (one, two)
        )
        # A new BR address in front is for new leases; one that goes takes nobody along.
        both = plain.replace(f'["{OLD}"]', f'["{NEW}", "{OLD}"]')
        take(router, path, both + asking(one, two))
        with journal.open("a") as more:
            more.write(lease(4, ago=0))
        until(lambda: bound() == {1: OLD, 2: OLD, 3: OLD, 4: NEW})
        take(router, path, plain.replace(OLD, NEW) + asking(one, two))
        until(lambda: bound() == dict.fromkeys((1, 2, 3, 4), NEW))
        until(lambda: all(source.state == "live" for source in client.lease_sources()))
        check_metrics()
        take(router, path, plain.replace(OLD, NEW) + asking(two))
        until(lambda: set(bound()) == {2, 3})
        assert router.end() == 0, router.log
        assert "Traceback" not in router.log


def test_what_is_dropped_comes_back_from_the_server(tmp_path: Path) -> None:
    path = config_file(tmp_path)
    plain = path.read_text().replace("api: {listen: null}", f'api: {{listen: "{API}"}}')
    with dhcp(tmp_path, "one", 1, 2) as (one, _):
        path.write_text(plain + asking(one))
        with running(path) as router, Client(API) as client:
            router.wait_for("ready\n")
            until(lambda: {binding.psid for binding in client.bindings()} == {1, 2})
            assert client.drop_leases(f"127.0.0.1:{one}") == 2
            until(lambda: len(list(client.who_held("203.0.113.1", None))) == 4)  # each of them twice
            assert {binding.psid for binding in client.bindings()} == {1, 2}
            assert router.end() == 0, router.log
            assert "all that it told is dropped, 2 leases" in router.log


def test_tls_files_that_cannot_be_read_change_nothing(tmp_path: Path) -> None:
    path = config_file(tmp_path)
    (tmp_path / "ca.pem").write_text("no certificate\n")
    with running(path) as router:
        router.wait_for("ready\n")
        tls = '{address: "192.0.2.7", tls: {ca: ca.pem}}'
        path.write_text(f"{path.read_text()}icmp: {{unbound_v4: false}}\nleasequery: {{servers: [{tls}]}}\n")
        router.process.send_signal(signal.SIGHUP)
        router.wait_for("leasequery.servers", "log")
        router.wait_for("reload: nothing was changed", "log")
        assert router.end() == 0
