"""Refuses a CPU that lacks the instruction set the compiled core was built for, before the core is loaded.

Loading it would end in SIGILL: code compiled for AVX2 uses AVX2 from its first static initialiser on.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")


class UnsupportedCpu(ImportError):
    """The compiled core cannot run on this CPU; the text says what is missing and what to do."""


def available_flags(cpuinfo: Iterable[str]) -> frozenset[str]:
    """The feature names of the first CPU; empty when the text names none."""
    for line in cpuinfo:
        name, _, value = line.partition(":")
        if name.strip() == "flags":
            return frozenset(value.split())
    return frozenset()


def missing(needed: Iterable[str], cpuinfo: Iterable[str]) -> list[str]:
    have = available_flags(cpuinfo)
    # Without a list of features nothing can be said against the CPU.
    return [flag for flag in needed if flag not in have] if have else []


def refusal(cpuinfo: Path = CPUINFO) -> str | None:
    """Why the core cannot run here, or None."""
    try:
        from pylwaftr._build_info import CPU_FLAGS, MARCH
    except ModuleNotFoundError:
        return None  # not built yet: there is no core to protect
    try:
        with cpuinfo.open() as lines:
            lacking = missing(CPU_FLAGS, lines)
    except OSError:
        return None
    if not lacking:
        return None
    return (
        f"this pylwaftr was built for the instruction set '{MARCH}', and this CPU lacks {', '.join(lacking)}; "
        "build it here (make build), or with PYLWAFTR_MARCH=x86-64-v3 or x86-64-v2 for older CPUs"
    )


def require() -> None:
    reason = refusal()
    if reason is not None:
        raise UnsupportedCpu(reason)
