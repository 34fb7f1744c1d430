"""Documents into a collection, so that a run killed at any moment leaves nothing wrong behind."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeGuard, cast

from embedprefs import InputError, Preferences
from embedprefs.preferences import IndexPreferences, SparsePreferences
from embedprefs_qdrant.chunking import Chunker
from embedprefs_qdrant.collection import DENSE, Collection
from embedprefs_qdrant.documents import Document, FailedSource, read_documents
from embedprefs_qdrant.embedding import ChunkEmbedder
from embedprefs_qdrant.late_interaction import late_interaction
from embedprefs_qdrant.layouts import refuse_context, refuse_reserved_names
from embedprefs_qdrant.metadata import with_typed_metadata
from embedprefs_qdrant.payloads import BOOKKEEPING_FIELDS, SourceState, source_states
from embedprefs_qdrant.pipeline import Pipeline, Vectors, unavailable
from embedprefs_qdrant.planning import Planner
from embedprefs_qdrant.report import IngestProgress, IngestReport
from embedprefs_qdrant.reranking import make_reranker
from embedprefs_qdrant.scope import RunSources
from embedprefs_qdrant.searching import Searcher, SearchOptions
from embedprefs_qdrant.spaces import EmbeddingSpace, ModelSpace, further_spaces
from embedprefs_qdrant.sparse import SparseEmbedder, sparse_embedder
from embedprefs_qdrant.status import CollectionStatus, collection_status
from embedprefs_qdrant.stores import Store, open_store
from embedprefs_qdrant.stores.failures import StoreError
from embedprefs_qdrant.stores.filters import Filter, Match
from embedprefs_qdrant.stores.protocol import OptimizeProgress
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
            store: A store, its URL, or a ready `QdrantClient`; None takes `index.store`. A relative path in a URL
                given here starts at the current folder, one in the preferences at theirs.
            collection: Name of the collection, or an alias; None takes `index.collection`.
            root: The folder that sources are relative to; None takes `index.root`.
            index: Preferences for the index, in place of the model's `[index]`.
            overrides: Preferences that win over the file's, by dotted key.
        """
        if _is_space(model) and overrides:
            raise InputError("The overrides of an embedding space that is made already could not take effect.")
        space = model if _is_space(model) else ModelSpace(cast("Preferences", model), overrides=overrides)
        self.space = space
        preferences = space.preferences if isinstance(space, ModelSpace) else None
        self.preferences: Preferences | None = preferences
        self.index = index or (preferences.index if preferences is not None else IndexPreferences())
        if isinstance(space, ModelSpace):
            space.use_index(self.index)
        refuse_reserved_names(self.index)
        refuse_context(self.index, space)
        folder = preferences.folder if preferences is not None else Path.cwd()
        # Absolute, so that a later change of the current folder does not rename every source.
        self.root = (Path(root) if root is not None else folder / self.index.root).expanduser().absolute()
        spaces: dict[str, EmbeddingSpace] = {DENSE: space, **further_spaces(self.index, preferences)}
        stated = preferences.sparse if preferences is not None else SparsePreferences()
        sparse = stated if self.index.hybrid else None
        self.sparse: SparseEmbedder | None = sparse_embedder(sparse) if sparse is not None else None
        self.late = late_interaction(preferences.rerank) if preferences is not None else None
        # Opened last: what fails above leaves nothing open.
        self._owns_store = store is None or isinstance(store, str)
        self.store = _open(self.index.store, folder) if store is None else _open(store, Path.cwd())
        self.collection = Collection(
            self.store, collection or self.index.collection, spaces, self.index, sparse, self.late
        )
        self._embedder = ChunkEmbedder(self.collection, self.sparse)
        self._chunker: Chunker | None = None
        self._searcher: Searcher | None = None
        self._stopped = False
        self._stop_event: threading.Event | None = None
        self._running = threading.Lock()

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
        stop_event: threading.Event | None = None,
    ) -> IngestReport:
        """Bring documents in; those that are stored already, whole and unchanged, cost reading and hashing only.

        An iterable is read once, in a thread of its own, while the documents before are embedded.

        Args:
            documents: Paths, folders, globs, `Document`s, mappings, LangChain documents, or any iterable of these.
            dry_run: Say what would be done, embed and store nothing.
            prune: Delete the points of documents that are in the collection and in scope, but not among the inputs.
            scope: Patterns of sources that this run speaks for, `["docs/*"]`. None takes the given paths: a folder
                speaks for every source beneath it, a file for itself and its rows, a glob for what it would match.
            allow_mass_deletion: Prune even where more than half of the documents in scope would go.
            progress: Called from time to time, in this thread.
            read_options: Further arguments of `read_documents`, such as `text_field`.
            stop_event: Ends this run after the group in hand once it is set, as `stop` does.

        Returns:
            What was done, with everything that failed by name.

        Raises:
            PreferenceMismatchError: The collection was made under another identity.
            UnavailableError: The store does not answer, or refused group after group.
            InputError: Pruning would delete most of the collection, or another ingest is running.
        """
        if not self._running.acquire(blocking=False):
            raise InputError("This ingestor is ingesting already.\n  Wait for that run, or stop it.")
        self._stop_event = stop_event
        try:
            return self._ingest(documents, dry_run, prune, scope, allow_mass_deletion, progress, read_options or {})
        finally:
            # Cleared at the end: a stop that comes just before a run begins is meant for it.
            self._stopped, self._stop_event = False, None
            self._running.release()

    def _ingest(
        self,
        documents: Any,
        dry_run: bool,
        prune: bool,
        scope: Sequence[str] | None,
        allow_mass_deletion: bool,
        progress: Callable[[IngestProgress], None] | None,
        read_options: Mapping[str, Any],
    ) -> IngestReport:
        started = time.perf_counter()
        report = IngestReport(self.collection.name, dry_run=dry_run)
        if self.in_context and isinstance(self.space, ModelSpace):
            self.space.require_spans()
        self.chunker  # noqa: B018 - sizes that cannot be used are refused before a model is loaded, a collection made
        if not dry_run or self.collection.exists:
            report.created = self.collection.open(create=not dry_run, extend=True)
        states = self.states()
        sources = RunSources(documents, self.root, scope)
        planner = self.planner(states)
        stream = self.read(documents, report, sources, read_options)
        try:
            if dry_run:
                self._plan_only(stream, planner, report, progress)
            else:
                with self._bulk(created=report.created):
                    self._run(stream, planner, report, progress)
            report.interrupted = self._is_stopped()
            if not report.interrupted:
                self._prune(report, states, sources, delete=prune and not dry_run, allow=allow_mass_deletion)
            if not dry_run:
                self.store.barrier(self.collection.name)
        except StoreError as error:
            raise unavailable(self.store, "could not finish the run", error, report) from error
        report.seconds = time.perf_counter() - started
        return report

    def stop(self) -> None:
        """End the running ingest after the group in hand, or the next one before it begins.

        Safe to call from a signal handler or another thread.
        """
        self._stopped = True

    def _is_stopped(self) -> bool:
        return self._stopped or (self._stop_event is not None and self._stop_event.is_set())

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
            score_threshold: Leave out hits that score worse, on the scale of the hits' own scores: similarity or
                distance, the fused rank of a hybrid search, or the reranker's score.
            exact: Compare with every vector; None takes `index.hnsw.exact`, else lets the store choose.
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
        if isinstance(where, Filter | None):
            conditions = where
        else:
            conditions = parse_where(_listed(where), self.searcher.sources, self.index.typed_fields)
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
        """What cuts documents; made from the main model's tokenizer, without its weights.

        Chunks are no longer than the model of any further vector reads, as the main model counts.
        """
        if self._chunker is None:
            others = [space for space in self.collection.spaces.values() if isinstance(space, ModelSpace)]
            if isinstance(self.space, ModelSpace) and len(others) > 1:
                self._chunker = self.space.make_chunker(self.index, longest=min(space.longest for space in others))
            else:
                self._chunker = self.space.make_chunker(self.index)
        return self._chunker

    @property
    def in_context(self) -> bool:
        """Whether a chunk's vector is made of its whole document."""
        return self.index.chunk_context == "document"

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

    def states(self) -> dict[str, SourceState]:
        """What the store holds, by source; memory grows with documents, not with points."""
        if not self.collection.exists:
            return {}
        fields = ("source", *BOOKKEEPING_FIELDS)
        return source_states(self.store.scroll(self.collection.name, payload=fields, batch_size=1024))

    def planner(self, states: Mapping[str, SourceState], *, deep: bool = False) -> Planner:
        """What compares documents with the collection; see `Planner`."""
        return Planner(
            self.store,
            self.collection.name,
            self.chunker.chunk,
            chunking=self.chunking,
            vectors=self.collection.vectors,
            states=states,
            deep=deep,
            in_context=self.in_context,
        )

    def read(
        self, documents: Any, report: IngestReport, sources: RunSources, options: Mapping[str, Any]
    ) -> Iterable[Document]:
        """Read documents as `[index]` says, noting in the report what gives none and in `sources` what was met."""

        def note(failure: FailedSource) -> None:
            sources.note(failure, report.failed, report.skipped)

        settings = {"include": self.index.include, "exclude": self.index.exclude, **options}
        for document in read_documents(documents, root=self.root, on_error=note, **settings):
            try:
                typed = with_typed_metadata(document, self.index.typed_fields)
            except InputError as error:
                note(FailedSource(document.source, str(error), "invalid"))
                continue
            sources.meet(document.source)
            yield typed

    def _plan_only(
        self,
        documents: Iterable[Document],
        planner: Planner,
        report: IngestReport,
        progress: Callable[[IngestProgress], None] | None,
    ) -> None:
        for document in documents:
            if self._is_stopped():
                return
            report.documents += 1
            try:
                plan = planner.plan(document)
            except InputError as error:
                report.failed[document.source] = str(error)
                continue
            if plan is None:
                report.unchanged += 1
            else:
                report.new += plan.is_new
                report.changed += not plan.is_new
                report.chunks += plan.state.chunks
                report.embedded += len(plan.new)
                report.kept += plan.state.chunks - len(plan.new)
                report.deleted += len(plan.stale)
            if progress is not None:
                progress(IngestProgress("reading", report.documents, report.unchanged, report.embedded, 0, 0, False))

    def _run(
        self,
        documents: Iterable[Document],
        planner: Planner,
        report: IngestReport,
        progress: Callable[[IngestProgress], None] | None,
    ) -> None:
        truncated, cached = self._embedder.truncated(), self._embedder.cached()
        Pipeline(
            self.store,
            self.collection.name,
            planner,
            self._embedder.embed,
            self._embedder.find if not report.created else _find_nothing,
            report=report,
            progress=progress,
            is_stopped=self._is_stopped,
        ).run(documents)
        report.truncated = self._embedder.truncated() - truncated
        report.cached = self._embedder.cached() - cached

    @contextmanager
    def _bulk(self, *, created: bool) -> Iterator[None]:
        """Hold back the graphs of a collection that was just created."""
        if not created:
            yield
            return
        failure: BaseException | None = None
        try:
            with self.store.bulk(self.collection.name):
                try:
                    yield
                except BaseException as error:
                    failure = error
                    raise
        except StoreError as error:
            # A store that has gone cannot be told to build its graphs either; the next run does. What ended the run
            # is what the caller has to know.
            if failure is not None and error is not failure:
                raise failure from error
            raise

    def _prune(
        self,
        report: IngestReport,
        states: Mapping[str, SourceState],
        sources: RunSources,
        *,
        delete: bool,
        allow: bool,
    ) -> None:
        report.absent = sources.absent(states)
        if not delete or not report.absent:
            return
        in_scope = sources.in_scope(states)
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
    if not isinstance(store, str):
        return store if isinstance(store, Store) else open_store(store)
    scheme, _, path = store.partition(":")
    if scheme in ("edge", "local") and path:
        store = f"{scheme}:{folder / Path(path).expanduser()}"
    return open_store(store)


def _find_nothing(_digests: Sequence[str]) -> Mapping[str, Vectors]:
    return {}
