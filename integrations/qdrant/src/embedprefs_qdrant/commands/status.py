"""`embedprefs status`: what a collection holds, under which preferences, since when."""

from __future__ import annotations

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
from embedprefs_qdrant.commands.options import CollectionOption, StoreOption, open_ingestor


def register(app: typer.Typer) -> None:
    """Add the command."""

    @command(app, "status")
    def status(
        store: StoreOption = None,
        collection: CollectionOption = None,
        format: FormatOption = ResultFormat.TEXT,  # noqa: A002 - the option's name
        preferences: PreferencesOption = None,
        set_: SetOption = None,
    ) -> int:
        """Show what a collection holds and under which preferences; exit code 1 where yours are others."""
        with open_ingestor(preferences, set_, store, collection) as ingestor:
            found = ingestor.status()
        if format is ResultFormat.JSON:
            print_json(found.to_json())
            return 1 if found.fits is False else 0
        rows = [
            ["collection", found.collection],
            ["store", f"{found.store} ({found.engine}, {found.state})"],
            ["holds", f"{many(found.points, 'chunk')} of {many(found.documents, 'document')}"],
            *(["vector", f"{name or 'unnamed'}: {words}"] for name, words in found.vectors.items()),
            ["created", f"{found.created_at} by {found.writer}" if found.created_at else "not recorded"],
            ["fingerprint", found.fingerprint or "not recorded"],
        ]
        if found.incomplete:
            rows.append(
                ["incomplete", f"{many(len(found.incomplete), 'document')}; run `embedprefs index` again to finish"]
            )
        words = {True: "yes", False: "no", None: "nobody knows: the collection carries no record"}[found.fits]
        rows.append(["fits", words])
        print_table(["", ""], rows)
        if found.mismatch is not None:
            print_result(found.mismatch)
        return 1 if found.fits is False else 0
