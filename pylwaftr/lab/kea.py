"""Kea as the DHCP server of the free home: kea-dhcp6 takes the DHCP 4o6 queries, kea-dhcp4 leases the addresses.

Kea leases whole addresses, so every lease has the same port set (option 159 as a constant). Its run_script hook writes
the journal that the leasequery server reads.
"""

from __future__ import annotations

import json
import signal
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

from .commands import Process, run
from .dhcp_client import CLIENT
from .lifecycle import STATE, Lab, pylwaftr
from .topology import DHCP, DHCP_HOST, DHCP_INTERFACE, FREE_HOME

_FOLDER = STATE / "kea"
_HOOK = _FOLDER / "hook.sh"
_HOOKS = Path("/usr/lib/x86_64-linux-gnu/kea/hooks")
_4O6_PORT = 6767  # and the next one: the two daemons talk over ::1
_START_S = 20.0
LEASED = FREE_HOME.ports
POOL = "203.0.113.40 - 203.0.113.41"


def start(lab: Lab) -> None:
    _FOLDER.mkdir(exist_ok=True)
    _hook(lab)
    started = _start(lab, "kea-dhcp6", {"Dhcp6": _dhcp6()}), _start(lab, "kea-dhcp4", {"Dhcp4": _dhcp4()})
    for process in started:
        process.wait_for_text("_STARTED", _START_S)


def process_of(lab: Lab, name: str) -> Process:
    return next(process for process in lab.processes if process.name == name)


def stop(lab: Lab) -> None:
    for name in ("kea-dhcp4", "kea-dhcp6"):
        lab.stop(process_of(lab, name))


def reserve(lab: Lab, address: IPv4Address) -> None:
    """For the client, by a configuration that is read again; once in the life of a kea-dhcp4.

    A pool without the leased address would not do: what is asked for outside of all pools Kea leaves unanswered.
    """
    running = process_of(lab, "kea-dhcp4")
    _write("kea-dhcp4", {"Dhcp4": _dhcp4({"client-id": CLIENT, "ip-address": str(address)})})
    running.popen.send_signal(signal.SIGHUP)
    running.wait_for_text("DHCP4_DYNAMIC_RECONFIGURATION_SUCCESS", _START_S)


def _start(lab: Lab, name: str, config: dict[str, Any]) -> Process:
    folders = (f"KEA_PIDFILE_DIR={_FOLDER}", f"KEA_LOCKFILE_DIR={_FOLDER}")
    return lab.start(DHCP, name, "env", *folders, name, "-c", str(_write(name, config)))


def _write(name: str, config: dict[str, Any]) -> Path:
    path = _FOLDER / f"{name}.json"
    path.write_text(json.dumps(config))
    return path


def _hook(lab: Lab) -> None:
    """Kea gives the script no environment but its own variables."""
    shebang, _, rest = run(*pylwaftr(), "leasequery-server", "--print-kea-hook").partition("\n")
    ports = f'"offset": {LEASED.offset}, "psid_len": {LEASED.length}, "psid": {LEASED.psid},'
    _HOOK.write_text(f"{shebang}\nLEASE_JOURNAL={lab.journal}\nLEASE_PORTS='{ports}'\n{rest}")
    _HOOK.chmod(0o755)


def _logging(name: str) -> list[dict[str, Any]]:
    return [{"name": name, "output_options": [{"output": "stdout"}], "severity": "INFO"}]


def _dhcp6() -> dict[str, Any]:
    return {
        "interfaces-config": {"interfaces": [f"{DHCP_INTERFACE}/{DHCP_HOST}"]},
        "dhcp4o6-port": _4O6_PORT,
        "data-directory": str(_FOLDER),
        "lease-database": {"type": "memfile", "persist": False},
        "subnet6": [{"id": 1, "subnet": str(FREE_HOME.prefix), "interface": DHCP_INTERFACE}],
        "loggers": _logging("kea-dhcp6"),
    }


def _dhcp4(*reservations: dict[str, str]) -> dict[str, Any]:
    ports = f"{LEASED.offset}, {LEASED.psid}/{LEASED.length}"
    # Option 109 is unknown to Kea: what the client said comes back (RFC 8539 section 8).
    echo = {"options": [{"code": 109, "supersede": "option[109].hex"}]}
    return {
        "interfaces-config": {"interfaces": [DHCP_INTERFACE], "dhcp-socket-type": "udp"},
        "dhcp4o6-port": _4O6_PORT,
        "lease-database": {"type": "memfile", "persist": True, "name": str(_FOLDER / "leases4.csv"), "lfc-interval": 0},
        "valid-lifetime": 600,
        "min-valid-lifetime": 2,
        "max-valid-lifetime": 3600,
        "expired-leases-processing": {"reclaim-timer-wait-time": 1, "hold-reclaimed-time": 0},
        "option-def": [{"name": "dhcp4o6-s46-saddr", "code": 109, "space": "dhcp4", "type": "ipv6-address"}],
        "hooks-libraries": [
            {"library": str(_HOOKS / "libdhcp_flex_option.so"), "parameters": echo},
            {"library": str(_HOOKS / "libdhcp_run_script.so"), "parameters": {"name": str(_HOOK), "sync": False}},
        ],
        "subnet4": [
            {
                "id": 1,
                "subnet": "203.0.113.0/24",
                "4o6-subnet": str(FREE_HOME.prefix),
                "4o6-interface": DHCP_INTERFACE,
                "pools": [{"pool": POOL}],
                "reservations": list(reservations),
                "option-data": [{"name": "v4-portparams", "data": ports}],
            }
        ],
        "loggers": _logging("kea-dhcp4"),
    }
