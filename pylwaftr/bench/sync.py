"""Leases from a leasequery server to the binding table: decoding alone, a full bulk, changes one by one and in streams.

The server is `pylwaftr leasequery-server` in a process of its own, on a journal made here. The leases go once into a
table by the requestor alone (sync_alone.py), and once into a running router (sync_router.py).
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from pylwaftr.bench import sync_alone, sync_router
from pylwaftr.bench.live import Cpus
from pylwaftr.bench.sync_leases import Leases, lease_server
from pylwaftr.bench.sync_router import QUICK, Plan, Say

__all__ = ["QUICK", "Plan", "run"]


def run(plan: Plan, say: Say) -> list[dict[str, Any]]:
    cpus, leases = Cpus(), Leases(plan.changed.stop)
    say("decoding")
    results = [sync_alone.decode(leases, plan.windows)]
    with tempfile.TemporaryDirectory(prefix="pylwaftr-bench-") as name, cpus.with_control():
        folder = Path(name)
        results += _alone(plan, leases, folder / "journal", say)
        return results + sync_router.run(plan, leases, cpus, folder, say)


def _alone(plan: Plan, leases: Leases, journal: Path, say: Say) -> list[dict[str, Any]]:
    say(f"writing a journal of {plan.leases} leases")
    leases.write(journal, range(plan.leases))
    say("the server reads it")
    with lease_server(journal) as server:
        client = sync_alone.TableClient(server.port, plan.room)
        say("bulk")
        results = [sync_alone.bulk(client, plan.leases)]
        say("changes")
        results.append(sync_alone.one_by_one(client, leases, plan.changed, journal))
        results.append(sync_alone.stream(client, plan.moves(leases), plan.rate, journal))
        client.close()
    return results
