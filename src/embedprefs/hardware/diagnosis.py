"""What `embedprefs doctor` says about a machine."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from embedprefs.hardware.description import TELLING_INSTRUCTION_SETS, Hardware

__all__ = ["CUDA_DRIVER_FLOORS", "Diagnosis", "cuda_fits_driver", "diagnose", "version_tuple"]

Status = Literal["ok", "missing", "problem"]

#: CUDA major version -> the oldest NVIDIA driver that runs programs built for any of its minor versions.
#: Source: https://docs.nvidia.com/deploy/cuda-compatibility/minor-version-compatibility.html, table 1.
CUDA_DRIVER_FLOORS = {11: 450, 12: 525, 13: 580}

#: Distribution -> the versions embedprefs is made for: from the first, below the second.
#: The same numbers stand in the package's own requirements.
_SUPPORTED = {
    "sentence-transformers": ("6.0", "7"),
    "transformers": ("5.0", "6"),
    "torch": ("2.10", None),
}
_SUPPORTED_OPENVINO = ("2026.4", "2027")
_SUPPORTED_PYTHON = ("3.11", "3.14")

_TORCH_INDEX = "https://download.pytorch.org/whl"


@dataclass(frozen=True)
class Diagnosis:
    """One thing worth knowing about the machine."""

    subject: str
    """What it is about: `torch`, `CUDA`, `memory` ..."""
    status: Status
    """ok: as it should be; missing: optional and not there; problem: something will fail or be slow."""
    message: str
    """What was found, with the values."""
    command: str | None = None
    """What to run to change it; None where nothing needs changing or no single command does it."""


def version_tuple(text: str) -> tuple[int, ...]:
    """Read the leading numbers of a version: "2.13.0+cpu" is (2, 13, 0)."""
    match = re.match(r"\d+(?:\.\d+)*", text.strip())
    return tuple(int(part) for part in match[0].split(".")) if match else ()


def _within(version: str, low: str, high: str | None) -> bool:
    number = version_tuple(version)
    return number >= version_tuple(low) and (high is None or number < version_tuple(high))


def cuda_fits_driver(built_for: str, driver: str | None, driver_cuda: str | None) -> tuple[bool, str]:
    """Say whether a program built for one CUDA version runs on a driver, and why.

    A driver runs programs of its own and of older CUDA major versions; within a major version any minor runs on
    the oldest driver of that major (minor version compatibility). Source: NVIDIA's "CUDA Compatibility" guide.

    Args:
        built_for: CUDA version of the program, "13.0".
        driver: Version of the driver, "580.65.06".
        driver_cuda: The newest CUDA version the driver says it supports.
    """
    major = version_tuple(built_for)[:1]
    if driver_cuda and version_tuple(driver_cuda)[:1] >= major:
        return True, f"the driver supports CUDA {driver_cuda}, and every minor version of an older or equal major runs"
    floor = CUDA_DRIVER_FLOORS.get(major[0]) if major else None
    if driver and floor is not None and version_tuple(driver)[:1] >= (floor,):
        return True, f"CUDA {major[0]}.x runs on drivers from {floor}"
    if floor is not None:
        return False, f"CUDA {major[0]}.x needs driver {floor} or newer"
    return False, f"the driver supports CUDA {driver_cuda or 'of an unknown version'}"


def _gibibytes(count: int | None) -> str:
    return "unknown" if count is None else f"{count / 1024**3:.1f} GiB"


def _versions(hardware: Hardware) -> Iterator[Diagnosis]:
    low, high = _SUPPORTED_PYTHON
    if hardware.python_version:
        fits = _within(hardware.python_version, low, high)
        yield Diagnosis(
            "Python",
            "ok" if fits else "problem",
            f"{hardware.python_version}; supported: {low} to 3.13"
            + ("" if fits else ". Nothing is tested with this one."),
        )
    for name, (lowest, below) in _SUPPORTED.items():
        version = hardware.torch_version if name == "torch" else None
        version = version or hardware.packages.get(name)
        supported = f"{lowest} or newer" + (f", below {below}" if below else "")
        wanted = f"{name}>={lowest}" + (f",<{below}" if below else "")
        if version is None:
            yield Diagnosis(
                name,
                "missing",
                f"Not installed; needed to load a model ({supported}).",
                'pip install "embedprefs[sentence-transformers]"',
            )
        elif not _within(version, lowest, below):
            yield Diagnosis(name, "problem", f"{version}; supported: {supported}.", f'pip install "{wanted}"')
        else:
            yield Diagnosis(name, "ok", version)


def _processor(hardware: Hardware) -> Iterator[Diagnosis]:
    present = hardware.cpu_count_present
    counted = f"{hardware.cpu_count} processors for this process"
    if present is not None and present > hardware.cpu_count:
        counted += f" of {present}: affinity or a cgroup's quota holds the rest back"
    yield Diagnosis("processor", "ok", f"{hardware.processor_name or hardware.machine}, {counted}.")
    if not hardware.instruction_sets:
        yield Diagnosis(
            "instruction sets", "problem", "This system does not list them; bfloat16 is taken as not native."
        )
        return
    here = [name for name in TELLING_INSTRUCTION_SETS if name in hardware.instruction_sets]
    yield Diagnosis("instruction sets", "ok", ", ".join(here) or "none that speeds up embedding")
    yield Diagnosis(
        "bfloat16 on the processor",
        "ok",
        _bfloat16_on(hardware),
    )


def _bfloat16_on(hardware: Hardware) -> str:
    if hardware.bfloat16_pays:
        return "Native: half the memory traffic of float32."
    if hardware.native_bfloat16:
        return "Native, but without AMX: float32 is the faster format on this processor."
    return "Not native: float32 is the faster format on this processor."


def _memory(hardware: Hardware) -> Iterator[Diagnosis]:
    if hardware.memory_total is None:
        yield Diagnosis(
            "memory",
            "problem",
            "This system does not say how much memory it has; memory_limit must be stated in bytes.",
        )
        return
    message = f"{_gibibytes(hardware.memory_total)}, of which {_gibibytes(hardware.memory_available)} can be taken now"
    limit = hardware.cgroup_memory_limit
    if limit is not None:
        message += f"; a cgroup limits this process to {_gibibytes(limit)}, which is what counts"
    low = hardware.memory_available is not None and hardware.memory_available < 1024**3
    yield Diagnosis(
        "memory", "problem" if low else "ok", message + (". Less than 1 GiB: close something." if low else ".")
    )


def _torch_for_cuda(hardware: Hardware) -> str:
    """Return the command that installs torch for the newest CUDA major that the driver runs."""
    driver = version_tuple(hardware.driver_version or "")[:1]
    majors = [major for major, floor in CUDA_DRIVER_FLOORS.items() if driver >= (floor,)]
    newest = max(majors, default=None)
    tag = {11: "cu118", 12: "cu126", 13: "cu130"}.get(newest or 0)
    return (
        f"pip install --force-reinstall torch --index-url {_TORCH_INDEX}/{tag}"
        if tag
        else "pip install --upgrade torch"
    )


def _accelerators(hardware: Hardware) -> Iterator[Diagnosis]:
    for problem in hardware.problems:
        yield Diagnosis("GPU", "problem", problem)
    cuda = [
        accelerator for accelerator in hardware.all_accelerators or hardware.accelerators if accelerator.kind == "cuda"
    ]
    if not hardware.accelerators and not cuda:
        yield Diagnosis("GPU", "missing", "None found; embedding runs on the processor.")
    for accelerator in hardware.accelerators:
        capability = accelerator.compute_capability
        details = [
            f"{_gibibytes(accelerator.memory_free)} free of {_gibibytes(accelerator.memory_total)}"
            if accelerator.memory_free is not None
            else _gibibytes(accelerator.memory_total),
            f"compute capability {capability[0]}.{capability[1]}" if capability else "",
            "bfloat16 native" if accelerator.native_bfloat16 else "bfloat16 not native",
        ]
        yield Diagnosis(accelerator.device, "ok", f"{accelerator.name}, {', '.join(part for part in details if part)}.")
    stated = hardware.cuda_visible_devices
    hidden = len(cuda) - sum(accelerator.kind == "cuda" for accelerator in hardware.accelerators)
    if stated is not None and cuda:
        message = f'It is "{stated}" and hides {hidden} of {len(cuda)} GPUs; the rest are numbered from cuda:0.'
        if hidden == len(cuda):
            message = f'It is "{stated}" and hides every GPU of {len(cuda)}; torch sees none.'
        yield Diagnosis(
            "CUDA_VISIBLE_DEVICES", "problem" if hidden == len(cuda) else "ok", message, "unset CUDA_VISIBLE_DEVICES"
        )
    if len({accelerator.name for accelerator in cuda}) > 1 and hardware.cuda_device_order != "PCI_BUS_ID":
        yield Diagnosis(
            "CUDA_DEVICE_ORDER",
            "problem",
            "GPUs of different kinds: CUDA numbers them fastest first, nvidia-smi by slot, so cuda:0 may be another "
            "GPU than the list here says.",
            "export CUDA_DEVICE_ORDER=PCI_BUS_ID",
        )
    if cuda:
        yield from _cuda_build(hardware)
    elif hardware.torch_cuda_version is not None and hardware.driver_version is None:
        yield Diagnosis(
            "CUDA",
            "ok",
            f"torch is built for CUDA {hardware.torch_cuda_version}; with no NVIDIA driver it runs on the processor.",
        )
    for name, version in (("ROCm", hardware.torch_hip_version), ("oneAPI", hardware.torch_xpu_version)):
        if version is not None:
            yield Diagnosis(
                name,
                "ok",
                f"torch is built for {name} {version}. Its GPUs are found when torch is loaded; state compute.device.",
            )


def _cuda_build(hardware: Hardware) -> Iterator[Diagnosis]:
    known = hardware.driver_version or "of an unknown version"
    driver = f"driver {known} (CUDA {hardware.driver_cuda_version or 'unknown'})"
    if hardware.torch_version is None:
        return
    if hardware.torch_cuda_version is None:
        yield Diagnosis(
            "CUDA",
            "problem",
            f"There are GPUs, but torch {hardware.torch_version} has no CUDA and uses none of them; {driver}.",
            _torch_for_cuda(hardware),
        )
        return
    fits, reason = cuda_fits_driver(hardware.torch_cuda_version, hardware.driver_version, hardware.driver_cuda_version)
    built = f"torch {hardware.torch_version} is built for CUDA {hardware.torch_cuda_version}; {driver}: {reason}."
    if fits:
        yield Diagnosis("CUDA", "ok", built)
    else:
        yield Diagnosis("CUDA", "problem", f"{built} Update the driver, or:", _torch_for_cuda(hardware))


def _backends(hardware: Hardware) -> Iterator[Diagnosis]:
    packages = hardware.packages
    on_cuda = any(accelerator.kind == "cuda" for accelerator in hardware.accelerators)
    yield from _openvino(packages)
    onnx = packages.get("onnxruntime-gpu") or packages.get("onnxruntime")
    if onnx is None:
        command = "pip install onnxruntime-gpu" if on_cuda else 'pip install "embedprefs[onnx]"'
        message = "Not installed: compute.backend onnx, which runs a model's published ONNX file, cannot be used."
        yield Diagnosis("ONNX Runtime", "missing", message, command)
    elif on_cuda and "onnxruntime-gpu" not in packages:
        message = f"{onnx}, the processor's build: compute.backend onnx would leave the GPU idle."
        yield Diagnosis(
            "ONNX Runtime", "problem", message, "pip uninstall -y onnxruntime && pip install onnxruntime-gpu"
        )
    else:
        yield Diagnosis("ONNX Runtime", "ok", f"{onnx}: compute.backend onnx can be used.")
    if "peft" not in packages:
        yield Diagnosis(
            "PEFT", "missing", "Not installed: adapters cannot be loaded or trained.", 'pip install "embedprefs[peft]"'
        )


def _openvino(packages: Mapping[str, str]) -> Iterator[Diagnosis]:
    openvino = packages.get("openvino")
    low, high = _SUPPORTED_OPENVINO
    if openvino is None:
        yield Diagnosis(
            "OpenVINO",
            "missing",
            "Not installed: on a processor models run with torch, which takes several times as long.",
            'pip install "embedprefs[openvino]"',
        )
        return
    if not _within(openvino, low, high):
        message = f"{openvino}; supported: {low} or newer, below {high}. Conversions are tested with these alone."
        yield Diagnosis("OpenVINO", "problem", message, f'pip install "openvino>={low},<{high}"')
        return
    yield Diagnosis("OpenVINO", "ok", f"{openvino}: compute.backend openvino can be used.")
    nncf = packages.get("nncf")
    yield Diagnosis(
        "int8 weights",
        "ok" if nncf else "missing",
        f"nncf {nncf}: compute.weights int8 can be used." if nncf else "compute.weights int8 needs nncf.",
        None if nncf else 'pip install "embedprefs[int8]"',
    )


def _attention(hardware: Hardware) -> Iterator[Diagnosis]:
    if not any(accelerator.kind == "cuda" for accelerator in hardware.accelerators):
        return
    if hardware.torch_varlen_attention:
        yield Diagnosis(
            "attention", "ok", "torch carries varlen attention: padding-free batches need no further package."
        )
    elif hardware.torch_version is not None:
        yield Diagnosis(
            "attention",
            "missing",
            f"torch {hardware.torch_version} has no varlen attention.",
            "pip install --upgrade torch",
        )
    flash = hardware.packages.get("flash-attn")
    yield Diagnosis(
        "flash-attn",
        "ok" if flash else "missing",
        f"{flash}: compute.attention flash_attention_2 can be used."
        if flash
        else "Not installed: compute.attention flash_attention_2 cannot be used; varlen does the same without it.",
        None if flash else "pip install flash-attn --no-build-isolation",
    )
    if (kernels := hardware.packages.get("kernels")) is not None and flash is None:
        yield Diagnosis(
            "kernels",
            "ok",
            f"{kernels}: for flash_attention_2, transformers downloads compiled code from the hub unasked.",
        )


def diagnose(hardware: Hardware) -> list[Diagnosis]:
    """Say what is there, what is missing and what is wrong, each with the command that changes it.

    Args:
        hardware: The machine, from `detect_hardware()`.
    """
    return [
        *_versions(hardware),
        *_processor(hardware),
        *_memory(hardware),
        *_accelerators(hardware),
        *_backends(hardware),
        *_attention(hardware),
    ]
