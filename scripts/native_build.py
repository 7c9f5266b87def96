"""Compiles csrc/ incrementally: which flags, which files are stale, one shared object.

A file is compiled again when its command line has changed, or anything it includes since its last compilation began.
Files of the system (-isystem) are not tracked one by one: the versions of compiler and DPDK are compared instead.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

WARNINGS = ("-Wall", "-Wextra", "-Werror")
# A packet crosses a dozen stages, each a file of its own: without link-time optimisation each crossing is a call.
OPTIMISED = ("-O3", "-flto=auto")
COMMON = ("-std=c++20", *OPTIMISED, "-g1", "-DNDEBUG", "-fPIC", "-fvisibility=hidden", "-pthread")

# What the compiler may use by itself under some -march (x86-64): its macro -> the name of the same in /proc/cpuinfo.
ISA_MACROS = {
    "__SSE3__": "pni",
    "__SSSE3__": "ssse3",
    "__SSE4_1__": "sse4_1",
    "__SSE4_2__": "sse4_2",
    "__POPCNT__": "popcnt",
    "__GCC_HAVE_SYNC_COMPARE_AND_SWAP_16": "cx16",
    "__AVX__": "avx",
    "__AVX2__": "avx2",
    "__FMA__": "fma",
    "__FMA4__": "fma4",
    "__XOP__": "xop",
    "__TBM__": "tbm",
    "__F16C__": "f16c",
    "__BMI__": "bmi1",
    "__BMI2__": "bmi2",
    "__LZCNT__": "abm",
    "__MOVBE__": "movbe",
    "__AES__": "aes",
    "__PCLMUL__": "pclmulqdq",
    "__VAES__": "vaes",
    "__VPCLMULQDQ__": "vpclmulqdq",
    "__GFNI__": "gfni",
    "__SHA__": "sha_ni",
    "__ADX__": "adx",
    "__AVXVNNI__": "avx_vnni",
    "__AVX512F__": "avx512f",
    "__AVX512CD__": "avx512cd",
    "__AVX512BW__": "avx512bw",
    "__AVX512DQ__": "avx512dq",
    "__AVX512VL__": "avx512vl",
    "__AVX512IFMA__": "avx512ifma",
    "__AVX512VBMI__": "avx512vbmi",
    "__AVX512VBMI2__": "avx512_vbmi2",
    "__AVX512VNNI__": "avx512_vnni",
    "__AVX512BITALG__": "avx512_bitalg",
    "__AVX512VPOPCNTDQ__": "avx512_vpopcntdq",
    "__AVX512BF16__": "avx512_bf16",
    "__AVX512FP16__": "avx512_fp16",
}


class BuildError(Exception):
    """A sentence for the person who builds: what is wrong and what to do."""


@dataclass(frozen=True)
class Dpdk:
    version: str
    compile_flags: tuple[str, ...]
    link_flags: tuple[str, ...]


def _output(command: Sequence[str], text: str = "") -> str:
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BuildError(f"`{shlex.join(command)}` failed: {done.stderr.strip()}")
    return done.stdout.strip()


def find_dpdk(pkg_config: str = "pkg-config") -> Dpdk:
    """Flags of the system's libdpdk, without its -march: which instructions to use is decided here."""
    try:
        version = _output([pkg_config, "--modversion", "libdpdk"])
    except FileNotFoundError:
        raise BuildError("pkg-config is missing: sudo apt-get install pkg-config libdpdk-dev") from None
    except BuildError as fault:
        raise BuildError(f"DPDK's headers are missing: sudo apt-get install libdpdk-dev ({fault})") from None
    return Dpdk(
        version,
        tuple(as_system_headers(shlex.split(_output([pkg_config, "--cflags", "libdpdk"])))),
        tuple(shlex.split(_output([pkg_config, "--libs", "libdpdk"]))),
    )


def as_system_headers(flags: Iterable[str]) -> list[str]:
    """-I becomes -isystem: our warnings are not for other people's headers. -march goes."""
    kept: list[str] = []
    for flag in flags:
        if flag.startswith("-I"):
            kept += ["-isystem", flag[2:]]
        elif not flag.startswith(("-march=", "-mtune=", "-mcpu=")):
            kept.append(flag)
    return kept


def cpu_flags(cxx: str, march: str) -> tuple[str, ...]:
    """The names in /proc/cpuinfo of everything that code compiled for this instruction set may use."""
    try:
        macros = _output([cxx, f"-march={march}", "-dM", "-E", "-x", "c++", "-"])
    except FileNotFoundError:
        raise BuildError(f"the compiler {cxx} is missing: sudo apt-get install build-essential") from None
    except BuildError as fault:
        raise BuildError(f"PYLWAFTR_MARCH={march}: {cxx} knows no such instruction set ({fault})") from None
    defined = set(re.findall(r"^#define (\w+)", macros, re.MULTILINE))
    if "__x86_64__" in defined and "__SSE4_2__" not in defined:
        raise BuildError(f"PYLWAFTR_MARCH={march}: DPDK needs SSE4.2, so x86-64-v2 is the least")
    return tuple(flag for macro, flag in ISA_MACROS.items() if macro in defined)


def compiler_version(cxx: str) -> str:
    return _output([cxx, "--version"]).partition("\n")[0]


def _included(depfile: Path) -> list[Path]:
    rule = depfile.read_text().replace("\\\n", " ").partition(":")[2]
    return [Path(name.replace("\\ ", " ")) for name in re.split(r"(?<!\\)\s+", rule.strip())]


def is_stale(target: Path, command: str) -> bool:
    """The object's own time is when its compilation started, so that an edit during it counts."""
    stamp, depfile = target.with_suffix(".cmd"), target.with_suffix(".d")
    if not (target.exists() and stamp.exists() and depfile.exists()) or stamp.read_text() != command:
        return True
    made = target.stat().st_mtime_ns
    return any(not path.exists() or path.stat().st_mtime_ns > made for path in _included(depfile))


def _compile(command: Sequence[str], source: Path, target: Path, fingerprint: str, header: Path | None = None) -> str:
    """`header`: one that is precompiled. A compiler takes it only before anything else is included."""
    started = time.time_ns()
    first = ["-include", str(header)] if header else []
    kind = ["-x", "c++-header"] if source.suffix == ".hpp" else []
    depfile = ["-MMD", "-MF", str(target.with_suffix(".d"))]
    done = subprocess.run(
        [command[0], *first, *command[1:], *depfile, *kind, "-c", str(source), "-o", str(target)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        target.unlink(missing_ok=True)
        return done.stderr or f"{source}: the compiler ended with {done.returncode}"
    os.utime(target, ns=(started, started))
    target.with_suffix(".cmd").write_text(fingerprint)
    return ""


def takes_precompiled(source: Path) -> bool:
    """What a file defines before it includes anything is for those headers: it has to read them itself."""
    first = re.search(r"^#(define|include)", source.read_text(), re.MULTILINE)
    return first is None or first[1] == "include"


def precompile(command: Sequence[str], headers: Iterable[Path], folder: Path, fingerprint: str, jobs: int) -> list[str]:
    """folder/NAME.hpp.gch of each, which the compiler looks for where it is told to include folder/NAME.hpp."""
    stale = []
    for header in headers:
        beside, target = folder / header.name, folder / f"{header.name}.gch"
        if is_stale(target, fingerprint):
            beside.write_text(f'#include "{header}"\n')
            stale.append((beside, target))
    with ThreadPoolExecutor(max_workers=jobs) as pool:
        return [fault for fault in pool.map(lambda pair: _compile(command, *pair, fingerprint), stale) if fault]


def compile_all(
    command: Sequence[str],
    sources: Sequence[Path],
    folder: Path,
    versions: str,
    jobs: int,
    header_of: Callable[[Path], Path | None] = lambda _: None,
) -> list[Path]:
    """Objects of all the sources; every compiler error is shown, then BuildError.

    `header_of`: the header that is compiled once for all the sources that name it, or None.
    """
    folder.mkdir(parents=True, exist_ok=True)
    fingerprint = f"{shlex.join(command)}\n{versions}\n"
    targets = {source: folder / f"{source.stem}.o" for source in sources}
    stale = [source for source, target in targets.items() if is_stale(target, fingerprint)]
    # The largest first: the last compiler to finish decides how long it takes.
    stale.sort(key=lambda source: -source.stat().st_size)
    if stale:
        print(f"compiling {len(stale)} of {len(sources)} C++ files: {' '.join(s.name for s in stale)}", flush=True)
    headers = {source: header for source in stale if (header := header_of(source)) and takes_precompiled(source)}
    if faults := precompile(command, sorted(set(headers.values())), folder, fingerprint, jobs):
        raise BuildError("\n".join(faults))

    def one(source: Path) -> str:
        header = folder / headers[source].name if source in headers else None
        return _compile(command, source, targets[source], fingerprint, header)

    with ThreadPoolExecutor(max_workers=jobs) as pool:
        faults = [fault for fault in pool.map(one, stale) if fault]
    if faults:
        raise BuildError("\n".join(faults))
    return list(targets.values())


def link(cxx: str, objects: Sequence[Path], flags: Sequence[str], target: Path, folder: Path) -> None:
    """Links in `folder` when something is newer, for a minute of optimisation is in it; `target` is a copy.

    The old file is replaced, not written into: a running router has it mapped.
    """
    linked, stamp = folder / target.name, folder / "link.cmd"
    command = [cxx, "-shared", "-pthread", *OPTIMISED, *map(str, objects), "-o", str(linked), *flags]
    line = shlex.join(command)
    made = linked.stat().st_mtime_ns if linked.exists() and stamp.exists() and stamp.read_text() == line else 0
    if any(path.stat().st_mtime_ns > made for path in objects):
        stamp.unlink(missing_ok=True)
        print(f"linking {target.name}", flush=True)
        _output(command)
        stamp.write_text(line)
    if not target.exists() or target.stat().st_mtime_ns != linked.stat().st_mtime_ns:
        target.parent.mkdir(parents=True, exist_ok=True)
        new = target.with_name(target.name + ".new")
        shutil.copy2(linked, new)
        new.replace(target)
