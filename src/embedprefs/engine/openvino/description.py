"""What stands beside a converted model, so that it can be run by whoever has only its folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from embedprefs.errors import ModelFilesError

__all__ = ["Description"]


@dataclass(frozen=True)
class Description:
    """A converted model: what its vectors are and how its inputs and outputs are called."""

    MODEL_FILE: ClassVar[str] = "model.xml"
    WEIGHTS_FILE: ClassVar[str] = "model.bin"
    FILE: ClassVar[str] = "embedprefs.json"
    #: Layout of the folder and meaning of inputs and outputs; another one takes another number.
    FORMAT: ClassVar[int] = 1

    model_type: str
    """`model_type` of the configuration."""
    poolings: tuple[str, ...]
    """The host's names of the poolings that are on."""
    dimension: int
    """Length of the vectors."""
    hidden_size: int
    """Length of the token vectors."""
    excludes_prompt: bool = False
    """True where pooling leaves out the tokens of a prompt, so that there is a mask of its own for it."""
    weights: Literal["full", "int8"] = "full"
    """int8 where weights and activations were quantised."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Distribution -> version of what converted it."""

    @property
    def input_names(self) -> tuple[str, ...]:
        """Inputs of the graph in order, each int64 of shape (texts, length)."""
        names = ("input_ids", "attention_mask")
        return (*names, "pooling_mask") if self.excludes_prompt else names

    @property
    def output_names(self) -> tuple[str, str]:
        """Outputs of the graph: vectors, shape (texts, dimension), and tokens, shape (texts, length, hidden size)."""
        return "sentence_embedding", "token_embeddings"

    def write(self, folder: Path) -> None:
        """Write it into the folder.

        Raises:
            OSError: the file cannot be written.
        """
        text = json.dumps({"format": self.FORMAT, **asdict(self)}, indent=2, sort_keys=True)
        (folder / self.FILE).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read it from the folder of a converted model.

        Raises:
            ModelFilesError: a file is absent or damaged, or another version of embedprefs wrote it.
        """
        absent = [name for name in (cls.FILE, cls.MODEL_FILE, cls.WEIGHTS_FILE) if not (folder / name).is_file()]
        if absent:
            raise ModelFilesError(
                f"{folder} holds no converted model: {', '.join(absent)} is not there. Convert it again.", file=folder
            )
        file = folder / cls.FILE
        try:
            values: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
            stated = values.pop("format", None)
            if stated != cls.FORMAT:
                raise ModelFilesError(
                    f"{file} has format {stated}, and this version of embedprefs reads {cls.FORMAT}. Convert it again.",
                    file=file,
                )
            return cls(**{**values, "poolings": tuple(values["poolings"])})
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise ModelFilesError(f"{file} cannot be read: {error}. Convert it again.", file=file) from error
