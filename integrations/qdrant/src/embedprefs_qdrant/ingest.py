"""Documents into a collection, so that a run killed at any moment leaves nothing wrong behind."""

from __future__ import annotations

import fnmatch
import glob
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeGuard, cast

from embedprefs import InputError, Preferences
from embedprefs.preferences import IndexPreferences
from embedprefs_qdrant.chunking import Chunker
from embedprefs_qdrant.collection import COARSE, DENSE, LATE, SPARSE, Collection
from embedprefs_qdrant.documents import Document, FailedSource, read_documents
from embedprefs_qdrant.late_interaction import late_interaction
from embedprefs_qdrant.payloads import BOOKKEEPING_FIELDS, SourceState, source_states
from embedprefs_qdrant.pipeline import Pipeline, Vectors
from embedprefs_qdrant.planning import Planner
from embedprefs_qdrant.report import IngestProgress, IngestReport
from embedprefs_qdrant.reranking import make_reranker
from embedprefs_qdrant.searching import Searcher, SearchOptions
from embedprefs_qdrant.spaces import EmbeddingSpace, ModelSpace
from embedprefs_qdrant.sparse import SparseEmbedder, sparse_embedder
from embedprefs_qdrant.status import CollectionStatus, collection_status
from embedprefs_qdrant.stores import Store, open_store
from embedprefs_qdrant.stores.filters import Filter, Match, MatchAny
from embedprefs_qdrant.stores.protocol import OptimizeProgress
from embedprefs_qdrant.vectors import first_dimensions
from embedprefs_qdrant.verification import VerifyReport, verify_collection
from embedprefs_qdrant.where import parse_where

if TYPE_CHECKING:
    from qdrant_client import QdrantClient

    from embedprefs import PreferredSentenceTransformer

__all__ = ["QdrantIngestor"]

#: Pruning more than this share of the documents in scope needs a word from the caller.
MOST_PRUNED_SHARE = 0.5


class QdrantIngestor:
    """Brings documents into a Qdrant collection and finds them again, under one embedding identity.

    Example:
        ```python
        ingestor = QdrantIngestor("embedprefs.toml", "edge:index")
        report = ingestor.ingest("docs")
        hits = ingestor.search("How do I pin a revision?")
        ```

    The identity that the collection was made under is compared with the preferences' before anything is embedded.
    Only new and changed chunks are embedded; the model is loaded when the first vector is needed.
    """

    def __init__(
        self,
        model: PreferredSentenceTransformer | Preferences | EmbeddingSpace | str | Path,
        store: Store | QdrantClient | str | None = None,
        *,
        collection: str | None = None,
        root: str | os.PathLike[str] | None = None,
        index: IndexPreferences | None = None,
        overrides: Mapping[str, Any] | None = None,
    ) -> None:
        """Take the model, the store and what `[index]` says.

        Args:
            model: A loaded model, preferences, a preferences file, a model's name or folder, or another embedding
                space.
            store: A store, its URL, or a ready `QdrantClient`; None takes `index.store`.
            collection: Name of the collection; None takes `index.collection`.
            root: The folder that sources are relative to; None takes `index.root`.
            index: Preferences for the index, in place of the model's `[index]`.
            overrides: Preferences that win over the file's, by dotted key.
        """
        space: EmbeddingSpace
        if _is_space(model):
            space = model
        else:
            space = ModelSpace(cast("Preferences", model), overrides=overrides)
        self.space = space
        preferences = space.preferences if isinstance(space, ModelSpace) else None
        self.preferences: Preferences | None = preferences
        self.index = index or (preferences.index if preferences is not None else IndexPreferences())
        folder = preferences.folder if preferences is not None else Path.cwd()
        self.root = Path(root) if root is not None else folder / self.index.root
        self._owns_store = store is None or isinstance(store, str)
        self.store = _open(store if store is not None else self.index.store, folder)
        spaces: dict[str, EmbeddingSpace] = {DENSE: space}
        for name, named in self.index.vectors.items():
            spaces[name] = ModelSpace(_named_preferences(named, preferences))
        sparse = preferences.sparse if preferences is not None and self.index.hybrid else None
        self.sparse: SparseEmbedder | None = sparse_embedder(sparse) if sparse is not None else None
        self.late = late_interaction(preferences.rerank) if preferences is not None else None
        self.collection = Collection(
            self.store, collection or self.index.collection, spaces, self.index, sparse, self.late
        )
        self._chunker: Chunker | None = None
        self._searcher: Searcher | None = None
        self._stop = threading.Event()
        self._opened = False

    # ------------------------------------------------------------------ documents in

    def ingest(
        self,
        documents: Any,
        *,
        dry_run: bool = False,
        prune: bool = False,
        scope: Sequence[str] | None = None,
        allow_mass_deletion: bool = False,
        progress: Callable[[IngestProgress], None] | None = None,
        read_options: Mapping[str, Any] | None = None,
    ) -> IngestReport:
        """Bring documents in; those that are stored already, whole and unchanged, cost reading and hashing only.

        Args:
            documents: Paths, folders, globs, `Document`s, mappings, LangChain documents, or any iterable of these.
            dry_run: Say what would be done, embed and store nothing.
            prune: Delete the points of documents that are in the collection and in scope, but not among the inputs.
            scope: Patterns of sources that this run speaks for, `["docs/*"]`; None takes the given folders and files.
            allow_mass_deletion: Prune even where more than half of the documents in scope would go.
            progress: Called after each step, in this thread.
            read_options: Further arguments of `read_documents`, such as `text_field`.

        Returns:
            What was done, with everything that failed by name.

        Raises:
            PreferenceMismatchError: The collection was made under another identity.
            UnavailableError: The store does not answer, or refused group after group.
            InputError: Pruning would delete most of the collection.
        """
        started = time.perf_counter()
        self._stop.clear()
        report = IngestReport(self.collection.name, dry_run=dry_run)
        if not dry_run or self.collection.exists:
            report.created = self._open(create=not dry_run)
        states = self.states()
        seen: set[str] = set()
        planner = Planner(
            self.store,
            self.collection.name,
            self.chunker.chunk,
            chunking=self.chunking,
            states=states,
        )
        stream = self.read(documents, report, seen, read_options or {})
        if dry_run:
            self._plan_only(stream, planner, report)
        else:
            with self.store.bulk(self.collection.name) if report.created else nullcontext():
                self._run(stream, planner, report, progress)
        report.interrupted = self._stop.is_set()
        if not report.interrupted:
            self._prune(documents, report, states, seen, scope, delete=prune and not dry_run, allow=allow_mass_deletion)
        if not dry_run:
            self.store.barrier(self.collection.name)
        report.seconds = time.perf_counter() - started
        return report

    def stop(self) -> None:
        """End a running ingest after the group in hand; safe to call from a signal handler or another thread."""
        self._stop.set()

    # ------------------------------------------------------------------ answers out

    def search(
        self,
        query: str | Sequence[str],
        *,
        limit: int = 10,
        offset: int = 0,
        where: str | Sequence[str] | Filter | None = None,
        score_threshold: float | None = None,
        exact: bool | None = None,
        mmr: float | None = None,
        per_document: int | None = None,
        hybrid: bool | None = None,
        two_stage: bool | None = None,
        rerank: bool | None = None,
        vector: str | None = None,
    ) -> Any:
        """Find the passages that answer a query, best first.

        Args:
            query: A question, or several.
            limit: Hits for each query, at most.
            offset: Hits to skip first.
            where: Conditions such as `"path=docs/*"` or `["year>=2020", "lang=en|de"]`, or a `Filter`.
            score_threshold: Leave out hits that score worse.
            exact: Compare with every vector; None lets the store choose.
            mmr: Choose hits that differ from each other: 1 is relevance alone, 0 difference alone.
            per_document: Most hits of one document.
            hybrid: Fuse with the sparse ranking; None does so where the collection has one.
            two_stage: Search the first dimensions before all of them; None does so where the collection has them.
            rerank: Order the first hits again with `[rerank]`; None does so where it names a model.
            vector: Name of the dense vector to search; None takes the main one.

        Returns:
            A list of `SearchHit`; for several queries a list of such lists, in their order.

        Raises:
            PreferenceMismatchError: The collection was made under another identity.
            InputError: There is no such collection or vector, or a condition cannot be read.
        """
        conditions = where if isinstance(where, Filter | None) else parse_where(_listed(where), self.searcher.sources)
        options = SearchOptions(
            limit=limit,
            offset=offset,
            filter=conditions,
            score_threshold=score_threshold,
            exact=exact,
            mmr=mmr,
            per_document=per_document,
            hybrid=hybrid,
            two_stage=two_stage,
            rerank=rerank,
            vector=vector,
        )
        single = isinstance(query, str)
        found = self.searcher.search([query] if isinstance(query, str) else list(query), options)
        return found[0] if single else found

    @property
    def searcher(self) -> Searcher:
        """What searches the collection."""
        if self._searcher is None:
            reranker = make_reranker(self.preferences.rerank) if self.preferences is not None else None
            self._searcher = Searcher(self.collection, self.sparse, reranker)
        return self._searcher

    def status(self) -> CollectionStatus:
        """What the collection holds, under which identity, and whether these preferences fit it."""
        return collection_status(self.collection)

    def verify(
        self,
        documents: Any,
        *,
        sample: int = 32,
        repair: bool = False,
        read_options: Mapping[str, Any] | None = None,
    ) -> VerifyReport:
        """Compare the store with the documents; see `verify_collection`."""
        return verify_collection(self, documents, sample=sample, repair=repair, read_options=read_options)

    # ------------------------------------------------------------------ upkeep

    def optimize(
        self, *, progress: Callable[[OptimizeProgress], None] | None = None, timeout: float | None = None
    ) -> bool:
        """Build the graphs that make searches of large collections fast; see `Store.optimize`."""
        return self.store.optimize(self.collection.name, progress=progress, timeout=timeout)

    @property
    def chunker(self) -> Chunker:
        """What cuts documents; made from the model's tokenizer, without its weights."""
        if self._chunker is None:
            self._chunker = self.space.make_chunker(self.index)
        return self._chunker

    @property
    def chunking(self) -> str:
        """Short name of how documents are cut: 16 hexadecimal digits. Under another name they are cut again."""
        return self.chunker.configuration_hash[:16]

    def close(self) -> None:
        """Let go of models and stores that were opened here."""
        for space in self.collection.spaces.values():
            space.close()
        if self._owns_store:
            self.store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    # ------------------------------------------------------------------ within

    def _open(self, *, create: bool) -> bool:
        created = self.collection.open(create=create)
        self._opened = True
        return created

    def states(self) -> dict[str, SourceState]:
        """What the store holds, by source; memory grows with documents, not with points."""
        if not self.collection.exists:
            return {}
        fields = ("source", *BOOKKEEPING_FIELDS)
        return source_states(self.store.scroll(self.collection.name, payload=fields, batch_size=1024))

    def read(
        self, documents: Any, report: IngestReport, seen: set[str], options: Mapping[str, Any]
    ) -> Iterable[Document]:
        """Read documents as `[index]` says, noting in the report what gives none and in `seen` every source met."""

        def note(failure: FailedSource) -> None:
            seen.add(failure.source)
            reason = failure.reason if failure.line is None else f"line {failure.line}: {failure.reason}"
            (report.skipped if failure.is_skipped else report.failed)[failure.source] = reason

        for document in read_documents(
            documents,
            root=self.root,
            include=self.index.include,
            exclude=self.index.exclude,
            on_error=note,
            **options,
        ):
            seen.add(document.source)
            yield document

    def _plan_only(self, documents: Iterable[Document], planner: Planner, report: IngestReport) -> None:
        for document in documents:
            report.documents += 1
            plan = planner.plan(document)
            if plan is None:
                report.unchanged += 1
                continue
            report.new += plan.is_new
            report.changed += not plan.is_new
            report.chunks += plan.state[1]
            report.embedded += len(plan.new)
            report.kept += plan.state[1] - len(plan.new)
            report.deleted += len(plan.stale)

    def _run(
        self,
        documents: Iterable[Document],
        planner: Planner,
        report: IngestReport,
        progress: Callable[[IngestProgress], None] | None,
    ) -> None:
        truncated = self._truncated()
        Pipeline(
            self.store,
            self.collection.name,
            planner,
            self._embed,
            self._find_vectors if not report.created else _find_nothing,
            report=report,
            progress=progress,
            stop=self._stop,
        ).run(documents)
        report.truncated = self._truncated() - truncated

    def _truncated(self) -> int:
        if isinstance(self.space, ModelSpace) and self.space.loaded:
            return int(self.space.model.report.truncated)
        return 0

    def _embed(self, texts: Sequence[str]) -> list[Vectors]:
        self.collection.check_canaries()
        rows: list[dict[str, Any]] = [{} for _ in texts]
        for name, space in self.collection.spaces.items():
            for row, vector in zip(rows, space.embed_documents(texts), strict=True):
                row[name] = vector
        if self.index.two_stage_dims is not None:
            for row in rows:
                row[COARSE] = first_dimensions(row[self.collection.main], self.index.two_stage_dims)
        if self.sparse is not None:
            for row, vector in zip(rows, self.sparse.embed_documents(texts), strict=True):
                row[SPARSE] = vector
        if self.late is not None:
            for row, vectors in zip(rows, self.late.embed_documents(texts), strict=True):
                row[LATE] = vectors
        return list(rows)

    def _find_vectors(self, digests: Sequence[str]) -> Mapping[str, Vectors]:
        """Vectors that the store holds for these texts already: of renamed files, of the same text elsewhere."""
        found: dict[str, Vectors] = {}
        names = set(self.collection.layout.vectors) | set(self.collection.layout.sparse_vectors)
        wanted = Filter(must=(MatchAny("content_hash", tuple(digests)),))
        for point in self.store.scroll(self.collection.name, filter=wanted, payload=("content_hash",), vectors=True):
            if names <= set(point.vectors) or (names - {SPARSE}) <= set(point.vectors):
                found[str(point.payload["content_hash"])] = point.vectors
        return found

    def absent(
        self,
        documents: Any,
        states: Mapping[str, SourceState],
        seen: set[str],
        failed: Iterable[str],
        scope: Sequence[str] | None = None,
    ) -> list[str]:
        """The sources in the collection that this run speaks for and did not meet.

        What lies beneath a failed source (the rows of a table, the files of a folder) may well be there still.
        """
        failed = list(failed)
        in_scope = _in_scope(documents, states, self.root, scope)
        return [source for source in in_scope if source not in seen and not _is_beneath(source, failed)]

    def _prune(
        self,
        documents: Any,
        report: IngestReport,
        states: Mapping[str, SourceState],
        seen: set[str],
        scope: Sequence[str] | None,
        *,
        delete: bool,
        allow: bool,
    ) -> None:
        report.absent = self.absent(documents, states, seen, report.failed, scope)
        if not delete or not report.absent:
            return
        in_scope = _in_scope(documents, states, self.root, scope)
        if len(report.absent) > MOST_PRUNED_SHARE * len(in_scope) and not allow:
            raise InputError(
                f"Pruning would delete {len(report.absent)} of the {len(in_scope)} documents in scope from the "
                f"collection {self.collection.name}, {report.absent[0]!r} among them. The inputs of this run are "
                "stored; nothing was deleted.\n"
                "  If that is meant, allow it (allow_mass_deletion=True, or --allow-mass-deletion). If not, look "
                "whether the folder is complete."
            )
        for source in report.absent:
            self.store.delete(self.collection.name, filter=Filter(must=(Match("source", source),)))
            report.deleted += states[source].points
            report.pruned.append(source)


def _listed(where: str | Sequence[str]) -> list[str]:
    return [where] if isinstance(where, str) else list(where)


def _is_space(model: Any) -> TypeGuard[EmbeddingSpace]:
    return hasattr(model, "embed_queries") and hasattr(model, "datatype")


def _open(store: Any, folder: Path) -> Store:
    if isinstance(store, str):
        scheme, _, path = store.partition(":")
        if scheme in ("edge", "local") and path and not Path(path).is_absolute():
            store = f"{scheme}:{folder / path}"
        return open_store(store)
    if isinstance(store, Store):
        return store
    return open_store(store)


def _named_preferences(named: Any, base: Preferences | None) -> Preferences:
    values = named.model_dump(exclude_unset=True)
    if base is not None:
        values["compute"] = base.compute.model_dump(exclude_unset=True)
        values["index"] = {"template": base.index.template}
    return Preferences.model_validate(values).with_origins({}, base.file if base is not None else None)


def _find_nothing(_digests: Sequence[str]) -> Mapping[str, Vectors]:
    return {}


def _in_scope(documents: Any, states: Iterable[str], root: Path, scope: Sequence[str] | None) -> list[str]:
    patterns = list(scope) if scope is not None else _scope_of(documents, root)
    return sorted(source for source in states if any(fnmatch.fnmatchcase(source, pattern) for pattern in patterns))


def _is_beneath(source: str, failed: Sequence[str]) -> bool:
    return any(
        source.startswith((f"{name}#", f"{name}/")) or fnmatch.fnmatchcase(source, name) or name == "."
        for name in failed
    )


def _scope_of(documents: Any, root: Path) -> list[str]:
    """The sources that paths speak for: a folder for all beneath it, a file for itself; other inputs for none."""
    if isinstance(documents, str | os.PathLike):
        documents = [documents]
    patterns = []
    for item in documents if isinstance(documents, list | tuple) else ():
        if not isinstance(item, str | os.PathLike):
            continue
        path = Path(item)
        full = path if path.is_absolute() else Path.cwd() / path
        relative = os.path.relpath(full, root.resolve()).replace(os.sep, "/")
        if full.is_dir():
            patterns.append("*" if relative == "." else f"{glob.escape(relative)}/*")
        else:
            patterns.extend((glob.escape(relative), f"{glob.escape(relative)}#*"))
    return patterns
