"""The binding table's memory is asked for on the NUMA nodes of the workers, in the kernel's own words."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np

from pylwaftr import _core
from pylwaftr.daemon.machine import Machine
from pylwaftr.daemon.router import Router

NO_SUCH_NODE = 1000


def preferred() -> int:
    """Octets of this process that are to come from node 0."""
    sizes = {}
    for line in Path("/proc/self/maps").read_text().splitlines():
        first, last = (int(end, 16) for end in line.split()[0].split("-"))
        sizes[first] = last - first
    told = [line.split() for line in Path("/proc/self/numa_maps").read_text().splitlines()]
    return sum(sizes.get(int(words[0], 16), 0) for words in told if words[1] == "prefer:0")


def bind_some(table: _core.BindingTable, count: int) -> None:
    assert table.bind(_core.bench_rows(0, count), _core.SOURCE_CONFIG, 1)["refused"] == []


def test_memory_is_asked_for_on_the_node_and_so_is_that_of_growth() -> None:
    before = preferred()
    table = _core.BindingTable(100_000, nodes=[0])
    if table.remarks:  # a container may forbid it
        assert table.remarks[0].startswith("the binding table was not put on NUMA node 0 (")
        return
    small = preferred() - before
    assert small >= table.slots * 30
    bind_some(table, 100_000)
    assert table.remarks == []
    table.grow(400_000)
    grown = preferred() - before
    assert grown - small >= 300_000 * 30
    assert table.remarks == []
    del table
    assert preferred() == before


def test_without_nodes_the_kernel_decides() -> None:
    before = preferred()
    table = _core.BindingTable(100_000)
    bind_some(table, 1000)
    assert preferred() == before
    assert table.remarks == []


def test_a_node_that_does_not_exist_is_a_remark() -> None:
    table = _core.BindingTable(1000, nodes=[NO_SUCH_NODE])
    bind_some(table, 1000)
    table.grow(2000)
    (remark,) = table.remarks
    assert remark.startswith("the binding table was not put on NUMA node 1000 (")
    assert bool(np.all(table.find_keys(np.array([1], np.uint32), np.array([0], np.uint16))[0] == 0))
    assert table.size == 1000


def test_health_shows_it_beside_the_remarks_of_the_ports() -> None:
    router = Router.__new__(Router)
    router.table = _core.BindingTable(1000, nodes=[NO_SUCH_NODE])
    router.engine = cast(Any, SimpleNamespace(remarks=["a port is far away"]))

    async def overview() -> tuple[str, ...]:
        machine = Machine(router)
        machine.remarks.append("a service has ended")
        return tuple(machine.overview().remarks)

    port, table, service = asyncio.run(overview())
    assert (port, service) == ("a port is far away", "a service has ended")
    assert "was not put on NUMA node 1000" in table
