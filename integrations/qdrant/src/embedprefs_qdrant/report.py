"""What an ingest did, for people and for programs."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from embedprefs.wording import many

__all__ = ["IngestProgress", "IngestReport"]


@dataclass(frozen=True)
class IngestProgress:
    """How far an ingest is; handed to the `progress` callback after each step.

    Attributes:
        phase: What is being done.
        documents: Documents read so far.
        unchanged: Those of them that the store holds already.
        planned: Chunks found that have to be embedded, so far.
        embedded: Chunks embedded so far.
        stored: Chunks the store has acknowledged so far.
        reading_done: Whether all documents were read, so that `planned` is the total.
    """

    phase: Literal["reading", "embedding", "finishing", "done"]
    documents: int
    unchanged: int
    planned: int
    embedded: int
    stored: int
    reading_done: bool


@dataclass
class IngestReport:
    """What one run did.

    Attributes:
        collection: Where to.
        dry_run: Whether this only says what would be done.
        created: Whether the collection was created by this run.
        documents: Documents read.
        unchanged: Documents that were in the store already, whole and equal.
        new: Documents that the store did not have.
        changed: Documents of which the store had another state, or only a part.
        chunks: Chunks of the new and changed documents.
        embedded: Chunks that were embedded.
        cached: Vectors of these that were taken from the embedding cache, not computed.
        reused: Chunks whose vector was in the store already, under another document or place.
        stored: Chunks that the store has acknowledged.
        kept: Chunks that were stored already.
        deleted: Stale points removed: of changed documents, and of pruned ones.
        skipped: Source -> why it holds nothing to index (empty, unsupported format).
        failed: Source -> why it could not be read, embedded or stored.
        absent: Documents of the collection, in this run's scope, that were not among the inputs.
        pruned: Those of them whose points were deleted.
        truncated: Embedded chunks that were longer than the model reads.
        interrupted: Whether the run was stopped before its end; the next one continues.
        seconds: Time of the whole run.
        seconds_embedding: Time spent embedding.
    """

    collection: str
    dry_run: bool = False
    created: bool = False
    documents: int = 0
    unchanged: int = 0
    new: int = 0
    changed: int = 0
    chunks: int = 0
    embedded: int = 0
    cached: int = 0
    reused: int = 0
    stored: int = 0
    kept: int = 0
    deleted: int = 0
    skipped: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    absent: list[str] = field(default_factory=list)
    pruned: list[str] = field(default_factory=list)
    truncated: int = 0
    interrupted: bool = False
    seconds: float = 0.0
    seconds_embedding: float = 0.0

    @property
    def exit_code(self) -> int:
        """0 done, 4 done in part, 130 interrupted."""
        if self.interrupted:
            return 130
        return 4 if self.failed else 0

    def to_json(self) -> dict[str, Any]:
        """The report as JSON values."""
        return asdict(self)

    def summary(self) -> str:
        """One or a few lines that say what happened."""
        verb = "would embed" if self.dry_run else "embedded"
        if self.documents and self.unchanged == self.documents and not self.failed:
            lines = [f"{many(self.documents, 'document')}, all unchanged: nothing to embed ({self.seconds:.1f} s)."]
        else:
            cached = f" ({self.cached:,} from the cache)" if self.cached else ""
            reused = f", {many(self.reused, 'vector')} reused" if self.reused else ""
            done = (
                f"{many(self.documents, 'document')}: {self.new:,} new, {self.changed:,} changed, {self.unchanged:,} "
                f"unchanged; {verb} {many(self.embedded, 'chunk')}{cached}, kept {self.kept:,}{reused}, deleted "
                f"{self.deleted:,} ({self.seconds:.1f} s, {self.seconds_embedding:.1f} s of it embedding)."
            )
            lines = [done]
        if self.truncated:
            lines.append(
                f"{many(self.truncated, 'chunk was', 'chunks were')} longer than the model reads, and cut there."
            )
        if self.pruned:
            lines.append(
                f"{many(len(self.pruned), 'document that is gone was', 'documents that are gone were')} removed: "
                f"{_some(self.pruned)}."
            )
        left = [source for source in self.absent if source not in set(self.pruned)]
        if left:
            lines.append(
                f"{many(len(left), 'document is', 'documents are')} in the collection and not among the inputs: "
                f"{_some(left)}. Prune to remove {'it' if len(left) == 1 else 'them'}."
            )
        if self.skipped:
            lines.append(
                f"{many(len(self.skipped), 'source holds', 'sources hold')} nothing to index: "
                f"{_some(list(self.skipped))}."
            )
        if self.failed:
            again = "it" if len(self.failed) == 1 else "them"
            lines.append(f"{many(len(self.failed), 'source')} failed; running again tries {again} again:")
            lines.extend(f"  {source}: {reason}" for source, reason in self.failed.items())
        if self.interrupted:
            lines.append("Stopped before the end. What is stored is whole; running again continues.")
        return "\n".join(lines)


def _some(names: list[str], most: int = 3) -> str:
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
