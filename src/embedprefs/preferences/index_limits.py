"""What an index accepts: the bounds that `check` and whatever fills an index both keep to.

They stand here so that a file is refused by `embedprefs check` for the same reason as by `embedprefs index`, without
the check importing a vector database.
"""

from __future__ import annotations

import string
from collections.abc import Mapping
from difflib import get_close_matches
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from embedprefs.errors import Problem

if TYPE_CHECKING:
    from embedprefs.preferences.index import IndexPreferences

__all__ = [
    "API_KEY_VARIABLE",
    "CONTEXT_TEMPLATE",
    "DEFAULT_CHUNK_TOKENS",
    "LEAST_CHUNK_TOKENS",
    "OWN_VECTOR_NAMES",
    "PACKED_PRECISIONS",
    "STORE_ADDRESSES",
    "TEMPLATE_FIELDS",
    "TENANT_TYPES",
    "chunk_context_problems",
    "most_chunk_overlap",
    "store_address_problem",
    "template_problems",
]

#: Tokens of text that must fit beside prompt, template and special tokens.
LEAST_CHUNK_TOKENS = 8
#: Tokens of a chunk where neither the preferences nor the model ask for fewer.
DEFAULT_CHUNK_TOKENS = 512
#: What a template may name.
TEMPLATE_FIELDS = ("text", "headings", "title", "source")
#: The only template where chunks are read in their document: that is embedded as it stands.
CONTEXT_TEMPLATE = "{text}"
#: Types of an index that can separate tenants.
TENANT_TYPES = ("keyword", "uuid")
#: Precisions that pack eight dimensions into a number, which a store would compare as if it were a dimension.
PACKED_PRECISIONS = ("binary", "ubinary")
#: Names of the vectors that a collection has by itself: the main one, its first dimensions, sparse and token vectors.
OWN_VECTOR_NAMES = ("dense", "dense_first", "sparse", "late_interaction")
#: Where the key of a server is read from.
API_KEY_VARIABLE = "QDRANT_API_KEY"

#: Every kind of address, with what it leads to.
STORE_ADDRESSES: Mapping[str, str] = {
    "edge:PATH": "Qdrant's engine in this process",
    "http://HOST[:6333]": "a server, over REST",
    "https://HOST[:6333]": "a server, over REST",
    "grpc://HOST[:6334]": "a server, over gRPC",
    "grpcs://HOST[:6334]": "a server, over gRPC",
    "local:PATH": "the client's emulation, on disk",
    ":memory:": "the client's emulation, in memory",
}
_FOLDER_SCHEMES = ("edge", "local")
_SERVER_SCHEMES = ("http", "https", "grpc", "grpcs")


def most_chunk_overlap(chunk_tokens: int) -> int:
    """Tokens that two neighbouring chunks may share: half of a chunk, so that each says as much that is new."""
    return chunk_tokens // 2


def store_address_problem(address: str) -> Problem | None:
    """What is wrong with the address of a store, without opening it; None where nothing is.

    A secret in the address is not repeated.
    """
    if address == ":memory:":
        return None
    scheme, colon, rest = address.partition(":")
    scheme = scheme.lower() if colon else ""
    if scheme in _FOLDER_SCHEMES:
        return _folder_problem(address, scheme, rest)
    if scheme in _SERVER_SCHEMES:
        return _server_problem(address)
    return _unknown_kind(address, scheme)


def _folder_problem(address: str, scheme: str, path: str) -> Problem | None:
    if path and not path.startswith("//"):
        return None
    fix = f"Write {scheme}:{path[2:]}" if path[2:] else f"Write {scheme}:./index, for example."
    return _problem(f"The store {address!r} names no folder.", f"{scheme}:PATH", fix)


def _server_problem(address: str) -> Problem | None:
    parts = urlsplit(address)
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        return _problem(
            f"The address of the server {parts.hostname!r} carries more than scheme, host, port and path.",
            ", ".join(name for name in STORE_ADDRESSES if "//" in name),
            f"Put the API key into the environment variable {API_KEY_VARIABLE}.",
        )
    try:
        port = parts.port
    except ValueError:
        return _problem(f"The store {address!r} has no valid port.", "1 to 65535")
    if not parts.hostname or port == 0:
        return _problem(f"The store {address!r} names no server.", f"{parts.scheme}://HOST:PORT")
    if parts.scheme.startswith("grpc") and parts.path.strip("/"):
        return _problem(f"A gRPC address has no path, and this one has {parts.path!r}.", "grpc://HOST:6334")
    return None


def _unknown_kind(address: str, scheme: str) -> Problem:
    near = get_close_matches(scheme, [*_FOLDER_SCHEMES, *_SERVER_SCHEMES], n=1)
    if near:
        fix = f"Did you mean {near[0]}:...?"
    elif scheme and not scheme.startswith((".", "/", "~")):
        fix = "Choose one of these."
    else:
        fix = f"For a folder, write edge:{address}"
    shown = address.partition("?")[0].rpartition("@")[2] or "an empty string"
    return _problem(f"The store {shown!r} is of no known kind.", ", ".join(STORE_ADDRESSES), fix)


def _problem(message: str, allowed: str, fix: str | None = None) -> Problem:
    return Problem(message, allowed=allowed, fix=fix)


def template_problems(template: str, *, key: str = "index.template") -> list[Problem]:
    """Everything that is wrong with the template that makes the embedded text of a chunk.

    Args:
        template: The template.
        key: Dotted key of the preference, for the messages.
    """
    allowed = ", ".join(f"{{{field}}}" for field in TEMPLATE_FIELDS) + "; {{ and }} for braces"

    def problem(message: str, fix: str | None) -> Problem:
        return Problem(message, key=key, value=template, allowed=allowed, fix=fix)

    try:
        pieces = list(string.Formatter().parse(template))
    except ValueError as error:
        return [problem(f"{key} is no template: {error}.", None)]
    problems: list[Problem] = []
    for _, field, specification, conversion in pieces:
        if field is None:
            continue
        if field not in TEMPLATE_FIELDS:
            near = get_close_matches(field, TEMPLATE_FIELDS, n=1)
            problems.append(problem(f"{key} names {{{field}}}.", f"Did you mean {{{near[0]}}}?" if near else None))
        elif specification or conversion:
            found = f"{key} formats {{{field}}} with {conversion or specification!r}."
            problems.append(problem(found, f"Write {{{field}}}."))
    if not any(field == "text" for _, field, _, _ in pieces):
        problems.append(problem(f"{key} has no {{text}}: every chunk would get the same vector.", "Add {text}."))
    return problems


def chunk_context_problems(index: IndexPreferences) -> list[Problem]:
    """What `[index]` asks for that cannot go with chunks that are read in their document.

    Args:
        index: The preferences; without `chunk_context = "document"` nothing is wrong with them.
    """
    if index.chunk_context != "document":
        return []
    problems = []
    if index.template.strip() != CONTEXT_TEMPLATE:
        problems.append(
            Problem(
                'index.template puts something around each chunk, and with chunk_context = "document" the document is '
                "read as it stands.",
                key="index.template",
                value=index.template,
                allowed=f'"{CONTEXT_TEMPLATE}"',
                fix='Leave index.template out, or write chunk_context = "chunk".',
            )
        )
    if index.vectors:
        problems.append(
            Problem(
                f"index.vectors names {', '.join(index.vectors)}, and a collection whose chunk_context is "
                '"document" has one dense vector, that of the main model.',
                key="index.vectors",
                allowed="no further vectors",
                fix='Index with the other model into a collection of its own, or write chunk_context = "chunk".',
            )
        )
    return problems
