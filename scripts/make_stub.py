"""make_stub.py FOLDER MODULE OUT: writes the type stub of a compiled module that lies under FOLDER.

Exit codes: 0 written, 1 the module cannot be imported or described, 3 this CPU cannot run it.
"""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path

from pybind11_stubgen import main as stubgen

# pybind11 names a structured dtype by its C++ type. To numpy's type system every structured array is one of void.
STRUCT_ARRAY = re.compile(r"typing\.Annotated\[numpy\.typing\.ArrayLike, lw::\w+\]|numpy\.typing\.NDArray\[lw::\w+\]")


def main(folder: str, module: str, out: str) -> int:
    sys.path.insert(0, folder)
    try:
        importlib.import_module(module)
    except ImportError as fault:
        print(fault, file=sys.stderr)
        return 3 if type(fault).__name__ == "UnsupportedCpu" else 1
    known = ["--ignore-invalid-expressions", r"lw::\w+", "--print-invalid-expressions-as-is"]
    stubgen([module, "-o", out, "--exit-code", *known])
    stub = Path(out, *module.split(".")).with_suffix(".pyi")
    text = STRUCT_ARRAY.sub("numpy.typing.NDArray[numpy.void]", stub.read_text())
    if untold := sorted(set(re.findall(r"lw::\w+", text))):
        print(f"types that Python does not know: bind them before they are used: {', '.join(untold)}", file=sys.stderr)
        return 1
    stub.write_text(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
