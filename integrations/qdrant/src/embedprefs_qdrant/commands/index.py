"""`embedprefs index`: documents into Qdrant."""

from __future__ import annotations

import signal
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Annotated, Any

import typer

from embedprefs.cli.plugin import (
    FormatOption,
    PreferencesOption,
    ResultFormat,
    SetOption,
    command,
    print_json,
    print_result,
    progress,
    say,
)
from embedprefs_qdrant.commands.options import (
    CollectionOption,
    IdFieldOption,
    TextFieldOption,
    given_documents,
    open_ingestor,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from embedprefs_qdrant.ingest import QdrantIngestor
    from embedprefs_qdrant.report import IngestProgress


def register(app: typer.Typer) -> None:
    """Add the command."""

    @command(app, "index")
    def index(
        paths: Annotated[
            list[str] | None, typer.Argument(help="Files, folders and patterns; index.root by default.")
        ] = None,
        into: Annotated[
            str | None, typer.Option("--into", metavar="URL", help="The store, in place of index.store.")
        ] = None,
        collection: CollectionOption = None,
        dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done; embed nothing.")] = False,
        prune: Annotated[
            bool, typer.Option("--prune", help="Remove documents that are gone from the given folders.")
        ] = False,
        allow_mass_deletion: Annotated[
            bool, typer.Option("--allow-mass-deletion", help="Prune even where more than half would go.")
        ] = False,
        optimize: Annotated[
            bool, typer.Option("--optimize", help="Build the search graph afterwards; pays from some 20,000 chunks.")
        ] = False,
        quantization: Annotated[
            str | None, typer.Option("--quantization", help="In place of index.quantization.")
        ] = None,
        on_disk: Annotated[
            bool | None, typer.Option("--on-disk/--in-memory", help="In place of index.on_disk.")
        ] = None,
        text_field: TextFieldOption = None,
        id_field: IdFieldOption = None,
        format: FormatOption = ResultFormat.TEXT,  # noqa: A002 - the option's name
        preferences: PreferencesOption = None,
        set_: SetOption = None,
    ) -> int:
        """Put documents into Qdrant: only what is new or changed is embedded; a rerun continues where one stopped."""
        settings = list(set_ or [])
        if quantization is not None:
            settings.append(f"index.quantization={quantization}")
        if on_disk is not None:
            settings.append(f"index.on_disk={'true' if on_disk else 'false'}")
        options: dict[str, Any] = {"text_field": text_field, "id_field": id_field}
        with open_ingestor(preferences, settings, into, collection) as ingestor:
            documents = given_documents(paths, ingestor)
            with _finishing_the_batch(ingestor), progress("Indexing", unit="chunks") as show:
                report = ingestor.ingest(
                    documents,
                    dry_run=dry_run,
                    prune=prune,
                    allow_mass_deletion=allow_mass_deletion,
                    progress=lambda step: _show(step, show),
                    read_options=options,
                )
            if optimize and not dry_run and not report.interrupted:
                say("Building the search graph ...")
                ingestor.optimize()
        if format is ResultFormat.JSON:
            print_json(report.to_json())
        else:
            print_result(report.summary())
        return report.exit_code


def _show(step: IngestProgress, show: Any) -> None:
    show(step.embedded, step.planned if step.reading_done else None)


@contextmanager
def _finishing_the_batch(ingestor: QdrantIngestor) -> Iterator[None]:
    """Let a first Ctrl-C or SIGTERM end the run after the group in hand, and a second one at once."""

    def end(number: int, _frame: object) -> None:
        ingestor.stop()
        signal.signal(number, signal.default_int_handler)
        # The signal may come while this very thread writes, and Python forbids to write then: the word is lost.
        with suppress(RuntimeError):
            say("Finishing the batch in hand; once more to stop at once.")

    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    except KeyboardInterrupt:
        say("Stopped at once. What was acknowledged is stored; run again to continue.")
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
