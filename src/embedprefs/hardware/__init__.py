"""What this machine can do: processors, memory, accelerators, instruction sets and installed backends.

Nothing here imports torch or loads a CUDA library, so it answers in a fraction of a second.
"""

from __future__ import annotations

import os
import platform

from embedprefs.hardware.control_groups import control_group_limits
from embedprefs.hardware.description import Accelerator, Hardware
from embedprefs.hardware.diagnosis import Diagnosis, diagnose
from embedprefs.hardware.graphics import apple_accelerators, nvidia_driver, visible
from embedprefs.hardware.installed import installed_versions, torch_build
from embedprefs.hardware.processor import (
    has_native_bfloat16,
    identify_processor,
    physical_memory,
    processors_allowed,
)

__all__ = ["Accelerator", "Diagnosis", "Hardware", "detect_hardware", "diagnose"]


def detect_hardware() -> Hardware:
    """Describe this machine as this process sees it: its affinity, its cgroup and CUDA_VISIBLE_DEVICES counted."""
    limits = control_group_limits()
    total, available = physical_memory()
    limit = limits.memory_limit
    if limit is not None and total is not None and limit >= total:
        limit = None
    if limit is not None:
        left = max(0, limit - (limits.memory_used or 0))
        available = left if available is None else min(available, left)
    processor = identify_processor()
    build = torch_build()
    driver = nvidia_driver()
    stated = os.environ.get("CUDA_VISIBLE_DEVICES")
    apple = apple_accelerators(total)
    seen, problem = visible(driver.accelerators, stated)
    return Hardware(
        system=platform.system(),
        machine=platform.machine(),
        python_version=platform.python_version(),
        cpu_count=processors_allowed(limits.processors),
        cpu_count_present=os.cpu_count(),
        memory_total=total,
        memory_available=available,
        cgroup_memory_limit=limit,
        instruction_sets=processor.instruction_sets,
        native_bfloat16=has_native_bfloat16(processor.instruction_sets),
        processor_name=processor.name,
        processor_vendor=processor.vendor,
        accelerators=(*seen, *apple),
        all_accelerators=(*driver.accelerators, *apple),
        driver_version=driver.version,
        driver_cuda_version=driver.cuda_version,
        torch_version=build.version,
        torch_cuda_version=build.cuda,
        torch_hip_version=build.hip,
        torch_xpu_version=build.xpu,
        torch_varlen_attention=build.varlen_attention,
        cuda_visible_devices=stated,
        cuda_device_order=os.environ.get("CUDA_DEVICE_ORDER"),
        packages=installed_versions(),
        problems=(*driver.problems, *((problem,) if problem else ())),
    )
