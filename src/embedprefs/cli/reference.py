"""The reference page of the command line, as Markdown, from what `--help` is made of."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Any, get_args, get_origin

from typer.models import ArgumentInfo, CommandInfo

__all__ = ["render"]

_CODES = (
    (0, "done"),
    (1, "findings, a mismatch or a negative answer"),
    (2, "the request is wrong: a file, key, value or path, or a device this machine does not have"),
    (3, "something outside failed: a download, a store, the system"),
    (4, "done in part: the named inputs failed, running again continues"),
    (70, "a mistake in embedprefs; `--debug` shows the traceback to report"),
    (130, "interrupted; what is safe is said"),
)


def render() -> str:
    """Return the reference of every command as a Markdown page: ours, then those that other distributions add."""
    from embedprefs.cli.main import added_commands, create_app

    lines = [
        "# Commands",
        "",
        "What `embedprefs COMMAND --help` says, generated from the same declarations. Results go to standard output,",
        "everything else to standard error.",
        "",
        "| exit code | meaning |",
        "| --- | --- |",
        *(f"| {code} | {meaning} |" for code, meaning in _CODES),
        "",
    ]
    for command in create_app().registered_commands:
        lines.extend(_command(command))
    for distribution, commands in added_commands():
        for command in commands:
            lines.extend(_command(command, f"Comes with the distribution `{distribution}`."))
    return "\n".join(lines)


def _command(command: CommandInfo, note: str = "") -> Iterator[str]:
    parameters = [_Parameter.of(item) for item in inspect.signature(command.callback or _command).parameters.values()]
    arguments = [parameter.spelling for parameter in parameters if not parameter.spelling.startswith("-")]
    words = " ".join(["embedprefs", str(command.name), *arguments, "[OPTIONS]"])
    help_text = inspect.getdoc(command.callback) or ""
    yield from (f"## `embedprefs {command.name}`", "", "```text", words, "```", "", help_text, "")
    if note:
        yield from (note, "")
    yield from ("| argument or option | what it is |", "| --- | --- |")
    for parameter in sorted(parameters, key=lambda item: item.spelling.startswith("-")):
        yield f"| `{parameter.spelling}` | {parameter.words} |"
    yield ""


def _argument(parameter: inspect.Parameter, kinds: list[Any]) -> str:
    """How an argument without a name of its own is shown, as in `--help`."""
    name = parameter.name.upper()
    if any(get_origin(kind) is list for kind in kinds):
        name += "..."
    return name if parameter.default is inspect.Parameter.empty else f"[{name}]"


@dataclass(frozen=True)
class _Parameter:
    spelling: str
    """As it is written on the command line."""
    words: str

    @classmethod
    def of(cls, parameter: inspect.Parameter) -> _Parameter:
        """Read a parameter as the command's function declares it."""
        kind, declared = get_args(parameter.annotation)
        kinds = [kind, *get_args(kind)]
        words = [declared.help]
        choices = [item for part in kinds if isinstance(part, type) and issubclass(part, Enum) for item in part]
        if choices:
            words.append(f"One of: {', '.join(choice.value for choice in choices)}.")
        default = getattr(parameter.default, "value", parameter.default)
        if default not in {None, False, inspect.Parameter.empty}:
            words.append(f"Default: `{default}`.")
        text = " ".join(words).replace("|", "\\|")
        if isinstance(declared, ArgumentInfo):
            return cls(declared.metavar or _argument(parameter, kinds), text)
        # In an annotation, Typer keeps the first spelling where a default would stand.
        names = ", ".join([declared.default, *(declared.param_decls or ())])
        value = declared.metavar or (None if bool in kinds else "VALUE")
        return cls(f"{names} {value}" if value and not choices else names, text)
