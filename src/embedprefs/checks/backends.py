"""Rules about what runs the model: backend and attention."""

from __future__ import annotations

from collections.abc import Iterator

from embedprefs.checks.rule import Found, rule
from embedprefs.checks.subject import Subject
from embedprefs.engine.attention import SUPPORTED as LOCAL_MODEL_TYPES

__all__: list[str] = []


@rule(
    "backend-not-available",
    "error",
    cases=(33,),
    needs=("hardware",),
    host_today="An error that names a package (optimum) which cannot be installed beside transformers 5.",
    example='[compute]\nbackend = "onnx"  # without the package onnxruntime',
    fix='Write backend = "auto", or install the package that is named.',
)
def backend_not_available(subject: Subject) -> Iterator[Found]:
    """The backend that is asked for cannot run here: a package is not installed.

    The model would run on torch instead, at another speed than the one that was asked for.
    """
    from embedprefs.resolve.backends import BACKENDS

    asked = subject.preferences.compute.backend
    for backend in BACKENDS:
        missing = backend.missing(subject.machine)
        if backend.name == asked and missing:
            yield Found(
                "compute.backend",
                f'"{asked}" needs {", ".join(missing)}, not installed here.',
                f'Run {backend.command}, or write backend = "auto".',
            )


@rule(
    "backend-not-proved",
    "error",
    needs=("facts", "resolved"),
    host_today="Any architecture is converted, and whether its vectors are still the same is not looked at.",
    example='[compute]\nbackend = "openvino"  # for a Router, or an architecture that no test has converted',
    fix='Write backend = "auto".',
)
def backend_not_proved(subject: Subject) -> Iterator[Found]:
    """The backend that is asked for does not run this model.

    A model leaves torch only where a test has shown that its conversion gives the same vectors; "auto" keeps all others
    there.
    """
    from embedprefs.resolve.backends import why_not_converted

    if subject.preferences.compute.backend != "openvino":
        return
    choices = subject.choices
    reason = why_not_converted(subject.model, {key: choices[key] for key in choices.choices})
    if reason:
        yield Found("compute.backend", f'"openvino" does not run this model: {reason}.', 'Write backend = "auto".')


@rule(
    "int8-weights-not-available",
    "error",
    needs=("hardware", "resolved"),
    host_today="Not a setting of the host.",
    example='[compute]\nweights = "int8"  # without OpenVINO and nncf, or on a GPU',
    fix='Run pip install "embedprefs[int8]", or write weights = "full".',
)
def int8_weights_not_available(subject: Subject) -> Iterator[Found]:
    """Weights in int8 cannot be had here.

    OpenVINO runs them on a processor, and nncf quantises them. Running with full weights instead would be something
    else than was asked for.
    """
    if subject.preferences.compute.weights != "int8":
        return
    packages = subject.machine.packages
    missing = [name for name in ("openvino", "nncf") if name not in packages]
    backend = subject.choices.choice("compute.backend")
    also = 'write weights = "full"; for vectors of one byte a dimension write precision = "int8" under [vectors].'
    if missing:
        yield Found(
            "compute.weights",
            f'weights is "int8", which needs {" and ".join(missing)}, not installed here.',
            f'Run pip install "embedprefs[int8]", or {also}',
        )
    elif backend.value != "openvino":
        yield Found(
            "compute.weights",
            f'weights is "int8", which OpenVINO runs, and the backend is {backend.value}. {backend.reason}',
            also[0].upper() + also[1:],
        )


@rule(
    "onnx-provider",
    "error",
    cases=(33,),
    needs=("hardware", "resolved"),
    host_today="The provider is the first one that ONNX Runtime lists, whatever `device` says: a model that was "
    'asked for "cuda" runs on the processor, or the other way round.',
    example='[compute]\nbackend = "onnx"\ndevice = "cuda:0"  # with the package onnxruntime, built for processors',
    fix="Install onnxruntime-gpu, or run on the processor.",
)
def onnx_provider(subject: Subject) -> Iterator[Found]:
    """ONNX Runtime cannot use the device.

    The build for processors holds no CUDA provider. The provider is always passed explicitly here.
    """
    packages = subject.machine.packages
    device = subject.choices.devices[0]
    wants_gpu = subject.choices["compute.backend"] == "onnx" and device.startswith("cuda")
    if wants_gpu and "onnxruntime" in packages and "onnxruntime-gpu" not in packages:
        yield Found(
            "compute.device",
            f"The device is {device}, and the installed onnxruntime {packages['onnxruntime']} has no CUDA provider.",
            'Run pip install onnxruntime-gpu, or write device = "cpu".',
        )


@rule(
    "onnx-file-missing",
    "error",
    cases=(33,),
    needs=("facts", "resolved"),
    host_today="Where several ONNX files exist a warning names the one that is taken; where none does the model is "
    "converted on the fly.",
    example='[model]\nonnx_file = "onnx/model_int9.onnx"',
    fix="Name one of the model's ONNX files.",
)
def onnx_file_missing(subject: Subject) -> Iterator[Found]:
    """The ONNX file is not among the model's files.

    The backend runs a file that was published with the model.
    """
    facts = subject.model
    stated = subject.preferences.model.onnx_file
    listed = ", ".join(facts.onnx_files) or "none"
    if stated is not None and stated not in facts.onnx_files:
        yield Found("model.onnx_file", f'"{stated}" is not there. ONNX files: {listed}.', "Name one of these files.")
    elif stated is None and not facts.onnx_files and subject.preferences.compute.backend == "onnx":
        yield Found(
            "compute.backend",
            f"{facts.name} publishes no ONNX file.",
            'Write backend = "auto"; openvino converts the model in process.',
        )


@rule(
    "attention-not-available",
    "error",
    cases=(35,),
    needs=("hardware", "resolved"),
    host_today="flash_attention_2 without its package is an error, or, where the package kernels is installed, "
    "compiled code is downloaded from the hub with one line in the log.",
    example='[compute]\nattention = "flash_attention_2"\ndevice = "cpu"',
    fix='Write attention = "auto", or install flash-attn on a machine with an NVIDIA GPU.',
)
def attention_not_available(subject: Subject) -> Iterator[Found]:
    """The attention that is asked for cannot run here.

    flash_attention_2 needs an NVIDIA GPU of compute capability 8.0 or newer, the package flash-attn, and half
    precision. varlen needs the same but the package, on a processor nothing; and in both cases a model for which tests
    show that its texts may be computed without padding.
    """
    attention = subject.preferences.compute.attention
    if attention == "local" and (facts := subject.facts) is not None and facts.model_type not in LOCAL_MODEL_TYPES:
        yield Found(
            "compute.attention",
            f'"local" is for models with local layers ({", ".join(sorted(LOCAL_MODEL_TYPES))}), and this one is of '
            f"type {facts.model_type or 'unknown'}.",
            'Write attention = "auto".',
        )
    if attention == "flash_attention_2":
        yield from _flash_attention(subject)
    if attention == "varlen" and (why := _why_not_varlen(subject)):
        yield Found("compute.attention", f'"varlen" does not run this model here: {why}.', 'Write attention = "auto".')


def _why_not_varlen(subject: Subject) -> str | None:
    from embedprefs.engine.gpu.architectures import kernel_objection, objection_to_facts

    facts, choices = subject.facts, subject.choices
    if facts is None:
        return None
    if choices["compute.backend"] != "torch":
        return f"the backend is {choices['compute.backend']}, and the attention is torch's"
    if why := objection_to_facts(facts):
        return why
    objections = (
        kernel_objection(
            facts,
            subject.machine,
            device=device,
            dtype=choices["compute.dtype"],
            autocast=choices["compute.autocast"],
        )
        for device in choices.devices
    )
    return next((why for why in objections if why), None)


def _flash_attention(subject: Subject) -> Iterator[Found]:
    machine = subject.machine
    others = [device for device in subject.choices.devices if not device.startswith("cuda")]
    if others:
        yield Found(
            "compute.attention",
            f'"flash_attention_2" runs on NVIDIA GPUs only, and the device is {", ".join(others)}.',
            'Write attention = "auto".',
        )
        return
    old = [gpu for gpu in machine.accelerators if gpu.kind == "cuda" and not gpu.native_bfloat16]
    for gpu in old:
        if gpu.device in subject.choices.devices:
            yield Found(
                "compute.attention",
                f'"flash_attention_2" needs compute capability 8.0, and {gpu.name} is older.',
                'Write attention = "auto".',
            )
    if "flash-attn" not in machine.packages:
        unasked = " The package kernels would download compiled code instead." if "kernels" in machine.packages else ""
        yield Found(
            "compute.attention",
            f'"flash_attention_2" needs the package flash-attn, which is not installed.{unasked}',
            'Write attention = "auto", or run pip install flash-attn --no-build-isolation.',
        )
    if subject.choices["compute.dtype"] == "float32":
        yield Found(
            "compute.attention",
            '"flash_attention_2" computes in half precision only, and the model runs in float32.',
            'Write dtype = "bfloat16", or attention = "auto".',
        )
