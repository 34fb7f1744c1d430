"""Every error and warning that embedprefs raises.

EmbedPrefsError
├── PreferencesFileError          a preferences file is absent, unreadable, not TOML or cannot be written
├── InvalidPreferenceError        a key or value is not allowed (also a ValueError)
├── CheckFailedError              the checks found something that would make the vectors wrong
├── PreferenceMismatchError       two identities that have to agree do not
├── ModelFilesError               a model's files are absent, damaged or do not fit together
├── InputError                    texts, documents or an output path cannot be used as asked
│   └── OverlongTextError         a text is longer than the model reads and `on_overflow = "error"`
├── ResourceError                 this machine lacks what was asked for: a device, memory, a free file lock
├── UnavailableError              something outside failed: a download, a store that does not answer
├── PartialResultError            some named inputs failed, the others are done
└── MissingExtraError             an optional package is not installed (also an ImportError)

EmbedPrefsWarning                 the category of every warning
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from embedprefs.checks import Finding

__all__ = [
    "CheckFailedError",
    "EmbedPrefsError",
    "EmbedPrefsWarning",
    "InputError",
    "InvalidPreferenceError",
    "MissingExtraError",
    "ModelFilesError",
    "OverlongTextError",
    "PartialResultError",
    "PreferenceMismatchError",
    "PreferencesFileError",
    "Problem",
    "ResourceError",
    "UnavailableError",
]


class EmbedPrefsWarning(UserWarning):
    """Something is likely unwanted, though the vectors are well defined."""


class EmbedPrefsError(Exception):
    """The root of every error that embedprefs raises on purpose."""

    #: What the command line exits with when this error ends a command.
    exit_code: ClassVar[int] = 2


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with one value: where, what was found, what is allowed, what to do."""

    message: str
    """What was found, as a sentence: `vectors.precision is "int4".`"""
    key: str | None = None
    """Dotted key, `"vectors.precision"`; None where the whole source is at fault."""
    value: Any = None
    allowed: str | None = None
    """What is allowed, without the word "Allowed": `float32, int8, uint8, binary, ubinary`."""
    fix: str | None = None
    """What to do, as a sentence."""
    source: str | None = None
    """Where it was written: a file's path, `environment variable EMBEDPREFS_...`, `--set`."""
    line: int | None = None
    """Line in that file, from 1."""

    def __str__(self) -> str:
        place = self.source or ""
        if self.line is not None:
            place = f"{place}:{self.line}"
        parts = [f"{place}: {self.message}" if place else self.message]
        if self.allowed:
            parts.append(f"  Allowed: {self.allowed}")
        if self.fix:
            parts.append(f"  {self.fix}")
        return "\n".join(parts)


class PreferencesFileError(EmbedPrefsError):
    """A preferences file is absent, unreadable, not TOML, or cannot be written."""

    def __init__(self, message: str, *, file: Path | str | None = None, line: int | None = None) -> None:
        super().__init__(message)
        self.file = Path(file) if file is not None else None
        self.line = line


class InvalidPreferenceError(EmbedPrefsError, ValueError):
    """One or more preferences are not allowed; `problems` lists every one of them.

    `file`, `key`, `value` and `allowed` are those of the first problem.
    """

    def __init__(self, problems: Iterable[Problem] | Problem) -> None:
        self.problems = (problems,) if isinstance(problems, Problem) else tuple(problems)
        if not self.problems:
            raise ValueError("InvalidPreferenceError needs at least one problem.")
        super().__init__("\n".join(str(problem) for problem in self.problems))

    @property
    def file(self) -> str | None:
        """Where the first problem was written."""
        return self.problems[0].source

    @property
    def key(self) -> str | None:
        """Dotted key of the first problem."""
        return self.problems[0].key

    @property
    def value(self) -> Any:
        """Value of the first problem."""
        return self.problems[0].value

    @property
    def allowed(self) -> str | None:
        """What is allowed where the first problem stands."""
        return self.problems[0].allowed


class CheckFailedError(EmbedPrefsError):
    """The checks found errors; `findings` holds them, and the message lists them all."""

    exit_code = 1

    def __init__(self, findings: Iterable[Finding]) -> None:
        self.findings = tuple(findings)
        count = len(self.findings)
        heading = f"{count} finding{'s' if count != 1 else ''} would make the vectors wrong or fail later:"
        super().__init__("\n".join([heading, *(str(finding) for finding in self.findings)]))


class PreferenceMismatchError(EmbedPrefsError):
    """A saved model, a collection or a call disagrees with the preferences.

    `left` and `right` hold both sides' fields, `differences` the names of those that differ.
    """

    exit_code = 1

    def __init__(
        self,
        message: str,
        *,
        left: Mapping[str, Any] | None = None,
        right: Mapping[str, Any] | None = None,
        differences: Iterable[str] = (),
    ) -> None:
        super().__init__(message)
        self.left = dict(left or {})
        self.right = dict(right or {})
        self.differences = tuple(differences)


class ModelFilesError(EmbedPrefsError):
    """A model's files are absent, damaged, or do not fit together."""

    def __init__(self, message: str, *, model: str | None = None, file: Path | str | None = None) -> None:
        super().__init__(message)
        self.model = model
        self.file = Path(file) if file is not None else None


class InputError(EmbedPrefsError):
    """Texts, documents or an output path cannot be used as asked."""

    def __init__(self, message: str, *, file: Path | str | None = None, line: int | None = None) -> None:
        super().__init__(message)
        self.file = Path(file) if file is not None else None
        self.line = line


class OverlongTextError(InputError):
    """Texts are longer than the model reads, and `tokenizer.on_overflow` is "error".

    `positions` are the inputs' places in the call, `tokens` their lengths in tokens.
    """

    def __init__(self, message: str, *, positions: Iterable[int] = (), tokens: Iterable[int] = ()) -> None:
        super().__init__(message)
        self.positions = tuple(positions)
        self.tokens = tuple(tokens)


class ResourceError(EmbedPrefsError):
    """This machine lacks what was asked for: a device, memory, a lock that another process holds."""


class UnavailableError(EmbedPrefsError):
    """Something outside failed: a download, a store that does not answer."""

    exit_code = 3


class PartialResultError(EmbedPrefsError):
    """Some named inputs failed and the others are done; running again continues.

    `failed` maps the input's name to the reason.
    """

    exit_code = 4

    def __init__(self, message: str, *, failed: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.failed = dict(failed or {})


class MissingExtraError(EmbedPrefsError, ImportError):
    """An optional package is not installed; `command` is the line that installs it."""

    def __init__(self, package: str, *, extra: str, needed_for: str, distribution: str = "embedprefs") -> None:
        self.package = package
        self.command = f'pip install "{distribution}[{extra}]"'
        super().__init__(f"{needed_for} needs the package {package}, which is not installed.\n  Run: {self.command}")
