"""The compiled artefact: a folder that holds everything a model's vectors need, and says what it is."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from embedprefs.errors import ModelFilesError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from embedprefs.preferences import Preferences
    from embedprefs.record import Record
    from embedprefs.resolve import Resolved

__all__ = ["ARTEFACT_FILE", "ARTEFACT_VERSION", "Artefact", "EncodingSettings", "RuntimeSettings", "is_artefact"]

#: A file of this name makes a folder an artefact.
ARTEFACT_FILE = "artefact.json"
#: Another layout of the folder, or another meaning of a setting, takes another number.
ARTEFACT_VERSION = 1

TOKENIZER_FILE = "tokenizer.json"
PREFERENCES_FILE = "preferences.json"
RECORD_FILE = "record.json"
CANARIES_FILE = "canaries.npy"
CALIBRATION_FILE = "calibration.json"
#: Weights of the modules behind the pooling, for vectors that are pooled outside the converted model.
CHAIN_FILE = "chain.npz"
MODEL_FOLDER = "model"
QUANTISED_FOLDER = "model-int8"
#: What OpenVINO compiled for a processor; made anew where it is of another one.
COMPILED_FOLDER = "compiled"
#: What the model's files say beside the weights: configurations, module chain, tokenizer.
SOURCE_FOLDER = "source"

_REMEDY = "Write the artefact again: embedprefs compile"


@dataclass(frozen=True)
class EncodingSettings:
    """What the vectors are: how texts become tokens, and tokens vectors. A part of the identity."""

    prompts: Mapping[str, str]
    """Prompt of each role and of every further name."""
    default_prompt_name: str | None
    """The prompt that plain `encode` puts, where the model has one."""
    task: str | None
    limits: Mapping[str, int | None]
    """Tokens that are read of a text by role ("query", "document", "plain"); None for all."""
    add_special_tokens: bool
    encode_special_tokens: bool
    """Whether special tokens that stand in a text are read as text."""
    special_ids: tuple[int, ...]
    pad_id: int
    include_prompt: bool
    """False where pooling leaves the prompt's tokens out."""
    truncation_side: str
    overflow: str
    window_overlap: int | None
    window_pooling: str | None
    normalize: bool
    chain_normalizes: bool
    """Whether the last step of the model itself scales vectors to length 1."""
    dimension: int
    """Length of the vectors before truncation."""
    truncate_dim: int | None
    precision: str
    similarity_fn_name: str | None


@dataclass(frozen=True)
class RuntimeSettings:
    """How the vectors are computed, and what is said of over-long texts; no part of the identity."""

    on_overflow: str = "count"
    batch_tokens: int = 4096
    max_batch_size: int = 64
    threads: int | None = None
    """None for as many as this process may use."""
    cache: str | bool = False
    """False, True for the user's cache folder, or a folder."""
    cache_size: int = 2 * 1024**3


@dataclass(frozen=True)
class Artefact:
    """A compiled artefact on the disk, its small files read and verified; the model itself is not loaded."""

    folder: Path
    model: str
    """Public name of the model it was compiled from."""
    fingerprint: str
    """Identity of its vectors; that of the model it was compiled from."""
    backend: str
    """What computes: "openvino", or "numpy" for static vectors."""
    numerics: str
    """Number format it computes in: "float32", "bfloat16" or "int8"."""
    cosine_to_float32: float
    """The least cosine to the float32 vectors of the model that was measured when it was compiled."""
    canary_bound: float
    """The least cosine that a canary text must have to its stored vector."""
    encoding: EncodingSettings
    runtime: RuntimeSettings
    versions: Mapping[str, str]
    """Versions of the packages that wrote it."""
    canary_texts: tuple[str, ...]
    """Texts whose vectors are stored."""
    demand: Mapping[str, Any] = field(default_factory=dict)
    """The preferences that its numerics follow from."""

    @classmethod
    def read(cls, folder: Path | str) -> Self:
        """Read what an artefact says of itself, and verify its small files.

        Args:
            folder: Where `embedprefs compile` wrote it.

        Raises:
            ModelFilesError: the folder is no artefact, of another version, or a file of it is absent or damaged.
        """
        folder = Path(folder)
        file = folder / ARTEFACT_FILE
        try:
            values = json.loads(file.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise ModelFilesError(
                f"{folder}: no compiled artefact: there is no {ARTEFACT_FILE}.\n"
                "  Write one with embedprefs compile -o FOLDER, and name its folder.",
                file=file,
            ) from error
        except (OSError, ValueError) as error:
            raise ModelFilesError(f"{file}: cannot be read: {error}.\n  {_REMEDY}.", file=file) from error
        version = values.get("version") if isinstance(values, dict) else None
        if version != ARTEFACT_VERSION:
            raise ModelFilesError(
                f"{file}: an artefact of version {version!r}; this embedprefs reads {ARTEFACT_VERSION}.\n  {_REMEDY}.",
                file=file,
            )
        try:
            artefact = cls(
                folder=folder.absolute(),
                encoding=EncodingSettings(**{**values["encoding"], **_tuples(values["encoding"], "special_ids")}),
                runtime=RuntimeSettings(**values["runtime"]),
                **{**{name: values[name] for name in _PLAIN}, **_tuples(values, "canary_texts")},
            )
            files: Mapping[str, str] = dict(values["files"])
        except (KeyError, TypeError, ValueError) as error:
            raise ModelFilesError(f"{file}: damaged: {error!r}.\n  {_REMEDY}.", file=file) from error
        artefact._verify(files)
        return artefact

    def write(self) -> None:
        """Write what the artefact says of itself, last of its files: with it the folder becomes an artefact."""
        files = {
            path.name: _digest(path)
            for path in sorted(self.folder.iterdir())
            if path.is_file() and path.name != ARTEFACT_FILE
        }
        values = {
            "version": ARTEFACT_VERSION,
            **{name: getattr(self, name) for name in _PLAIN},
            "encoding": asdict(self.encoding),
            "runtime": asdict(self.runtime),
            "files": files,
        }
        write_json(self.folder / ARTEFACT_FILE, values)

    def _verify(self, files: Mapping[str, str]) -> None:
        damaged = []
        for name, digest in files.items():
            path = self.folder / name
            if not path.is_file():
                damaged.append(f"{path}: is absent.")
            elif _digest(path) != digest:
                damaged.append(f"{path}: was changed after the artefact was written.")
        damaged += [
            f"{self.folder / ARTEFACT_FILE}: says nothing of {name}."
            for name in (TOKENIZER_FILE, PREFERENCES_FILE, RECORD_FILE, CANARIES_FILE)
            if name not in files
        ]
        if damaged:
            raise ModelFilesError("\n".join([*damaged, f"  {_REMEDY}."]), file=self.folder)

    @property
    def size(self) -> int:
        """Length of its vectors, after truncation."""
        return self.encoding.truncate_dim or self.encoding.dimension

    @property
    def model_folder(self) -> Path:
        """Where the converted model lies."""
        return self.folder / (QUANTISED_FOLDER if self.numerics == "int8" else MODEL_FOLDER)

    @property
    def tokenizer_file(self) -> Path:
        """The tokenizer."""
        return self.folder / TOKENIZER_FILE

    @property
    def calibration_file(self) -> Path | None:
        """The ranges of int8 and uint8 vectors; None where there are none."""
        path = self.folder / CALIBRATION_FILE
        return path if path.is_file() else None

    @property
    def record(self) -> Record:
        """Identity and numerics of its vectors, to be kept beside them.

        Raises:
            PreferenceMismatchError: the record is not of these vectors.
        """
        from embedprefs.errors import PreferenceMismatchError
        from embedprefs.record import Record

        record = Record.from_json((self.folder / RECORD_FILE).read_text(encoding="utf-8"))
        if record.fingerprint != self.fingerprint:
            raise PreferenceMismatchError(
                f"{self.folder}: the artefact says its fingerprint is {self.fingerprint}, and its record says "
                f"{record.fingerprint}.\n  {_REMEDY}.",
                left={"fingerprint": self.fingerprint},
                right={"fingerprint": record.fingerprint},
                differences=["fingerprint"],
            )
        return record

    @property
    def preferences(self) -> Preferences:
        """The preferences it was compiled with; relative paths in them start from the artefact's folder."""
        from embedprefs.preferences import Layer, Origin, Preferences

        file = self.folder / PREFERENCES_FILE
        preferences = Preferences.model_validate(json.loads(file.read_text(encoding="utf-8")))
        origin = Origin(Layer.PROJECT_FILE, str(file))
        return preferences.with_origins(dict.fromkeys(preferences.stated(), origin), file)

    @property
    def resolved(self) -> Resolved:
        """The effective preferences on this machine, by what the model's files said; its weights are not needed."""
        from embedprefs.facts import read_facts
        from embedprefs.resolve import resolve

        facts = replace(read_facts(str(self.folder / SOURCE_FOLDER)), name=self.model)
        return resolve(self.preferences, facts)

    def canaries(self) -> NDArray[np.float32]:
        """Return the stored vectors, float32, shape (roles, texts, dimensions): documents first, then queries."""
        import numpy as np

        vectors: NDArray[np.float32] = np.load(self.folder / CANARIES_FILE, allow_pickle=False)
        return vectors


_NESTED = frozenset({"folder", "encoding", "runtime"})
_PLAIN = tuple(item.name for item in fields(Artefact) if item.name not in _NESTED)


def is_artefact(folder: Path | str) -> bool:
    """Tell whether a folder is a compiled artefact."""
    return (Path(folder) / ARTEFACT_FILE).is_file()


def write_json(path: Path, value: Any) -> None:
    """Write a file whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    temporary.replace(path)


def _tuples(values: Mapping[str, Any], name: str) -> dict[str, tuple[Any, ...]]:
    return {name: tuple(values[name])}


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
