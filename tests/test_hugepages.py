"""scripts/hugepages.sh on a made-up /sys and /proc: the tree before, the command, the tree after, what is said."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parent.parent / "scripts" / "hugepages.sh"
KIB = {"2M": 2048, "1G": 1048576}

Pages = dict[tuple[int, str], int]  # (node, size) -> pages


@dataclass
class Host:
    """A machine whose kernel grants every number, for a file takes whatever is written."""

    root: Path
    mounts: str = ""
    called: list[str] = field(default_factory=list)

    def set(self, pages: Pages) -> None:
        for (node, size), count in pages.items():
            folder = self.folder(node, size)
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "nr_hugepages").write_text(f"{count}\n")
            (folder / "free_hugepages").write_text(f"{count}\n")
            (folder / "surplus_hugepages").write_text("0\n")
        (self.root / "proc" / "sys" / "vm").mkdir(parents=True, exist_ok=True)
        (self.root / "proc" / "meminfo").write_text("Hugepagesize:       2048 kB\n")
        (self.root / "proc" / "mounts").write_text(self.mounts)
        tools = self.root / "bin"
        tools.mkdir(exist_ok=True)
        for name in ("mount", "umount"):
            (tools / name).write_text(f'#!/bin/sh\necho {name} "$@" >>{self.root}/called\n')
            (tools / name).chmod(0o755)

    def folder(self, node: int, size: str) -> Path:
        return self.root / f"sys/devices/system/node/node{node}/hugepages/hugepages-{KIB[size]}kB"

    def pages(self) -> Pages:
        nodes = sorted((self.root / "sys/devices/system/node").iterdir())
        names = [(node, int(node.name.removeprefix("node")), size) for node in nodes for size in KIB]
        files = {(n, size): self.folder(n, size) / "nr_hugepages" for _, n, size in names}
        return {key: int(file.read_text()) for key, file in files.items() if file.exists()}

    def calls(self) -> list[str]:
        called = self.root / "called"
        return called.read_text().splitlines() if called.exists() else []

    def run(self, command: str) -> subprocess.CompletedProcess[str]:
        here = {"SYSFS_ROOT": "sys", "PROC_ROOT": "proc", "ETC_ROOT": "etc", "STATE_DIR": "state"}
        env = os.environ | {name: str(self.root / where) for name, where in here.items()}
        env["PATH"] = f"{self.root / 'bin'}:{env['PATH']}"
        words = [str(SCRIPT), *command.split()]
        return subprocess.run(words, env=env, capture_output=True, text=True, timeout=30, check=False)


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


ONE = {(0, "2M"): 0, (0, "1G"): 0}
TWO = {(0, "2M"): 0, (0, "1G"): 0, (1, "2M"): 0, (1, "1G"): 0}

ROWS: list[tuple[str, Pages, list[str], Pages, int, str]] = [
    # what, pages before, commands, pages that differ after, exit of the last, a text it says
    ("a number of pages", ONE, ["reserve --count 512"], {(0, "2M"): 512}, 0, "512 pages of 2M (512 added)"),
    ("1G pages", ONE, ["reserve --size 1G --count 2"], {(0, "1G"): 2}, 0, "2 pages of 1G"),
    ("an amount of memory", ONE, ["reserve --memory 1G"], {(0, "2M"): 512}, 0, ""),
    ("an amount is rounded up to pages", ONE, ["reserve --memory 3M"], {(0, "2M"): 2}, 0, ""),
    ("the same again changes nothing", ONE, ["reserve --count 8"] * 2, {(0, "2M"): 8}, 0, "enough"),
    ("more than what is there", ONE | {(0, "2M"): 10}, ["reserve --count 4"], {}, 0, "10 pages of 2M, enough"),
    ("less after more never shrinks", ONE, ["reserve --count 8", "reserve --count 4"], {(0, "2M"): 8}, 0, "enough"),
    ("all nodes evenly", TWO, ["reserve --count 5"], {(0, "2M"): 3, (1, "2M"): 2}, 0, ""),
    ("one node", TWO, ["reserve --count 5 --node 1"], {(1, "2M"): 5}, 0, ""),
    ("a dry run", ONE, ["reserve --count 5 --dry-run"], {}, 0, "would raise node 0 from 0 to 5 pages of 2M"),
    ("quiet", ONE, ["reserve --count 5 --quiet"], {(0, "2M"): 5}, 0, ""),
    ("release", ONE, ["reserve --count 5", "release"], {}, 0, "0 pages of 2M (5 given back)"),
    ("release keeps what was there", ONE | {(0, "2M"): 3}, ["reserve --count 5", "release"], {}, 0, "(2 given back)"),
    ("release of two growths", ONE, ["reserve --count 5", "reserve --count 9", "release"], {}, 0, "(9 given back)"),
    ("release without anything", ONE | {(0, "2M"): 3}, ["release"], {}, 0, "nothing to give back"),
    ("release twice", ONE, ["reserve --count 5", "release", "release"], {}, 0, "nothing to give back"),
    (
        "release, dry",
        ONE,
        ["reserve --count 5", "release --dry-run"],
        {(0, "2M"): 5},
        0,
        "would lower node 0 from 5 to 0",
    ),
    (
        "release of one size",
        ONE,
        ["reserve --count 5", "reserve --size 1G --count 1", "release --size 1G"],
        {(0, "2M"): 5},
        0,
        "0 pages of 1G",
    ),
    ("release of one node", TWO, ["reserve --count 4", "release --node 0"], {(1, "2M"): 2}, 0, "node 0: 0 pages"),
    ("no such node", ONE, ["reserve --count 4 --node 7"], {}, 2, "no NUMA node 7 here (there are: 0)"),
    ("no such size", ONE, ["reserve --count 4 --size 16M"], {}, 1, "no pages of 16M on node 0 (there are: 2M 1G)"),
    ("nonsense for a size", ONE, ["reserve --count 4 --size huge"], {}, 2, "'huge' is no amount of memory"),
    ("nonsense for a count", ONE, ["reserve --count many"], {}, 2, "not 'many'"),
    ("a count of none", ONE, ["reserve --count 0"], {}, 2, "from 1 on"),
    ("no amount at all", ONE, ["reserve"], {}, 2, "needs --count or --memory"),
    ("both amounts", ONE, ["reserve --count 1 --memory 2M"], {}, 2, "give one"),
    ("an option without its value", ONE, ["reserve --count"], {}, 2, "--count needs a value"),
    ("an unknown command", ONE, ["reserv"], {}, 2, "unknown word 'reserv'"),
    ("help", ONE, ["--help"], {}, 0, "usage: hugepages.sh"),
]


@pytest.mark.parametrize("what, before, commands, changed, code, says", ROWS, ids=[row[0] for row in ROWS])
def test_pages(host: Host, what: str, before: Pages, commands: list[str], changed: Pages, code: int, says: str) -> None:
    host.set(before)
    done = [host.run(command) for command in commands]
    assert [each.returncode for each in done] == [0] * (len(commands) - 1) + [code], done[-1].stderr
    assert host.pages() == before | changed
    assert says in done[-1].stdout + done[-1].stderr
    if "--quiet" in commands[-1]:
        assert done[-1].stdout == ""


def test_what_others_added_later_stays(host: Host) -> None:
    host.set(ONE)
    host.run("reserve --count 5")
    host.set({(0, "2M"): 25})  # somebody else: 20 more
    host.run("release")
    assert host.pages()[0, "2M"] == 20


def test_what_others_took_away_is_not_taken_twice(host: Host) -> None:
    host.set({(0, "2M"): 10})
    host.run("reserve --count 16")
    host.set({(0, "2M"): 12})  # somebody else: back to 12
    host.run("release")
    assert host.pages()[0, "2M"] == 10


def test_a_kernel_that_gives_less(host: Host) -> None:
    host.set(ONE)
    file = host.folder(0, "1G") / "nr_hugepages"
    file.unlink()
    file.symlink_to("/dev/null")  # takes every number, has none
    done = host.run("reserve --size 1G --count 4")
    assert done.returncode == 1
    assert "node 0 has 0 pages of 1G, not 4" in done.stderr
    assert "default_hugepagesz=1G hugepagesz=1G hugepages=4" in done.stderr
    assert done.stdout == ""


def test_no_permission(host: Host) -> None:
    host.set(ONE)
    file = host.folder(0, "2M") / "nr_hugepages"
    file.unlink()
    file.mkdir()  # not even root writes into a folder
    done = host.run("reserve --count 4")
    assert done.returncode == 1
    assert "run as root" in done.stderr


def test_a_kernel_without_numa(host: Host) -> None:
    host.set({})
    folder = host.root / "sys/kernel/mm/hugepages/hugepages-2048kB"
    folder.mkdir(parents=True)
    (folder / "nr_hugepages").write_text("0\n")
    assert host.run("reserve --count 4").returncode == 0
    assert (folder / "nr_hugepages").read_text() == "4\n"


def test_show(host: Host) -> None:
    host.mounts = "nodev /dev/hugepages hugetlbfs rw,pagesize=2M 0 0\nnodev /big hugetlbfs rw,pagesize=1024M 0 0\n"
    host.set(TWO | {(1, "2M"): 7})
    host.run("reserve --count 2 --node 0")
    shown = json.loads(host.run("show --json").stdout)
    assert shown["mounts"] == [{"mountpoint": "/dev/hugepages", "size": "2M"}, {"mountpoint": "/big", "size": "1G"}]
    assert [(row["node"], row["size"], row["total"], row["reserved_here"]) for row in shown["pages"]] == [
        (0, "2M", 2, 2),
        (0, "1G", 0, 0),
        (1, "2M", 7, 0),
        (1, "1G", 0, 0),
    ]
    text = host.run("").stdout.splitlines()
    assert text[0].split()[:4] == ["node", "size", "total", "free"]
    assert text[3].split() == ["1", "2M", "7", "7", "0"]
    assert text[-2:] == ["mounted: /dev/hugepages 2M", "mounted: /big 1G"]


def test_mount_and_unmount(host: Host) -> None:
    host.set(ONE)
    where = host.root / "pages"
    assert "would mount" in host.run(f"mount --mountpoint {where} --dry-run").stdout
    assert host.calls() == []
    assert host.run(f"mount --mountpoint {where}").returncode == 0
    (host.root / "proc" / "mounts").write_text(f"nodev {where} hugetlbfs rw,pagesize=2M 0 0\n")
    assert f"mounted at {where}" in host.run("mount").stdout  # any mount of that size will do
    host.run("release")
    host.run("release")
    assert host.calls() == [f"mount -t hugetlbfs -o pagesize=2048K nodev {where}", f"umount {where}"]


def test_pages_of_every_boot(host: Host) -> None:
    host.set(ONE)
    drop_in = host.root / "etc/tmpfiles.d/pylwaftr-hugepages.conf"
    host.run("reserve --count 4 --persist --dry-run")
    assert not drop_in.exists()
    host.run("reserve --count 4 --persist")
    host.run("reserve --count 6 --persist")
    assert drop_in.read_text() == f"w {host.folder(0, '2M') / 'nr_hugepages'} - - - - 6\n"
    host.run("release")
    assert not drop_in.exists()
