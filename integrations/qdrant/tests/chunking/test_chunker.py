"""What every chunk holds to, whatever the text: the bound, the offsets, the coverage, the order."""

from __future__ import annotations

import logging
import random
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from embedprefs.errors import InputError, InvalidPreferenceError
from embedprefs_qdrant.chunking import Chunker
from embedprefs_qdrant.documents import Document, read_documents

FAMILY = "👩\u200d👩\u200d👧\u200d👦"
WORDS = st.sampled_from(
    [
        "word",
        "Sentence ends.",
        "Why? ",
        "naïve",
        "e\u0301\u0327",
        FAMILY,
        "👍🏽",
        "🇩🇪🇫🇷",
        "漢字かな交じり文。",
        "مرحبا بالعالم؟ ",
        "שלום",
        "x" * 130,
        "https://example.org/a/very/long/path?with=parameters&and=more",
        "[SEP]",
        "\ufdfa",
        "ﬁ",
        "\u200b",
        "{braces}",
    ]
)
PIECES = st.one_of(
    WORDS,
    st.sampled_from([" ", "  ", "\n", "\n\n", "\r\n", "\r\n\r\n", "\t", "\f", "\x1c", "\u2028", "\xa0"]),
    st.sampled_from(
        ["\n# Heading\n", "\n\n## Deeper *one*\n\n", "\nTitle\n=====\n\n", "\n```\n# code\n\nx = 1\n```\n"]
    ),
    st.sampled_from(["\n- item\n- item\n", "\n| a | b |\n|---|---|\n| 1 | 2 |\n", "\n1. one\n2. two\n"]),
    st.text(max_size=12).filter(lambda text: text.isprintable()),
)
TEXTS = st.lists(PIECES, max_size=120).map("".join)
FORMATS = st.sampled_from(["markdown", "rst", "text", "html"])
RELAXED = settings(
    max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


def covered(chunks):
    """Every offset that is in at least one chunk."""
    return {offset for chunk in chunks for offset in range(chunk.start, chunk.end)}


@RELAXED
@given(text=TEXTS, document_format=FORMATS, overlap=st.sampled_from([0, 5, 12]))
def test_every_chunk_is_exact_bounded_and_nothing_is_lost(tokenizer, count_tokens, text, document_format, overlap):
    """Offsets give back the text, the model reads all of every chunk, and every visible character is in one."""
    prompt = "search_document: "
    chunker = Chunker(
        tokenizer,
        max_seq_length=64,
        chunk_tokens=24,
        chunk_overlap=overlap,
        prompt=prompt,
        template="{headings}\n{title}\n\n{text}",
    )
    chunks = chunker.chunk(Document("a", text, document_format))
    for number, chunk in enumerate(chunks):
        assert chunk.index == number
        assert chunk.text == text[chunk.start : chunk.end]
        assert chunk.text == chunk.text.strip() != ""
        assert chunk.text in chunk.embedded_text
        assert chunk.token_count == count_tokens(tokenizer, prompt + chunk.embedded_text) <= 64
    visible = {offset for offset, character in enumerate(text) if not character.isspace()}
    assert visible <= covered(chunks)
    assert [chunk.end for chunk in chunks] == sorted({chunk.end for chunk in chunks})
    assert [chunk.start for chunk in chunks] == sorted({chunk.start for chunk in chunks})


@RELAXED
@given(text=TEXTS)
def test_without_overlap_no_character_is_in_two_chunks(tokenizer, text):
    """Without overlap, chunks follow each other without meeting."""
    chunks = Chunker(tokenizer, max_seq_length=32).chunk(Document("a", text, "markdown"))
    for one, other in pairwise(chunks):
        assert one.end <= other.start


@RELAXED
@given(text=TEXTS, others=st.lists(TEXTS, max_size=3))
def test_a_document_is_cut_the_same_alone_and_among_others(tokenizer, text, others):
    """The same text and settings give the same chunks, in any company and by any chunker."""
    documents = [Document(f"{number}", each, "rst") for number, each in enumerate([*others, text])]
    first, second = (Chunker(tokenizer, max_seq_length=48, chunk_overlap=8) for _ in range(2))
    together = [chunks for _, chunks in first.chunk_many(documents)]
    assert together == [second.chunk(document) for document in documents]


@RELAXED
@given(text=TEXTS)
def test_a_function_that_counts_serves_as_tokenizer(text):
    """Without a fast tokenizer the bound holds as well: here a token is two bytes, and two are special."""

    def count(texts):
        return [2 + (len(each.encode()) + 1) // 2 for each in texts]

    chunks = Chunker(count, max_seq_length=40, chunk_overlap=6).chunk(Document("a", text, "text"))
    assert all(chunk.token_count == count([chunk.text])[0] <= 40 for chunk in chunks)
    assert {offset for offset, character in enumerate(text) if not character.isspace()} <= covered(chunks)


@pytest.mark.parametrize("text", ["", " ", "\n\n\t \r\n", "\xa0\u2003"])
def test_white_space_gives_no_chunk(minilm, document, text):
    """A document of white space has nothing to embed."""
    assert Chunker(minilm, max_seq_length=64).chunk(document(text)) == []


def test_front_matter_is_no_part_of_any_chunk(minilm, document):
    """Chunking starts behind the front matter, and offsets still count from the start of the file."""
    text = "---\ntitle: A page\n---\n# Heading\n\nBody.\n"
    (chunk,) = Chunker(minilm, max_seq_length=64).chunk(document(text, body_start=text.index("# Heading")))
    assert (chunk.text, chunk.start) == ("# Heading\n\nBody.", text.index("# Heading"))


def test_a_model_that_truncates_is_left_as_it_is(minilm, document):
    """Counting needs the whole text, and the tokenizer that the model uses keeps truncating."""
    minilm.enable_truncation(16)
    minilm.enable_padding(length=16)
    try:
        chunks = Chunker(minilm, max_seq_length=64).chunk(document("word " * 200))
        assert len(minilm.encode("word " * 200).ids) == 16
    finally:
        minilm.no_truncation()
        minilm.no_padding()
    assert sum(chunk.text.count("word") for chunk in chunks) == 200


def test_overlap_repeats_the_end_of_the_chunk_before(minilm, document):
    """Within a section each chunk starts with whole sentences of the one before, up to the overlap asked for."""
    text = " ".join(f"Sentence number {number} says little." for number in range(60))
    chunks = Chunker(minilm, max_seq_length=128, chunk_tokens=60, chunk_overlap=16).chunk(document(text, "text"))
    assert len(chunks) > 3
    for one, other in pairwise(chunks):
        repeated = text[other.start : one.end]
        assert repeated.startswith("Sentence")
        assert 0 < len(minilm.encode(repeated, add_special_tokens=False).ids) <= 16


def test_overlap_does_not_reach_over_a_heading(minilm, document):
    """A divided section starts with its own heading and repeats nothing of the section before."""
    text = "".join(f"# Part {part}\n\n" + f"Part {part} goes on for a while. " * 20 + "\n\n" for part in range(3))
    chunks = Chunker(minilm, max_seq_length=128, chunk_tokens=50, chunk_overlap=20).chunk(document(text))
    firsts = {chunk.headings: chunk for chunk in reversed(chunks)}
    assert [chunk.text[:8] for chunk in firsts.values()] == ["# Part 2", "# Part 1", "# Part 0"]


def test_editing_one_section_leaves_the_others_chunks_as_they_were(minilm, document):
    """A section's chunks depend on its own text alone: content, ids and headings stay."""
    parts = [f"## Part {part}\n\n" + f"Part {part} tells of matter {part}. " * 30 + "\n\n" for part in range(6)]
    chunker = Chunker(minilm, max_seq_length=128, chunk_overlap=10, template="{headings}\n\n{text}")
    before = chunker.chunk(document("# Book\n\n" + "".join(parts)))
    edited = [*parts]
    edited[2] = edited[2].replace("Part 2 tells", "An added remark. Part 2 now tells", 3)
    after = chunker.chunk(document("# Book\n\n" + "".join(edited)))

    def elsewhere(chunks):
        return [(chunk.id(), chunk.text, chunk.headings) for chunk in chunks if chunk.headings[-1] != "Part 2"]

    assert elsewhere(before) == elsewhere(after)
    assert len(elsewhere(before)) > 10
    assert {chunk.id() for chunk in before} != {chunk.id() for chunk in after}


@pytest.mark.parametrize("seed", range(5))
def test_a_paragraph_inserted_in_plain_text_changes_only_chunks_nearby(minilm, document, seed):
    """Without any heading, cuts fall at the same places again soon after an insertion."""
    drawn = random.Random(seed)
    words = [
        "river",
        "stone",
        "paper",
        "engine",
        "yellow",
        "garden",
        "window",
        "number",
        "travel",
        "simple",
        "letter",
        "morning",
    ]
    paragraphs = [
        " ".join(" ".join(drawn.choices(words, k=drawn.randint(6, 14))).capitalize() + "." for _ in range(3))
        for _ in range(300)
    ]
    chunker = Chunker(minilm, max_seq_length=128, chunk_overlap=16)
    before = {chunk.id() for chunk in chunker.chunk(document("\n\n".join(paragraphs), "text"))}
    paragraphs.insert(150, "This paragraph was not here before, and stands in the middle now.")
    after = {chunk.id() for chunk in chunker.chunk(document("\n\n".join(paragraphs), "text"))}
    assert 1 <= len(after - before) <= 12
    assert len(before) > 80


def test_repeated_text_is_told_apart_by_its_occurrence(minilm, document):
    """Chunks that embed the same text have one content hash and ids of their own."""
    chunks = Chunker(minilm, max_seq_length=64).chunk(
        document("# A\n\nSame.\n\n" + "# B\n\n" + "other " * 60 + "\n\n# A\n\nSame.\n")
    )
    same = [chunk for chunk in chunks if chunk.text == "# A\n\nSame."]
    assert [chunk.occurrence for chunk in same] == [0, 1]
    assert len({chunk.content_hash for chunk in same}) == 1
    assert len({chunk.id() for chunk in chunks}) == len(chunks)


def test_headings_too_long_for_the_model_are_shortened_and_said(minilm, document, caplog):
    """A heading that fills the model's window leaves half of it to the text; the full path stays in the chunk."""
    heading = "endless heading " * 100
    with caplog.at_level(logging.WARNING, logger="embedprefs"):
        chunks = Chunker(minilm, max_seq_length=64, template="{headings}\n\n{text}").chunk(
            document(f"# {heading}\n\n" + "body text " * 40)
        )
    assert all(chunk.token_count <= 64 and chunk.headings == (heading.strip(),) for chunk in chunks)
    assert "shortened" in caplog.text


def test_settings_that_leave_no_room_are_refused_with_the_numbers(minilm):
    """A prompt longer than the window, a chunk or an overlap out of range: the message names what is allowed."""
    with pytest.raises(InvalidPreferenceError, match=r"0 are left for text"):
        Chunker(minilm, max_seq_length=20, prompt="a very long prompt indeed " * 10)
    with pytest.raises(InvalidPreferenceError, match=r"index.chunk_tokens is 600.*\n.*8 to 254"):
        Chunker(minilm, max_seq_length=256, chunk_tokens=600)
    with pytest.raises(InvalidPreferenceError, match=r"index.chunk_overlap is 60.*\n.*0 to 50"):
        Chunker(minilm, max_seq_length=256, chunk_tokens=100, chunk_overlap=60)


def test_a_chunk_takes_512_tokens_where_the_model_reads_more(minilm):
    """Long windows do not make long chunks by themselves."""
    assert Chunker(minilm, max_seq_length=8192).chunk_tokens == 512
    assert Chunker(minilm, max_seq_length=256).chunk_tokens == 254


def test_marks_without_end_are_cut_in_the_end(byte_level, document):
    """A letter with more marks than the model reads is cut all the same, and loses nothing."""
    text = "a" + "\u0301" * 300
    chunks = Chunker(byte_level, max_seq_length=64).chunk(document(text, "text"))
    assert "".join(chunk.text for chunk in chunks) == text
    assert max(chunk.token_count for chunk in chunks) <= 64


def test_a_character_that_fits_nowhere_is_told_with_its_place(document):
    """There is no smaller part, and a truncated one would be embedded wrongly without a word."""

    def count(texts):
        return [2 + sum(100 if character == "§" else 1 for character in text) for text in texts]

    with pytest.raises(InputError, match=r"the character at offset 6 takes 102 tokens .* reads 40"):
        Chunker(count, max_seq_length=40).chunk(document("Plain § words", "text"))


def test_a_slow_tokenizer_is_refused_with_what_is_allowed():
    """An object that neither counts nor tells offsets is named, with the three that serve."""
    with pytest.raises(TypeError, match="a fast tokenizer of transformers"):
        Chunker(object(), max_seq_length=64)


def test_the_configuration_hash_follows_what_decides_the_cuts(minilm):
    """Equal settings give equal hashes; each of them, and the tokenizer, changes it."""
    base = Chunker(minilm, max_seq_length=128).configuration_hash
    assert Chunker(minilm, max_seq_length=128).configuration_hash == base
    changed = [
        Chunker(minilm, max_seq_length=127),
        Chunker(minilm, max_seq_length=128, chunk_tokens=100),
        Chunker(minilm, max_seq_length=128, chunk_overlap=5),
        Chunker(minilm, max_seq_length=128, prompt="passage: "),
        Chunker(minilm, max_seq_length=128, template="{title}\n{text}"),
    ]
    assert len({base, *(chunker.configuration_hash for chunker in changed)}) == 6


@pytest.mark.parametrize("folder", ["docs-fastapi", "docs-peps"])
def test_real_documents_keep_all_promises(minilm, count_tokens, real_texts, folder):
    """On real Markdown and rst: exact offsets, full coverage, the bound, counts as the model counts, distinct ids."""
    failed = []
    documents = list(read_documents(real_texts / folder / "files", root=real_texts, on_error=failed.append))[::9]
    assert not failed
    assert len(documents) > 10
    prompt, template = "passage: ", "{headings}\n\n{text}"
    chunker = Chunker(minilm, max_seq_length=256, chunk_tokens=200, chunk_overlap=20, prompt=prompt, template=template)
    for document, chunks in chunker.chunk_many(documents):
        assert all(chunk.text == document.text[chunk.start : chunk.end] for chunk in chunks)
        assert max(chunk.token_count for chunk in chunks) <= 256
        assert chunks[0].token_count == count_tokens(minilm, prompt + chunks[0].embedded_text)
        inside = covered(chunks)
        body = range(document.body_start, len(document.text))
        assert all(offset in inside for offset in body if not document.text[offset].isspace())
        assert len({chunk.id() for chunk in chunks}) == len(chunks)
