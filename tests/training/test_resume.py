"""A run that is killed or interrupted continues, and ends with the very weights of one that was not."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from embedprefs.errors import InputError, PreferenceMismatchError
from embedprefs.layers import preferences_for_model
from embedprefs.training import train
from embedprefs.training.checkpoints import damage, last_checkpoint, mark_complete, open_run, remove_incomplete

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

#: Trains in a process of its own, which sends itself a signal in a given step.
PROGRAM = """
import json, os, signal, sys, warnings
warnings.simplefilter("ignore")
from embedprefs.layers import preferences_for_model
from embedprefs.training import train

model, overrides, rows, output, step, number = json.loads(sys.stdin.read())

def show(state):
    if state.stage == "training" and state.done == step:
        os.kill(os.getpid(), number)

try:
    train(preferences_for_model(model, overrides), rows, output=output, progress=show)
except KeyboardInterrupt as error:
    print(error)
    sys.exit(130)
"""


@pytest.fixture
def train_until(modernbert, rows, end_to_end):
    """Train in another process until a step, where a signal arrives."""

    def started(output, step, number):
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
        given = json.dumps([str(modernbert), end_to_end, rows, str(output), step, number])
        return subprocess.run(
            [sys.executable, "-c", PROGRAM],
            input=given,
            env=environment,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )

    return started


def _continued(modernbert, rows, output, end_to_end):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return train(preferences_for_model(str(modernbert), end_to_end), rows, output=output)


def _same_weights(first: Path, second: Path) -> bool:
    left, right = (load_file(folder / "model.safetensors") for folder in (first, second))
    return left.keys() == right.keys() and all((left[name] == right[name]).all() for name in left)


def test_a_killed_run_ends_with_the_weights_of_an_undisturbed_one(
    finished, train_until, modernbert, rows, end_to_end, tmp_path
):
    """SIGKILL between two checkpoints: dropout, sampler, adapter and optimizer continue bit for bit."""
    undisturbed, _ = finished
    output = tmp_path / "run"
    killed = train_until(output, 7, signal.SIGKILL)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert last_checkpoint(output / "checkpoints").name == "checkpoint-4"
    result = _continued(modernbert, rows, output, end_to_end)
    assert "Continued from checkpoint-4." in result.notes
    assert _same_weights(result.model, undisturbed.model)
    assert result.fingerprints == undisturbed.fingerprints
    assert result.tuned["ndcg@10"] == undisturbed.tuned["ndcg@10"]


@pytest.mark.slow
def test_ctrl_c_saves_where_it_is_and_the_same_command_continues(
    finished, train_until, modernbert, rows, end_to_end, tmp_path
):
    """The step is finished, a checkpoint made, and what is safe is said."""
    undisturbed, _ = finished
    output = tmp_path / "run"
    ended = train_until(output, 6, signal.SIGINT)
    assert ended.returncode == 130, ended.stderr
    assert "checkpoint-6 is safe" in ended.stdout
    assert last_checkpoint(output / "checkpoints").name == "checkpoint-6"
    result = _continued(modernbert, rows, output, end_to_end)
    assert _same_weights(result.model, undisturbed.model)


def test_a_run_that_was_killed_after_its_last_step_is_only_judged(finished, modernbert, rows, end_to_end, tmp_path):
    """Everything but the result is there: no step is made again, and the result is the same."""
    import shutil

    undisturbed, _ = finished
    output = tmp_path / "run"
    shutil.copytree(undisturbed.output, output)
    (output / "result.json").unlink()
    shutil.rmtree(output / "model")
    result = _continued(modernbert, rows, output, end_to_end)
    assert any(note.startswith("Training was finished before") for note in result.notes)
    assert result.tokens == 0
    assert _same_weights(result.model, undisturbed.model)


def test_a_checkpoint_that_was_cut_off_is_never_continued_from(tmp_path):
    """Only the mark that is written last makes a checkpoint; the others are removed."""
    for step in (4, 8, 12):
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}" / "model.safetensors").write_bytes(b"...")
    mark_complete(tmp_path / "checkpoint-4", 4)
    mark_complete(tmp_path / "checkpoint-8", 8)
    assert last_checkpoint(tmp_path).name == "checkpoint-8"
    assert remove_incomplete(tmp_path) == ["checkpoint-12"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-4", "checkpoint-8"]


def test_a_checkpoint_whose_files_changed_is_not_continued_from(tmp_path):
    """Cut off by a power failure after its mark was written, or replaced: the one before is taken."""
    for step in (4, 8):
        folder = tmp_path / f"checkpoint-{step}"
        (folder / "1_Pooling").mkdir(parents=True)
        (folder / "model.safetensors").write_bytes(b"weights")
        (folder / "1_Pooling" / "config.json").write_text("{}")
        mark_complete(folder, step)
    newest = tmp_path / "checkpoint-8"
    assert damage(newest) is None
    (newest / "model.safetensors").write_bytes(b"")
    assert damage(newest) == "model.safetensors has 0 bytes, and 7 were written"
    assert last_checkpoint(tmp_path).name == "checkpoint-4"
    (newest / "model.safetensors").write_bytes(b"weights")
    (newest / "1_Pooling" / "config.json").unlink()
    assert damage(newest) == "1_Pooling/config.json is missing"
    assert remove_incomplete(tmp_path) == ["checkpoint-8"]


def test_a_run_continues_only_with_what_it_was_started_with(tmp_path):
    """Other data or preferences are refused, both sides shown; the run stays as it is."""
    output = tmp_path / "run"
    assert open_run(output, {"data": "aa", "training": {"lora": None}}, resume=True) is False
    (output / "checkpoints" / "checkpoint-4").mkdir(parents=True)
    mark_complete(output / "checkpoints" / "checkpoint-4", 4)
    assert open_run(output, {"data": "aa", "training": {"lora": None}}, resume=True) is True
    with pytest.raises(PreferenceMismatchError, match='"aa" -> "bb"') as raised:
        open_run(output, {"data": "bb", "training": {"lora": None}}, resume=True)
    assert raised.value.differences == ("data",)
    with pytest.raises(InputError, match="never"):
        open_run(output, {"data": "aa", "training": {"lora": None}}, resume=False)


def test_a_run_that_made_no_step_may_begin_with_something_else(tmp_path):
    """Nothing is lost by it, and a mistake in the preferences costs no new folder."""
    output = tmp_path / "run"
    open_run(output, {"data": "aa"}, resume=True)
    (output / "arguments.json").write_text("{}")
    assert open_run(output, {"data": "bb"}, resume=True) is False
    assert json.loads((output / "run.json").read_text())["data"] == "bb"
    assert not (output / "arguments.json").exists()


#: Lets no file grow beyond a size, as a full disk does, from a given step on.
FULL_DISK = """
import json, resource, signal, sys, warnings
warnings.simplefilter("ignore")
from embedprefs.errors import ResourceError
from embedprefs.layers import preferences_for_model
from embedprefs.training import train

model, overrides, rows, output, step, size = json.loads(sys.stdin.read())
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

def show(state):
    if state.stage == "training" and state.done == step:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

try:
    train(preferences_for_model(model, overrides), rows, output=output, progress=show)
except ResourceError as error:
    print(error)
    sys.exit(2)
"""


@pytest.mark.slow
def test_a_full_disk_keeps_the_checkpoints_before(modernbert, rows, end_to_end, tmp_path):
    """The checkpoint that could not be written is removed; the message names the one that is kept."""
    pytest.importorskip("resource")
    output = tmp_path / "run"
    given = json.dumps([str(modernbert), end_to_end, rows, str(output), 6, 2_000])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    ended = subprocess.run(
        [sys.executable, "-c", FULL_DISK],
        input=given,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert ended.returncode == 2, ended.stderr
    assert "checkpoint-4 is kept" in ended.stdout
    assert "run the same command again" in ended.stdout
    assert [path.name for path in (output / "checkpoints").glob("checkpoint-*")] == ["checkpoint-4"]
