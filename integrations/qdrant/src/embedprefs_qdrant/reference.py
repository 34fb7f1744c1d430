"""What the stores can do, as a table for the documentation, from what they say of themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from embedprefs_qdrant.stores.protocol import Capabilities

__all__ = ["BEGIN", "END", "capabilities_table", "described_stores", "with_capabilities"]

#: What stands before and after the generated part of the page.
BEGIN = "<!-- generated from Capabilities: begin -->"
END = "<!-- generated from Capabilities: end -->"

_ROWS: Mapping[str, Callable[[Capabilities], str]] = {
    "reached by": lambda found: found.transport,
    "points outlive the process": lambda found: _yes(found.persistent),
    "several processes at once": lambda found: _yes(found.several_processes),
    "builds search graphs": lambda found: _yes(found.approximate_search),
    "builds them by itself": lambda found: _yes(found.optimizes_itself),
    "payload indexes speed up filters": lambda found: _yes(found.payload_indexes),
    "vectors can be added later": lambda found: _yes(found.adds_vectors),
    "aliases are kept by": lambda found: "the engine" if found.native_aliases else "a file beside the collections",
    "accepted, without effect": lambda found: ", ".join(f"`{name}`" for name in found.ignored) or "nothing",
}


def described_stores() -> dict[str, Capabilities]:
    """The capabilities of each kind of store, by the form of its address."""
    import tempfile

    from qdrant_client import QdrantClient

    from embedprefs_qdrant.stores import open_store
    from embedprefs_qdrant.stores.client import ClientStore

    with tempfile.TemporaryDirectory() as folder, open_store(f"edge:{folder}") as store:
        found = {"`edge:PATH`": store.capabilities}
    # Nothing is sent: a store that was not connected yet says what every server can do.
    client = QdrantClient(location=":memory:")
    found["`http(s)://HOST`"] = ClientStore(client, url="", kind="server", transport="REST").capabilities
    found["`grpc(s)://HOST`"] = ClientStore(client, url="", kind="server", transport="gRPC").capabilities
    local = ClientStore(client, url="", kind="local", transport="in process", owns_client=True)
    found["`local:PATH`"] = local.capabilities
    local.close()
    with open_store(":memory:") as store:
        found["`:memory:`"] = store.capabilities
    return found


def capabilities_table(stores: Mapping[str, Capabilities]) -> str:
    """The table and the notes below it, as Markdown."""
    return "\n".join(_lines(stores))


def _lines(stores: Mapping[str, Capabilities]) -> Iterator[str]:
    yield f"| | {' | '.join(stores)} |"
    yield "| --- |" + " --- |" * len(stores)
    for name, value in _ROWS.items():
        yield f"| {name} | {' | '.join(value(found) for found in stores.values())} |"
    notes: dict[tuple[str, ...], list[str]] = {}
    for name, found in stores.items():
        notes.setdefault(found.notes, []).append(name)
    for sentences, names in notes.items():
        yield ""
        yield f"{', '.join(names)}:"
        yield ""
        yield from (f"- {sentence}" for sentence in sentences)


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def with_capabilities(page: str) -> str:
    """The page with its generated part written anew.

    Raises:
        ValueError: The page has no such part.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"The page needs the lines {BEGIN} and {END}.")
    return f"{before}{BEGIN}\n{capabilities_table(described_stores())}\n{END}{after}"
