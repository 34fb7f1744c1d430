"""`embedprefs verify`: the store against its source."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import typer

from embedprefs.cli.plugin import (
    FormatOption,
    PreferencesOption,
    ResultFormat,
    SetOption,
    command,
    print_json,
    print_result,
    print_table,
)
from embedprefs.wording import many
from embedprefs_qdrant.commands.options import (
    CollectionOption,
    IdFieldOption,
    StoreOption,
    TextFieldOption,
    given_documents,
    open_ingestor,
)


def _chunks_of(found: Mapping[str, int]) -> str:
    """Chunks that were found in documents, counted."""
    return f"{many(sum(found.values()), 'chunk')} of {many(len(found), 'document')}"


def register(app: typer.Typer) -> None:
    """Add the command."""

    @command(app, "verify")
    def verify(
        paths: Annotated[list[str] | None, typer.Argument(help="What was indexed; index.root by default.")] = None,
        sample: Annotated[
            int, typer.Option("--sample", min=0, help="Points whose text is embedded again and compared.")
        ] = 32,
        repair: Annotated[
            bool, typer.Option("--repair", help="Embed what is missing or deviates, delete what is stale.")
        ] = False,
        text_field: TextFieldOption = None,
        id_field: IdFieldOption = None,
        store: StoreOption = None,
        collection: CollectionOption = None,
        format: FormatOption = ResultFormat.TEXT,  # noqa: A002 - the option's name
        preferences: PreferencesOption = None,
        set_: SetOption = None,
    ) -> int:
        """Compare a collection with its documents; exit code 1 where they do not agree, 4 where some cannot be read."""
        options = {"text_field": text_field, "id_field": id_field}
        with open_ingestor(preferences, set_, store, collection) as ingestor:
            documents = given_documents(paths, ingestor)
            report = ingestor.verify(documents, sample=sample, repair=repair, read_options=options)
        good = report.is_good or report.repaired
        code = 1 if not good else 4 if report.unreadable else 0
        if format is ResultFormat.JSON:
            print_json(report.to_json())
            return code
        rows = [
            ["compared", f"{many(report.documents, 'document')} with {many(report.points, 'chunk')}"],
            ["missing", _chunks_of(report.missing)],
            ["incomplete", f"{_chunks_of(report.incomplete)}, without a vector or with one of another identity"],
            ["stale", _chunks_of(report.stale)],
            ["outdated", _chunks_of(report.outdated)],
            ["absent", f"{many(len(report.absent), 'document')} of the collection not in the source"],
            ["foreign", f"{many(report.foreign, 'point')} not written by an ingest"],
            ["sampled", f"{many(report.sampled, 'chunk')} embedded again, {len(report.deviating)} deviating"],
            ["unreadable", many(len(report.unreadable), "source")],
        ]
        print_table(["", ""], rows)
        for source in sorted({*report.missing, *report.incomplete, *report.stale, *report.outdated}):
            print_result(f"  {source}")
        for source, reason in report.unreadable.items():
            print_result(f"  {source}: {reason}")
        for point, cosine in report.deviating.items():
            print_result(f"  {point}: cosine {cosine:.4f} to its text embedded again")
        if report.repaired:
            print_result("Repaired.")
        elif report.is_good:
            print_result("Store and source agree.")
        else:
            print_result(
                "They do not agree. `--repair` mends what is missing, incomplete, stale, outdated or deviating;"
            )
            print_result("`embedprefs index --prune` removes what is absent.")
        return code
