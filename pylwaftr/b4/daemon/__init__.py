"""The outer files of the lwB4: sockets, clock, signals and tasks; what is decided is decided without them."""

from .plan import PcpPlan, Plan, UnboundError
from .run import run

__all__ = ["PcpPlan", "Plan", "UnboundError", "run"]
