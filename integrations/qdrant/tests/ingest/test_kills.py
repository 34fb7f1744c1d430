"""A run killed at any moment leaves nothing that the next run does not put right."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


def kill(scheme, trials, folder, seed=11, context="chunk"):
    """Run the harness in a process of its own and return what it found."""
    harness = Path(__file__).parent / "killing.py"
    result = subprocess.run(
        [sys.executable, str(harness), scheme, str(trials), str(folder), str(seed), context],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"},
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return json.loads(result.stdout.splitlines()[-1])


def assert_converged(found):
    """No chunk is lost, none is there twice or stale, every payload and vector is equal to the byte."""
    assert found["points"] > 100
    assert found["killed"] > found["trials"] // 4, "most runs were over before the kill: the test shows nothing"
    assert (found["lost"], found["extra"], found["different"], found["fresh_differs"]) == (0, 0, 0, 0), found


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the harness forks, which this system cannot")
def test_a_few_kills_of_the_embedded_engine_converge(tmp_path):
    """Six random moments; the long test has two hundred."""
    assert_converged(kill("edge", 6, tmp_path))


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(not hasattr(os, "fork"), reason="the harness forks, which this system cannot")
@pytest.mark.parametrize(("scheme", "trials"), [("edge", 200), ("local", 50)])
def test_kills_at_random_moments_converge(tmp_path, scheme, trials):
    """After a kill and a rerun the store equals that of an undisturbed run."""
    assert_converged(kill(scheme, trials, tmp_path))


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(not hasattr(os, "fork"), reason="the harness forks, which this system cannot")
def test_kills_converge_where_chunks_are_read_in_their_documents(tmp_path):
    """Points are replaced in place there: a killed run leaves a document whose chunks were made of two states."""
    assert_converged(kill("edge", 30, tmp_path, context="document"))
