"""The model card of a trained model: what was done and measured, and no text of the data."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedprefs.evaluation.wording import figure, interval_words, p_value_words
from embedprefs.files import write_text
from embedprefs.training.result import GUARD_VERDICTS, VERDICTS, judged

if TYPE_CHECKING:
    from embedprefs.training.result import TrainingResult

__all__ = ["card_text", "write_card"]

#: Arguments that say where and on what a run was made, which is nobody else's business.
_OF_THIS_MACHINE = ("output_dir", "prompts", "run_name", "project", "hub_model_id", "hub_token")


def write_card(result: TrainingResult, examples: Sequence[Mapping[str, Any]] = ()) -> Path:
    """Write README.md into the folder of the trained model; `examples` are rows that it may show."""
    path = result.model / "README.md"
    write_text(path, card_text(result, examples))
    return path


def card_text(result: TrainingResult, examples: Sequence[Mapping[str, Any]] = ()) -> str:
    """Return the card: metadata that hubs read, results, how it was trained, how it is used.

    Args:
        result: The run.
        examples: Rows of the training data to show; none unless `training.model_card_texts` allows it.
    """
    base = _public_name(result.base)
    prompts = {name: text for name, text in _prompts(result.model).items() if text}
    lines = [
        "---",
        "library_name: sentence-transformers",
        "pipeline_tag: sentence-similarity",
        "tags:",
        "- sentence-transformers",
        "- feature-extraction",
        "- embedprefs",
        *([f"base_model: {base}"] if "/" in base else []),
        "---",
        "",
        f"# {base}, fine-tuned",
        "",
        f"Fine-tuned from `{base}` on {result.rows['train']:,} examples"
        + ("." if examples else ", of which this card shows no text."),
        "",
    ]
    for title, found in (("Test set", result.comparison), ("Guard set", result.guard)):
        if found is None:
            continue
        words = VERDICTS[judged(found)] if found is result.comparison else GUARD_VERDICTS[found.verdict]
        lines += [
            f"## {title}",
            "",
            f"Verdict: {words}.",
            "",
            "| metric | before | after | difference | 95 % interval | randomisation test |",
            "|---|---|---|---|---|---|",
            *(
                f"| {name} | {figure(item.a)} | {figure(item.b)} | {figure(item.difference, signed=True)} | "
                f"{interval_words(item.interval, signed=True)} | {p_value_words(item.p_value)} |"
                for name, item in found.metrics.items()
            ),
            "",
        ]
    arguments = {
        name: choice["value"]
        for name, choice in sorted(result.arguments.items())
        if name not in _OF_THIS_MACHINE and not str(name).startswith("hub_")
    }
    lines += [
        "## Training",
        "",
        f"- Loss: {result.loss}",
        f"- Steps: {result.steps:,}",
        f"- Parameters trained: {result.trained_parameters:,} of {result.parameters:,}",
        *(f"- {name}: {_shown(value)}" for name, value in arguments.items()),
        "",
        "## Use",
        "",
        "```python",
        "from embedprefs import load_model",
        "",
        'model = load_model("FOLDER")  # prompts, length and normalisation are those it was trained with',
        'model.encode_query("...")',
        'model.encode_document(["..."])',
        "```",
        "",
    ]
    if examples:
        lines += ["## Examples of the training data", ""]
        lines += [f"- {role}: {_shown(value)}" for row in examples for role, value in row.items()]
        lines.append("")
    if prompts:
        listed = ", ".join(f"{name} `{json.dumps(text, ensure_ascii=False)}`" for name, text in prompts.items())
        lines += [f"Prompts: {listed}.", ""]
    return "\n".join(lines)


def _public_name(name: str) -> str:
    """Return a hub name as it is, and a folder by its last part alone."""
    path = Path(name)
    return path.name if path.is_absolute() or path.exists() or name.count("/") != 1 else name


def _prompts(folder: Path) -> dict[str, str]:
    path = folder / "config_sentence_transformers.json"
    if not path.is_file():
        return {}
    prompts: dict[str, str] = json.loads(path.read_text(encoding="utf-8")).get("prompts") or {}
    return prompts


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
