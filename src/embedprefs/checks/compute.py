"""Rules about the machine: device, number format, processors, memory."""

from __future__ import annotations

from collections.abc import Iterator

from embedprefs.checks.rule import Found, rule
from embedprefs.checks.subject import Subject

__all__: list[str] = []


def _stated_devices(subject: Subject) -> list[str]:
    device = subject.preferences.compute.device
    return list(device) if isinstance(device, list) else [device]


def _runs_on_cpu(subject: Subject) -> bool:
    return set(subject.choices.devices) == {"cpu"}


@rule(
    "device-not-available",
    "error",
    cases=(34,),
    needs=("hardware",),
    host_today='An error after the weights were loaded: "Torch not compiled with CUDA enabled", or "invalid device '
    'ordinal".',
    example='[compute]\ndevice = "cuda:3"  # on a machine with one GPU',
    fix='Name a device that is there, or write device = "auto".',
)
def device_not_available(subject: Subject) -> Iterator[Found]:
    """The device that is asked for is not there.

    A device falls back never silently: a run that was meant for a GPU and takes a day on the processor is a failure
    too.
    """
    machine = subject.machine
    there = {accelerator.device for accelerator in machine.accelerators}
    kinds = {accelerator.kind for accelerator in machine.accelerators}
    for device in _stated_devices(subject):
        if device in {"auto", "cpu"} or device in there or device in kinds:
            continue
        if device.partition(":")[0] not in {"cuda", "mps"}:
            continue  # xpu, npu and hpu are not listed without torch; loading verifies them
        listed = ", ".join(["cpu", *sorted(there)])
        reason = f"This machine has {listed}."
        if machine.torch_version is not None and device.startswith("cuda") and machine.torch_cuda_version is None:
            if machine.torch_hip_version is not None:
                continue
            reason += f" The installed torch {machine.torch_version} is built without CUDA."
        elif machine.cuda_visible_devices is not None and device.startswith("cuda"):
            reason += f' CUDA_VISIBLE_DEVICES is "{machine.cuda_visible_devices}".'
        yield Found(
            "compute.device", f'"{device}" is not there. {reason}', f'Write device = "auto", or one of {listed}.'
        )


@rule(
    "device-twice",
    "warning",
    cases=(31,),
    host_today="One process is started for each entry of the list, and each loads the model.",
    example='[compute]\ndevice = ["cuda:0", "cuda:0"]',
    fix="Name each device once; compute.workers says how many processes share a processor.",
)
def device_twice(subject: Subject) -> Iterator[Found]:
    """A device stands twice in the list.

    Two processes then share it, each with a copy of the model.
    """
    devices = _stated_devices(subject)
    twice = sorted({device for device in devices if devices.count(device) > 1})
    if twice:
        yield Found(
            "compute.device",
            f"{', '.join(twice)} stands more than once in the list.",
            "Name each device once; use compute.workers for several processes on a processor.",
        )


@rule(
    "cuda-devices-hidden",
    "warning",
    cases=(40,),
    needs=("hardware",),
    host_today="torch sees no GPU and the processor is used, without a message.",
    example='CUDA_VISIBLE_DEVICES="7" on a machine with one GPU',
    fix="Correct CUDA_VISIBLE_DEVICES, or unset it.",
)
def cuda_devices_hidden(subject: Subject) -> Iterator[Found]:
    """CUDA_VISIBLE_DEVICES hides every GPU.

    A number that no GPU has ends the list: this one and all behind it are hidden, and "auto" takes the processor.
    """
    machine = subject.machine
    present = [accelerator for accelerator in machine.all_accelerators if accelerator.kind == "cuda"]
    visible = [accelerator for accelerator in machine.accelerators if accelerator.kind == "cuda"]
    if machine.cuda_visible_devices and present and not visible:
        yield Found(
            "compute.device",
            f'CUDA_VISIBLE_DEVICES is "{machine.cuda_visible_devices}", and hides all {len(present)} GPUs.',
            f'Set it to numbers from 0 to {len(present) - 1}, or unset it; to use no GPU write device = "cpu".',
        )


@rule(
    "cuda-driver-too-old",
    "error",
    cases=(34,),
    needs=("hardware",),
    host_today="`torch.cuda.is_available()` becomes False with a warning, and the processor is used.",
    example="torch built for CUDA 13.0 on a machine whose driver supports 12.4",
    fix="Update the driver, or install a torch built for an older CUDA; embedprefs doctor names the command.",
)
def cuda_driver_too_old(subject: Subject) -> Iterator[Found]:
    """The driver is older than the CUDA that torch was built for.

    torch then finds no GPU although there is one.
    """
    from embedprefs.hardware.diagnosis import cuda_fits_driver

    machine = subject.machine
    wants_gpu = any(device not in {"auto", "cpu", "mps"} for device in _stated_devices(subject))
    has_gpu = any(accelerator.kind == "cuda" for accelerator in machine.accelerators)
    if machine.torch_cuda_version is None or not has_gpu:
        return
    fits, reason = cuda_fits_driver(machine.torch_cuda_version, machine.driver_version, machine.driver_cuda_version)
    if not fits:
        yield Found(
            "compute.device",
            f"torch is built for CUDA {machine.torch_cuda_version}, and the driver is "
            f"{machine.driver_version or 'of an unknown version'}: {reason}.",
            "Run embedprefs doctor: it names the command that installs a fitting torch.",
            None if wants_gpu else "warning",
        )


@rule(
    "torch-without-cuda",
    "warning",
    cases=(34,),
    needs=("hardware",),
    host_today="The processor is used, without a message.",
    example="A machine with a GPU and a torch that was installed from the index for processors.",
    fix="Install a torch built for CUDA; embedprefs doctor names the command.",
)
def torch_without_cuda(subject: Subject) -> Iterator[Found]:
    """There is a GPU, and the installed torch cannot use it.

    "auto" takes the processor then, which is some hundred times slower.
    """
    machine = subject.machine
    gpus = [accelerator.name for accelerator in machine.accelerators if accelerator.kind == "cuda"]
    built = machine.torch_cuda_version or machine.torch_hip_version
    if gpus and machine.torch_version is not None and built is None and "auto" in _stated_devices(subject):
        yield Found(
            "compute.device",
            f"torch {machine.torch_version} is built without CUDA, and {gpus[0]} stays idle.",
            'Run embedprefs doctor for the command that installs another torch, or write device = "cpu".',
        )


@rule(
    "float16-on-cpu",
    "warning",
    cases=(28,),
    needs=("resolved",),
    host_today="Obeyed without a message when it was asked for: 3.8 times slower than float32 on a server processor.",
    example='[compute]\ndevice = "cpu"\ndtype = "float16"',
    fix='Write dtype = "auto": it takes bfloat16 where the processor computes it, else float32.',
)
def float16_on_cpu(subject: Subject) -> Iterator[Found]:
    """float16 is slower on a processor.

    Few processors compute it. It is converted to float32 and back at each step, which costs time and digits.
    """
    if subject.choices["compute.dtype"] == "float16" and _runs_on_cpu(subject):
        yield Found(
            "compute.dtype",
            "float16 on a processor is slower than float32, and less exact.",
            'Write dtype = "auto".',
        )


@rule(
    "bfloat16-not-native",
    "warning",
    cases=(28,),
    needs=("hardware", "resolved"),
    host_today="Obeyed without a message; a processor without bfloat16 instructions converts at each step, and an "
    "Intel one without AMX takes some 1.7 times as long as in float32.",
    example='[compute]\ndevice = "cpu"\ndtype = "bfloat16"  # on a processor without avx512_bf16 or amx_bf16',
    fix='Write dtype = "auto".',
)
def bfloat16_not_native(subject: Subject) -> Iterator[Found]:
    """bfloat16 is asked for on hardware that does not compute it, or not any faster.

    It then costs time and digits instead of saving the former.
    """
    if subject.choices["compute.dtype"] != "bfloat16":
        return
    machine = subject.machine
    by_device = {accelerator.device: accelerator for accelerator in machine.accelerators}
    for device in subject.choices.devices:
        accelerator = by_device.get(device)
        native = machine.native_bfloat16 if device == "cpu" else accelerator is None or accelerator.native_bfloat16
        if not native:
            name = machine.processor_name or "the processor" if accelerator is None else accelerator.name
            yield Found(
                "compute.dtype", f"{device} ({name}) does not compute bfloat16 natively.", 'Write dtype = "auto".'
            )
        elif device == "cpu" and not machine.bfloat16_pays:
            yield Found(
                "compute.dtype",
                f"{device} ({machine.processor_name or 'the processor'}) computes bfloat16 more slowly than float32: "
                "an Intel processor without AMX, or in a virtual machine that hides it.",
                'Write dtype = "auto".',
            )


@rule(
    "precision-contradicts-exactness",
    "error",
    cases=(30,),
    needs=("resolved",),
    host_today="In half precision a text's vector depends on its neighbours in the batch by 1e-3 (bfloat16) or 2e-4 "
    "(float16), and its length is off by as much; nothing is said.",
    example='[compute]\nexactness = "exact"\ndtype = "bfloat16"',
    fix='Write dtype = "float32", or exactness = "close".',
)
def precision_contradicts_exactness(subject: Subject) -> Iterator[Found]:
    """Vectors equal to float32 are asked for, in a precision that cannot give them.

    `exactness = "exact"` promises vectors within 1e-5 of those of the host in float32. Half precision has three
    digits, int8 weights have two.
    """
    exactness = subject.preferences.compute.exactness
    if exactness == "close" and subject.preferences.compute.weights == "int8":
        yield Found(
            "compute.weights",
            'Weights are quantised to int8, and exactness = "close" asks for a cosine of 0.9995 to float32, which they '
            "do not reach.",
            'Write exactness = "fast", or weights = "full".',
        )
    if exactness != "exact":
        return
    reason = 'which cannot equal float32 within 1e-5, as exactness = "exact" promises.'
    if subject.choices["compute.dtype"] != "float32":
        yield Found(
            "compute.dtype",
            f"The model runs in {subject.choices['compute.dtype']}, {reason}",
            'Write dtype = "float32", or exactness = "close".',
        )
    if subject.preferences.compute.autocast:
        yield Found(
            "compute.autocast",
            f"Mixed precision is on, {reason}",
            'Write autocast = false, or exactness = "close".',
        )
    if subject.preferences.compute.weights == "int8":
        yield Found(
            "compute.weights",
            f"Weights are quantised to int8, {reason}",
            'Write weights = "full", or exactness = "fast".',
        )


@rule(
    "half-precision-moves-vectors",
    "note",
    cases=(30,),
    needs=("resolved",),
    host_today="In half precision a text's vector depends on its neighbours in the batch by 1e-3 (bfloat16) or 2e-4 "
    "(float16); nothing is said.",
    example='[compute]\ndtype = "bfloat16"',
    fix='Nothing for search; write dtype = "float32" where vectors are compared for equality.',
)
def half_precision_moves_vectors(subject: Subject) -> Iterator[Found]:
    """In half precision, equal texts get nearly equal vectors.

    The last digits depend on the batch a text is in. That moves no ranking, and a test for equality needs a
    tolerance.
    """
    dtype = subject.choices["compute.dtype"]
    if dtype in {"bfloat16", "float16"} and subject.preferences.compute.exactness != "exact":
        size = "1e-3" if dtype == "bfloat16" else "2e-4"
        yield Found(
            "compute.dtype",
            f"In {dtype} the same text's numbers differ by up to about {size} from batch to batch.",
            "Nothing to do for search; compare vectors with a tolerance.",
        )


@rule(
    "autocast-without-effect",
    "warning",
    cases=(28,),
    needs=("resolved",),
    host_today="`torch.cuda.amp.autocast` is deprecated; on half-precision weights autocast changes little.",
    example='[compute]\nautocast = true\ndtype = "bfloat16"',
    fix="Use one of the two: autocast keeps float32 weights, dtype converts them.",
)
def autocast_without_effect(subject: Subject) -> Iterator[Found]:
    """Mixed precision is asked for on weights that are in half precision already.

    Autocast chooses lower precision operation by operation, from float32 weights.
    """
    dtype = subject.preferences.compute.dtype
    if subject.preferences.compute.autocast and dtype in {"bfloat16", "float16"}:
        yield Found(
            "compute.autocast",
            f'autocast keeps float32 weights, and dtype = "{dtype}" converts them.',
            'Remove one of the two; dtype = "auto" chooses what is fastest within compute.exactness.',
        )


@rule(
    "threads-exceed-processors",
    "warning",
    needs=("hardware",),
    host_today="A pool for processors starts four workers, each with as many threads as there are processors.",
    example="[compute]\nworkers = 8\nthreads = 8  # on a machine with 8 processors",
    fix='Write threads = "auto".',
)
def threads_exceed_processors(subject: Subject) -> Iterator[Found]:
    """More threads are asked for than there are processors.

    They take turns, and the time it takes to change over is lost.
    """
    compute = subject.preferences.compute
    threads = compute.threads if isinstance(compute.threads, int) else 1
    workers = compute.workers if isinstance(compute.workers, int) else 1
    asked = threads * workers
    if asked > subject.machine.cpu_count and asked > 1:
        yield Found(
            "compute.threads" if isinstance(compute.threads, int) else "compute.workers",
            f"{workers} processes of {threads} threads, and this process may use {subject.machine.cpu_count} "
            "processors.",
            'Write threads = "auto" and workers = "auto".',
        )


@rule(
    "memory-limit-too-large",
    "warning",
    needs=("hardware", "resolved"),
    host_today="There is no limit.",
    example='[compute]\nmemory_limit = "512GiB"',
    fix='Write memory_limit = "auto", or a share such as "75%".',
)
def memory_limit_too_large(subject: Subject) -> Iterator[Found]:
    """The memory limit is more than there is.

    It then limits nothing, and the process may be ended by the system.
    """
    limit = subject.choices["compute.memory_limit"]
    device = subject.choices.devices[0]
    by_device = {accelerator.device: accelerator.memory_total for accelerator in subject.machine.accelerators}
    there = by_device.get(device) if device != "cpu" else subject.machine.memory_limit
    if isinstance(limit, int) and there is not None and limit > there and subject.is_stated("compute.memory_limit"):
        yield Found(
            "compute.memory_limit",
            f"{limit / 2**30:.1f} GiB may be used, and {device} has {there / 2**30:.1f} GiB.",
            'Write memory_limit = "auto", or a share such as "75%".',
        )
