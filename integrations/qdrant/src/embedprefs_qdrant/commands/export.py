"""`embedprefs export`: a collection copied to another store, with its record."""

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
    progress,
)
from embedprefs.wording import many
from embedprefs_qdrant.commands.options import CollectionOption, StoreOption, here, open_ingestor


def register(app: typer.Typer) -> None:
    """Add the command."""

    @command(app, "export")
    def export(
        to: Annotated[str, typer.Option("--to", metavar="URL", help="The store to copy to.")],
        to_collection: Annotated[
            str | None, typer.Option("--to-collection", metavar="NAME", help="Its name there; the same by default.")
        ] = None,
        store: StoreOption = None,
        collection: CollectionOption = None,
        format: FormatOption = ResultFormat.TEXT,  # noqa: A002 - the option's name
        preferences: PreferencesOption = None,
        set_: SetOption = None,
    ) -> int:
        """Copy a collection to another store, from the embedded engine to a server for one; a rerun continues."""
        from embedprefs_qdrant.stores import open_store
        from embedprefs_qdrant.transfer import export_collection

        with (
            open_ingestor(preferences, set_, store, collection) as ingestor,
            open_store(here(to)) as target,
            progress("Copying", unit="points") as show,
        ):
            report = export_collection(
                ingestor.store, ingestor.collection.name, target, target_name=to_collection, progress=show
            )
        if format is ResultFormat.JSON:
            print_json(report.to_json())
        else:
            print_result(
                f"{report.collection} in {report.store}: {many(report.verified, 'point')}, {report.copied} copied now."
            )
            if report.surplus:
                print_result(f"{many(report.surplus, 'point')} there that the source does not have; left as found.")
        return 0 if report.verified >= report.points else 1
