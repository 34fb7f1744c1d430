"""Rules on the loaded model: what was asked for must have taken effect.

The host accepts many settings and ignores some of them without a message. After loading, each one is compared with
what the model's objects say.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from embedprefs.checks.rule import Found, loaded_rule
from embedprefs.checks.subject import LoadedSubject

__all__ = ["visible_devices_mismatch"]


def _tokenizer(subject: LoadedSubject) -> Any:
    """Return the transformers tokenizer; None for static models, which carry one of the tokenizers library."""
    tokenizer = getattr(subject.model, "tokenizer", None)
    return tokenizer if hasattr(tokenizer, "padding_side") else None


def _transformer(subject: LoadedSubject) -> Any:
    return getattr(subject.model, "transformers_model", None)


@loaded_rule(
    "tokenizer-setting-not-applied",
    "error",
    cases=(9, 10, 11, 19, 20),
    host_today="`init_kwargs` of a tokenizer can be changed without any effect, and unknown names in "
    "`processor_kwargs` are swallowed.",
    example="A tokenizer class that sets its own padding_side when it is loaded.",
    fix="Remove the preference, or use a model whose tokenizer obeys it.",
)
def tokenizer_setting_not_applied(subject: LoadedSubject) -> Iterator[Found]:
    """The tokenizer does something else than was asked for.

    Length and sides decide which tokens the model reads. What the preferences say and what the tokenizer does must
    not differ.
    """
    tokenizer = _tokenizer(subject)
    if tokenizer is None:
        return
    for side in ("padding_side", "truncation_side"):
        asked = subject.resolved[f"tokenizer.{side}"]
        found = getattr(tokenizer, side)
        if asked is not None and found != asked:
            yield _not_applied(f"tokenizer.{side}", asked, f'the tokenizer\'s {side} is "{found}"')
    asked = subject.resolved["tokenizer.max_seq_length"]
    found = subject.model.max_seq_length
    if asked is not None and found != asked:
        yield _not_applied("tokenizer.max_seq_length", asked, f"the model reads {found} tokens")
    for name, token in subject.preferences.tokenizer.special_tokens.items():
        found = getattr(tokenizer, name, None)
        if found != token and list(found or ()) != list(token):
            yield _not_applied(f"tokenizer.special_tokens.{name}", token, f'the tokenizer\'s {name} is "{found}"')


def _not_applied(key: str, asked: Any, found: str) -> Found:
    shown = f'"{asked}"' if isinstance(asked, str) else asked
    return Found(key, f"{shown} was asked for, and {found}.", "Remove the preference: the model does not take it.")


@loaded_rule(
    "tokenizer-kwargs-without-effect",
    "error",
    cases=(11,),
    host_today="Unknown names in `processor_kwargs` are swallowed.",
    example="[tokenizer.kwargs]\nstrip_accents = true  # for a byte-level tokenizer",
    fix="Remove the keyword argument.",
)
def tokenizer_kwargs_without_effect(subject: LoadedSubject) -> Iterator[Found]:
    """A keyword argument for the tokenizer is found nowhere in it.

    Neither an attribute nor the record of its arguments has the value.
    """
    tokenizer = _tokenizer(subject)
    if tokenizer is None:
        return
    for name, value in subject.preferences.tokenizer.kwargs.items():
        recorded = getattr(tokenizer, "init_kwargs", {})
        if getattr(tokenizer, name, recorded.get(name)) != value and recorded.get(name) != value:
            yield Found(
                f"tokenizer.kwargs.{name}",
                f"{name} = {value} left no trace in {type(tokenizer).__name__}.",
                "Remove it: this tokenizer does not take it.",
            )


@loaded_rule(
    "config-override-not-applied",
    "error",
    cases=(12, 13),
    host_today="Unknown and renamed fields in `config_kwargs` are dropped without a message.",
    example="[model.config]\nattention_dropout = 0.1  # for an architecture without that field",
    fix="Remove the override.",
)
def config_override_not_applied(subject: LoadedSubject) -> Iterator[Found]:
    """An override of the configuration did not arrive.

    The configuration of the loaded model has another value.
    """
    transformer = _transformer(subject)
    if transformer is None:
        return
    for name, value in subject.preferences.model.config.items():
        found = getattr(transformer.config, name, None)
        if found != value:
            yield _not_applied(f"model.config.{name}", value, f"the loaded configuration says {found}")


@loaded_rule(
    "dtype-not-applied",
    "error",
    cases=(29,),
    host_today="The precision in config.json wins where none is asked for, and on a GPU no message says so.",
    example="A model some of whose modules stay in float16 although float32 was asked for.",
    fix="State compute.dtype as the model's weights are, or report the model.",
)
def dtype_not_applied(subject: LoadedSubject) -> Iterator[Found]:
    """Weights are in another precision than was asked for.

    Every floating-point parameter is looked at, those of pooling and dense modules too.
    """
    from embedprefs.arguments import torch_dtype

    asked = torch_dtype(subject.resolved)
    others: dict[str, list[str]] = {}
    for name, parameter in subject.model.named_parameters():
        found = str(parameter.dtype).removeprefix("torch.")
        if parameter.dtype.is_floating_point and found != asked:
            others.setdefault(found, []).append(name)
    for found, names in others.items():
        yield Found(
            "compute.dtype",
            f"{asked} was asked for, and {len(names)} parameters are in {found}, {names[0]} among them.",
            f'Write dtype = "{found}", or use a checkpoint that converts.',
        )


@loaded_rule(
    "attention-not-applied",
    "error",
    cases=(35,),
    host_today="Where nothing is asked for and sdpa is not supported, eager attention is used without a message; where "
    "the package flash-attn is absent, compiled code may be downloaded.",
    example='[compute]\nattention = "sdpa"  # for an architecture that only has eager attention',
    fix='Write attention = "auto".',
)
def attention_not_applied(subject: LoadedSubject) -> Iterator[Found]:
    """Another attention runs than the one that was asked for.

    It decides speed and memory, and in half precision the last digits.
    """
    transformer = _transformer(subject)
    asked = subject.resolved["compute.attention"]
    if transformer is None or asked is None:
        return
    from embedprefs.arguments import attention_implementation

    found = str(getattr(transformer.config, "_attn_implementation", None))
    if found != attention_implementation(asked):
        yield _not_applied("compute.attention", asked, f'"{found}" runs')


@loaded_rule(
    "attention-without-mask",
    "error",
    cases=(36,),
    host_today="A custom attention that is registered without a function for its mask gets none: padding is read as "
    "text (a difference of 3.4 in the output), without a message.",
    example='AttentionInterface.register("mine", function) without AttentionMaskInterface.register("mine", ...)',
    fix="Register a mask function under the same name.",
)
def attention_without_mask(subject: LoadedSubject) -> Iterator[Found]:
    """The attention that runs has no mask function.

    transformers looks both up by the same name, and leaves the mask out where it finds none.
    """
    transformer = _transformer(subject)
    if transformer is None:
        return
    from transformers import AttentionInterface, AttentionMaskInterface

    name = getattr(transformer.config, "_attn_implementation", None)
    if name in AttentionInterface().valid_keys() and name not in AttentionMaskInterface().valid_keys():
        yield Found(
            "compute.attention",
            f'The attention "{name}" is registered without a mask function: padding would be read as text.',
            f'Call AttentionMaskInterface.register("{name}", ...), or use another attention.',
        )


@loaded_rule(
    "prompts-not-applied",
    "error",
    cases=(1, 2, 4),
    host_today="`model.prompts = {...}` replaces all prompts; a role that is not among the new ones goes without.",
    example='model.prompts = {"query": "search_query: "}',
    fix="State the prompts under [prompts].",
)
def prompts_not_applied(subject: LoadedSubject) -> Iterator[Found]:
    """The model holds other prompts than the preferences say.

    `encode_query` and `encode_document` read them from the model.
    """
    held = dict(subject.model.prompts)
    for name, asked in subject.resolved.prompts.items():
        if (held.get(name) or "") != asked:
            yield Found(
                f"prompts.{name}",
                f'"{asked}" was asked for, and the model holds "{held.get(name)}".',
                "Load the model again; its prompts are not changed after loading.",
            )


@loaded_rule(
    "similarity-not-applied",
    "error",
    cases=(26,),
    host_today="Cosine is used where nothing says otherwise.",
    example='model.similarity_fn_name = "dot" after loading',
    fix="State vectors.similarity_fn_name.",
)
def similarity_not_applied(subject: LoadedSubject) -> Iterator[Found]:
    """The model compares vectors in another way than the preferences say.

    `model.similarity` and the stores read it from the model.
    """
    asked = subject.resolved["vectors.similarity_fn_name"]
    found = subject.model.similarity_fn_name
    if str(getattr(found, "value", found)) != asked:
        yield _not_applied("vectors.similarity_fn_name", asked, f'the model\'s similarity is "{found}"')


@loaded_rule(
    "device-not-applied",
    "error",
    cases=(31, 32, 34),
    host_today="`device_map` wins over `device`; a pool of processes leaves the model on the processor.",
    example="A model that was moved between loading and use.",
    fix="State compute.device alone.",
)
def device_not_applied(subject: LoadedSubject) -> Iterator[Found]:
    """The model is on another device than was asked for.

    It then runs, at another speed.
    """
    devices = subject.resolved.devices
    if len(devices) > 1:
        return  # each process of a pool has a device of its own
    found = str(subject.model.device)
    asked = devices[0]
    if found != asked and found.partition(":")[0] != asked:
        yield _not_applied("compute.device", asked, f"the model is on {found}")


@loaded_rule(
    "tokenizer-exceeds-embedding",
    "error",
    cases=(18,),
    host_today="An IndexError when the first text with such a token arrives; on a GPU a device assertion that ends "
    "the process.",
    example="A tokenizer to which tokens were added, beside weights that were not resized.",
    fix="Put the model's own tokenizer files into the folder.",
)
def tokenizer_exceeds_embedding(subject: LoadedSubject) -> Iterator[Found]:
    """The tokenizer can return ids for which the model has no embedding.

    Counted on the loaded objects, so that added tokens and other formats of tokenizer count too.
    """
    tokenizer, transformer = _tokenizer(subject), _transformer(subject)
    if tokenizer is None or transformer is None:
        return
    rows = getattr(transformer.get_input_embeddings(), "num_embeddings", None)
    largest = _largest_id(tokenizer, subject)
    if rows is not None and largest >= rows:
        yield Found(
            None,
            f"The tokenizer's largest token id is {largest}, and the model has {rows} token embeddings.",
            "Put the model's own tokenizer files into the folder, or name the model they belong to.",
        )


def _largest_id(tokenizer: Any, subject: LoadedSubject) -> int:
    """Return the largest token id: that of the file and of the tokens added since, or of the whole vocabulary."""
    facts = subject.resolved.facts.tokenizer
    if facts is None or facts.largest_id is None:
        vocabulary: dict[str, int] = tokenizer.get_vocab()
        return max(vocabulary.values(), default=-1)
    largest: int = max([facts.largest_id, *tokenizer.added_tokens_decoder])
    return largest


@loaded_rule(
    "tensors-not-loaded",
    "error",
    cases=(15, 16),
    host_today="A table in the log; what is missing is random.",
    example="A model of a type that is not known here, whose checkpoint lacks a layer.",
    fix="Use a checkpoint that was saved for this architecture.",
)
def tensors_not_loaded(subject: LoadedSubject) -> Iterator[Found]:
    """Weights of the model were not in the checkpoint, or those of the checkpoint not in the model.

    The host is asked for its comparison a second time, on a model without memory, which takes a few hundredths of a
    second. Only where the names could not be compared beforehand.
    """
    facts = subject.resolved.facts
    transformer = _transformer(subject)
    if facts.tensors_verified or transformer is None or subject.preferences.model.from_scratch:
        return
    if facts.folder is None or subject.preferences.model.adapter is not None or facts.adapter_config:
        return
    information = _loading_information(subject, transformer)
    for kind, consequence in (
        ("missing_keys", "of the model are not in the checkpoint, and are random"),
        ("unexpected_keys", "of the checkpoint have no place in the model"),
        ("mismatched_keys", "have another shape in the checkpoint, and are random"),
    ):
        names = sorted(str(name) for name in information[kind])
        if names:
            yield Found(
                "model.name",
                f"{len(names)} weights {consequence}: {', '.join(names[:4])}.",
                "Use a checkpoint that was saved for this architecture.",
            )


def _loading_information(subject: LoadedSubject, transformer: Any) -> dict[str, Any]:
    from transformers.utils import logging as host_logging

    facts = subject.resolved.facts
    first = facts.modules[0].path if facts.modules else ""
    folder = facts.folder / first if facts.folder is not None and first else facts.folder
    shown = host_logging.is_progress_bar_enabled()
    verbosity = host_logging.get_verbosity()
    host_logging.disable_progress_bar()
    host_logging.set_verbosity_error()  # its table was in the log once already; the finding says the same
    try:
        _, information = type(transformer).from_pretrained(
            str(folder), config=transformer.config, device_map="meta", output_loading_info=True
        )
    finally:
        host_logging.set_verbosity(verbosity)
        if shown:
            host_logging.enable_progress_bar()
    return dict(information)


def visible_devices_mismatch(setting: str | None, seen: int) -> bool:
    """Return whether CUDA_VISIBLE_DEVICES names another number of GPUs than torch sees.

    Args:
        setting: The variable as it is now; None where it is not set.
        seen: Number of GPUs torch counted when CUDA was initialised.
    """
    if setting is None:
        return False
    names = [name for name in setting.split(",") if name.strip() and name.strip() != "-1"]
    return len(names) != seen


@loaded_rule(
    "cuda-visible-devices-late",
    "warning",
    cases=(40,),
    host_today="Ignored without a message once CUDA is initialised.",
    example='import torch; torch.cuda.init(); os.environ["CUDA_VISIBLE_DEVICES"] = "1"',
    fix="Set it before Python starts, or write compute.device.",
)
def cuda_visible_devices_late(_subject: LoadedSubject) -> Iterator[Found]:
    """CUDA_VISIBLE_DEVICES was set when it was too late.

    CUDA reads it once. The GPUs that torch sees are those of that moment.
    """
    import torch

    setting = os.environ.get("CUDA_VISIBLE_DEVICES")
    started: bool = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    if started and visible_devices_mismatch(setting, torch.cuda.device_count()):
        yield Found(
            "compute.device",
            f'CUDA_VISIBLE_DEVICES is "{setting}", and torch sees {torch.cuda.device_count()} GPUs: it was set after '
            "CUDA was initialised.",
            'Set it before Python starts, or write device = "cuda:1" (or another) under [compute].',
        )
