"""Rules about the model's files and weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from embedprefs.checks.rule import Found, rule
from embedprefs.checks.subject import Subject

__all__: list[str] = []


def _some(names: Sequence[str], limit: int = 4) -> str:
    shown = ", ".join(names[:limit])
    return f"{shown} and {len(names) - limit} more" if len(names) > limit else shown


@rule(
    "model-files-damaged",
    "error",
    needs=("facts",),
    host_today="A truncated safetensors file or damaged JSON raises an error of the library that reads it, without "
    "the name of the file in some cases; an absent module folder is looked for on the hub.",
    example="A model folder whose download was interrupted.",
    fix="Download or copy the model again.",
)
def model_files_damaged(subject: Subject) -> Iterator[Found]:
    """Something is wrong with the model's files.

    Damaged or absent files either fail later, in the middle of loading, or are replaced by defaults.
    """
    for problem in subject.model.problems:
        yield Found("model.name", problem, "Download or copy the model again.")


@rule(
    "tensors-missing",
    "error",
    cases=(15, 16),
    needs=("facts",),
    host_today="A table in the log. The missing weights are random: with more layers than the checkpoint has, the "
    "cosine to the right vector is 0.93; with a renamed prefix the whole model is random (cosine -0.32).",
    example="A checkpoint whose tensors are all named bert.encoder..., for an architecture that calls them encoder...",
    fix="Use a checkpoint that was saved for this architecture; convert it, or correct config.json.",
)
def tensors_missing(subject: Subject) -> Iterator[Found]:
    """The checkpoint lacks weights that the model needs.

    What is not in the checkpoint is filled with random numbers. The model then returns vectors of the right shape
    that mean little or nothing.
    """
    facts = subject.model
    if not facts.tensors_verified or not facts.missing_tensors or subject.preferences.model.from_scratch:
        return
    yield Found(
        "model.name",
        f"{len(facts.missing_tensors)} weights that {facts.model_type} needs are not in the checkpoint: "
        f"{_some(facts.missing_tensors)}. They would be random.",
        "Use a checkpoint saved for this architecture, or correct num_hidden_layers in its config.json.",
    )


@rule(
    "tensors-unexpected",
    "error",
    cases=(15, 16),
    needs=("facts",),
    host_today='A line "UNEXPECTED" in a table in the log. With 3 of 6 layers left unread the cosine to the right '
    "vector is 0.36.",
    example='config.json: {"num_hidden_layers": 3} beside a checkpoint of 6 layers.',
    fix="Correct config.json, or use the checkpoint that belongs to it.",
)
def tensors_unexpected(subject: Subject) -> Iterator[Found]:
    """The checkpoint holds weights that would not be read.

    The configuration describes a smaller or another model than the checkpoint. Leaving layers out changes every
    vector.
    """
    facts = subject.model
    if facts.tensors_verified and facts.unexpected_tensors and not subject.preferences.model.from_scratch:
        yield Found(
            "model.name",
            f"{len(facts.unexpected_tensors)} weights of the checkpoint have no place in {facts.model_type}: "
            f"{_some(facts.unexpected_tensors)}.",
            "Correct the model's config.json (num_hidden_layers, model_type), or use the checkpoint that fits it.",
        )


@rule(
    "tensors-mismatched",
    "error",
    cases=(16, 17),
    needs=("facts",),
    host_today="An error, or with `ignore_mismatched_sizes=True` a line in the log and random weights.",
    example='config.json: {"intermediate_size": 4096} beside a checkpoint with 1536.',
    fix="Correct config.json, or use the checkpoint that belongs to it.",
)
def tensors_mismatched(subject: Subject) -> Iterator[Found]:
    """Weights have other shapes than the configuration says.

    They cannot be read as they are; what would be put in their place is random.
    """
    facts = subject.model
    if facts.tensors_verified and facts.mismatched_tensors and not subject.preferences.model.from_scratch:
        yield Found(
            "model.name",
            f"{len(facts.mismatched_tensors)} weights have other shapes than config.json says: "
            f"{_some(facts.mismatched_tensors, 2)}.",
            "Correct the model's config.json, or use the checkpoint that fits it.",
        )


@rule(
    "tensors-verified-at-load",
    "note",
    cases=(16,),
    needs=("facts",),
    host_today="Names of weights are compared while loading, and differences are written to the log.",
    example="A model of a type whose tensor names embedprefs does not know, or with a pickle checkpoint.",
    fix="Nothing: load_model refuses missing and unexpected weights.",
)
def tensors_verified_at_load(subject: Subject) -> Iterator[Found]:
    """The names of the weights are compared when the model is loaded.

    For the well-known architectures the names are compared beforehand, from the header of the file. For this model
    `load_model` compares them, and refuses missing and unexpected ones.
    """
    facts = subject.model
    if facts.tensors_verified or facts.is_static or subject.preferences.model.from_scratch:
        return
    kind = facts.model_type or "unknown"
    yield Found(
        "model.name",
        f"The tensor names of a model of type {kind} are not known here.",
        "Nothing to do: load_model compares them and refuses a checkpoint that does not fit.",
    )


@rule(
    "pickle-checkpoint",
    "error",
    needs=("facts",),
    host_today="pytorch_model.bin is read without a question where no safetensors file exists. Reading a pickle can "
    "run any code that is in it.",
    example="A model folder with pytorch_model.bin and no model.safetensors.",
    fix="Convert the weights to safetensors, or write allow_pickle = true under [model] if you trust their source.",
)
def pickle_checkpoint(subject: Subject) -> Iterator[Found]:
    """The weights exist as a pickle only.

    A pickle is a program. Whoever wrote the file decides what runs when it is read.
    """
    facts = subject.model
    if facts.weight_files or not facts.pickle_files or subject.preferences.model.from_scratch:
        return
    if subject.preferences.model.allow_pickle:
        yield Found(
            "model.allow_pickle",
            f"Weights are read from {facts.pickle_files[0]}, a pickle: reading it can run code that is in it.",
            "Convert the weights to safetensors when you can.",
            "warning",
        )
    else:
        yield Found(
            "model.allow_pickle",
            f"The model has no safetensors file, only {', '.join(facts.pickle_files)}.",
            "Convert the weights to safetensors, or write allow_pickle = true under [model] if you trust the source.",
        )


@rule(
    "weights-missing",
    "error",
    needs=("facts",),
    host_today="An OSError that lists file names it looked for.",
    example="A model folder with config.json and tokenizer.json alone.",
    fix="Put the weights into the folder.",
)
def weights_missing(subject: Subject) -> Iterator[Found]:
    """The model has no weights.

    There is neither a safetensors file, nor a pickle, nor an ONNX file.
    """
    facts = subject.model
    if facts.weight_files or facts.pickle_files or facts.onnx_files or subject.preferences.model.from_scratch:
        return
    if facts.adapter_config or not facts.config:
        return
    yield Found(
        "model.name",
        f"No file with weights is among the {len(facts.files)} files of {facts.name}.",
        "Put model.safetensors into the folder, or write from_scratch = true for an untrained model.",
    )


@rule(
    "checkpoint-half-precision",
    "note",
    cases=(29,),
    needs=("facts", "resolved"),
    host_today="The model silently runs in the precision its config.json names; a model that was saved in float16 "
    "stays so. Only on a CPU there is a line in the log.",
    example='config.json: {"dtype": "float16"}',
    fix='Nothing, or state compute.dtype. "auto" never takes it from config.json.',
)
def checkpoint_half_precision(subject: Subject) -> Iterator[Found]:
    """The checkpoint is stored in half precision.

    Running in float32 gives the numbers that the stored weights define, not those of the model before it was saved.
    The precision it runs in is decided by compute.dtype and is always passed to the host.
    """
    facts = subject.model
    stored = facts.weights_dtype
    runs = subject.choices["compute.dtype"]
    if stored in {"float16", "bfloat16"} or facts.config_dtype in {"float16", "bfloat16"}:
        yield Found(
            "compute.dtype",
            f"The weights are stored in {stored or 'an unknown dtype'}, config.json says "
            f"{facts.config_dtype or 'nothing'}, and the model runs in {runs}.",
            "Nothing to do; state compute.dtype to run in another precision.",
        )


@rule(
    "random-weights",
    "warning",
    cases=(14, 15),
    host_today="`AutoModel.from_config` is described in guides as loading the model with another configuration. It "
    "builds a new model with random weights.",
    example="[model]\nfrom_scratch = true",
    fix="Leave from_scratch out to read the trained weights.",
)
def random_weights(subject: Subject) -> Iterator[Found]:
    """The model is built untrained.

    With from_scratch the configuration alone is used. Its vectors mean nothing until the model has been trained.
    """
    if subject.preferences.model.from_scratch:
        yield Found(
            "model.from_scratch",
            "The model is built with random weights; nothing is read from the checkpoint.",
            "Remove from_scratch unless you are about to train the model.",
        )


@rule(
    "memory-exceeded",
    "error",
    needs=("facts", "hardware", "resolved"),
    host_today="Loading fails with an out-of-memory error, or the process is killed by the system.",
    example='[compute]\nmemory_limit = "500MB"  # for a model of 1.6 GB',
    fix="Raise compute.memory_limit, use bfloat16, or choose a smaller model.",
)
def memory_exceeded(subject: Subject) -> Iterator[Found]:
    """The weights alone do not fit into the memory that may be used.

    What the weights take is known before they are read: their number times the bytes of the dtype. A converted backend
    runs a copy, and the float32 weights that it is made from and compared with stay in memory beside it.
    """
    from embedprefs.facts.memory import weights_held
    from embedprefs.resolve.memory import readable_size

    facts, choices = subject.model, subject.choices
    limit = choices["compute.memory_limit"]
    if not isinstance(limit, int):
        return
    shape = {"dtype": choices["compute.dtype"], "weights": choices["compute.weights"]}
    backend = choices["compute.backend"]
    needed, what = weights_held(facts, backend=backend, **shape)
    if needed > limit:
        advice = "Raise compute.memory_limit, use bfloat16, or choose a smaller model."
        if backend != "torch" and weights_held(facts, **shape)[0] <= limit:
            advice = 'Write backend = "torch" under [compute], or raise compute.memory_limit.'
        yield Found("compute.memory_limit", f"The weights: {what}. {readable_size(limit)} may be used.", advice)
