"""Processor and main memory of this machine."""

from __future__ import annotations

import functools
import os
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

__all__ = [
    "Processor",
    "bfloat16_pays",
    "bfloat16_pays_here",
    "has_native_bfloat16",
    "identify_processor",
    "parse_apple_features",
    "parse_cpuinfo",
    "parse_meminfo",
    "parse_vm_stat",
    "physical_memory",
    "processors_allowed",
]

#: Apple's names (`sysctl hw.optional.arm`) -> the Linux kernel's.
_APPLE_FEATURES = {
    "hw.optional.arm.FEAT_BF16": "bf16",
    "hw.optional.arm.FEAT_I8MM": "i8mm",
    "hw.optional.arm.FEAT_DotProd": "asimddp",
    "hw.optional.arm.FEAT_FP16": "asimdhp",
    "hw.optional.arm.FEAT_SME": "sme",
    "hw.optional.AdvSIMD": "asimd",
    "hw.optional.avx2_0": "avx2",
    "hw.optional.avx512f": "avx512f",
    "hw.optional.fma": "fma",
}

#: Numbers of `IsProcessorFeaturePresent` (Microsoft's processthreadsapi.h) -> the Linux kernel's names.
_WINDOWS_FEATURES = {10: "sse2", 38: "sse4_2", 39: "avx", 40: "avx2", 41: "avx512f", 19: "asimd", 43: "asimddp"}


class Processor(NamedTuple):
    """How a processor describes itself."""

    name: str = ""
    """As it names itself; "" where it does not."""
    instruction_sets: frozenset[str] = frozenset()
    """By the Linux kernel's names; empty where the system does not say."""
    vendor: str = ""
    """GenuineIntel, AuthenticAMD ...; "" where the system does not say."""


def parse_cpuinfo(text: str) -> Processor:
    """Read /proc/cpuinfo: name, vendor and flags ("flags" on x86, "Features" on ARM).

    The flags are those that every processor listed has, so that nothing is promised that one of them lacks.
    """
    name = vendor = ""
    flags: frozenset[str] | None = None
    for line in text.splitlines():
        key, separator, value = line.partition(":")
        key = key.strip().lower()
        if not separator:
            continue
        if key in ("model name", "cpu model", "hardware") and not name:
            name = value.strip()
        elif key == "vendor_id" and not vendor:
            vendor = value.strip()
        elif key in ("flags", "features"):
            found = frozenset(value.split())
            flags = found if flags is None else flags & found
    return Processor(name, flags if flags is not None else frozenset(), vendor)


def parse_apple_features(text: str) -> frozenset[str]:
    """Read `sysctl hw.optional`: the features that are 1, by the Linux kernel's names."""
    found = set()
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if value.strip() == "1" and key.strip() in _APPLE_FEATURES:
            found.add(_APPLE_FEATURES[key.strip()])
    return frozenset(found)


def has_native_bfloat16(flags: Iterable[str]) -> bool:
    """Say whether a processor with these flags multiplies bfloat16 in hardware (AVX512-BF16, AMX, ARMv8.6)."""
    return not {"avx512_bf16", "amx_bf16", "avx10_2", "bf16", "svebf16"}.isdisjoint(flags)


def bfloat16_pays(flags: Iterable[str], vendor: str) -> bool:
    """Say whether a processor with these flags multiplies matrices faster in bfloat16 than in float32.

    Intel's do so with AMX, which a virtual machine may hide; their AVX512-BF16 alone is the slower way. The fastest
    product of all-MiniLM-L6-v2's sizes makes 361 GFLOP/s in float32 and 205 in bfloat16 on two such cores (Xeon, family
    6, model 207, no AMX), and 437 in bfloat16, twice as much as in float32, on two of AMD's Zen 4. Source:
    `embedprefs bench`, torch 2.13 and OpenVINO 2026.4.1.

    Args:
        flags: Names as the Linux kernel spells them.
        vendor: GenuineIntel, AuthenticAMD ...; "" where nothing is known of it.
    """
    flags = frozenset(flags)
    if vendor == "GenuineIntel":
        return has_native_bfloat16(flags - {"avx512_bf16"})
    return has_native_bfloat16(flags)


@functools.cache
def bfloat16_pays_here() -> bool:
    """Say whether this machine's processor multiplies matrices faster in bfloat16 than in float32."""
    here = identify_processor()
    return bfloat16_pays(here.instruction_sets, here.vendor)


def parse_meminfo(text: str) -> dict[str, int]:
    """Read /proc/meminfo: name -> bytes."""
    pattern = re.compile(r"^(\w+(?:\(\w+\))?):\s+(\d+) kB", re.MULTILINE)
    return {name: int(kilobytes) * 1024 for name, kilobytes in pattern.findall(text)}


def parse_vm_stat(text: str) -> int | None:
    """Read macOS's `vm_stat`: bytes that can be taken (free, inactive and speculative pages)."""
    page = re.search(r"page size of (\d+) bytes", text)
    pages = re.findall(r"^Pages (free|inactive|speculative):\s+(\d+)\.", text, re.MULTILINE)
    if page is None or not pages:
        return None
    return int(page.group(1)) * sum(int(count) for _, count in pages)


def _command_output(*command: str) -> str:
    """Run a system command that only reads; "" where it is absent or fails, since the answer is then unknown."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=5, check=True).stdout  # noqa: S603 - fixed commands
    except (OSError, subprocess.SubprocessError):
        return ""


def identify_processor(root: Path = Path("/")) -> Processor:
    """Return what this machine's processor says of itself."""
    if sys.platform == "darwin":
        name = _command_output("sysctl", "-n", "machdep.cpu.brand_string").strip()
        return Processor(name, parse_apple_features(_command_output("sysctl", "hw.optional")))
    if sys.platform == "win32":
        import ctypes

        present = ctypes.windll.kernel32.IsProcessorFeaturePresent
        flags = frozenset(flag for number, flag in _WINDOWS_FEATURES.items() if present(number))
        return Processor(os.environ.get("PROCESSOR_IDENTIFIER", ""), flags)
    try:
        return parse_cpuinfo((root / "proc/cpuinfo").read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return Processor()


def _windows_memory() -> tuple[int | None, int | None]:
    import ctypes

    class MemoryStatus(ctypes.Structure):
        """Microsoft's MEMORYSTATUSEX."""

        _fields_ = (
            ("length", ctypes.c_ulong),
            ("load", ctypes.c_ulong),
            *((name, ctypes.c_ulonglong) for name in ("total", "available", "page_total", "page_available")),
            *((name, ctypes.c_ulonglong) for name in ("virtual_total", "virtual_available", "extended")),
        )

    status = MemoryStatus()
    status.length = ctypes.sizeof(MemoryStatus)
    windows = getattr(ctypes, "windll")  # noqa: B009 - absent from the type information elsewhere than on Windows
    if not windows.kernel32.GlobalMemoryStatusEx(ctypes.byref(status)):
        return None, None
    return int(status.total), int(status.available)


def physical_memory(root: Path = Path("/")) -> tuple[int | None, int | None]:
    """Return bytes of RAM, and bytes that can be taken without swapping; None where the system does not say."""
    if sys.platform == "darwin":
        total = _command_output("sysctl", "-n", "hw.memsize").strip()
        return (int(total) if total.isdigit() else None), parse_vm_stat(_command_output("vm_stat"))
    if sys.platform == "win32":
        return _windows_memory()
    try:
        values = parse_meminfo((root / "proc/meminfo").read_text(encoding="ascii", errors="replace"))
    except OSError:
        return None, None
    return values.get("MemTotal"), values.get("MemAvailable", values.get("MemFree"))


def processors_allowed(quota: float | None) -> int:
    """Return how many processors this process may use: its affinity, cut to a cgroup's quota, at least 1.

    A quota of 1.5 counts as 1: a second thread would be stopped for half of its time.
    """
    if sys.platform == "linux":
        count = len(os.sched_getaffinity(0))
    else:
        count = os.cpu_count() or 1
    return max(1, min(count, int(quota)) if quota is not None else count)
