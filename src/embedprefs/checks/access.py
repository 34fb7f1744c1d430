"""Rules about where the model's files come from, and what they may do here."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from embedprefs.checks.rule import Found, nearest, rule
from embedprefs.checks.subject import Subject

__all__: list[str] = []

_COMMIT = re.compile(r"^[0-9a-f]{40}$")


@rule(
    "revision-not-pinned",
    "warning",
    needs=("facts",),
    host_today="The newest commit is taken. A collection that was filled last month and a query of today may use "
    "different weights.",
    example='[model]\nname = "lightonai/modernbert-embed-large"  # without revision',
    fix="Write the commit as model.revision; embedprefs init does.",
)
def revision_not_pinned(subject: Subject) -> Iterator[Found]:
    """The model on the hub may change under the same name.

    Only a commit pins the weights. A branch or tag can be moved, and no name at all means the newest.
    """
    if subject.model.source == "folder":
        return
    revision = subject.preferences.model.revision
    if revision is not None and _COMMIT.match(revision):
        return
    here = subject.model.revision
    said = "No revision is stated" if revision is None else f'"{revision}" is not a full commit and can be moved'
    advice = f'Write revision = "{here}" under [model].' if here else "Write the commit as revision under [model]."
    yield Found("model.revision", f"{said}; the weights of {subject.model.name} may change.", advice)


@rule(
    "revision-without-effect",
    "warning",
    cases=(37,),
    needs=("facts",),
    host_today="`revision` is ignored for a local folder, without a message.",
    example='[model]\nname = "models/my-model"\nrevision = "v2"',
    fix="Remove model.revision; the fingerprint covers the weights of a folder by their content.",
)
def revision_without_effect(subject: Subject) -> Iterator[Found]:
    """A revision is stated for a folder.

    A folder has no revisions: what lies in it is what is loaded, whatever the file says.
    """
    revision = subject.preferences.model.revision
    if revision is not None and subject.model.source == "folder":
        yield Found(
            "model.revision",
            f'{subject.model.name} is a folder, and revision = "{revision}" has no effect on it.',
            "Remove revision: the fingerprint covers the folder's weights by their content.",
        )


@rule(
    "trust-remote-code",
    "warning",
    host_today="Code that comes with the model runs with the user's rights, from hub and folder alike.",
    example="[model]\ntrust_remote_code = true",
    fix="Read the code, pin the revision, and leave the setting out where the model needs no code.",
)
def trust_remote_code(subject: Subject) -> Iterator[Found]:
    """Code that comes with the model may run.

    It can read and send anything that this user can. Together with an unpinned revision, its author can change it at
    any time.
    """
    if not subject.preferences.model.trust_remote_code:
        return
    facts = subject.facts
    listed = ""
    if facts is not None:
        code = ", ".join(facts.custom_code) or "no code that is seen"
        listed = f" It brings {code}."
    yield Found(
        "model.trust_remote_code",
        f"Python code of {subject.preferences.model.name} runs with your rights.{listed}",
        "Read the code and pin model.revision; remove trust_remote_code if the model needs no code.",
    )


@rule(
    "custom-code-refused",
    "error",
    needs=("facts",),
    host_today="Loading asks on the terminal, or fails; a folder's own module classes are refused since version 6.",
    example="A model whose modules.json names a class of its own, without trust_remote_code.",
    fix="Read the code; write trust_remote_code = true if you trust it.",
)
def custom_code_refused(subject: Subject) -> Iterator[Found]:
    """The model needs code that is not trusted.

    Its files name module classes or model code of their own, and these only run if you say so.
    """
    facts = subject.model
    if subject.preferences.model.trust_remote_code:
        return
    classes = [name for name in facts.custom_code if not name.endswith(".py")]
    advice = "Read that code; write trust_remote_code = true under [model] if you trust it."
    if classes:
        yield Found("model.trust_remote_code", f"{facts.name} has modules of its own: {', '.join(classes)}.", advice)
    elif facts.config.get("auto_map") and not facts.tensors_verified:
        yield Found(
            "model.trust_remote_code",
            f"The configuration of {facts.name} names model code of its own, and it is not known that transformers "
            f"has the type {facts.model_type} itself.",
            advice,
            "warning",
        )


@rule(
    "keyword-refused",
    "error",
    cases=(11, 17, 29, 35),
    host_today="The same value can be given in several places, with at most a line in the log: `dtype` beats "
    "`torch_dtype`, `device_map` beats `device`. `ignore_mismatched_sizes` makes weights random that do not fit.",
    example='[model.kwargs]\ntorch_dtype = "float16"',
    fix="Write the preference that is named instead.",
)
def keyword_refused(subject: Subject) -> Iterator[Found]:
    """A keyword argument has a preference of its own, or is never right for an embedding model.

    A value written in two places will one day differ. The preference is checked, resolved and recorded; the keyword
    argument is none of these.
    """
    from embedprefs.arguments.keywords import covered_keywords

    for problem in covered_keywords(subject.preferences):
        yield Found(problem.key, problem.message, problem.fix or "Leave it out.")


#: What `from_pretrained` of transformers 5 reads beside those.
MODEL_KWARGS = frozenset(
    {
        "allow_all_kernels",
        "device_mesh",
        "disable_mmap",
        "distributed_config",
        "experts_implementation",
        "force_download",
        "fusion_config",
        "generation_config",
        "gguf_file",
        "kernel_config",
        "key_mapping",
        "low_cpu_mem_usage",
        "offload_buffers",
        "offload_folder",
        "output_loading_info",
        "proxies",
        "subfolder",
        "tp_plan",
        "tp_size",
        "tqdm_class",
        "use_kernels",
        "variant",
    }
)


@rule(
    "model-kwargs-unknown",
    "error",
    cases=(11, 12),
    host_today="An unknown keyword argument reaches the model's class: a TypeError after the files were downloaded.",
    example="[model.kwargs]\nhidden_dropout_prob = 0.0",
    fix="Correct the name; fields of the configuration belong under [model.config].",
)
def model_kwargs_unknown(subject: Subject) -> Iterator[Found]:
    """A keyword argument for the model is one that loading does not take.

    Fields of the configuration are often written there. They belong under [model.config].
    """
    from embedprefs.arguments.keywords import COVERED_MODEL_KEYWORDS, REFUSED_MODEL_KEYWORDS

    refused = {**COVERED_MODEL_KEYWORDS, **REFUSED_MODEL_KEYWORDS}
    known = MODEL_KWARGS | set(refused)
    in_config: Mapping[str, Any] = subject.facts.config if subject.facts is not None else {}
    for name in subject.preferences.model.kwargs:
        if name in known:
            continue
        close = nearest(name, known)
        if name in in_config:
            advice = "It is a field of the model's configuration: write it under [model.config]."
        else:
            meant = COVERED_MODEL_KEYWORDS.get(close or "", close)
            advice = f"Did you mean {meant}?" if meant else "Remove it, or write it under [model.config]."
        yield Found(f"model.kwargs.{name}", f'Loading a model takes no "{name}".', advice)


@rule(
    "secret-in-file",
    "error",
    host_today="A token is accepted in arguments, and written to logs and saved training arguments.",
    example='[training.arguments]\nhub_token = "hf_..."',
    fix="Set the environment variable HF_TOKEN, and remove the value from the file. Renew a token that was shared.",
)
def secret_in_file(subject: Subject) -> Iterator[Found]:
    """A secret stands among the preferences.

    A preferences file is shared, versioned and recorded with collections. Tokens belong into the environment. Files
    with secrets are refused when they are read; this finds those in preferences that were built in Python.
    """
    from embedprefs.validation import secret_problem

    preferences = subject.preferences
    tables: dict[str, Mapping[str, Any]] = {
        "model.kwargs": preferences.model.kwargs,
        "tokenizer.kwargs": preferences.tokenizer.kwargs,
        "training.arguments": preferences.training.arguments,
        "training.loss_parameters": preferences.training.loss_parameters,
    }
    for table, values in tables.items():
        for name, value in values.items():
            problem = secret_problem((*table.split("."), name), value)
            if problem is not None:
                yield Found(problem.key, problem.message, problem.fix or "Remove it.")


@rule(
    "cached-files-only",
    "note",
    needs=("facts",),
    host_today="Where the hub cannot be reached, the cache is used, or loading fails after several attempts.",
    example='[model]\nname = "owner/model"\nlocal_files_only = true',
    fix="Nothing; remove local_files_only to ask the hub for newer files.",
)
def cached_files_only(subject: Subject) -> Iterator[Found]:
    """The hub is not asked for newer files.

    Files come from the local cache alone. That is what you want on a machine without network.
    """
    if subject.preferences.model.local_files_only and subject.model.source != "folder":
        yield Found(
            "model.local_files_only",
            f"{subject.model.name} is read from the local cache, at commit {subject.model.revision or 'unknown'}.",
            "Nothing to do; remove local_files_only to ask the hub for newer files.",
        )
