"""Builds the graphs of one embedded collection, in a process of its own.

The engine holds Python's global lock while it builds, for seconds or minutes. The store therefore closes the
collection, runs this file as a program, and opens the collection again. Nothing of this library is imported.
"""

from __future__ import annotations

import json
import os
import sys


def end_with_parent(parent: int) -> None:
    """Have Linux kill this process when its parent ends, so that it does not go on holding the collection's lock."""
    if not sys.platform.startswith("linux"):
        return
    import ctypes
    import signal

    set_parent_death_signal = 1  # PR_SET_PDEATHSIG of prctl(2)
    ctypes.CDLL(None, use_errno=True).prctl(set_parent_death_signal, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        sys.exit("The process that asked for this has ended.")


def main(folder: str, parent: str) -> None:
    """Optimise the shard in `folder` and print what was done as one line of JSON."""
    end_with_parent(int(parent))
    import qdrant_edge

    shard = qdrant_edge.EdgeShard.load(folder)
    try:
        changed = bool(shard.optimize())
        shard.flush()
        indexed = shard.info().indexed_vectors_count
    finally:
        shard.close()
    sys.stdout.write(json.dumps({"changed": changed, "indexed_vectors": indexed}) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
