"""`embedprefs verify`: the store against its source."""

from __future__ import annotations

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
from embedprefs_qdrant.commands.options import CollectionOption, StoreOption, open_ingestor


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
        store: StoreOption = None,
        collection: CollectionOption = None,
        format: FormatOption = ResultFormat.TEXT,  # noqa: A002 - the option's name
        preferences: PreferencesOption = None,
        set_: SetOption = None,
    ) -> int:
        """Compare a collection with its documents; exit code 1 where they do not agree."""
        with open_ingestor(preferences, set_, store, collection) as ingestor:
            report = ingestor.verify(paths or [str(ingestor.root)], sample=sample, repair=repair)
        good = report.is_good or report.repaired
        if format is ResultFormat.JSON:
            print_json(report.to_json())
            return 0 if good else 1
        rows = [
            ["compared", f"{report.documents} documents with {report.points} chunks"],
            ["missing", f"{sum(report.missing.values())} chunks of {len(report.missing)} documents"],
            ["stale", f"{sum(report.stale.values())} chunks of {len(report.stale)} documents"],
            ["outdated", f"{sum(report.outdated.values())} chunks of {len(report.outdated)} documents"],
            ["absent", f"{len(report.absent)} documents in the collection are not in the source"],
            ["foreign", f"{report.foreign} points were not written by an ingest"],
            ["sampled", f"{report.sampled} embedded again, {len(report.deviating)} of them deviate"],
            ["unreadable", f"{len(report.unreadable)} sources"],
        ]
        print_table(["", ""], rows)
        for source in sorted({*report.missing, *report.stale, *report.outdated}):
            print_result(f"  {source}")
        for point, cosine in report.deviating.items():
            print_result(f"  {point}: cosine {cosine:.4f} to its text embedded again")
        if report.repaired:
            print_result("Repaired.")
        elif report.is_good:
            print_result("Store and source agree.")
        else:
            print_result("They do not agree. `--repair` mends what is missing, stale, outdated or deviating;")
            print_result("`embedprefs index --prune` removes what is absent.")
        return 0 if good else 1
