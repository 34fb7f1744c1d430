"""Worker processes end when they are told to, whatever they do at that moment."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

PROGRAM = """
import atexit, os, signal, sys, threading, time
from embedprefs.model.workers import end_on_sigterm

atexit.register(lambda: print("cleaned up", flush=True))
end_on_sigterm()
reading, writing = os.pipe()
main = threading.main_thread()


def tell():
    time.sleep(0.5)  # by then the main thread waits
    signal.pthread_kill(threading.get_ident() if sys.argv[1] == "other" else main.ident, signal.SIGTERM)


threading.Thread(target=tell).start()
os.read(reading, 1)  # nobody writes
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system ends processes from outside")
@pytest.mark.parametrize("thread", ["main", "other"])
def test_a_waiting_worker_ends_on_sigterm(thread):
    """Also where the signal does not interrupt the wait, as when it comes a moment before: exit handlers run."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, thread], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "cleaned up\n", "")
