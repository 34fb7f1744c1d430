"""`embedprefs init`: a commented preferences file that holds what a model needs."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from embedprefs.cli.plugin import command, print_result, say, say_warning
from embedprefs.errors import PreferencesFileError, UnavailableError

if TYPE_CHECKING:
    from embedprefs.known_models import KnownModel, KnownModelMatch
    from embedprefs.resolve import Resolved

__all__ = ["init", "register"]

_DEFAULT_MODEL = "lightonai/modernbert-embed-large"


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(app, "init")(init)


def init(
    model: Annotated[str, typer.Argument(metavar="[MODEL]", help="Hub name or folder of the model.")] = _DEFAULT_MODEL,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="The file to write.")] = Path(
        "embedprefs.toml"
    ),
    force: Annotated[bool, typer.Option("--force", help="Replace a file that exists.")] = False,
) -> None:
    """Write a commented preferences file that holds what a model needs.

    The commit is pinned where it is known, and prompts that the model needs but its files do not state are filled in.
    Every default is commented out, so that the file hides no other layer.
    """
    from embedprefs.files import commented_file, refuse_model_folder, write_text

    _require_free(output, force=force)
    refuse_model_folder(output)
    name = _name_for(model, output)
    stated, notes, found = _needs(name, output)
    write_text(output, commented_file(name, stated=stated, notes=notes))
    print_result("\n".join([f"Wrote {output} for {name}:", *(f"  {line}" for line in found)]))
    suffix = "" if output == Path("embedprefs.toml") else f" --preferences {output}"
    say(f"Next: embedprefs check{suffix}, then embedprefs show{suffix}")


def _require_free(output: Path, *, force: bool) -> None:
    if output.is_dir():
        raise PreferencesFileError(f"{output}: is a folder.\n  Name a file: {output / 'embedprefs.toml'}", file=output)
    if output.name == "pyproject.toml":
        raise PreferencesFileError(
            f"{output}: `init` writes a file of its own.\n"
            "  Name another file; its tables can be copied under [tool.embedprefs].",
            file=output,
        )
    if output.exists() and not force:
        raise PreferencesFileError(
            f"{output}: exists already.\n  Replace it with --force, or write another file with --output.", file=output
        )


def _name_for(model: str, output: Path) -> str:
    """Return the model as the file names it: a folder relative to the file where it was given relative."""
    folder = Path(model).expanduser()
    if not folder.is_dir() or folder.is_absolute():
        return model
    relative = Path(os.path.relpath(folder.absolute(), output.absolute().parent)).as_posix()
    return relative if relative.startswith(".") else f"./{relative}"


def _needs(name: str, output: Path) -> tuple[dict[str, Any], dict[str, str], list[str]]:
    """Return what the file states beside the model's name, the notes on it, and the same in words for the reader."""
    from embedprefs.layers import preferences_for_model
    from embedprefs.resolve import resolve

    preferences = preferences_for_model(name)
    preferences = preferences.with_origins(preferences.origins, output.absolute())
    try:
        resolved = resolve(preferences)
    except UnavailableError as error:
        say_warning(f"the model's files are not here, so the file is written without looking at them.\n{error}")
        return _needs_by_name(name)
    return _needs_of_files(resolved)


def _needs_of_files(resolved: Resolved) -> tuple[dict[str, Any], dict[str, str], list[str]]:
    from embedprefs.preferences import Layer

    stated: dict[str, Any] = {}
    notes: dict[str, str] = {}
    found: list[str] = []
    revision = resolved.facts.revision
    if resolved.facts.source != "folder" and revision is not None:
        stated["model.revision"] = revision
        found.append(f"model.revision = {revision}, the commit these files are from")
    table: dict[str, str] = {}
    for name, prompt in resolved.prompts.items():
        origin = resolved.choice(f"prompts.{name}").origin
        if origin.layer is Layer.KNOWN_MODEL:
            table[name] = prompt
        elif prompt:
            found.append(f'prompts.{name} is "{prompt}" by the model\'s own files; nothing to write')
    match = resolved.known_model
    if table and match is not None:
        _state_prompts(table, match, stated, notes, found)
    if match is not None:
        _note_on(match.model, notes, found)
    return stated, notes, found


def _needs_by_name(name: str) -> tuple[dict[str, Any], dict[str, str], list[str]]:
    from embedprefs.known_models import find_known_model

    stated: dict[str, Any] = {}
    notes: dict[str, str] = {}
    found: list[str] = []
    match = find_known_model(name)
    if match is not None:
        if match.model.prompts:
            _state_prompts(match.model.prompts, match, stated, notes, found)
        _note_on(match.model, notes, found)
    return stated, notes, found


def _state_prompts(
    prompts: Mapping[str, str],
    match: KnownModelMatch,
    stated: dict[str, Any],
    notes: dict[str, str],
    found: list[str],
) -> None:
    known = match.model.name
    whose = {
        "name": "This model",
        "model card": f"{known}, whose card this model has,",
        "base model": f"{known}, which this model was made from,",
    }[match.by]
    for index, (name, prompt) in enumerate(prompts.items()):
        key = f"prompts.{name}"
        stated[key] = prompt
        if index == 0:
            notes[key] = (
                f"{whose} needs these prompts, and no file of the model states them. Source: {match.model.source}"
            )
        found.append(f'{key} = "{prompt}", which the model needs and its files do not state')


def _note_on(model: KnownModel, notes: dict[str, str], found: list[str]) -> None:
    sentences = []
    if model.matryoshka_range:
        low, high = model.matryoshka_range
        sentences.append(f"Its vectors can be cut to any length from {low} to {high} (vectors.truncate_dim).")
    elif model.matryoshka_dims and len(model.matryoshka_dims) > 1:
        lengths = ", ".join(str(length) for length in model.matryoshka_dims[1:])
        sentences.append(f"It was trained so that its vectors can be cut (vectors.truncate_dim) to {lengths}.")
    if model.notes:
        sentences.append(model.notes)
    if sentences:
        notes[""] = " ".join(sentences)
        found.extend(sentences)
