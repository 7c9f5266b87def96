"""The client as a wheel of its own: built without a compiler, used without numpy, core and the rest of the package."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.api_router import Served, parts

ROOT = Path(__file__).resolve().parent.parent

PROGRAM = """
import sys
class Nothing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("numpy", "click", "rich", "yaml") or name == "pylwaftr._core":
            raise ImportError(name + " is not for clients")
sys.meta_path.insert(0, Nothing())
from pylwaftr.api.client import Binding, CallFailed, Client, pack, unpack
from pylwaftr.api.plain import plain
with Client(sys.argv[1]) as router:
    made = router.create(Binding(ipv4="203.0.113.5", psid_len=6, psid=33, b4_ipv6="2001:db8:1::/64"))
    router.load(pack(Binding(ipv4=f"203.0.113.{last}", b4_ipv6="2001:db8::1") for last in range(6, 9)))
    try:
        router.create(made)
    except CallFailed as fault:
        print(fault.reason)
    print([one.ipv4 for rows, _ in router.dump() for one in unpack(rows)], plain(made)["psid"])
import pylwaftr
print(pylwaftr.__file__)
"""


@pytest.mark.slow
def test_the_client_alone(tmp_path: Path) -> None:
    pip = [sys.executable, "-m", "pip", "wheel", "-qq", "--no-deps", "--no-build-isolation", "-w", str(tmp_path)]
    environment = {name: text for name, text in os.environ.items() if name not in ("CXX", "CC")} | {
        "CXX": "/no/compiler"
    }
    done = subprocess.run([*pip, str(ROOT / "clients" / "python")], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name == "pylwaftr_client-0.1.0-py3-none-any.whl"
    unpacked = tmp_path / "unpacked"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(unpacked)
        names = archive.namelist()
    assert "pylwaftr/api/generated/lwaftr/v1/bindings_pb2_grpc.pyi" in names
    assert not [name for name in names if name.endswith((".so", ".pyx")) or "server" in name]
    with Served(parts()) as served:
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, served.target],
            env=os.environ | {"PYTHONPATH": str(unpacked)},
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
    assert (done.stderr, done.stdout.splitlines()) == (
        "",
        [
            "BINDING_EXISTS",
            "['203.0.113.5', '203.0.113.6', '203.0.113.7', '203.0.113.8'] 33",
            str(unpacked / "pylwaftr" / "__init__.py"),
        ],
    )
