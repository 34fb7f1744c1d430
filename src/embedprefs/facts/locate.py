"""Finding a model's files: a folder, the hub's cache, or the hub itself."""

from __future__ import annotations

import os
import re
from pathlib import Path

from embedprefs.errors import ModelFilesError, UnavailableError
from embedprefs.facts.sources import FolderSource, ModelSource

__all__ = ["hub_name", "locate", "looks_like_folder", "repository_folder"]

#: Files one of which makes a folder a model, in the order in which they are named to the user.
MARKERS = ("modules.json", "config.json", "adapter_config.json")
#: Ends of files that hold weights; a snapshot without any was only looked at, not downloaded.
_WEIGHTS = (".safetensors", ".bin", ".index.json")

#: Hub models from before owners existed, to which the host adds no owner (its ORIGINAL_TRANSFORMER_MODELS).
_WITHOUT_OWNER = re.compile(
    r"""
    albert-(base|large|xlarge|xxlarge)-v[12]
    | bert-base-(cased(-finetuned-mrpc)?|uncased|chinese|german-cased|german-dbmdz-(un)?cased|multilingual-(un)?cased)
    | bert-large-(un)?cased(-whole-word-masking(-finetuned-squad)?)?
    | (camembert|distilroberta)-base | ctrl | distilgpt2 | gpt2(-medium|-large|-xl)? | openai-gpt
    | distilbert-base-cased(-distilled-squad)? | distilbert-base-(german|multilingual)-cased
    | distilbert-base-uncased(-distilled-squad|-finetuned-sst-2-english)?
    | roberta-base(-openai-detector)? | roberta-large(-mnli|-openai-detector)?
    | t5-(11b|3b|base|large|small) | transfo-xl-wt103 | xlnet-(base|large)-cased
    | xlm-clm-(ende|enfr)-1024 | xlm-mlm-(100-1280|17-1280|en-2048|ende-1024|enfr-1024|enro-1024)
    | xlm-mlm-(tlm-)?xnli15-1024
    | xlm-roberta-(base|large) | xlm-roberta-large-finetuned-conll0(2-dutch|2-spanish|3-english|3-german)
    """,
    re.VERBOSE,
)


def looks_like_folder(name: str) -> bool:
    """Say whether a name is written as a path: absolute, with `.`, `..` or `~` in front, or with a backslash."""
    first = re.split(r"[/\\]", name, maxsplit=1)[0]
    return first in (".", "..", "~", "") or "\\" in name or Path(name).is_absolute() or name.count("/") > 1


def hub_name(name: str) -> str:
    """Return a name as the host asks the hub for it: without an owner it is one of sentence-transformers'."""
    if "/" in name or _WITHOUT_OWNER.fullmatch(name.lower()):
        return name
    return f"sentence-transformers/{name}"


def repository_folder(cache: Path, name: str) -> Path:
    """Return the folder that the hub's cache keeps a model in."""
    return cache / f"models--{name.replace('/', '--')}"


def hub_cache(cache_folder: str | Path | None) -> Path:
    """Return the hub cache in use: the one stated, SENTENCE_TRANSFORMERS_HOME, or huggingface_hub's own."""
    stated = cache_folder or os.environ.get("SENTENCE_TRANSFORMERS_HOME")
    if stated:
        return Path(stated).expanduser()
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def _offline() -> bool:
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def _commit(repository: Path, revision: str | None) -> str | None:
    """Return the commit that a branch, tag or shortened commit means in the cache; None where it is not there."""
    wanted = revision or "main"
    reference = repository / "refs" / wanted
    try:
        commit = reference.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        commit = wanted
    if re.fullmatch(r"[0-9a-f]{7,40}", commit) is None:
        return None
    if (repository / "snapshots" / commit).is_dir():
        return commit
    if len(commit) < 40 and (repository / "snapshots").is_dir():
        matches = [folder.name for folder in (repository / "snapshots").iterdir() if folder.name.startswith(commit)]
        return matches[0] if len(matches) == 1 else None
    return None


def _cached(cache: Path, name: str, revision: str | None) -> FolderSource | None:
    repository = repository_folder(cache, name)
    commit = _commit(repository, revision)
    if commit is None:
        return None
    return FolderSource(repository / "snapshots" / commit, "cache", commit)


def _complete(source: FolderSource) -> bool:
    """Say whether a snapshot can be loaded: it has a model's files and weights."""
    files = source.files
    return any(marker in files for marker in MARKERS) and any(
        file.endswith(_WEIGHTS) and not file.startswith("onnx/") for file in files
    )


def _model_folder(folder: Path, name: str) -> FolderSource:
    if folder.is_file():
        raise ModelFilesError(
            f"The model {name!r} is a file, {folder}. A model is a folder, or a name on the hub such as "
            "lightonai/modernbert-embed-large.",
            model=name,
            file=folder,
        )
    if not any((folder / marker).is_file() for marker in MARKERS):
        inner = sorted(path.parent.name for marker in MARKERS[:2] for path in folder.glob(f"*/{marker}"))
        hint = f" Did you mean its folder {inner[0]}?" if inner else " Give the folder that holds one of them."
        raise ModelFilesError(
            f"The folder {folder} is no model: it has none of {', '.join(MARKERS)}.{hint}", model=name, file=folder
        )
    snapshot = folder.parent.name == "snapshots" and re.fullmatch(r"[0-9a-f]{40}", folder.name)
    return FolderSource(folder, "folder", folder.name if snapshot else None)


def _of_another_model(cache: Path, name: str) -> str:
    """Say what a revision that is not there may come from: it stays in a file when `model.name` changes."""
    snapshots = repository_folder(cache, name) / "snapshots"
    there = sorted(folder.name for folder in snapshots.iterdir()) if snapshots.is_dir() else []
    held = f" The cache holds this model at {', '.join(there)}." if there else ""
    return (
        f"A revision belongs to one model: if model.name was changed, remove model.revision or write one of {name}."
        f"{held}"
    )


def locate(
    name: str,
    *,
    revision: str | None = None,
    cache_folder: str | Path | None = None,
    local_files_only: bool = False,
    base: Path | None = None,
) -> ModelSource:
    """Find a model's files.

    A name is a folder where it is written as a path, or where such a folder exists; the host decides the same way.
    Otherwise it is a name on the hub: the cache is used where it has the revision with its weights, so that a check
    needs no network; the hub is asked for what the cache lacks.

    Args:
        name: Folder, or name on the hub.
        revision: Commit, branch or tag on the hub; without meaning for a folder.
        cache_folder: Another cache than the hub's own.
        local_files_only: Never ask the hub.
        base: Folder that a relative folder is relative to; None for the current one.

    Raises:
        ModelFilesError: The folder is no model, or does not exist.
        UnavailableError: The model is not in the cache and the hub cannot be asked, or does not have it.
    """
    folder = (base or Path.cwd()) / Path(name).expanduser()
    if folder.exists():
        return _model_folder(folder, name)
    if looks_like_folder(name):
        raise ModelFilesError(
            f"The model folder {folder} does not exist. A relative folder is relative to the preferences file.",
            model=name,
            file=folder,
        )
    full_name = hub_name(name)
    if re.fullmatch(r"[\w.-]+(/[\w.-]+)?", full_name) is None:
        raise ModelFilesError(
            f"{name!r} is neither a folder here ({folder}) nor a name the hub could know. "
            "Write owner/name, or the path of a folder.",
            model=name,
        )
    cache = hub_cache(cache_folder)
    cached = _cached(cache, full_name, revision)
    if cached is not None and _complete(cached):
        return cached
    if local_files_only or _offline():
        if cached is not None and any(marker in cached.files for marker in MARKERS):
            return cached
        reason = "model.local_files_only is on" if local_files_only else "HF_HUB_OFFLINE is set"
        at = f" at revision {revision}" if revision else ""
        option = f" --revision {revision}" if revision else ""
        raise UnavailableError(
            f"The model {full_name}{at} is neither a folder ({folder}) nor in the cache {cache}, and {reason}, so the "
            f"hub is not asked.\n  Download it with `hf download {full_name}{option}`, or allow the hub."
            + (f"\n  {_of_another_model(cache, full_name)}" if revision else "")
        )
    from embedprefs.facts.hub import HubSource

    return HubSource.open(full_name, revision, cache)
