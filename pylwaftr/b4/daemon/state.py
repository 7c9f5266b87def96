"""The file in which a lwB4 keeps its nonce and its last set."""

from __future__ import annotations

import os
from ipaddress import IPv6Address
from pathlib import Path

from pylwaftr.pcp.client_values import Saved

from ..provisioning import from_json, to_json
from .plan import Report


def load(path: Path, aftr: IPv6Address, report: Report) -> Saved | None:
    """None: there is none, or none that helps."""
    try:
        text = path.read_text()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as fault:
        report(f"state: {path} cannot be read ({fault}): starting with a new nonce")
        return None
    try:
        return from_json(aftr, text)
    except ValueError as fault:
        aside = path.with_suffix(path.suffix + ".damaged")
        path.replace(aside)
        report(f"state: {path}: {fault}; it is now {aside}, and we start with a new nonce")
        return None


def save(path: Path, aftr: IPv6Address, saved: Saved) -> None:
    """Whole or not at all. Whoever knows the nonce may give our ports away."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(path.suffix + ".partial")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(to_json(aftr, saved))
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
