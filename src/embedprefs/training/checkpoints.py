"""What a run keeps on disk: what it was started with, which checkpoints are whole, whether there is room."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from embedprefs.errors import InputError, PreferenceMismatchError, ResourceError
from embedprefs.files import write_text

__all__ = [
    "CHECKPOINTS",
    "MANIFEST",
    "MODEL",
    "RESULT",
    "damage",
    "finished_training",
    "last_checkpoint",
    "mark_complete",
    "open_run",
    "remove_incomplete",
    "require_own_folder",
    "require_room",
]

MANIFEST = "run.json"
RESULT = "result.json"
#: Arguments that were chosen, the development set's value before the first step, mined negatives.
OF_ONE_START = ("arguments.json", "development.json", "negatives.jsonl")
CHECKPOINTS = "checkpoints"
MODEL = "model"
#: Written last into a checkpoint: without it, the checkpoint was cut off in the middle.
_COMPLETE = "embedprefs_complete.json"
#: Written when every step was made.
_TRAINED = "trained.json"
_MANIFEST_VERSION = 1


def open_run(output: Path, started_with: Mapping[str, Any], *, resume: bool) -> bool:
    """Begin a run in a folder, or continue the one that is there.

    Args:
        output: The run's folder; made where it does not exist.
        started_with: What decides the result: identity of the base, data, preferences, arguments, versions.
        resume: Whether an interrupted run is continued.

    Returns:
        True where a run is continued.

    Raises:
        InputError: as `require_own_folder`.
        PreferenceMismatchError: the run there was started with something else, and made steps; both sides are shown.
    """
    manifest = output / MANIFEST
    require_own_folder(output, resume=resume)
    if not manifest.is_file():
        output.mkdir(parents=True, exist_ok=True)
        _write_json(manifest, {"version": _MANIFEST_VERSION, **started_with})
        return False
    before = _read_json(manifest)
    if last_checkpoint(output / CHECKPOINTS) is None and finished_training(output) is None:
        _forget(output)  # no step of it was kept: it begins anew, with whatever is asked for now
        if any(_json(before.get(key)) != _json(value) for key, value in started_with.items()):
            _write_json(manifest, {"version": _MANIFEST_VERSION, **started_with})
            for path in output.glob("*_base.jsonl"):
                path.unlink()
        return False
    differences = [key for key in started_with if _json(before.get(key)) != _json(started_with[key])]
    if differences:
        lines = [f"  {key}: {_shown(before.get(key))} -> {_shown(started_with[key])}" for key in differences]
        raise PreferenceMismatchError(
            f"{output}: the run there was started with something else.\n"
            + "\n".join(lines)
            + "\n  Name another folder, or go back to what the run was started with.",
            left={key: before.get(key) for key in differences},
            right={key: started_with[key] for key in differences},
            differences=differences,
        )
    return True


def require_own_folder(output: Path, *, resume: bool) -> None:
    """Ask whether a run may use a folder, before anything is loaded.

    Raises:
        InputError: the folder holds something else, a run that is finished, or one that is not to be continued.
    """
    if output.exists() and not output.is_dir():
        raise InputError(f"{output}: is a file.\n  Name a folder for the run.", file=output)
    if (output / RESULT).is_file():
        raise InputError(
            f"{output}: the run there is finished; its report is {output / 'report.html'}.\n  Name another folder.",
            file=output,
        )
    if (output / MANIFEST).is_file():
        if not resume:
            raise InputError(
                f'{output}: holds a run already, and training.resume is "never".\n  Name another folder.', file=output
            )
        return
    # The host's trainer makes its folder of checkpoints as soon as it is set up.
    held = (
        [path for path in output.iterdir() if path.name != CHECKPOINTS or any(path.iterdir())]
        if output.exists()
        else []
    )
    if held:
        raise InputError(
            f"{output}: holds files, and no run of training.\n  Name a folder that is empty or does not exist.",
            file=output,
        )


def _forget(output: Path) -> None:
    """Remove what a run that made no step left behind; baselines stay, they name their data themselves."""
    for name in OF_ONE_START:
        (output / name).unlink(missing_ok=True)


def _json(value: Any) -> Any:
    return json.loads(json.dumps(value, default=str))


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 120 else f"{text[:119]}…"


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path}: is damaged: {error}.\n  Name another folder for the run.", file=path) from error
    return value if isinstance(value, dict) else {}


def _write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n")


def mark_complete(checkpoint: Path, step: int) -> None:
    """Mark a checkpoint as whole, with the sizes of its files; the last thing that is written into it."""
    sizes = {
        path.relative_to(checkpoint).as_posix(): path.stat().st_size
        for path in sorted(checkpoint.rglob("*"))
        # Other processes write states of their own, perhaps later.
        if path.is_file() and not path.match("rng_state_*.pth") and path.name != _COMPLETE
    }
    _write_json(checkpoint / _COMPLETE, {"step": step, "files": sizes})


def damage(checkpoint: Path) -> str | None:
    """Say in words which file of a marked checkpoint is not as it was written; None where all are, or nothing is known.

    A file that was cut off or replaced may still load: the host fills what it lacks with random weights.
    """
    mark = checkpoint / _COMPLETE
    if not mark.is_file():
        return None
    for name, size in _read_json(mark).get("files", {}).items():
        path = checkpoint / name
        if not path.is_file():
            return f"{name} is missing"
        if (found := path.stat().st_size) != size:
            return f"{name} has {found:,} bytes, and {size:,} were written"
    return None


def _is_whole(checkpoint: Path) -> bool:
    return (checkpoint / _COMPLETE).is_file() and damage(checkpoint) is None


def last_checkpoint(folder: Path) -> Path | None:
    """Return the newest checkpoint that was written to its end, and is as it was written; None where there is none."""
    whole = [(step, path) for step, path in _checkpoints(folder) if _is_whole(path)]
    return max(whole)[1] if whole else None


def finished_training(
    output: Path, checkpoint: Path | None = None, best: str | None = None
) -> tuple[Path, Path] | None:
    """Say, or remember, that every step was made: the last checkpoint, and the one that is the result.

    Args:
        output: The run's folder.
        checkpoint: The last checkpoint, to remember that training is finished.
        best: Name of the checkpoint that is the result; the last one if not given.

    Returns:
        Both checkpoints; None where training is not finished, or one of them is not as it was written.
    """
    path = output / _TRAINED
    if checkpoint is not None:
        _write_json(path, {"last": checkpoint.name, "best": best or checkpoint.name})
    if not path.is_file():
        return None
    names = _read_json(path)
    last, chosen = (output / CHECKPOINTS / str(names.get(name)) for name in ("last", "best"))
    return (last, chosen) if _is_whole(last) and _is_whole(chosen) else None


def remove_incomplete(folder: Path) -> list[str]:
    """Remove checkpoints that were cut off in the middle or damaged, and return their names."""
    removed = []
    for _, path in _checkpoints(folder):
        if not _is_whole(path):
            shutil.rmtree(path)
            removed.append(path.name)
    return removed


def _checkpoints(folder: Path) -> list[tuple[int, Path]]:
    found = []
    for path in folder.glob("checkpoint-*"):
        step = path.name.rpartition("-")[2]
        if path.is_dir() and step.isdigit():
            found.append((int(step), path))
    return found


def require_room(folder: Path, *, weight_bytes: int, trained_bytes: int, checkpoints: int) -> int:
    """Ask whether the disk has room for a run before it begins.

    A checkpoint holds the weights and, for AdamW, two moments of every trained value; one more than are kept is there
    while the oldest is being removed, and the result is saved beside them.

    Args:
        folder: The run's folder, or one above it.
        weight_bytes: Of the model in float32.
        trained_bytes: Of its trained values in float32.
        checkpoints: How many are kept.

    Returns:
        Bytes that the run needs at most.

    Raises:
        ResourceError: there is less.
    """
    needed = (checkpoints + 1) * (weight_bytes + 2 * trained_bytes) + weight_bytes
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise ResourceError(
            f"{folder}: training needs up to {needed / 1e9:.2f} GB on this disk for {checkpoints + 1} checkpoints and "
            f"the result, and {free / 1e9:.2f} GB are free.\n"
            "  Free some, name a folder on another disk, or write save_total_limit = 1 or save_only_model = true "
            "under [training.arguments] (the latter gives up resuming)."
        )
    return needed
