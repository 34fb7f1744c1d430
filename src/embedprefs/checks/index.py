"""Rules about what is indexed and how it is searched."""

from __future__ import annotations

from collections.abc import Iterator

from embedprefs.checks.rule import Found, rule
from embedprefs.checks.subject import Subject
from embedprefs.facts.span_support import objection_to_spans
from embedprefs.preferences.index_limits import (
    DEFAULT_CHUNK_TOKENS,
    LEAST_CHUNK_TOKENS,
    OWN_VECTOR_NAMES,
    PACKED_PRECISIONS,
    TENANT_TYPES,
    chunk_context_problems,
    most_chunk_overlap,
    store_address_problem,
    template_problems,
)

__all__: list[str] = []


def _beside_the_text(subject: Subject) -> tuple[int, int]:
    """Special tokens, and the words of the document prompt: at least as many tokens as stand beside a chunk."""
    tokenizer = subject.model.tokenizer
    specials = tokenizer.specials_per_text if tokenizer is not None else 0
    return specials, len(subject.choices["prompts.document"].split())


def _most_chunk_tokens(subject: Subject) -> int:
    """Tokens of a chunk, at most; what the tokenizer counts when documents are cut is never more."""
    stated = subject.preferences.index.chunk_tokens
    if stated is not None:
        return stated
    if subject.facts is None or subject.resolved is None:
        return DEFAULT_CHUNK_TOKENS
    length: int | None = subject.choices["tokenizer.max_seq_length"]
    if length is None:
        return DEFAULT_CHUNK_TOKENS
    return min(DEFAULT_CHUNK_TOKENS, length - sum(_beside_the_text(subject)))


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
    specials, prompt = _beside_the_text(subject)
    if chunk + specials + prompt > length:
        yield Found(
            "index.chunk_tokens",
            f"Chunks of {chunk} tokens, {specials} special tokens and a prompt of at least {prompt}, and the model "
            f"reads {length}.",
            f"Write chunk_tokens = {max(LEAST_CHUNK_TOKENS, (length - specials - prompt) * 9 // 10)} or less.",
        )


@rule(
    "chunk-overlap-too-large",
    "error",
    host_today="Not a setting of the host.",
    example="[index]\nchunk_tokens = 128\nchunk_overlap = 128",
    fix="Write a smaller index.chunk_overlap.",
)
def chunk_overlap_too_large(subject: Subject) -> Iterator[Found]:
    """Neighbouring chunks would share more than half of their text.

    Each chunk would repeat most of the one before it, and an index of several times the size would find the same
    passages. `embedprefs index` refuses it.
    """
    index = subject.preferences.index
    chunk = _most_chunk_tokens(subject)
    most = most_chunk_overlap(chunk)
    if index.chunk_overlap > most:
        yield Found(
            "index.chunk_overlap",
            f"Chunks of at most {chunk} tokens share {index.chunk_overlap}; allowed are 0 to {most}, half of a chunk.",
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
    for problem in template_problems(subject.preferences.index.template):
        fix = f"{problem.fix} " if problem.fix else ""
        yield Found("index.template", problem.message, f"{fix}Allowed: {problem.allowed}.")


@rule(
    "chunk-context-not-possible",
    "error",
    needs=("facts", "resolved"),
    host_today="Not a setting of the host.",
    example='[model]\nname = "BAAI/bge-small-en-v1.5"  # takes the first token\n[index]\nchunk_context = "document"',
    fix='Use a model whose pooling is "mean", or leave index.chunk_context out.',
)
def chunk_context_not_possible(subject: Subject) -> Iterator[Found]:
    """Chunks are to be read in their documents, and the model does not average token vectors.

    A chunk's vector is then the mean of its tokens' vectors. A model that was trained to say everything in its first or
    last token, or that looks up each word by itself, has no such vector for a part of a text.
    """
    if subject.preferences.index.chunk_context != "document":
        return
    reason = objection_to_spans(subject.model, subject.choices["model.pooling"])
    if reason is not None:
        yield Found(
            "index.chunk_context",
            f'chunk_context is "document", and {reason}.',
            'Write chunk_context = "chunk", or use a model whose pooling is "mean".',
        )


@rule(
    "chunk-context-contradicted",
    "error",
    host_today="Not a setting of the host.",
    example='[index]\nchunk_context = "document"\ntemplate = "{headings}\\n{text}"',
    fix="Leave out index.template and index.vectors, or index.chunk_context.",
)
def chunk_context_contradicted(subject: Subject) -> Iterator[Found]:
    """Chunks are to be read in their documents, and another preference asks for something else.

    A document is read as it stands, so that a template could not put its words around each chunk. Further vectors of
    other models are made for chunks by themselves.
    """
    for problem in chunk_context_problems(subject.preferences.index):
        field = problem.key
        if field == "index.vectors":
            field = f"index.vectors.{next(iter(subject.preferences.index.vectors))}.model.name"
        yield Found(field, problem.message, f"{problem.fix}")


@rule(
    "chunk-context-too-narrow",
    "warning",
    needs=("facts", "resolved"),
    host_today="Not a setting of the host.",
    example='[tokenizer]\nmax_seq_length = 256\n[index]\nchunk_context = "document"\nchunk_tokens = 200',
    fix="Write a smaller index.chunk_tokens, or use a model that reads more.",
)
def chunk_context_too_narrow(subject: Subject) -> Iterator[Found]:
    """Chunks are to be read in their documents, and the model reads hardly more than a chunk.

    A document that is longer than the model reads is read in windows. Where a window holds less than two chunks, most
    of a chunk's surroundings are never read with it, and its vector says little more than that of the chunk alone.
    """
    length: int | None = subject.choices["tokenizer.max_seq_length"]
    if subject.preferences.index.chunk_context != "document" or length is None:
        return
    chunk = _most_chunk_tokens(subject)
    room = length - sum(_beside_the_text(subject))
    if 2 * chunk > room:
        yield Found(
            "index.chunk_context",
            f"Chunks have up to {chunk} tokens, and a window of the document holds {room}.",
            f"Write chunk_tokens = {max(LEAST_CHUNK_TOKENS, room // 4)}, or use a model that reads more.",
        )


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
    "note",
    host_today="Not a setting of the host.",
    example='[index]\ntenant_field = "customer"  # not among metadata_fields',
    fix="Declare the field under index.metadata_fields where its values are UUIDs; else nothing.",
)
def tenant_field_undeclared(subject: Subject) -> Iterator[Found]:
    """The field that separates tenants is not declared; it is taken for a keyword.

    Its values are stored and compared as texts, and get the index that searches within one tenant need.
    """
    index = subject.preferences.index
    if index.tenant_field is not None and index.tenant_field not in index.metadata_fields:
        yield Found(
            "index.tenant_field",
            f'"{index.tenant_field}" is not among index.metadata_fields, so it is indexed as a keyword.',
            f'Nothing to do; {index.tenant_field} = "keyword" under [index.metadata_fields] says it openly.',
        )


@rule(
    "tenant-field-type",
    "error",
    host_today="Not a setting of the host.",
    example='[index]\ntenant_field = "customer"\n[index.metadata_fields]\ncustomer = "integer"',
    fix="Declare the tenant field as a keyword or a uuid.",
)
def tenant_field_type(subject: Subject) -> Iterator[Found]:
    """The field that separates tenants has a type that cannot.

    The engine keeps the points of one tenant together by an index of keywords or UUIDs; it has none for other types.
    """
    index = subject.preferences.index
    kind = index.metadata_fields.get(index.tenant_field) if index.tenant_field is not None else None
    if kind is not None and kind not in TENANT_TYPES:
        yield Found(
            "index.tenant_field",
            f'"{index.tenant_field}" is declared as {kind}, and tenants are separated by {" or ".join(TENANT_TYPES)}.',
            f'Write {index.tenant_field} = "keyword" under [index.metadata_fields].',
        )


@rule(
    "store-address",
    "error",
    host_today="Not a setting of the host.",
    example='[index]\nstore = "postgres://localhost"',
    fix="Write index.store as edge:PATH, http(s)://HOST, grpc(s)://HOST, local:PATH or :memory:.",
)
def store_address(subject: Subject) -> Iterator[Found]:
    """The address of the store leads nowhere.

    It is of no known kind, lacks its folder or host, or holds a secret, which belongs into the environment.
    """
    problem = store_address_problem(subject.preferences.index.store)
    if problem is not None:
        fix = f" {problem.fix}" if problem.fix else ""
        yield Found("index.store", problem.message, f"Allowed: {problem.allowed}.{fix}")


@rule(
    "precision-not-for-a-collection",
    "error",
    host_today="Nothing; a vector database takes the packed bytes for dimensions, and ranks by noise.",
    example='[vectors]\nprecision = "binary"\n[index]\ncollection = "documents"',
    fix='Leave vectors.precision at "float32" and write quantization = "binary" under [index].',
)
def precision_not_for_a_collection(subject: Subject) -> Iterator[Found]:
    """Packed bits cannot be kept in a collection.

    With binary precision a number holds eight dimensions. A store would compare these numbers as if they were
    dimensions. Its own binary quantization packs the bits itself, and scores the best hits again on the full vectors.
    """
    preferences = subject.preferences
    if not any(key.startswith("index.") for key in preferences.stated()):
        return  # vectors that go into a file may well be packed
    resolved = subject.resolved
    main = resolved["vectors.precision"] if resolved is not None else preferences.vectors.precision
    precisions = {"vectors.precision": main}
    precisions |= {
        f"index.vectors.{name}.vectors.precision": vector.vectors.precision
        for name, vector in preferences.index.vectors.items()
    }
    for key, precision in precisions.items():
        if precision in PACKED_PRECISIONS:
            yield Found(
                key,
                f'"{precision}" packs eight dimensions into a number, which no collection can compare.',
                f'Write {key.rpartition(".")[2]} = "float32" there, and quantization = "binary" under [index].',
            )


@rule(
    "vector-name-taken",
    "error",
    host_today="Not a setting of the host.",
    example="A further vector in the table [index.vectors.dense].",
    fix="Give the further vector another name.",
)
def vector_name_taken(subject: Subject) -> Iterator[Found]:
    """A further vector is called like one that every collection has by itself.

    The main vector, its first dimensions, the sparse and the token vectors have fixed names.
    """
    for name in subject.preferences.index.vectors:
        if name in OWN_VECTOR_NAMES:
            yield Found(
                f"index.vectors.{name}.model.name",
                f'"{name}" is what a collection calls one of its own vectors.',
                f"Choose any name but {', '.join(OWN_VECTOR_NAMES)}.",
            )
