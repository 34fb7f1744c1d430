"""`embedprefs adopt`: preferences recorded for a collection that something else filled."""

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
from embedprefs.wording import many
from embedprefs_qdrant.commands.options import CollectionOption, StoreOption, open_ingestor


def register(app: typer.Typer) -> None:
    """Add the command."""

    @command(app, "adopt")
    def adopt(
        sample: Annotated[int, typer.Option("--sample", min=1, help="Points to embed again and compare.")] = 64,
        text_field: Annotated[
            str | None, typer.Option("--text-field", help="Payload field with the text; found by itself as a rule.")
        ] = None,
        vector: Annotated[
            str | None, typer.Option("--vector", help="Name of the stored vector, where there are several.")
        ] = None,
        force: Annotated[bool, typer.Option("--force", help="Record also where the vectors do not agree.")] = False,
        store: StoreOption = None,
        collection: CollectionOption = None,
        format: FormatOption = ResultFormat.TEXT,  # noqa: A002 - the option's name
        preferences: PreferencesOption = None,
        set_: SetOption = None,
    ) -> int:
        """Embed a stored sample again and, where it agrees, record these preferences with the collection."""
        from embedprefs_qdrant.adoption import adopt_collection

        with open_ingestor(preferences, set_, store, collection) as ingestor:
            report = adopt_collection(ingestor, sample=sample, text_field=text_field, vector=vector, force=force)
        if format is ResultFormat.JSON:
            print_json(report.to_json())
            return 0 if report.recorded else 1
        vector_words = f"vector {report.vector!r}" if report.vector else "unnamed vector"
        print_table(
            ["", ""],
            [
                ["collection", report.collection],
                ["compared", f"{many(report.sampled, 'point')}, {vector_words}, text in {report.text_field!r}"],
                *([] if report.template == "{text}" else [["template", repr(report.template)]]),
                *([["left empty", ", ".join(report.absent_fields)]] if report.absent_fields else []),
                ["median cosine", f"{report.median_cosine:.5f}"],
                ["least cosine", f"{report.least_cosine:.5f}"],
                ["as queries", f"{report.as_query_cosine:.5f} (the same texts with the query prompt)"],
            ],
        )
        if report.agrees:
            print_result("These preferences made the vectors; they are recorded now.")
        elif report.recorded:
            print_result("The vectors do not agree; the preferences are recorded all the same, as asked.")
        else:
            print_result("These preferences did not make the vectors; nothing was recorded.")
            print_result(
                "Look at the model, its prompts, index.template, vectors.truncate_dim and tokenizer.max_seq_length."
            )
        return 0 if report.recorded else 1
