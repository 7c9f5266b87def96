"""Which steps there are, and in which lab."""

from __future__ import annotations

from dataclasses import replace

from .chaos import Chaos
from .control_steps import CONTROL
from .kea_steps import KEA, LEASED
from .lease_steps import LEASES
from .pcp_steps import PCP_LIFE, PROVISIONED
from .scenarios import scenarios
from .steps import BASIC, Step
from .topology import CHAOS, DEMONSTRATION, EVERYTHING, Topology


def demonstration() -> tuple[Topology, tuple[Step, ...]]:
    return DEMONSTRATION, (*BASIC, *PROVISIONED, *LEASED, *CONTROL)


def everything(transfer: int) -> tuple[Topology, tuple[Step, ...]]:
    """`transfer`: octets of the transfer with loss."""
    return EVERYTHING, (*demonstration()[1], *scenarios(transfer), *PCP_LIFE, *LEASES, *KEA)


def of_another_router(full: bool, transfer: int) -> tuple[Topology, tuple[Step, ...]]:
    """It does not have our control side."""
    topology, _ = everything(transfer) if full else demonstration()
    return Topology(topology.homes), (*BASIC, *scenarios(transfer)) if full else BASIC


def chaos(rounds: int, seed: int, profile: str = "W") -> tuple[Topology, tuple[Step, ...]]:
    return replace(CHAOS, profile=profile), Chaos(seed).steps(rounds)
