"""What a machine offers, as values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from embedprefs.hardware.processor import bfloat16_pays

__all__ = ["TELLING_INSTRUCTION_SETS", "Accelerator", "Hardware"]

#: Instruction sets that decide how fast a model runs, of the some hundred that a processor lists.
TELLING_INSTRUCTION_SETS = (
    "avx2",
    "avx512f",
    "avx_vnni",
    "avx512_vnni",
    "avx512_bf16",
    "avx512_fp16",
    "amx_bf16",
    "amx_int8",
    "asimd",
    "asimddp",
    "i8mm",
    "bf16",
    "sve",
)


@dataclass(frozen=True)
class Accelerator:
    """One GPU, as torch would number it."""

    kind: Literal["cuda", "mps"]
    """Name of the torch device type."""
    index: int
    """Number that torch gives it: `cuda:1` is 1."""
    name: str
    memory_total: int | None = None
    """Bytes; None where the machine does not say."""
    memory_free: int | None = None
    """Bytes at the time of asking."""
    compute_capability: tuple[int, int] | None = None
    """Major and minor, (9, 0); None where the driver is too old to say."""
    uuid: str | None = None
    """As the driver names it: `GPU-` and a UUID."""

    @property
    def device(self) -> str:
        """Name of the torch device: `cuda:0`, `mps`."""
        return self.kind if self.kind == "mps" else f"{self.kind}:{self.index}"

    @property
    def native_bfloat16(self) -> bool:
        """True where bfloat16 is computed in hardware: compute capability 8.0 and above, and Apple's GPUs.

        Source: the table of arithmetic instructions in NVIDIA's CUDA C++ Programming Guide.
        """
        if self.kind == "mps":
            return True
        return self.compute_capability is not None and self.compute_capability >= (8, 0)


@dataclass(frozen=True)
class Hardware:
    """This machine: processor, memory, accelerators and installed packages, found without importing torch.

    Every field has a default that states nothing, so that a machine can be described by hand.
    """

    system: str = ""
    """Linux, Darwin or Windows."""
    machine: str = ""
    """x86_64, aarch64, arm64 ..."""
    python_version: str = ""
    cpu_count: int = 1
    """Processors this process may use: its affinity and its cgroup's quota counted, at least 1."""
    memory_total: int | None = None
    """Bytes of RAM; None where the machine does not say."""
    memory_available: int | None = None
    """Bytes that can be taken now without swapping, a cgroup's limit counted."""
    cgroup_memory_limit: int | None = None
    """Bytes that this process's cgroup may use; None where nothing limits it below the RAM."""
    instruction_sets: frozenset[str] = frozenset()
    """Names as the Linux kernel spells them: avx2, avx512_bf16, amx_bf16, asimd, bf16 ..."""
    native_bfloat16: bool = False
    """True where the processor multiplies bfloat16 in hardware; `bfloat16_pays` says whether that is any faster."""
    accelerators: tuple[Accelerator, ...] = ()
    """Those that torch would see, in its order."""
    driver_version: str | None = None
    """Version of the NVIDIA driver; None where there is none."""
    driver_cuda_version: str | None = None
    """The newest CUDA version that the driver supports."""
    torch_version: str | None = None
    """From torch/version.py; None where torch is not installed."""
    torch_cuda_version: str | None = None
    """CUDA version torch was built for; None for a build without CUDA."""
    cuda_visible_devices: str | None = None
    """The environment variable; None where it is not set, "" where it hides every GPU."""
    packages: Mapping[str, str] = field(default_factory=dict)
    """Installed distribution -> its version, for those that matter here."""
    processor_name: str = ""
    """As the processor names itself."""
    processor_vendor: str = ""
    """GenuineIntel, AuthenticAMD ...; "" where the system does not say."""
    cpu_count_present: int | None = None
    """Processors of the machine, before affinity and quota."""
    all_accelerators: tuple[Accelerator, ...] = ()
    """Those the driver sees, before CUDA_VISIBLE_DEVICES, in the driver's order."""
    torch_hip_version: str | None = None
    """ROCm version torch was built for."""
    torch_xpu_version: str | None = None
    """oneAPI version torch was built for, where the build supports Intel GPUs."""
    torch_varlen_attention: bool = False
    """True where torch carries `torch.nn.attention.varlen`."""
    cuda_device_order: str | None = None
    """The environment variable CUDA_DEVICE_ORDER; None where it is not set."""
    problems: tuple[str, ...] = ()
    """What could not be found out, in sentences: a driver that does not answer, a file that cannot be read."""

    @property
    def bfloat16_pays(self) -> bool:
        """True where the processor multiplies matrices faster in bfloat16 than in float32.

        Not so on Intel's processors without AMX, or in a virtual machine that hides it.
        """
        return self.native_bfloat16 and (
            "avx512_bf16" not in self.instruction_sets or bfloat16_pays(self.instruction_sets, self.processor_vendor)
        )

    @property
    def memory_limit(self) -> int | None:
        """Bytes of RAM this process may use at most: the cgroup's limit where it is below the RAM."""
        limits = [limit for limit in (self.memory_total, self.cgroup_memory_limit) if limit is not None]
        return min(limits) if limits else None

    def to_json(self) -> dict[str, Any]:
        """Return the machine as JSON values, for reports and for recognising it again."""
        return {
            "system": self.system,
            "machine": self.machine,
            "python_version": self.python_version,
            "processor_name": self.processor_name,
            "processor_vendor": self.processor_vendor,
            "cpu_count": self.cpu_count,
            "memory_total": self.memory_total,
            "cgroup_memory_limit": self.cgroup_memory_limit,
            "instruction_sets": [name for name in TELLING_INSTRUCTION_SETS if name in self.instruction_sets],
            "native_bfloat16": self.native_bfloat16,
            "bfloat16_pays": self.bfloat16_pays,
            "accelerators": [
                {
                    "device": accelerator.device,
                    "name": accelerator.name,
                    "memory_total": accelerator.memory_total,
                    "compute_capability": accelerator.compute_capability,
                }
                for accelerator in self.accelerators
            ],
            "driver_version": self.driver_version,
            "driver_cuda_version": self.driver_cuda_version,
            "torch_version": self.torch_version,
            "torch_cuda_version": self.torch_cuda_version,
            "cuda_visible_devices": self.cuda_visible_devices,
            "packages": dict(self.packages),
        }
