"""A model's files on the hub, read without its weights.

Small files go through huggingface_hub's cache, so that loading the model later finds them there; of the weights only
the headers are fetched, by ranges.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

from embedprefs.errors import ModelFilesError, UnavailableError

if TYPE_CHECKING:
    from huggingface_hub.hf_api import ModelInfo

__all__ = ["HubSource"]

#: Bytes fetched with the first request for a header: enough for the header of most models.
_FIRST_RANGE = 256 * 1024


def _unavailable(name: str, revision: str | None, error: Exception) -> Exception:
    """Turn an error of huggingface_hub into ours; its own text may hold the address, never a token."""
    from huggingface_hub import errors

    at = f" at revision {revision}" if revision else ""
    if isinstance(error, errors.GatedRepoError):
        return UnavailableError(
            f"The model {name} is gated on the hub.\n  Accept its conditions at https://huggingface.co/{name}, then "
            "log in with `hf auth login`, or set HF_TOKEN."
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return UnavailableError(
            f"The hub has the model {name}, but no revision {revision!r}.\n  If model.name was changed, model.revision "
            "may be another model's: remove it, or write one of this model."
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return UnavailableError(
            f"The hub has no model {name}{at}, or it is private and this machine is not allowed to see it.\n"
            "  Check model.name; for a private model log in with `hf auth login`, or set HF_TOKEN."
        )
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status == 401:
        return UnavailableError(
            f"The hub refused this machine's token for {name}.\n  Log in anew with `hf auth login`."
        )
    said = f"answered with status {status}" if status else f"cannot be reached ({type(error).__name__})"
    return UnavailableError(
        f"The model {name}{at} is not in the cache, and the hub {said}.\n"
        f"  Try again, or download it elsewhere with `hf download {name}` and set model.cache_folder."
    )


def _failures() -> tuple[type[Exception], ...]:
    """Return what huggingface_hub and its HTTP library raise where a request fails.

    huggingface_hub chooses between httpx and httpx2, and names its choice only since 1.31.
    """
    from huggingface_hub import utils
    from huggingface_hub.errors import HfHubHTTPError

    library = getattr(utils, "httpx", None) or importlib.import_module("httpx")
    return (HfHubHTTPError, OSError, RuntimeError, library.HTTPError, library.InvalidURL)


class HubSource:
    """The files of one commit of a model on the hub."""

    kind: Literal["folder", "cache", "hub"] = "hub"
    folder: Path | None = None
    """None: the weights are not on this machine."""

    def __init__(self, name: str, information: ModelInfo, cache: Path) -> None:
        self._name = name
        self._cache = cache
        self.revision = information.sha
        self._siblings = {sibling.rfilename: sibling for sibling in information.siblings or ()}
        self._starts: dict[str, bytes] = {}
        self.downloaded_to: Path | None = None

    @classmethod
    def open(cls, name: str, revision: str | None, cache: Path) -> Self:
        """Ask the hub for a model's list of files.

        Raises:
            UnavailableError: The hub does not answer, does not have the model, or does not show it.
        """
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HFValidationError

        try:
            information = HfApi().model_info(name, revision=revision, files_metadata=True, timeout=30)
        except HFValidationError as error:
            raise ModelFilesError(f"{name!r} is no name the hub could know. Write owner/name.", model=name) from error
        except _failures() as error:
            raise _unavailable(name, revision, error) from None
        return cls(name, information, cache)

    @cached_property
    def files(self) -> tuple[str, ...]:
        """Every file's path in the repository, sorted."""
        return tuple(sorted(file for file in self._siblings if not file.startswith(".")))

    @cached_property
    def content_hashes(self) -> Mapping[str, str]:
        """The sha256 that the hub states for every large file."""
        large = {file: sibling.lfs for file, sibling in self._siblings.items()}
        return {file: entry.sha256 for file, entry in large.items() if entry is not None}

    def read(self, file: str) -> bytes | None:
        """Return a whole small file, kept in the hub's cache; None where the model has no such file.

        Raises:
            UnavailableError: The download failed.
        """
        if file not in self._siblings:
            return None
        from huggingface_hub import hf_hub_download

        try:
            path = Path(hf_hub_download(self._name, file, revision=self.revision, cache_dir=self._cache))
        except _failures() as error:
            raise _unavailable(self._name, self.revision, error) from None
        self.downloaded_to = path.parents[len(Path(file).parts) - 1]
        return path.read_bytes()

    def size(self, file: str) -> int | None:
        """Return a file's length in bytes as the hub states it; None where the model has no such file."""
        sibling = self._siblings.get(file)
        return None if sibling is None else sibling.size or 0

    def read_range(self, file: str, start: int, length: int) -> bytes:
        """Return a part of a file, fetched by range.

        Raises:
            UnavailableError: The download failed.
        """
        known = self._starts.get(file, b"")
        if start + length > len(known) and len(known) < (self.size(file) or 0):
            known = self._fetch(file, max(start + length, _FIRST_RANGE))
            self._starts[file] = known
        return known[start : start + length]

    def _fetch(self, file: str, count: int) -> bytes:
        from huggingface_hub import get_session, hf_hub_url, hf_raise_for_status
        from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined] # documented, not in its __all__

        address = hf_hub_url(self._name, file, revision=self.revision)
        headers = {**build_hf_headers(), "Range": f"bytes=0-{count - 1}"}
        try:
            response = get_session().get(address, headers=headers, timeout=60)
            hf_raise_for_status(response)
        except _failures() as error:
            raise _unavailable(self._name, self.revision, error) from None
        content: bytes = response.content
        return content[:count]
