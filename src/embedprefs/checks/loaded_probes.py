"""Rules on the loaded model that a few probe texts answer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from embedprefs.checks.rule import Found, loaded_rule
from embedprefs.checks.subject import SHORT_TEXT, LoadedSubject, evaluation_mode

__all__: list[str] = []

#: Longer than `SHORT_TEXT`, so that the latter is padded beside it.
LONG_TEXT = "the quick brown fox jumps over it"

#: dtype -> how far the cosine between a text alone and the same text in a padded batch may be from 1.
BATCH_TOLERANCE = {"float32": 1e-5, "bfloat16": 2e-3, "float16": 5e-4}


def _token_ids(subject: LoadedSubject, text: str, prompt: str | None) -> list[int] | None:
    """Return the tokens the model would read; None where the model's input is no list of tokens."""
    features = subject.model.preprocess([text], prompt=prompt) if prompt else subject.model.preprocess([text])
    ids = features.get("input_ids")
    return None if ids is None else [int(token) for token in ids.reshape(-1).tolist()]


def _reads_text(subject: LoadedSubject) -> bool:
    modalities = getattr(subject.model, "modalities", None)
    return modalities is None or "text" in modalities


@loaded_rule(
    "prompt-without-effect",
    "error",
    cases=(1, 6),
    host_today="A prompt under a name that is not looked for is never put before a text; queries and documents get the "
    "same tokens.",
    example="A model whose own preprocessing drops prompts.",
    fix="Look at the model's code, or write the prompt into the texts and leave it out of [prompts].",
)
def prompt_without_effect(subject: LoadedSubject) -> Iterator[Found]:
    """A prompt changes nothing about the tokens.

    A text is tokenised with and without the prompt of each role. Where both give the same tokens, the model never
    sees the prompt.
    """
    if not _reads_text(subject):
        return
    plain = _token_ids(subject, SHORT_TEXT, None)
    for role in ("query", "document"):
        prompt = subject.resolved[f"prompts.{role}"]
        if prompt.strip() and plain is not None and _token_ids(subject, SHORT_TEXT, prompt) == plain:
            yield Found(
                f"prompts.{role}",
                f'A text has the same tokens with and without the prompt "{prompt}".',
                "Look at how the model's own code handles prompts.",
            )


@loaded_rule(
    "prompt-leaves-no-room",
    "error",
    cases=(7, 10),
    host_today="The prompt uses up tokens of `max_seq_length`; with a limit of 8 two words of the text are left, and "
    "nothing is said.",
    example='[prompts]\nquery = "Represent this sentence: "\n[tokenizer]\nmax_seq_length = 8',
    fix="Raise tokenizer.max_seq_length.",
)
def prompt_leaves_no_room(subject: LoadedSubject) -> Iterator[Found]:
    """Prompt and special tokens fill most of what the model reads.

    Counted in tokens, with the tokenizer itself.
    """
    limit = subject.resolved["tokenizer.max_seq_length"]
    if limit is None or not _reads_text(subject):
        return
    empty = _token_ids(subject, "", None)
    for role in ("query", "document"):
        prompt = subject.resolved[f"prompts.{role}"]
        if not prompt or empty is None:
            continue
        # The prompt is tokenised as a text, so that special tokens count once and truncation shows as a full row.
        used = len(_token_ids(subject, prompt, None) or [])
        if 2 * used < limit:
            continue
        full = used >= limit
        left = "nothing of the text is read" if full else f"{limit - used} tokens of the text are read"
        yield Found(
            f"prompts.{role}",
            f'The prompt "{prompt}" and the special tokens take {used} of {limit} tokens: {left}.',
            "Raise tokenizer.max_seq_length.",
            None if full else "warning",
        )


@loaded_rule(
    "probe-text-fails",
    "error",
    cases=(9, 18, 22, 23, 24, 26),
    host_today="Nothing is tried before the first call.",
    example="A module chain whose parts do not fit together; a Normalize module that got lost.",
    fix="Look at the message; it is what the first call would have met.",
)
def probe_text_fails(subject: LoadedSubject) -> Iterator[Found]:
    """A probe text does not become the vector that was asked for.

    One short text is embedded as a document. Its vector must have the length, the dimensions and only finite numbers.
    Where the transformer is of a known architecture and every tensor's name and shape was found in its files, only what
    follows it is run, on stand-in token vectors: the transformer itself would cost more than all other checks together.
    Numbers that are not finite are then found by the first call.
    """
    if not _reads_text(subject):
        return
    if isinstance(subject.probe, Exception):
        yield Found(
            None,
            f"A short text cannot be embedded: {type(subject.probe).__name__}: {subject.probe}",
            "Use a model whose files fit together; embedprefs show --facts says what they say.",
        )
        return
    yield from _vector_findings(subject, subject.probe)


def _vector_findings(subject: LoadedSubject, vector: Any) -> Iterator[Found]:
    import numpy as np

    dimension = subject.resolved.embedding_dimension
    if dimension is not None and vector.shape[-1] != dimension:
        yield Found(
            "vectors.truncate_dim",
            f"The vector of a probe text has {vector.shape[-1]} dimensions, and {dimension} were asked for.",
            "Correct the model's pooling or dense configuration, or vectors.truncate_dim.",
        )
    if not np.isfinite(vector).all():
        yield Found(
            "compute.dtype",
            f"The vector of a probe text holds {int((~np.isfinite(vector)).sum())} numbers that are not finite.",
            'Write dtype = "float32", or use another checkpoint.',
        )
        return
    length = float(np.linalg.norm(vector))
    half = subject.resolved["compute.dtype"] != "float32"
    tolerance = 1e-2 if half else 1e-4
    if subject.resolved["vectors.normalize"] and abs(length - 1.0) > tolerance:
        yield Found(
            "vectors.normalize",
            f"The vector of a probe text has length {length:.4f}, and 1 was asked for.",
            "Write normalize = true under [vectors].",
        )


@loaded_rule(
    "batch-changes-vector",
    "error",
    cases=(19, 30, 36),
    host_today="Left padding with learned positions, or a custom attention without mask, gives a text another vector "
    "in each batch: cosine 0.57 to 0.98, without a message.",
    example='[tokenizer]\npadding_side = "left"  # for a model with learned positions',
    fix='Write padding_side = "right" and attention = "auto".',
)
def batch_changes_vector(subject: LoadedSubject) -> Iterator[Found]:
    """A text's vector depends on its neighbours in the batch.

    A short text is embedded alone and beside a longer one, which pads it. Both must give the same vector, up to the
    rounding of the dtype. Asked where padding could be read as text at all: of architectures that are not known here,
    of padding on the left, and of an attention that is not the host's own.
    """
    model = subject.model
    alone = subject.probe
    on_torch = subject.resolved["compute.backend"] == "torch" and not subject.resolved.facts.is_static
    if not on_torch or not _reads_text(subject) or isinstance(alone, Exception) or subject.is_verified:
        return
    import numpy as np
    import torch

    with evaluation_mode(model), torch.inference_mode():
        together = _sentence_vectors(model, [SHORT_TEXT, LONG_TEXT], subject.resolved["prompts.document"])
    if together is None:
        return
    # Cut as the vector alone is; lengths do not matter to the cosine.
    padded = together[0].double().cpu().numpy()[: len(alone)]
    lengths = np.linalg.norm(alone) * np.linalg.norm(padded)
    # Two zero vectors (a model that knows no word of the probe) are equal.
    cosine = float(alone @ padded / lengths) if lengths else float(np.array_equal(alone, padded))
    # Mixed precision computes in bfloat16, though the weights stay in float32.
    dtype = "bfloat16" if subject.resolved["compute.autocast"] else subject.resolved["compute.dtype"]
    tolerance = BATCH_TOLERANCE.get(dtype, 2e-3)
    if not cosine > 1.0 - tolerance:
        yield Found(
            "tokenizer.padding_side",
            f"A short text alone and the same text beside a longer one have a cosine of {cosine:.4f}.",
            'Write padding_side = "right" and attention = "auto"; padding is read as text.',
        )


def _sentence_vectors(model: Any, texts: list[str], prompt: str) -> Any:
    features = model.preprocess(texts, prompt=prompt) if prompt else model.preprocess(texts)
    moved = {name: value.to(model.device) if hasattr(value, "to") else value for name, value in features.items()}
    return model(moved).get("sentence_embedding")
