"""Who may import whom, read from the sources (why: docs/design.md). A file without a place in the tables fails too."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# --- C++: pure <- packet and stages <- machine <- the Python module --------------------------------------------------

CPP_LAYERS = {  # layer -> file names without folder and ending
    "pure": "types port_set binding binding_* address_class address_map pattern cuckoo cuckoo_* hash numa pages "
    "counters rate_limit settings settings_change headers aged_store path_mtu neighbor shared record_ring punt_ring "
    "inject spread",
    "packet": "packet checksum lane.hpp stage.hpp tap filter.hpp fragment_ports reassembly",
    "stage": "ethernet parse4 parse6 classify* steer encap decap split transmit announce icmp_* ipv4 mss echo arp ndp "
    "mld local offload control",
    "short": "plain plain_*",  # the stages' short form for plain packets
    "order": "lane.cpp",  # the one file that knows in which order the stages come
    "machine": "eal port worker engine quiescence harness punt handover rss_inner capture capture_* telemetry "
    "filter.cpp bench_*",
    "python": "module py_* settings_py table_py",
}
CPP_MAY_INCLUDE = {
    "pure": {"pure"},
    "packet": {"pure", "packet"},
    "stage": {"pure", "packet"},  # and its own header, never another stage
    "short": {"pure", "packet", "stage", "short"},
    "order": {"pure", "packet", "stage", "short"},
    "machine": {"pure", "packet", "machine"},
    "python": {"pure", "packet", "machine", "python"},
}
# The stages are called through stage.hpp, so outside them only lane.cpp has business with it.
STAGE_HEADER_USERS = {"packet", "stage", "short", "order"}
# DPDK headers that work on packets alone, without EAL.
INLINE_DPDK = (
    "rte_mbuf rte_mbuf_core rte_mempool rte_ip_frag rte_ether rte_ip rte_icmp rte_tcp rte_udp rte_arp rte_net "
    "rte_prefetch rte_byteorder rte_branch_prediction rte_common rte_memcpy"
)
# A stage does not log, lock, wait or allocate.
NOT_IN_A_STAGE = {"iostream", "fstream", "cstdio", "mutex", "shared_mutex", "thread", "condition_variable", "future"}
# Entry points of the passes: called by lane.cpp, by no other stage.
PASSES = ("read_link", "parse4", "parse6", "encap", "decap")


def cpp_layer(name: str) -> str | None:
    for layer, patterns in CPP_LAYERS.items():
        for pattern in patterns.split():
            if fnmatch(name if "." in pattern else name.partition(".")[0], pattern):
                return layer
    return None


def cpp_faults(sources: dict[str, str]) -> Iterator[str]:
    """`sources`: file name in csrc/ -> text."""
    for name, text in sorted(sources.items()):
        layer = cpp_layer(name)
        if layer is None:
            yield f"{name}: has no layer"
            continue
        for included in re.findall(r'^\s*#\s*include\s*"([^"]+)"', text, re.MULTILINE):
            yield from own_include_faults(name, layer, included, cpp_layer(included))
        for included in re.findall(r"^\s*#\s*include\s*<([^>]+)>", text, re.MULTILINE):
            yield from system_include_faults(name, layer, included)
        if layer == "stage":
            for entry in PASSES:
                # A call stands inside a function: an indented line, or after a brace.
                if re.search(rf"^(?:[ \t]+|.*[{{(=!;&|]\s*){entry}\(", text, re.MULTILINE):
                    yield f"{name}: calls {entry}(), whose turn only lane.cpp knows"


def own_include_faults(name: str, layer: str, included: str, target: str | None) -> Iterator[str]:
    if target is None:
        return  # its own line says so
    if included == "stage.hpp" and layer not in STAGE_HEADER_USERS:
        yield f"{name} ({layer}): includes stage.hpp"
    elif target not in CPP_MAY_INCLUDE[layer] and included.partition(".")[0] != name.partition(".")[0]:
        yield f"{name} ({layer}): includes {included} ({target})"


def system_include_faults(name: str, layer: str, included: str) -> Iterator[str]:
    header = included.removesuffix(".h")
    dpdk = header.startswith("rte_")
    if (included.startswith("pybind11/") or included == "Python.h") and layer != "python":
        yield f"{name} ({layer}): only the Python side knows {included}"
    elif dpdk and layer in {"pure", "python"}:
        yield f"{name} ({layer}): includes DPDK's {included}"
    elif dpdk and layer != "machine" and header not in INLINE_DPDK.split():
        yield f"{name} ({layer}): {included} needs more than a packet"
    elif included in NOT_IN_A_STAGE and layer in {"stage", "short", "order"}:
        yield f"{name} ({layer}): a stage does not log, lock, wait or allocate, so no {included}"


# --- Python: rows <- codecs <- cores <- keepers <- api <- daemon <- cli ----------------------------------------------

PY_LAYERS = {  # lowest first; module names below pylwaftr
    "base": "__init__ cpu _build_info addresses inside_tls",
    "rows": "rows filters changes refusals row_sets precedence applied table",
    "codec": "binding_files binding_files.* explain explain.* pcap ports eal_args framing capture pcp pcp.codec "
    "pcp.options pcp.numbers dhcp dhcp.codec* dhcp.s46 dhcp._bulk",
    "core": "config config.* bindings subscriber icmp_policy pcp.* dhcp.*",
    "keeper": "store store.* telemetry telemetry.* fleet fleet.*",
    "translate": "api.translate",
    "api": "api api.*",
    "daemon": "daemon daemon.* replay offline capture_client",
    "cli": "__main__ cli cli.*",
    # Programs of their own, which meet the router on the wire and through its command only.
    "b4": "b4 b4.*",
    "lab": "lab lab.*",
    "responder": "responder responder.*",
    # Measures the core in a process of its own.
    "bench": "bench bench.*",
}
ROUTER = ["base", "rows", "codec", "core", "keeper", "translate", "api", "daemon", "cli"]
PY_MAY_IMPORT = {layer: set(ROUTER[: i + 1]) for i, layer in enumerate(ROUTER)}
PY_MAY_IMPORT["cli"] |= {"b4", "bench", "responder"}  # `pylwaftr b4`, `bench`, `leasequery-server` start them
# It runs the control side as the router does, asks a router over its API, and has lwB4s simulated.
PY_MAY_IMPORT["bench"] = {"base", "rows", "codec", "core", "keeper", "api", "daemon", "b4", "bench"}
PY_MAY_IMPORT["b4"] = {"base", "b4"}
PY_MAY_IMPORT["responder"] = {"base", "responder"}  # shares nothing with the requestor
PY_MAY_IMPORT["lab"] = {"base", "lab", "b4"}
# The lwB4 is a PCP client, and a server for its LAN.
B4_MAY_USE = {f"pcp{name}" for name in ("", ".codec", ".numbers", ".options", ".timing", ".client", ".client_values")}

CORE_USERS = {"rows", "daemon", "bench"}  # layers
OUTSIDE = {"asyncio", "socket", "time", "selectors", "select", "signal", "threading"}
# Modules.
OUTSIDE_USERS = (
    "inside_tls",
    "daemon",
    "daemon.*",
    "responder.daemon",
    "responder.inotify",
    "replay",
    "capture_client",
    "store.etcd",
    "api.*",
    "b4.daemon",
    "b4.daemon.*",
    "lab.*",
    "bench.*",
)
GRPC_USERS = ("api.*", "store.etcd", "bench.api")  # the last is a client that measures


def py_layer(module: str) -> str | None:
    """`module` below pylwaftr. A name in full goes before a pattern: pcp.codec is a codec although pcp.* are cores."""
    for exact in (True, False):
        for layer, patterns in PY_LAYERS.items():
            if any(module == p if exact else fnmatch(module, p) for p in patterns.split()):
                return layer
    return None


def imports(module: str, is_package: bool, text: str, known: set[str]) -> set[str]:
    """All that a module imports, wherever it says so; of a member of an own module, that module."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                here = f"pylwaftr.{module}".split(".")
                parents = here[: len(here) - node.level + (1 if is_package else 0)]
                base = ".".join([*parents, *([base] if base else [])])
            for alias in node.names:
                inside = f"{base}.{alias.name}"
                found.add(inside if inside.removeprefix("pylwaftr.") in known else base)
    return found


def py_faults(sources: dict[str, str]) -> Iterator[str]:
    """`sources`: path below pylwaftr/ -> text."""
    modules = {
        path.removesuffix(".py").replace("/", ".").removesuffix(".__init__"): (path.endswith("__init__.py"), text)
        for path, text in sources.items()
    }
    known = set(modules) | {"_core", "_build_info", "api.generated"}
    for module, (is_package, text) in sorted(modules.items()):
        layer = py_layer(module)
        if layer is None:
            yield f"{module}: has no layer"
            continue
        top = module == "__init__"
        for name in sorted(imports("" if top else module, is_package, text, known)):
            if name == "pylwaftr" or name.startswith("pylwaftr."):
                yield from own_import_faults(module, layer, name.removeprefix("pylwaftr").removeprefix("."))
            else:
                yield from foreign_import_faults(module, name.partition(".")[0])


def own_import_faults(module: str, layer: str, name: str) -> Iterator[str]:
    if name == "_core":
        if layer not in CORE_USERS:
            yield f"{module} ({layer}): imports the compiled core"
        return
    if name.startswith("api.generated"):
        if not any(fnmatch(module, users) for users in GRPC_USERS):
            yield f"{module} ({layer}): imports generated gRPC code"
        return
    target = py_layer(name or "__init__")
    if target is None or (layer == "b4" and name in B4_MAY_USE):
        return  # no layer: its own line says so
    if target not in PY_MAY_IMPORT[layer]:
        yield f"{module} ({layer}): imports {name} ({target})"
    elif layer == target == "core" and folder(module) != folder(name):
        yield f"{module} (core): imports {name}, a core outside its folder"


def folder(module: str) -> str:
    return module.partition(".")[0]


def foreign_import_faults(module: str, package: str) -> Iterator[str]:
    if package in OUTSIDE and not any(fnmatch(module, users) for users in OUTSIDE_USERS):
        yield f"{module}: imports {package}; sockets, clocks and tasks belong to {', '.join(OUTSIDE_USERS)}"
    if package in {"grpc", "grpc_tools"} and not any(fnmatch(module, users) for users in GRPC_USERS):
        yield f"{module}: imports {package}"


# --- the tree --------------------------------------------------------------------------------------------------------


def test_the_tree_keeps_the_rules_of_cpp() -> None:
    sources = {path.name: path.read_text() for path in (ROOT / "csrc").glob("*.[ch]pp")}
    assert list(cpp_faults(sources)) == []


def test_the_tree_keeps_the_rules_of_python() -> None:
    package = ROOT / "pylwaftr"
    files = [path for path in package.rglob("*.py") if "generated" not in path.parts]
    sources = {str(path.relative_to(package)): path.read_text() for path in files}
    assert list(py_faults(sources)) == []


# --- the rules themselves: sources, what is wrong with them ----------------------------------------------------------

CPP_ROWS = [
    ("a table that is pure", {"binding_table.cpp": '#include "cuckoo.hpp"\n#include <vector>'}, []),
    ("a pure file and DPDK", {"hash.hpp": "#include <rte_mbuf.h>"}, ["hash.hpp (pure): includes DPDK's rte_mbuf.h"]),
    (
        "a pure file and a packet",
        {"hash.hpp": '#include "packet.hpp"'},
        ["hash.hpp (pure): includes packet.hpp (packet)"],
    ),
    ("a stage", {"encap.cpp": '#include "stage.hpp"\nvoid encap(Context& c) {\n  wrap(c);\n}'}, []),
    ("a stage and its header", {"transmit.cpp": '#include "transmit.hpp"'}, []),
    (
        "a stage and another",
        {"encap.cpp": '#include "transmit.hpp"'},
        ["encap.cpp (stage): includes transmit.hpp (stage)"],
    ),
    (
        "a stage that knows what comes next",
        {"parse4.cpp": "bool parse4(Context& c) {\n  encap(c);\n}"},
        ["parse4.cpp: calls encap(), whose turn only lane.cpp knows"],
    ),
    (
        "a stage that waits",
        {"decap.cpp": "#include <mutex>"},
        ["decap.cpp (stage): a stage does not log, lock, wait or allocate, so no mutex"],
    ),
    ("a stage and EAL", {"arp.cpp": "#include <rte_eal.h>"}, ["arp.cpp (stage): rte_eal.h needs more than a packet"]),
    ("the order", {"lane.cpp": '#include "stage.hpp"\n#include "transmit.hpp"\nvoid f() { encap(c); }'}, []),
    ("a worker and the order", {"worker.cpp": '#include "stage.hpp"'}, ["worker.cpp (machine): includes stage.hpp"]),
    ("a worker and a lane", {"worker.hpp": '#include "lane.hpp"\n#include <rte_ethdev.h>'}, []),
    ("a lane and a worker", {"lane.cpp": '#include "worker.hpp"'}, ["lane.cpp (order): includes worker.hpp (machine)"]),
    (
        "a worker and Python",
        {"worker.cpp": "#include <pybind11/pybind11.h>"},
        ["worker.cpp (machine): only the Python side knows pybind11/pybind11.h"],
    ),
    ("the module", {"py_table.cpp": '#include <pybind11/numpy.h>\n#include "binding_table.hpp"'}, []),
    ("a new file", {"extra.cpp": ""}, ["extra.cpp: has no layer"]),
]


@pytest.mark.parametrize("what, sources, faults", CPP_ROWS, ids=[row[0] for row in CPP_ROWS])
def test_cpp_rules(what: str, sources: dict[str, str], faults: list[str]) -> None:
    assert list(cpp_faults(sources)) == faults


PY_ROWS = [
    ("rows and the core", {"rows.py": "from pylwaftr import _core"}, []),
    ("rows and the core's names", {"rows.py": "from pylwaftr._core import BINDING_ROW"}, []),
    (
        "bindings and the core",
        {"bindings.py": "def f():\n    from . import _core"},
        ["bindings (core): imports the compiled core"],
    ),
    ("a core and rows", {"bindings.py": "from pylwaftr.rows import Rows", "rows.py": ""}, []),
    (
        "rows and a core",
        {"rows.py": "from pylwaftr import bindings", "bindings.py": ""},
        ["rows (rows): imports bindings (core)"],
    ),
    (
        "a core and a core elsewhere",
        {"pcp/server.py": "from pylwaftr.bindings import x", "bindings.py": ""},
        ["pcp.server (core): imports bindings, a core outside its folder"],
    ),
    ("a core in its folder", {"pcp/server.py": "from . import pool, codec", "pcp/pool.py": "", "pcp/codec.py": ""}, []),
    (
        "a codec and its server",
        {"pcp/codec.py": "from .server import x", "pcp/server.py": ""},
        ["pcp.codec (codec): imports pcp.server (core)"],
    ),
    (
        "a core with a clock",
        {"subscriber.py": "import time"},
        [f"subscriber: imports time; sockets, clocks and tasks belong to {', '.join(OUTSIDE_USERS)}"],
    ),
    (
        "the daemon",
        {"daemon.py": "import asyncio, socket\nfrom pylwaftr import _core, bindings", "bindings.py": ""},
        [],
    ),
    ("a servicer", {"api/service.py": "import grpc\nfrom pylwaftr.api.generated import x_pb2"}, []),
    ("telemetry and grpc", {"telemetry/metrics.py": "import grpc"}, ["telemetry.metrics: imports grpc"]),
    ("the lwB4 and its inside", {"b4/daemon.py": "import asyncio\nfrom .core import B4", "b4/core.py": ""}, []),
    ("the lwB4 and PCP", {"b4/daemon.py": "from pylwaftr.pcp.client import C", "pcp/client.py": ""}, []),
    (
        "the lwB4 and the router",
        {"b4/core.py": "from pylwaftr.rows import x", "rows.py": ""},
        ["b4.core (b4): imports rows (rows)"],
    ),
    ("the command line", {"cli/b4.py": "from ..b4 import daemon", "b4/daemon.py": ""}, []),
    ("a new file", {"extra.py": ""}, ["extra: has no layer"]),
]


@pytest.mark.parametrize("what, sources, faults", PY_ROWS, ids=[row[0] for row in PY_ROWS])
def test_python_rules(what: str, sources: dict[str, str], faults: list[str]) -> None:
    assert list(py_faults(sources)) == faults
