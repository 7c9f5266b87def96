"""`pylwaftr run` as a process: it starts, says so, ends cleanly; and what it says when it cannot start."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

PYLWAFTR = str(Path(sys.executable).with_name("pylwaftr"))
START_S = 60  # the machine may be busy

CONFIG = """
interfaces:
  v4: {port: "%s", addresses: [192.0.2.1/24], next_hop: 192.0.2.254}
  v6: {port: "%s", addresses: ["2001:db8:ffff::2/64"], next_hop: "2001:db8:ffff::1", mtu: 1540}
softwire: {br_addresses: ["2001:db8:aa::1"]}
dataplane: {hugepages: never%s}
state: {directory: state}
api: {listen: null}
metrics: {listen: null}
"""


def config_file(folder: Path, v4: str = "net_null0", v6: str = "net_null1", dataplane: str = "") -> Path:
    path = folder / "config.yaml"
    path.write_text(CONFIG % (v4, v6, dataplane))
    return path


class Running:
    """A started router; what it printed is in a file, so that no pipe fills up."""

    def __init__(self, process: subprocess.Popen[bytes], out: Path, log: Path) -> None:
        self.process = process
        self._out = out
        self._log = log

    @property
    def out(self) -> str:
        return self._out.read_text()

    @property
    def log(self) -> str:
        return self._log.read_text()

    def wait_for(self, text: str, where: str = "out") -> None:
        deadline = time.monotonic() + START_S
        while text not in getattr(self, where):
            assert self.process.poll() is None, f"ended with {self.process.returncode}: {self.log}"
            assert time.monotonic() < deadline, f"no {text!r} in {self.out!r}, {self.log!r}"
            time.sleep(0.02)

    def end(self, how: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(how)
        return self.process.wait(START_S)


@contextmanager
def running(config: Path, *options: str, env: dict[str, str] | None = None) -> Iterator[Running]:
    out, log = config.with_suffix(".out"), config.with_suffix(".log")
    with out.open("wb") as stdout, log.open("wb") as stderr:
        words = [PYLWAFTR, "run", "-c", str(config), *options]
        process = subprocess.Popen(words, stdout=stdout, stderr=stderr, env=os.environ | (env or {}))
    try:
        yield Running(process, out, log)
    finally:
        process.kill()
        process.wait()


def refused(config: Path, *options: str) -> tuple[int, list[str]]:
    """Exit status and the lines about what is wrong."""
    words = [PYLWAFTR, "run", "-c", str(config), *options]
    done = subprocess.run(words, capture_output=True, text=True, timeout=START_S, check=False)
    assert "Traceback" not in done.stderr
    assert "ready" not in done.stdout
    # The log goes to the same place.
    return done.returncode, [line for line in done.stderr.splitlines() if not re.match(r"\d{4}-\d\d-\d\d ", line)]


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_it_gets_ready_and_ends_cleanly_with_its_counters(tmp_path: Path, how: signal.Signals) -> None:
    with running(config_file(tmp_path)) as router:
        router.wait_for("ready\n")
        time.sleep(0.2)
        assert router.end(how) == 0, router.log
        assert re.search(r"^rx +rx_v4 +[0-9,]+  frames received", router.out, re.MULTILINE)
        assert "Traceback" not in router.log


# what is added to the file, what a hangup then makes of it
RELOADS = [
    ("a live key", "icmp: {unbound_v4: false}", ["reload: icmp.unbound_v4: true -> false", "reload: 1 keys changed"]),
    (
        "a binding",
        'bindings: {entries: [{ipv4: 203.0.113.9, b4_ipv6: "2001:db8:9::1"}]}',
        ["reload: 1 keys changed, other bindings"],
    ),
    (
        "a faulty file",
        "icmp: {unbound_v4: 7}\npcp: {no: 1}",
        ["icmp.unbound_v4", "pcp.no", "reload: nothing was changed"],
    ),
    (
        "what needs a restart",
        "icmp: {unbound_v4: false}\npcp: {third_party: {listen: 127.0.0.1:5351}}",
        ["pcp.third_party.listen", "needs a restart", "reload: nothing was changed"],
    ),
]


@pytest.mark.parametrize("what, more, said", RELOADS, ids=[row[0] for row in RELOADS])
def test_a_hangup_takes_over_the_file(tmp_path: Path, what: str, more: str, said: list[str]) -> None:
    path = config_file(tmp_path)
    with running(path) as router:
        router.wait_for("ready\n")
        path.write_text(f"{path.read_text()}{more}\n")
        router.process.send_signal(signal.SIGHUP)
        for text in said:
            router.wait_for(text, "log")
        assert router.end() == 0


def test_bindings_outlive_a_restart(tmp_path: Path) -> None:
    """A binding of the file that goes while the router is down is gone, and its life is in the history."""
    path = config_file(tmp_path)
    plain = path.read_text()
    path.write_text(f'{plain}bindings: {{entries: [{{ipv4: 203.0.113.9, b4_ipv6: "2001:db8:9::1"}}]}}\n')
    with running(path) as router:
        router.wait_for("1 bindings, revision", "log")
        router.wait_for("ready\n")
        assert router.end() == 0
    path.write_text(plain)
    with running(path) as router:
        router.wait_for("0 bindings, revision", "log")
        router.wait_for("ready\n")
        assert router.end() == 0


def test_next_hops_that_do_not_answer_are_a_state(tmp_path: Path) -> None:
    with running(config_file(tmp_path)) as router:
        router.wait_for("ready\n")
        router.wait_for("v4 next hop is not resolved yet", "log")
        router.wait_for("v6 next hop is not resolved yet", "log")
        assert router.end() == 0


def test_the_service_manager_is_told(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(START_S)
        with running(config_file(tmp_path), env={"NOTIFY_SOCKET": str(tmp_path / "notify")}) as router:
            assert manager.recv(100) == b"READY=1"
            assert router.end() == 0
            assert manager.recv(100) == b"STOPPING=1"


def test_rates_are_shown_when_asked_for(tmp_path: Path) -> None:
    with running(config_file(tmp_path), "--show-counters", "0.2") as router:
        router.wait_for("next hops: v4 ")
        assert router.end() == 0
        assert re.search(r"rx_v4 [0-9,]+/s  tx_v6 [0-9,]+/s", router.out)


def test_the_worker_has_its_cpu_for_itself(tmp_path: Path) -> None:
    cpus = sorted(os.sched_getaffinity(0))
    if len(cpus) < 2:
        pytest.skip("needs two CPUs")
    with running(config_file(tmp_path, dataplane=f", lcores: [{cpus[1]}]")) as router:
        router.wait_for("ready\n")
        threads = list(Path(f"/proc/{router.process.pid}/task").iterdir())
        may_run = {thread.name: os.sched_getaffinity(int(thread.name)) for thread in threads}
        there = [name for name, allowed in may_run.items() if cpus[1] in allowed]
        assert len(there) == 1, [(thread.joinpath("comm").read_text(), may_run[thread.name]) for thread in threads]
        assert may_run[there[0]] == {cpus[1]}
        assert may_run[str(router.process.pid)] == set(cpus) - {cpus[1]}
        assert router.end() == 0


def test_both_directions_of_one_port(tmp_path: Path) -> None:
    with running(config_file(tmp_path, "net_null0", "net_null0")) as router:
        router.wait_for("ready\n")
        assert router.end() == 0


def test_fewer_queues_than_workers_means_fewer_workers(tmp_path: Path) -> None:
    cpus = sorted(os.sched_getaffinity(0))
    if len(cpus) < 2:
        pytest.skip("needs two CPUs")
    # A net_pcap port has as many queues as it has files.
    (tmp_path / "in.pcap").write_bytes(bytes.fromhex("d4c3b2a1020004000000000000000000ffff000001000000"))
    port = f"net_pcap0,rx_pcap={tmp_path / 'in.pcap'},tx_pcap={tmp_path / 'out.pcap'}"
    with running(config_file(tmp_path, port, dataplane=f", lcores: [{cpus[0]}, {cpus[1]}]")) as router:
        router.wait_for("ready\n")
        router.wait_for("1 of 2 workers will run", "log")
        assert router.end() == 0


# --- it cannot start: exit status 1, one line with the remedy ---

REFUSED = [
    ("no such interface", "net_af_packet0,iface=nix7", "", (), "there is no interface 'nix7'"),
    ("no such PCI device", "0000:7f:1f.7", "", (), "there is no PCI device 0000:7f:1f.7: see dpdk-devbind.py"),
    ("no such driver", "net_nix0", "", (), "interfaces.v4.port: net_nix0: DPDK cannot open this port"),
    ("bad device argument", "net_null0,nix=1", "", (), "interfaces.v4.port: net_null0,nix=1: DPDK cannot open"),
    ("bad EAL argument", "net_null0", "", ("--", "--nix"), "EAL does not know an argument"),
    ("bad EAL argument in the file", "net_null0", ", eal_args: [--nix]", (), "EAL does not know an argument"),
    ("no such CPU", "net_null0", ", lcores: [1000]", (), "dataplane.lcores: CPU 1000 is not available here"),
    ("lcores of one's own", "net_null0", "", ("--", "--lcores=9@0"), "worker lcore 1 does not exist"),
]


@pytest.mark.parametrize("what, port, dataplane, options, says", REFUSED)
def test_one_clear_line(
    tmp_path: Path, what: str, port: str, dataplane: str, options: Sequence[str], says: str
) -> None:
    status, lines = refused(config_file(tmp_path, port, dataplane=dataplane), *options)
    lines = [line for line in lines if ": warning: " not in line]  # of the configuration, which is good
    assert len(lines) == 1, (what, lines)
    assert says in lines[0], what
    assert lines[0].startswith("pylwaftr: "), what
    assert status == 1, what


def test_a_faulty_configuration_starts_nothing(tmp_path: Path) -> None:
    path = config_file(tmp_path)
    path.write_text(path.read_text().replace("192.0.2.254", "192.0.2.999").replace("mtu: 1540", "mtu: 7"))
    status, lines = refused(path)
    assert status == 2
    assert len(lines) >= 2
    assert all(line.startswith(f"{path}:") for line in lines)


def test_demanded_hugepages_that_are_not_there(tmp_path: Path) -> None:
    path = config_file(tmp_path)
    many = "reassembly: {max_packets: 10000000}"  # some 50 GB of buffers
    text = path.read_text().replace("hugepages: never", "hugepages: always").replace('aa::1"]', f'aa::1"], {many}')
    path.write_text(text)
    status, lines = refused(path)
    assert (status, len(lines)) == (1, 1), lines
    assert "reserve them with scripts/hugepages.sh" in lines[0]


@pytest.fixture
def interface() -> Iterator[str]:
    """One end of a veth pair."""
    name = f"lw{os.getpid()}"
    subprocess.run(["ip", "link", "add", name, "type", "veth", "peer", "name", f"{name}p"], check=True)
    yield name
    subprocess.run(["ip", "link", "del", name], check=True)


@pytest.mark.needs_netns
def test_a_second_start_on_the_same_port_is_refused(tmp_path: Path, interface: str) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    port = f"net_af_packet0,iface={interface}"
    with running(config_file(first, port)) as router:
        router.wait_for("ready\n")
        status, lines = refused(config_file(second, "net_null0", port))
        assert (status, len(lines)) == (1, 1), lines
        assert f"interface {interface} " in lines[0]
        assert f"process {router.process.pid}, configuration {first / 'config.yaml'}" in lines[0]
        assert router.end() == 0


@pytest.mark.needs_netns
def test_a_packet_socket_port_gets_the_mtu_it_needs(tmp_path: Path, interface: str) -> None:
    with running(config_file(tmp_path, v6=f"net_af_packet0,iface={interface}")) as router:
        router.wait_for("ready\n")
        shown = subprocess.run(["ip", "link", "show", interface], capture_output=True, text=True, check=True)
        assert "mtu 1540" in shown.stdout
        assert router.end() == 0


TWICE = """
from pylwaftr import _core, eal_args
vector = eal_args.replay_vector(eal_args.Buffers(1024, 2048, 16), {0})
_core.eal_init(vector)
try:
    _core.eal_init(vector)
except _core.EalError as fault:
    print(fault)
_core.eal_cleanup()
"""


def test_one_eal_per_process_life() -> None:
    done = subprocess.run([sys.executable, "-c", TWICE], capture_output=True, text=True, timeout=START_S, check=False)
    assert done.stdout == "DPDK can be started only once in the life of a process: start a new process\n", done.stderr


REDIVIDED = """
import numpy as np
from pylwaftr import _core, eal_args, rows
from pylwaftr.config import core_settings, load
import sys

few = eal_args.Buffers(8192, 2048, 64)
_core.eal_init(eal_args.replay_vector(few, {0}))
table = _core.BindingTable(100, [], [])
settings = core_settings(load(sys.argv[1]))
engine = _core.Engine(settings, table, ["net_null0", "net_null1"], [1], mbufs=few.count, data_room=few.data_room,
                      held_limit=few.held_limit, secret=1)
engine.start()
address, psid = np.array([0xCB007109], np.uint32), np.array([3], np.uint16)
b4, br = (bytes([0x20, 1] + [0] * 13 + [last]) for last in (1, 2))
for division in [(0, 6), (4, 8)] * 3:
    row = rows.array([rows.row(0xCB007109, *division, 3, b4, br)])
    assert not table.bind(row, _core.SOURCE_OPERATOR, 0)["refused"]
    table.unbind(address, psid, _core.SOURCE_OPERATOR)
engine.stop()
table.bind(row, _core.SOURCE_OPERATOR, 0)  # no worker is waited for any more
engine.close()
_core.eal_cleanup()
print("done", engine.counters().shape[0])
"""


def test_the_table_waits_for_workers_that_run_and_for_no_others(tmp_path: Path) -> None:
    """An address gets another division: until then every look-up of the old one has to be over."""
    words = [sys.executable, "-c", REDIVIDED, str(config_file(tmp_path))]
    done = subprocess.run(words, capture_output=True, text=True, timeout=START_S, check=False)
    assert done.stdout == "done 1\n", done.stderr
