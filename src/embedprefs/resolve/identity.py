"""Effective identity: what the vectors are, once every layer has been asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from embedprefs.preferences import DEFAULT_ORIGIN, Layer, Origin, every_field
from embedprefs.resolve.resolved import Choice
from embedprefs.resolve.sources import Sources

__all__ = ["identity_choices"]

#: Names under which a model's own files may keep the document prompt; the host's order.
DOCUMENT_PROMPT_NAMES = ("document", "passage", "corpus")


def _model(sources: Sources, choices: dict[str, Choice]) -> None:
    facts = sources.facts
    if facts.source != "folder" and facts.revision is not None and "model.revision" not in sources.stated_values:
        choices["model.revision"] = Choice(
            facts.revision, Origin(Layer.MODEL_FILES, "hub"), "The commit that the files read here are from."
        )
    chain_pools = any(module.kind == "Pooling" for module in facts.modules)
    choices["model.pooling"] = sources.pick(
        "model.pooling",
        facts.pooling_mode if chain_pools else None,
        own_file="modules.json",
        default=facts.pooling_mode,
        reason="The model has no pooling module; this is what the host adds."
        if facts.pooling_mode is not None
        else "The model pools nothing.",
    )


def _tokenizer(sources: Sources, choices: dict[str, Choice]) -> None:
    facts = sources.facts
    known = sources.known_model.model if sources.known_model is not None else None
    choices["tokenizer.max_seq_length"] = sources.pick(
        "tokenizer.max_seq_length",
        facts.max_seq_length,
        known=known.max_seq_length if known is not None else None,
        reason="The model reads texts of any length." if facts.is_static else "Neither files nor table name a limit.",
    )
    for side in ("padding_side", "truncation_side"):
        key = f"tokenizer.{side}"
        applies = facts.tokenizer is not None and not facts.is_static
        own = getattr(facts.tokenizer, side) if applies else None
        choices[key] = sources.pick(
            key,
            own,
            own_file="tokenizer_config.json",
            reason="A static model neither pads nor cuts." if facts.is_static else "The model has no tokenizer files.",
        )


def _named_prompts(sources: Sources) -> set[str]:
    names = set(sources.facts.prompts)
    names |= {key.removeprefix("prompts.") for key in sources.saved_values if key.startswith("prompts.")}
    names |= {key.removeprefix("prompts.") for key in sources.stated_values if key.startswith("prompts.")}
    if not sources.known_by_base:
        names |= set(sources.known_prompts)
    return names - {"query", "task", *DOCUMENT_PROMPT_NAMES}


def _prompts(sources: Sources, choices: dict[str, Choice]) -> None:
    facts = sources.facts
    known: Mapping[str, str] = sources.known_prompts
    states_a_role = any(facts.prompts.get(name) for name in ("query", *DOCUMENT_PROMPT_NAMES))
    if states_a_role and sources.known_by_base:
        # What a fine-tune says about itself is complete; its base's other prompt may have been dropped on purpose.
        known = {}
    file = "config_sentence_transformers.json"
    none = "Neither the model's files nor the known-model table have one."
    choices["prompts.query"] = sources.pick(
        "prompts.query",
        facts.prompts.get("query") or None,
        own_file=file,
        known=known.get("query"),
        default="",
        reason=none,
    )
    own_name = next((name for name in DOCUMENT_PROMPT_NAMES if facts.prompts.get(name)), None)
    document = sources.pick(
        "prompts.document",
        facts.prompts[own_name] if own_name is not None else None,
        own_file=file,
        known=known.get("document"),
        default="",
        reason=none,
    )
    if own_name not in (None, "document") and document.origin == Origin(Layer.MODEL_FILES, file):
        reason = f'The model\'s own files keep it as "{own_name}", which the host would never apply.'
        document = Choice(document.value, document.origin, reason)
    choices["prompts.document"] = document
    choices["prompts.task"] = sources.pick("prompts.task", reason="No task is stated.")
    for name in sorted(_named_prompts(sources)):
        choices[f"prompts.{name}"] = sources.pick(
            f"prompts.{name}", facts.prompts.get(name), own_file=file, known=known.get(name), default="", reason=none
        )


def _truncate_dim(sources: Sources) -> Choice:
    facts = sources.facts
    choice = sources.pick(
        "vectors.truncate_dim",
        facts.truncate_dim,
        own_file="config_sentence_transformers.json",
        reason="All dimensions are kept.",
    )
    if choice.value is not None and choice.value == facts.embedding_dimension:
        return Choice(None, choice.origin, f"{choice.value} are all the dimensions there are, so nothing is cut.")
    return choice


def _normalize(sources: Sources, truncate_dim: int | None) -> Choice:
    facts = sources.facts
    choice = sources.pick(
        "vectors.normalize",
        facts.normalizes or None,
        own_file="modules.json",
        default=False,
        reason="The model's chain has no Normalize module at its end.",
    )
    if facts.normalizes and choice.value is False and truncate_dim is None:
        return Choice(
            True, choice.origin, "The model's chain ends in a Normalize module, which runs whatever is stated here."
        )
    if choice.value and truncate_dim is not None and choice.origin.layer is Layer.MODEL_FILES:
        return Choice(
            True, choice.origin, "The full vectors have length 1, so those cut to truncate_dim are scaled to it again."
        )
    return choice


def _vectors(sources: Sources, choices: dict[str, Choice]) -> None:
    facts = sources.facts
    known = sources.known_model.model if sources.known_model is not None else None
    truncate_dim = _truncate_dim(sources)
    choices["vectors.normalize"] = _normalize(sources, truncate_dim.value)
    choices["vectors.truncate_dim"] = truncate_dim
    choices["vectors.similarity_fn_name"] = sources.pick(
        "vectors.similarity_fn_name",
        facts.similarity_fn_name,
        own_file="config_sentence_transformers.json",
        known=known.similarity if known is not None else None,
        default="cosine",
        reason="The host's default, since neither the model's files nor the known-model table say.",
    )


#: Preferences of an index that decide what its vectors are.
_OF_A_COLLECTION = ("index.template", "index.chunk_context")

_RULES: tuple[Callable[[Sources, dict[str, Choice]], None], ...] = (_model, _tokenizer, _prompts, _vectors)


def identity_choices(sources: Sources) -> dict[str, Choice]:
    """Return the effective value of every preference that is about the model itself, `[compute]` left out."""
    choices: dict[str, Choice] = {}
    for rule in _RULES:
        rule(sources, choices)
    for declared in every_field():
        section = declared.key.partition(".")[0]
        about_the_model = section in ("model", "tokenizer", "prompts", "vectors", "sparse")
        if declared.key in choices or not (about_the_model or declared.key in _OF_A_COLLECTION):
            continue
        choice = sources.stated(declared.key)
        choices[declared.key] = choice or Choice(declared.default, DEFAULT_ORIGIN, "Nothing states it.")
    return choices
