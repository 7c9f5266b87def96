"""What the makers of a file share: write it, or with --check say that it is not up to date."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main(out: Path, wanted: str, maker: str, arguments: list[str]) -> int:
    """`out` becomes `wanted`; exit status 1 if with --check it is something else, 2 for other arguments."""
    if arguments not in ([], ["--check"]):
        print(f"{' '.join(arguments)}: not understood; {Path(maker).name} [--check]", file=sys.stderr)
        return 2
    if not arguments:
        out.write_text(wanted)
        return 0
    if out.exists() and out.read_text() == wanted:
        return 0
    print(f"{out.relative_to(ROOT)} is not up to date: run scripts/{Path(maker).name}", file=sys.stderr)
    return 1
