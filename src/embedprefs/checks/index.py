"""Rules about what is indexed and how it is searched."""

from __future__ import annotations

import string
from collections.abc import Iterator

from embedprefs.checks.rule import Found, rule
from embedprefs.checks.subject import Subject

__all__: list[str] = []


@rule(
    "chunk-too-long",
    "error",
    cases=(8,),
    needs=("facts", "resolved"),
    host_today="The end of each chunk is cut off before it is embedded, without a message.",
    example="[index]\nchunk_tokens = 1024\n[tokenizer]\nmax_seq_length = 256",
    fix="Write an index.chunk_tokens that fits into tokenizer.max_seq_length together with prompt and template.",
)
def chunk_too_long(subject: Subject) -> Iterator[Found]:
    """Chunks are longer than the model reads.

    What is behind the limit is in the store as text, and in no vector: it can never be found.
    """
    length = subject.choices["tokenizer.max_seq_length"]
    chunk = subject.preferences.index.chunk_tokens
    if length is None or chunk is None or subject.preferences.tokenizer.overflow == "window":
        return
    tokenizer = subject.model.tokenizer
    specials = tokenizer.specials_per_text if tokenizer is not None else 0
    prompt = len(subject.choices["prompts.document"].split())
    if chunk + specials + prompt > length:
        yield Found(
            "index.chunk_tokens",
            f"Chunks of {chunk} tokens, {specials} special tokens and a prompt of at least {prompt}, and the model "
            f"reads {length}.",
            f"Write chunk_tokens = {max(8, (length - specials - prompt) * 9 // 10)} or less.",
            None if chunk > length else "warning",
        )


@rule(
    "chunk-overlap-too-large",
    "error",
    host_today="Not a setting of the host.",
    example="[index]\nchunk_tokens = 128\nchunk_overlap = 128",
    fix="Write a smaller index.chunk_overlap.",
)
def chunk_overlap_too_large(subject: Subject) -> Iterator[Found]:
    """Chunks would not advance.

    Neighbouring chunks share `chunk_overlap` tokens. Where that is a whole chunk, each begins where the last began.
    """
    index = subject.preferences.index
    chunk = index.chunk_tokens
    if chunk is not None and index.chunk_overlap >= chunk:
        yield Found(
            "index.chunk_overlap",
            f"Chunks of {chunk} tokens share {index.chunk_overlap}.",
            f"Write chunk_overlap = {chunk // 8}.",
        )


@rule(
    "template-without-text",
    "error",
    host_today="Not a setting of the host.",
    example='[index]\ntemplate = "{title}"',
    fix="Write {text} into index.template.",
)
def template_without_text(subject: Subject) -> Iterator[Found]:
    """The template leaves out the text, or names a part that does not exist.

    What is embedded is what the template makes of a chunk. Without {text} all chunks of a document get one vector.
    """
    template = subject.preferences.index.template
    try:
        names = {name for _, name, _, _ in string.Formatter().parse(template) if name is not None}
    except ValueError as error:
        yield Found("index.template", f"The template cannot be read: {error}.", 'Write template = "{text}".')
        return
    allowed = {"text", "headings", "title", "source"}
    for name in sorted(names - allowed):
        yield Found(
            "index.template",
            f"{{{name}}} is no part of a chunk.",
            "Use {text}, {headings}, {title} and {source}.",
        )
    if "text" not in names:
        yield Found("index.template", f'"{template}" leaves out {{text}}.', 'Write template = "{headings}\\n{text}".')


@rule(
    "two-stage-dims-too-large",
    "error",
    needs=("facts", "resolved"),
    host_today="Not a setting of the host.",
    example="[index]\ntwo_stage_dims = 512\n[vectors]\ntruncate_dim = 256",
    fix="Write a smaller index.two_stage_dims.",
)
def two_stage_dims_too_large(subject: Subject) -> Iterator[Found]:
    """The first stage of the search is not shorter than the whole vector.

    The first dimensions find the hits, all of them rank these. With as many dimensions the first stage saves nothing.
    """
    dims = subject.preferences.index.two_stage_dims
    dimension = subject.choices.embedding_dimension
    if dims is not None and dimension is not None and dims >= dimension:
        yield Found(
            "index.two_stage_dims",
            f"The first stage uses {dims} dimensions, and the vectors have {dimension}.",
            f"Write two_stage_dims = {max(8, dimension // 4)}, or leave it out.",
        )


@rule(
    "tenant-field-undeclared",
    "error",
    host_today="Not a setting of the host.",
    example='[index]\ntenant_field = "customer"  # not among metadata_fields',
    fix="Declare the field under index.metadata_fields.",
)
def tenant_field_undeclared(subject: Subject) -> Iterator[Found]:
    """The field that separates tenants is not declared.

    Searches filter on it each time, and need its index.
    """
    index = subject.preferences.index
    if index.tenant_field is not None and index.tenant_field not in index.metadata_fields:
        yield Found(
            "index.tenant_field",
            f'"{index.tenant_field}" is not among index.metadata_fields.',
            f'Write {index.tenant_field} = "keyword" under [index.metadata_fields].',
        )
