"""NVIDIA and Apple GPUs, found without loading torch or a CUDA library."""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from embedprefs.hardware.description import Accelerator

__all__ = ["NvidiaDriver", "apple_accelerators", "nvidia_driver", "parse_cuda_version", "parse_gpu_table", "visible"]

#: What is asked of nvidia-smi, in this order; `nvidia-smi --help-query-gpu` explains each.
_COLUMNS = ("index", "uuid", "name", "memory.total", "memory.free", "driver_version", "compute_cap")
_SECONDS_TO_ANSWER = 10
_MEBIBYTE = 1024**2


@dataclass(frozen=True)
class NvidiaDriver:
    """What the NVIDIA driver says."""

    version: str | None = None
    cuda_version: str | None = None
    accelerators: tuple[Accelerator, ...] = ()
    problems: tuple[str, ...] = ()


def _mebibytes(text: str) -> int | None:
    return int(text) * _MEBIBYTE if text.isdigit() else None


def parse_gpu_table(text: str) -> tuple[tuple[Accelerator, ...], str | None]:
    """Read nvidia-smi's table (csv without header and units): the GPUs in its order, and the driver's version.

    A cell the driver does not know reads "[N/A]" or "[Not Supported]", and becomes None.
    """
    accelerators = []
    driver = None
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.split(",")]
        if len(cells) < len(_COLUMNS) - 1 or not cells[0].isdigit():
            continue
        capability = re.fullmatch(r"(\d+)\.(\d+)", cells[6]) if len(cells) >= len(_COLUMNS) else None
        driver = cells[5] if re.match(r"\d", cells[5]) else driver
        accelerators.append(
            Accelerator(
                kind="cuda",
                index=int(cells[0]),
                name=cells[2],
                memory_total=_mebibytes(cells[3]),
                memory_free=_mebibytes(cells[4]),
                compute_capability=(int(capability[1]), int(capability[2])) if capability else None,
                uuid=cells[1] or None,
            )
        )
    return tuple(accelerators), driver


def parse_cuda_version(text: str) -> str | None:
    """Find the newest CUDA version the driver supports in the head of nvidia-smi's plain output."""
    match = re.search(r"CUDA (?:\w+ )?Version\s*:\s*(\d+(?:\.\d+)*)", text)
    return match[1] if match else None


def _ask(program: str, *arguments: str) -> tuple[str, str | None]:
    """Run nvidia-smi; return what it said, and what went wrong."""
    command = " ".join(["nvidia-smi", *arguments])
    try:
        result = subprocess.run(  # noqa: S603 - fixed arguments
            [program, *arguments], capture_output=True, text=True, timeout=_SECONDS_TO_ANSWER, check=False
        )
    except subprocess.TimeoutExpired:
        return "", f"`{command}` did not answer within {_SECONDS_TO_ANSWER} s; GPUs cannot be listed."
    except OSError as error:
        return "", f"`{command}` cannot be run: {error}."
    if result.returncode != 0:
        said = (result.stdout + result.stderr).strip().splitlines()
        return result.stdout, f"`{command}` failed: {said[0] if said else f'exit status {result.returncode}'}"
    return result.stdout, None


def nvidia_driver(program: str | None = None) -> NvidiaDriver:
    """Ask the NVIDIA driver what there is; nothing where nvidia-smi is not installed.

    Args:
        program: nvidia-smi's path; None looks it up.
    """
    found = program or shutil.which("nvidia-smi")
    if found is None:
        return NvidiaDriver()

    def table(columns: tuple[str, ...]) -> tuple[str, str | None]:
        return _ask(found, f"--query-gpu={','.join(columns)}", "--format=csv,noheader,nounits")

    # Both at once: a driver that is not kept loaded takes a second to wake for each.
    with ThreadPoolExecutor(2) as pool:
        waiting = pool.submit(table, _COLUMNS)
        head, head_problem = _ask(found)
        text, problem = waiting.result()
    if problem is not None and "compute_cap" in text + problem:
        # Drivers before 510 do not know this column.
        text, problem = table(_COLUMNS[:-1])
    accelerators, version = parse_gpu_table(text)
    if version is None and (match := re.search(r"Driver Version\s*:\s*([\d.]+)", head)):
        version = match[1]
    problems = dict.fromkeys(entry for entry in (problem, head_problem) if entry is not None)
    return NvidiaDriver(version, parse_cuda_version(head), accelerators, tuple(problems))


def apple_accelerators(memory_total: int | None) -> tuple[Accelerator, ...]:
    """Return Apple's GPU on an Apple-silicon Mac; it shares the machine's memory."""
    if platform.system() != "Darwin" or platform.machine() != "arm64":
        return ()
    return (Accelerator(kind="mps", index=0, name="Apple GPU", memory_total=memory_total),)


def visible(accelerators: tuple[Accelerator, ...], stated: str | None) -> tuple[tuple[Accelerator, ...], str | None]:
    """Apply CUDA_VISIBLE_DEVICES to the GPUs a driver lists.

    The rules are those of CUDA and torch: the list is read up to the first entry that is no GPU, a GPU named
    twice hides all of them, and what remains is numbered anew from 0. UUIDs may be shortened as long as they
    are unambiguous. Source: CUDA C++ Programming Guide, "CUDA Environment Variables".

    Args:
        accelerators: Every GPU, in the driver's order.
        stated: The variable; None where it is not set, "" hides all.

    Returns:
        The GPUs that remain, numbered as torch does, and a sentence on an entry that is wrong, or None.
    """
    if stated is None:
        return accelerators, None
    if "MIG-" in stated:
        # A slice of a GPU. Only the driver knows of which, and CUDA uses a single one, whatever is listed.
        return tuple(replace(first, index=0, memory_total=None, memory_free=None) for first in accelerators[:1]), None
    chosen: list[Accelerator] = []
    problem = None
    for entry in (part.strip() for part in stated.split(",")):
        if not stated.strip() or entry == "-1":
            break
        match = _named(accelerators, entry)
        if match is None:
            known = ", ".join(str(accelerator.index) for accelerator in accelerators) or "none"
            problem = (
                f'CUDA_VISIBLE_DEVICES is "{stated}": "{entry}" is no GPU of this machine, so it and all after it '
                f"are hidden. GPUs here: {known}."
            )
            break
        if match in chosen:
            problem = f'CUDA_VISIBLE_DEVICES is "{stated}": GPU {match.index} is named twice, which hides every GPU.'
            chosen = []
            break
        chosen.append(match)
    return tuple(replace(accelerator, index=number) for number, accelerator in enumerate(chosen)), problem


def _named(accelerators: tuple[Accelerator, ...], entry: str) -> Accelerator | None:
    if entry.isdigit():
        return next((accelerator for accelerator in accelerators if accelerator.index == int(entry)), None)
    matches = [accelerator for accelerator in accelerators if entry and (accelerator.uuid or "").startswith(entry)]
    return matches[0] if len(matches) == 1 else None
