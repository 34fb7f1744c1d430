"""`embedprefs search`: questions in, passages out."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from embedprefs import InputError
from embedprefs.cli.plugin import (
    FormatOption,
    PreferencesOption,
    ResultFormat,
    SetOption,
    command,
    print_json,
    print_result,
    say,
    styled,
)
from embedprefs_qdrant.commands.options import CollectionOption, StoreOption, open_ingestor

if TYPE_CHECKING:
    from embedprefs_qdrant.searching import SearchHit


def register(app: typer.Typer) -> None:
    """Add the command."""

    @command(app, "search")
    def search(
        query: Annotated[list[str] | None, typer.Argument(help="The question; several are answered in turn.")] = None,
        batch: Annotated[
            Path | None, typer.Option("--batch", metavar="FILE", help="A file with a question on each line.")
        ] = None,
        limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="Hits for each question.")] = 5,
        offset: Annotated[int, typer.Option("--offset", min=0, help="Hits to skip first.")] = 0,
        where: Annotated[
            list[str] | None,
            typer.Option("--where", metavar="CONDITION", help="As in path=docs/*, year>=2020, lang=en|de; repeatable."),
        ] = None,
        score_threshold: Annotated[
            float | None, typer.Option("--score-threshold", help="Leave out hits that score worse.")
        ] = None,
        exact: Annotated[
            bool | None, typer.Option("--exact/--approximate", help="Compare with every vector, or walk the graph.")
        ] = None,
        mmr: Annotated[
            float | None,
            typer.Option("--mmr", min=0.0, max=1.0, help="Choose hits that differ: 1 relevance, 0 difference."),
        ] = None,
        per_document: Annotated[
            int | None, typer.Option("--per-document", min=1, help="Most hits of one document.")
        ] = None,
        hybrid: Annotated[
            bool | None, typer.Option("--hybrid/--dense", help="Fuse with the sparse ranking, or not.")
        ] = None,
        rerank: Annotated[
            bool | None, typer.Option("--rerank/--no-rerank", help="Order the first hits again with [rerank].")
        ] = None,
        vector: Annotated[
            str | None, typer.Option("--vector", metavar="NAME", help="Search this vector of [index.vectors].")
        ] = None,
        store: StoreOption = None,
        collection: CollectionOption = None,
        format: FormatOption = ResultFormat.TEXT,  # noqa: A002 - the option's name
        preferences: PreferencesOption = None,
        set_: SetOption = None,
    ) -> int:
        """Find the passages that answer a question; exit code 1 where nothing was found."""
        queries = [*(query or []), *_lines(batch)]
        if not queries:
            raise typer.BadParameter("ask something, or name a file with --batch")
        with open_ingestor(preferences, set_, store, collection) as ingestor:
            results: list[list[SearchHit]] = ingestor.search(
                queries,
                limit=limit,
                offset=offset,
                where=where,
                score_threshold=score_threshold,
                exact=exact,
                mmr=mmr,
                per_document=per_document,
                hybrid=hybrid,
                rerank=rerank,
                vector=vector,
            )
        if format is ResultFormat.JSON:
            print_json(
                [
                    {"query": text, "hits": [hit.to_json() for hit in hits]}
                    for text, hits in zip(queries, results, strict=True)
                ]
            )
        else:
            for text, hits in zip(queries, results, strict=True):
                _print(text, hits, offset, several=len(queries) > 1)
        return 0 if any(results) else 1


def _lines(file: Path | None) -> list[str]:
    if file is None:
        return []
    try:
        text = file.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise InputError(f"{file}: There is no such file of questions.", file=file) from error
    except UnicodeDecodeError as error:
        raise InputError(f"{file}: Not UTF-8, at byte {error.start}.\n  Save the file as UTF-8.", file=file) from error
    return [line.strip() for line in text.splitlines() if line.strip()]


def _print(query: str, hits: list[SearchHit], offset: int, *, several: bool) -> None:
    if several:
        print_result(styled(query, "bold"))
    if not hits:
        say(f"Nothing found for {query!r}.")
    for place, hit in enumerate(hits, start=offset + 1):
        heading = " > ".join(hit.headings)
        line = f"{place:>2}  {hit.score:.3f}  {hit.source}:{hit.start}-{hit.end}"
        print_result(styled(f"{line}  {heading}".rstrip(), "bold cyan"))
        text = " ".join(hit.text.split())
        for row in textwrap.wrap(textwrap.shorten(text, 300, placeholder=" …"), 100):
            print_result(styled(f"    {row}"))
