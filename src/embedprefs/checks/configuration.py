"""Rules about overrides of the model's configuration."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from embedprefs.checks.rule import Found, rule
from embedprefs.checks.subject import Subject

if TYPE_CHECKING:
    from embedprefs.config_overrides import Verdict

__all__: list[str] = []


def _refused(subject: Subject) -> Iterator[tuple[str, Any, Verdict]]:
    from embedprefs.config_overrides import judge_override

    facts = subject.model
    stated = subject.preferences.model
    for name, value in stated.config.items():
        verdict = judge_override(facts.model_type, name, value, facts, from_scratch=stated.from_scratch)
        if not verdict.allowed:
            yield name, value, verdict


@rule(
    "config-override-without-effect",
    "error",
    cases=(12, 13),
    needs=("facts",),
    host_today="Unknown names in `config_kwargs` are dropped without a message; older names (`global_rope_theta`, "
    "`global_attn_every_n_layers`, `layer_norm_eps` of ModernBERT) are kept as attributes that nothing reads.",
    example="[model.config]\nglobal_rope_theta = 500000.0",
    fix="Correct the name, use what the finding names, or remove the override.",
)
def config_override_without_effect(subject: Subject) -> Iterator[Found]:
    """An override of the configuration does nothing, or has a better place.

    The name is misspelled, is an older one, or stands for something that is no field of the configuration. The host
    accepts it, and the vectors stay the same.
    """
    for name, _, verdict in _refused(subject):
        instead = verdict.use_instead
        if instead == _FROM_SCRATCH:
            continue
        if instead is None:
            advice = "Remove it."
        elif "." in instead:
            advice = f"Remove it and use {instead}."
        else:
            advice = f"Did you mean {instead}?"
        yield Found(f"model.config.{name}", verdict.reason, advice)


@rule(
    "config-override-architecture",
    "error",
    cases=(14, 15),
    needs=("facts",),
    host_today="Overrides that keep the shapes are obeyed and give garbage without a message: cosine 0.86 with "
    "`num_attention_heads`, 0.60 with `hidden_act`, 0.38 with `layer_norm_eps`. Others load random weights.",
    example="[model.config]\nnum_hidden_layers = 12",
    fix="Remove the override. from_scratch = true builds an untrained model of that shape.",
)
def config_override_architecture(subject: Subject) -> Iterator[Found]:
    """An override changes what the trained weights mean.

    Weights were trained for one architecture. In another one they are read into the wrong places, or random ones are
    put beside them.
    """
    for name, value, verdict in _refused(subject):
        if verdict.use_instead == _FROM_SCRATCH:
            own = subject.model.config.get(name)
            was = f" (the checkpoint's value is {own})" if own is not None else ""
            yield Found(
                f"model.config.{name}",
                f"{name} = {value}{was}: {verdict.reason}",
                "Remove it, or write from_scratch = true under [model] for an untrained model.",
            )


#: What `judge_override` names where only an untrained model could take the value.
_FROM_SCRATCH = "model.from_scratch"
