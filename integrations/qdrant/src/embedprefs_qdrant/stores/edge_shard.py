"""One open collection of the embedded engine, with its lock and its record."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from embedprefs.errors import PreferenceMismatchError
from embedprefs_qdrant.stores import edge_conversion as conversion
from embedprefs_qdrant.stores import edge_files as files
from embedprefs_qdrant.stores.contract import RECORD_KEY
from embedprefs_qdrant.stores.failures import StoreError
from embedprefs_qdrant.stores.layout import CollectionLayout
from embedprefs_qdrant.stores.points import RECORD_POINT_ID
from embedprefs_qdrant.stores.protocol import OptimizeProgress, RecordPlace

__all__ = ["Shard"]

T = TypeVar("T")

_DROPPING_PREFIX = ".dropping-"
_OPTIMIZER = Path(__file__).with_name("edge_optimizer.py")


class Shard:
    """One collection, open: the engine's shard, our lock, and the record beside it.

    The record is kept twice: in a file beside the engine's own, and in a reserved point, because the file is lost when
    only the engine's data is copied or restored. Both carry a number that grows with every write; the greater one
    counts.
    """

    def __init__(self, root: Path, name: str, lock: files.CollectionLock) -> None:
        self.name = name
        self.folder = root / name
        self._lock = lock
        self._engine: Any = None
        self.layout: CollectionLayout
        self.has_record_point = False
        self._load()

    @classmethod
    def open(cls, root: Path, name: str, lock_wait: float) -> Shard:
        """Open an existing collection.

        Raises:
            ResourceError: It is open elsewhere.
            StoreError: The engine cannot read it.
        """
        lock = files.CollectionLock(root, name)
        lock.acquire(lock_wait)
        try:
            return cls(root, name, lock)
        except BaseException:
            lock.release()
            raise

    @classmethod
    def create(cls, root: Path, name: str, layout: CollectionLayout, lock_wait: float) -> Shard:
        """Create a collection; killed in between, it does not exist."""
        import qdrant_edge as edge

        root.mkdir(parents=True, exist_ok=True)
        lock = files.CollectionLock(root, name)
        lock.acquire(lock_wait)
        try:
            if not (root / name / files.CONFIG_FILE).exists():
                unfinished = root / f"{files.CREATING_PREFIX}{name}"
                _remove_folder(unfinished)
                shard = edge.EdgeShard.create(str(unfinished), conversion.engine_config(layout))
                for field, index in layout.payload_indexes.items():
                    shard.update(edge.UpdateOperation.create_field_index(field, conversion.engine_index(index)))
                shard.flush()
                shard.close()
                unfinished.rename(root / name)
                files.sync_folder(root)
            return cls(root, name, lock)
        except BaseException:
            lock.release()
            raise

    @staticmethod
    def drop(root: Path, name: str, lock_wait: float) -> None:
        """Delete a collection that is not open; killed in between, it no longer exists."""
        lock = files.CollectionLock(root, name)
        lock.acquire(lock_wait)
        try:
            condemned = root / f"{_DROPPING_PREFIX}{name}"
            _remove_folder(condemned)
            (root / name).rename(condemned)
            files.sync_folder(root)
            _remove_folder(condemned)
        finally:
            lock.release()

    def _load(self) -> None:
        import qdrant_edge as edge

        self._engine = self._guard("open", lambda: edge.EdgeShard.load(str(self.folder)))
        self.refresh_layout()
        self.has_record_point = self._record_point() is not None

    def refresh_layout(self) -> None:
        """Read the layout anew after it was changed."""
        config = files.read_json(self.folder / files.CONFIG_FILE) or {}
        self.layout = conversion.layout_of(config, self.run("describe", lambda engine: engine.info()).payload_schema)

    def run(self, action: str, call: Callable[[Any], T]) -> T:
        """Call the engine; its errors, which have no types of their own, become a `StoreError`."""
        return self._guard(action, lambda: call(self._engine))

    def _guard(self, action: str, call: Callable[[], T]) -> T:
        try:
            return call()
        except Exception as error:
            raise StoreError(
                f"{self.folder}: The embedded engine cannot {action} the collection {self.name!r}: {error}",
                action=action,
            ) from error

    @property
    def is_open(self) -> bool:
        """Whether the engine has the collection open."""
        return self._engine is not None

    def close(self) -> None:
        """Write everything to disk and let others open the collection."""
        try:
            if self._engine is not None:
                engine, self._engine = self._engine, None
                self._guard("close", engine.close)
        finally:
            self._lock.release()

    # The record

    def read_record(self) -> tuple[dict[str, Any], RecordPlace] | None:
        """The record and where it was found.

        Raises:
            PreferenceMismatchError: File and reserved point disagree although neither is newer: files of two
                collections have been mixed.
        """
        beside = files.read_json(self.folder / files.RECORD_FILE)
        inside = self._record_point()
        if beside is None or inside is None:
            if beside is not None:
                return beside["record"], "sidecar file"
            return None if inside is None else (inside["record"], "reserved point")
        if beside["sequence"] == inside["sequence"] and beside["record"] != inside["record"]:
            raise PreferenceMismatchError(
                f"{self.folder}: The record in {files.RECORD_FILE} and the one among the points disagree: files of two "
                "collections have been mixed.\n"
                f"  Restore the folder as a whole, or delete {files.RECORD_FILE} if the points are right.",
                left=beside["record"],
                right=inside["record"],
                differences=[key for key in beside["record"] if beside["record"].get(key) != inside["record"].get(key)],
            )
        if beside["sequence"] >= inside["sequence"]:
            return beside["record"], "sidecar file"
        return inside["record"], "reserved point"

    def write_record(self, record: Mapping[str, Any]) -> None:
        """Store the record in both places, on disk when this returns."""
        import qdrant_edge as edge

        beside = files.read_json(self.folder / files.RECORD_FILE)
        written = [entry["sequence"] for entry in (beside, self._record_point()) if entry is not None]
        entry = {"version": 1, "sequence": max(written, default=0) + 1, "record": record}
        # As text, because the engine may keep a number in another form than it was given.
        point = edge.Point(RECORD_POINT_ID, {}, {RECORD_KEY: json.dumps(entry)})
        self.run("write the record of", lambda engine: engine.update(edge.UpdateOperation.upsert_points([point])))
        self.run("flush", lambda engine: engine.flush())
        self.has_record_point = True
        files.write_json(self.folder / files.RECORD_FILE, entry)

    def _record_point(self) -> dict[str, Any] | None:
        found = self.run("read", lambda engine: engine.retrieve([RECORD_POINT_ID], True, False))
        return json.loads(found[0].payload[RECORD_KEY]) if found else None

    # Graphs

    def optimize(self, progress: Callable[[OptimizeProgress], None] | None, timeout: float) -> bool:
        """Build the graphs in a process of its own; the shard is closed meanwhile, our lock is kept.

        Raises:
            StoreError: It failed or took too long; the shard is open again.
        """
        start = time.monotonic()
        if progress is not None:
            progress(OptimizeProgress("optimizing", 0.0, None))
        engine, self._engine = self._engine, None
        self._guard("close", engine.close)
        try:
            changed = self._run_optimizer(start, progress, timeout)
        finally:
            self._load()
        if progress is not None:
            indexed = self.run("describe", lambda engine: engine.info()).indexed_vectors_count
            progress(OptimizeProgress("done", time.monotonic() - start, indexed))
        return changed

    def _run_optimizer(self, start: float, progress: Callable[[OptimizeProgress], None] | None, timeout: float) -> bool:
        # -P keeps this folder, whose modules have common names, off the path of the new process.
        command = [sys.executable, "-P", str(_OPTIMIZER), str(self.folder), str(os.getpid())]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)  # noqa: S603 - our own program
        try:
            while True:
                try:
                    output, complaint = process.communicate(timeout=0.5)
                    break
                except subprocess.TimeoutExpired:
                    seconds = time.monotonic() - start
                    if seconds > timeout:
                        raise StoreError(
                            f"{self.folder}: Building the graphs of {self.name!r} was stopped after {seconds:.0f} "
                            "seconds. Nothing is lost, and searches work without them.\n  Allow more time.",
                            action="optimize",
                        ) from None
                    if progress is not None:
                        progress(OptimizeProgress("optimizing", seconds, None))
        finally:
            if process.poll() is None:
                process.kill()
                process.communicate()
        if process.returncode != 0:
            last = complaint.strip().splitlines()[-1] if complaint.strip() else f"exit status {process.returncode}"
            raise StoreError(f"{self.folder}: Building the graphs of {self.name!r} failed: {last}", action="optimize")
        return bool(json.loads(output)["changed"])


def _remove_folder(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)
