"""What a lab that has ended left behind; nothing, when it is right."""

from __future__ import annotations

from pylwaftr.lab import commands
from pylwaftr.lab.lifecycle import STATE, Lab


def left_behind(lab: Lab | None = None) -> list[str]:
    """Namespaces, state, and processes of this lab."""
    names = [name for name in commands.namespaces() if name.startswith("lw-")]
    running = [process.name for process in lab.processes if process.popen.poll() is None] if lab else []
    return names + [str(STATE)] * STATE.exists() + running
