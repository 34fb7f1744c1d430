"""What `embedprefs show` shows, as text, TOML and JSON."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedprefs.files.editing import rendered
from embedprefs.preferences import Kind, Layer, Origin, Preferences, every_field, find_field
from embedprefs.toml_text import dotted, split_key

if TYPE_CHECKING:
    from embedprefs.engine.exactness import Measurement
    from embedprefs.facts import ModelFacts
    from embedprefs.resolve import Choice, Resolved

__all__ = ["View", "as_json", "as_text", "as_toml"]

Rows = list[tuple[str, ...]]

#: What a reader asks first, shown even where nothing states it.
_ESSENTIAL = (
    "model.name",
    "tokenizer.max_seq_length",
    "prompts.query",
    "prompts.document",
    "vectors.normalize",
    "vectors.truncate_dim",
    "vectors.similarity_fn_name",
    "vectors.precision",
)
#: Reasons that say no more than the origin beside them.
_PLAIN_REASONS = frozenset({"Stated.", "The model's own files say so.", "Nothing states it."})


@dataclass(frozen=True)
class View:
    """What was asked for."""

    preferences: Preferences
    effective: Resolved | None
    """None where the model's files cannot be read."""
    origins: bool
    resolved: bool
    facts: bool

    @property
    def overview(self) -> bool:
        """True where nothing particular was asked for."""
        return not (self.origins or self.resolved or self.facts)


def as_text(view: View) -> Iterator[tuple[str, Rows]]:
    """Yield titles, each with the rows of its table."""
    yield "", _heading(view)
    if view.overview:
        rows, hidden = _overview(view)
        yield "", rows
        if hidden:
            yield f"\n{hidden} preferences at their defaults are not shown: embedprefs show --origins", []
    if view.origins:
        yield "\nEvery preference, and where it was written", _all_origins(view)
    if view.effective is not None and view.resolved:
        yield "\nEffective values", _every_choice(view.effective)
        of_a_collection = _collection_fingerprint(view.effective)
        yield "\nIdentity", [("fingerprint", _fingerprint(view.effective)), ("in a collection", of_a_collection)]
        measured = _measurements(view.effective)
        if measured:
            yield (
                "\nCompared with float32 on torch",
                [(name, _measured_words(found)) for name, found in measured.items()],
            )
    if view.effective is not None and view.facts:
        yield "\nWhat the model's files say", [(f"  {name}", words) for name, words in _fact_rows(view.effective.facts)]


def _heading(view: View) -> Rows:
    prefs = view.preferences
    rows: Rows = [("Preferences", _near(str(prefs.file)) if prefs.file is not None else "no file")]
    effective = view.effective
    if effective is None:
        return [*rows, ("Model", prefs.model.name)]
    facts = effective.facts
    where = {"folder": "a folder", "cache": "from the hub's cache", "hub": "on the hub"}[facts.source]
    rows.append(("Model", f"{facts.name}, {where}{f', commit {facts.revision}' if facts.revision else ''}"))
    if effective.embedding_dimension is not None:
        cut = ""
        if facts.embedding_dimension is not None and effective.embedding_dimension < facts.embedding_dimension:
            cut = f", the first of {facts.embedding_dimension}"
        rows.append(("Vectors", f"{effective.embedding_dimension} dimensions{cut}"))
    if effective.known_model is not None:
        rows.append(("Known as", effective.known_model.model.name))
    return rows


def _overview(view: View) -> tuple[Rows, int]:
    prefs, effective = view.preferences, view.effective
    rows: dict[str, tuple[str, str]] = {}
    if effective is not None:
        for key, choice in effective.choices.items():
            automatic = _stated_auto(prefs, key)
            if choice.origin.layer is Layer.DEFAULT and not automatic and key not in _ESSENTIAL:
                continue
            value = _words(key, choice.value)
            rows[key] = (f"auto → {value}" if automatic else value, _why(choice, automatic=automatic))
    for key, value in prefs.stated().items():
        if key not in rows and value is not None and key != "schema_version":
            rows[key] = (_words(key, value), _origin_words(_origin_of(prefs, key)))
    order = [declared.key for declared in every_field()]
    declared = set(order)
    keys = [*(key for key in order if key in rows), *(key for key in rows if key not in declared)]
    hidden = sum(key not in rows and "*" not in key for key in order)
    return _by_section(keys, [rows[key] for key in keys]), hidden


def _why(choice: Choice, *, automatic: bool) -> str:
    """Return where a value came from, and its reason where that says more."""
    origin = _origin_words(choice.origin)
    if choice.reason in _PLAIN_REASONS:
        return origin
    if choice.origin.layer is Layer.DEFAULT:
        return choice.reason if automatic else f"default: {choice.reason}"
    return f"{origin}: {choice.reason}"


def _by_section(keys: Sequence[str], cells: Sequence[tuple[str, ...]]) -> Rows:
    """Return rows with a heading above each section; a section's rows stand together."""
    sections: dict[str, Rows] = {}
    for key, row in zip(keys, cells, strict=True):
        path = split_key(key)
        sections.setdefault(dotted(path[:-1]), []).append((f"  {dotted(path[-1:])}", *row))
    rows: Rows = []
    for section, lines in sections.items():
        width = len(lines[0])
        rows.append(("",) * width)
        if section:
            rows.append((f"[{section}]", *("",) * (width - 1)))
        rows.extend(lines)
    return rows


def _all_origins(view: View) -> Rows:
    prefs = view.preferences
    stated = prefs.stated()
    keys = [declared.key for declared in every_field() if "*" not in declared.key]
    keys += [key for key in stated if key not in keys]
    cells: list[tuple[str, ...]] = []
    for key in keys:
        if key in stated and stated[key] is not None:
            cells.append((_words(key, stated[key]), _origin_words(_origin_of(prefs, key))))
            continue
        choice = view.effective.choices.get(key) if view.effective is not None else None
        if choice is not None and choice.origin.layer is not Layer.DEFAULT:
            cells.append((_words(key, choice.value), _origin_words(choice.origin)))
            continue
        declared = find_field(key)
        cells.append((declared.effective_default if declared is not None else "not stated", "default"))
    return _by_section(keys, cells)


def _every_choice(effective: Resolved) -> Rows:
    keys = list(effective.choices)
    cells = [
        (_words(key, choice.value), _origin_words(choice.origin), choice.reason)
        for key, choice in effective.choices.items()
    ]
    return _by_section(keys, cells)


def _measurements(effective: Resolved) -> dict[str, Measurement | None]:
    """Return what was measured at first use, for each backend that is tried; None where it was not used yet."""
    from embedprefs.engine.exactness import kept_measurement
    from embedprefs.engine.selection import candidates

    tried = list(candidates(effective))
    if effective["compute.attention"] == "varlen":
        tried.append(("torch", effective["compute.dtype"]))
    return {f"{backend}, {numerics}": kept_measurement(effective, backend, numerics) for backend, numerics in tried}


def _measured_words(found: Measurement | None) -> str:
    if found is None:
        return "not measured yet: the first texts that are embedded do it"
    return f"cosine at least {found.cosine:.6f}, numbers within {found.difference:.1e} ({found.texts} probe texts)"


def _fact_rows(facts: ModelFacts) -> Iterator[tuple[str, str]]:
    tokenizer = facts.tokenizer
    values: dict[str, Any] = {
        "folder": _near(str(facts.folder)) if facts.folder is not None else None,
        "commit": facts.revision,
        "model type": facts.model_type,
        "model card of": facts.card_name,
        "made from": ", ".join(facts.base_models) or None,
        "parameters": f"{facts.parameter_count:,}" if facts.parameter_count else None,
        "weights": f"{facts.weight_bytes / 2**20:,.1f} MiB, {facts.weights_dtype}" if facts.weight_bytes else None,
        "tensors": f"{len(facts.tensors):,}{_tensor_words(facts)}" if facts.tensors else None,
        "modules": " → ".join(module.kind for module in facts.modules) or None,
        "hidden size": facts.hidden_size,
        "dimensions": facts.embedding_dimension,
        "pooling": facts.pooling_mode,
        "normalizes": facts.normalizes,
        "longest text": f"{facts.max_seq_length:,} tokens" if facts.max_seq_length is not None else None,
        "positions": f"{facts.max_position_embeddings:,}" if facts.max_position_embeddings is not None else None,
        "similarity": facts.similarity_fn_name,
        "truncate_dim": facts.truncate_dim,
        "prompts": "; ".join(f'{name}: "{prompt}"' for name, prompt in facts.prompts.items()) or "none stated",
        "default prompt": facts.default_prompt_name,
        "vocabulary": f"{tokenizer.size:,} tokens" if tokenizer is not None and tokenizer.size is not None else None,
        "tokenizer sides": f"padding {tokenizer.padding_side}, truncation {tokenizer.truncation_side}"
        if tokenizer is not None
        else None,
        "own code": ", ".join(facts.custom_code) or None,
        "ONNX files": ", ".join(facts.onnx_files) or None,
        "pickle files": ", ".join(facts.pickle_files) or None,
    }
    for name, value in values.items():
        if value is not None:
            yield name, _plain(value)
    for problem in facts.problems:
        yield "problem", problem


def _tensor_words(facts: ModelFacts) -> str:
    if not facts.tensors_verified:
        return "; their names are verified at load"
    wrong = [
        f"{len(names)} {word}"
        for word, names in (
            ("missing", facts.missing_tensors),
            ("unexpected", facts.unexpected_tensors),
            ("of another shape", facts.mismatched_tensors),
        )
        if names
    ]
    return f"; {', '.join(wrong)}" if wrong else "; names and shapes are those the architecture needs"


def as_json(view: View) -> dict[str, Any]:
    """Return what was asked for as JSON values; what is stated and what holds, where nothing was."""
    prefs, effective = view.preferences, view.effective
    result: dict[str, Any] = {
        "file": str(prefs.file) if prefs.file is not None else None,
        "model": prefs.model.name,
        "stated": {
            key: {"value": value, "origin": str(_origin_of(prefs, key))} for key, value in prefs.stated().items()
        },
    }
    if view.origins:
        result["origins"] = {
            declared.key: str(_origin_of(prefs, declared.key)) for declared in every_field() if "*" not in declared.key
        }
    if effective is not None:
        if view.overview or view.resolved:
            result["resolved"] = effective.to_json()
        if view.resolved:
            result["fingerprint"] = _fingerprint(effective)
            result["collection_fingerprint"] = _collection_fingerprint(effective)
            result["measured"] = {
                name: asdict(found) if found is not None else None for name, found in _measurements(effective).items()
            }
        if view.facts:
            result["facts"] = dict(_fact_values(effective.facts))
    return result


def _fact_values(facts: ModelFacts) -> Iterator[tuple[str, Any]]:
    """Yield what the files say, the tensors counted rather than listed."""
    for name, value in asdict(facts).items():
        if name == "tensors":
            yield "tensor_count", len(value)
        elif name == "other_tensors":
            yield "other_tensor_counts", {module: len(tensors) for module, tensors in value.items()}
        else:
            yield name, value


def as_toml(view: View) -> str:
    """Return a preferences file with the values that are stated; with `resolved`, with those that hold here."""
    prefs = view.preferences
    values: dict[str, tuple[Any, Origin]] = {
        key: (value, _origin_of(prefs, key)) for key, value in prefs.stated().items() if key != "extends"
    }
    if view.resolved and view.effective is not None:
        values |= {
            key: (choice.value, choice.origin)
            for key, choice in view.effective.choices.items()
            # A file may state it only for a checkpoint that has no pooling of its own.
            if key != "model.pooling" or choice.origin.layer is not Layer.MODEL_FILES
        }
    elif view.origins:
        values = {
            **{
                declared.key: (declared.default, prefs.origin(declared.key))
                for declared in every_field()
                if "*" not in declared.key and declared.default is not None
            },
            **values,
        }
    tables: dict[str, list[str]] = {"": []}
    for key, (value, origin) in values.items():
        if value is None or (isinstance(value, dict) and not value):
            continue
        path = split_key(key)
        comment = f"  # {_origin_words(origin)}"
        tables.setdefault(dotted(path[:-1]), []).append(f"{dotted(path[-1:])} = {rendered(value)}{comment}")
    blocks = ["\n".join([f"[{table}]", *lines] if table else lines) for table, lines in tables.items() if lines]
    return "\n\n".join(blocks) + "\n"


def _fingerprint(effective: Resolved) -> str:
    from embedprefs.record import fingerprint

    return fingerprint(effective)


def _collection_fingerprint(effective: Resolved) -> str:
    """What a collection records: the template that makes the embedded texts is part of it."""
    from embedprefs.record import Record

    return Record.for_collection(effective).fingerprint


def _stated_auto(prefs: Preferences, key: str) -> bool:
    declared = find_field(key)
    return declared is not None and declared.kind is Kind.COMPUTE and bool(prefs.get(key) == "auto")


def _origin_of(prefs: Preferences, key: str) -> Origin:
    """Return where a value was written; a table's values may have been written one by one."""
    if key in prefs.origins:
        return prefs.origin(key)
    inner = [origin for name, origin in prefs.origins.items() if name.startswith(f"{key}.")]
    return inner[0] if inner else prefs.origin(key)


def _origin_words(origin: Origin) -> str:
    if origin.layer is Layer.MODEL_FILES and origin.source:
        return f"the model's {origin.source}"
    if origin.layer is Layer.KNOWN_MODEL:
        return Layer.KNOWN_MODEL.words
    return _near(str(origin))


def _near(path: str) -> str:
    """Return a path relative to the current folder where it lies beneath it."""
    return path.removeprefix(f"{Path.cwd()}/")


def _words(key: str, value: Any) -> str:
    if value is None:
        return "none"
    if key in ("compute.memory_limit", "compute.cache_size") and isinstance(value, int):
        from embedprefs.resolve.memory import readable_size

        return readable_size(value)
    return _plain(value) if not isinstance(value, str) else rendered(value)


def _plain(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, (bool, int, float, list, tuple, dict)):
        return rendered(list(value) if isinstance(value, tuple) else value)
    return str(value)
