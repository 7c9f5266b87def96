"""Kea as the DHCP server of the free home: kea-dhcp6 takes the DHCP 4o6 queries, kea-dhcp4 leases the addresses.

Kea leases whole addresses, so every lease has the same port set (option 159 as a constant). Its run_script hook writes
the journal that the leasequery server reads.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .commands import Process, run
from .lifecycle import STATE, Lab, pylwaftr
from .topology import DHCP, DHCP_HOST, DHCP_INTERFACE, FREE_HOME

_FOLDER = STATE / "kea"
_HOOKS = Path("/usr/lib/x86_64-linux-gnu/kea/hooks")
_4O6_PORT = 6767  # and the next one: the two daemons talk over ::1
_START_S = 20.0
LEASED = FREE_HOME.ports
POOL = "203.0.113.40 - 203.0.113.41"


def start(lab: Lab) -> tuple[Process, Process]:
    _FOLDER.mkdir(exist_ok=True)
    hook = _hook(lab)
    started = _start(lab, "kea-dhcp6", {"Dhcp6": _dhcp6()}), _start(lab, "kea-dhcp4", {"Dhcp4": _dhcp4(hook)})
    for process in started:
        process.wait_for_text("_STARTED", _START_S)
    return started


def _start(lab: Lab, name: str, config: dict[str, Any]) -> Process:
    (_FOLDER / f"{name}.json").write_text(json.dumps(config))
    folders = (f"KEA_PIDFILE_DIR={_FOLDER}", f"KEA_LOCKFILE_DIR={_FOLDER}")
    return lab.start(DHCP, name, "env", *folders, name, "-c", str(_FOLDER / f"{name}.json"))


def _hook(lab: Lab) -> Path:
    """Kea gives the script no environment but its own variables."""
    shebang, _, rest = run(*pylwaftr(), "leasequery-server", "--print-kea-hook").partition("\n")
    ports = f'"offset": {LEASED.offset}, "psid_len": {LEASED.length}, "psid": {LEASED.psid},'
    script = _FOLDER / "hook.sh"
    script.write_text(f"{shebang}\nLEASE_JOURNAL={lab.journal}\nLEASE_PORTS='{ports}'\n{rest}")
    script.chmod(0o755)
    return script


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


def _dhcp4(hook: Path) -> dict[str, Any]:
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
            {"library": str(_HOOKS / "libdhcp_run_script.so"), "parameters": {"name": str(hook), "sync": False}},
        ],
        "subnet4": [
            {
                "id": 1,
                "subnet": "203.0.113.0/24",
                "4o6-subnet": str(FREE_HOME.prefix),
                "4o6-interface": DHCP_INTERFACE,
                "pools": [{"pool": POOL}],
                "option-data": [{"name": "v4-portparams", "data": ports}],
            }
        ],
        "loggers": _logging("kea-dhcp4"),
    }
