"""Limits that Linux control groups set on processors and memory.

A container's limits stand in its cgroup, not in /proc/meminfo; whoever reads only the latter is killed for
memory. Both versions of the interface are read: https://docs.kernel.org/admin-guide/cgroup-v2.html and
https://docs.kernel.org/admin-guide/cgroup-v1/index.html.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

__all__ = ["CgroupLimits", "control_group_limits", "controller_folders", "parse_cpu_max", "parse_memory_value"]

#: A limit at or above this is the kernel's way to write "none": 2**63 rounded down to a page.
_NO_LIMIT = 2**62


@dataclass(frozen=True)
class CgroupLimits:
    """What the control groups of this process allow; None where they set no limit."""

    memory_limit: int | None = None
    """Bytes."""
    memory_used: int | None = None
    """Bytes the limiting group uses now, file cache that can be dropped left out."""
    processors: float | None = None
    """Processors' worth of time: 1.5 is three half processors."""


def controller_folders(membership: str) -> dict[str, str]:
    """Read /proc/self/cgroup: controller -> path of this process's group; version 2 is the controller ""."""
    folders: dict[str, str] = {}
    for line in membership.splitlines():
        parts = line.strip().split(":", 2)
        if len(parts) != 3:
            continue
        for controller in parts[1].split(","):
            folders[controller] = parts[2]
    return folders


def parse_memory_value(text: str) -> int | None:
    """Read a memory limit in bytes; None for "max" and for the huge number that means no limit."""
    text = text.strip()
    if not text.isdigit():
        return None
    value = int(text)
    return value if value < _NO_LIMIT else None


def parse_cpu_max(text: str) -> float | None:
    """Read `cpu.max` ("150000 100000") as processors; None for "max"."""
    parts = text.split()
    if len(parts) != 2 or not parts[0].isdigit() or not parts[1].isdigit() or int(parts[1]) == 0:
        return None
    return int(parts[0]) / int(parts[1])


def _statistics(text: str) -> dict[str, int]:
    pairs = (line.split() for line in text.splitlines())
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdigit()}


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        # Absent in the other version of the interface, or hidden from the container: no limit can be known.
        return None


def _ancestors(mount: Path, group: str) -> Iterator[Path]:
    """Yield the folders from a group up to the mount; inside a container the group's path may not be visible."""
    parts = PurePosixPath(group).parts[1:]
    for length in range(len(parts), -1, -1):
        yield mount.joinpath(*parts[:length])


def _memory(folders: Iterator[Path], files: Mapping[str, str]) -> tuple[int | None, int | None]:
    """Return the tightest limit on the way up, and what that group uses."""
    limit: int | None = None
    used: int | None = None
    for folder in folders:
        text = _read(folder / files["limit"])
        found = parse_memory_value(text) if text is not None else None
        if found is None or (limit is not None and found >= limit):
            continue
        limit = found
        usage = parse_memory_value(_read(folder / files["usage"]) or "")
        cached = _statistics(_read(folder / "memory.stat") or "").get(files["cached"], 0)
        used = max(0, usage - cached) if usage is not None else None
    return limit, used


def _quota(folder: Path) -> float | None:
    """Read version 1's quota; -1 means none."""
    quota = (_read(folder / "cpu.cfs_quota_us") or "").strip()
    period = (_read(folder / "cpu.cfs_period_us") or "").strip()
    if not quota.isdigit() or not period.isdigit() or int(quota) <= 0 or int(period) <= 0:
        return None
    return int(quota) / int(period)


def control_group_limits(root: Path = Path("/")) -> CgroupLimits:
    """Return what the control groups of this process allow.

    Args:
        root: The file system's root; another one in tests.
    """
    membership = _read(root / "proc/self/cgroup")
    if membership is None:
        return CgroupLimits()
    folders = controller_folders(membership)
    mount = root / "sys/fs/cgroup"
    candidates: list[tuple[int | None, int | None]] = []
    quotas: list[float | None] = []
    if "" in folders:
        unified = mount / "unified" if (mount / "unified").is_dir() else mount
        files = {"limit": "memory.max", "usage": "memory.current", "cached": "inactive_file"}
        candidates.append(_memory(_ancestors(unified, folders[""]), files))
        quotas.extend(parse_cpu_max(_read(folder / "cpu.max") or "") for folder in _ancestors(unified, folders[""]))
    if "memory" in folders:
        files = {
            "limit": "memory.limit_in_bytes",
            "usage": "memory.usage_in_bytes",
            "cached": "total_inactive_file",
        }
        candidates.append(_memory(_ancestors(mount / "memory", folders["memory"]), files))
    for controller in ("cpu", "cpu,cpuacct"):
        if "cpu" in folders:
            quotas.extend(_quota(folder) for folder in _ancestors(mount / controller, folders["cpu"]))
    limited = [(limit, used) for limit, used in candidates if limit is not None]
    limit, used = min(limited, key=lambda pair: pair[0]) if limited else (None, None)
    stated = [quota for quota in quotas if quota is not None]
    return CgroupLimits(memory_limit=limit, memory_used=used, processors=min(stated) if stated else None)
