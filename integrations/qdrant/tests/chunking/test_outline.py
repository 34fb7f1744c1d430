"""Headings of Markdown and rst, and sections divided at them."""

import pytest

from embedprefs_qdrant.chunking import Chunker, outline


def headings(text, document_format, start=0):
    return [(each.level, each.title) for each in outline(text, document_format, start).headings]


def test_markdown_headings_of_both_kinds_are_found():
    """ATX with and without closing marks, setext of both levels, with marks and attributes taken off."""
    text = "# One\n\n## `Two` **bold** ##\n\nThree\n=====\n\nFour\nmore\n----\n\n#### Five {#anchor}\n"
    assert headings(text, "markdown") == [(1, "One"), (2, "Two bold"), (1, "Three"), (2, "Four more"), (4, "Five")]


def test_a_number_sign_in_code_is_no_heading():
    """Fences, indented code, HTML and lists hold no section."""
    text = (
        "```python\n# a comment\n```\n\n    # indented\n\n<div>\n# raw\n</div>\n\n- item\n  # in it\n\n~~~\n# x\n~~~\n"
    )
    assert headings(text, "markdown") == []


def test_an_unclosed_fence_reaches_to_the_end():
    """CommonMark lets a fence run to the end of the document."""
    assert headings("# One\n\n```\n# two\n", "markdown") == [(1, "One")]


@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
def test_heading_offsets_are_exact_for_every_line_end(line_end):
    """A heading starts and ends where its lines do."""
    text = line_end.join(["Intro \u2028 same line", "", "# One", "body", "", "Two", "---", "end"])
    first, second = outline(text, "markdown").headings
    assert text[first.start : first.end].strip() == "# One"
    assert text[second.start : second.end].split() == ["Two", "---"]


def test_rst_titles_with_and_without_overline_have_levels_in_order_of_their_styles():
    """The first style is level 1, the next new one level 2, and a known style goes back to its level."""
    text = "=====\nTitle\n=====\n\nPart\n====\n\nSub\n---\n\nText\n\nPart 2\n======\n"
    assert headings(text, "rst") == [(1, "Title"), (2, "Part"), (3, "Sub"), (2, "Part 2")]


def test_rst_underlines_that_are_no_titles_are_left_alone():
    """Transitions, tables, indented lines, short underlines and the second line of a paragraph head nothing."""
    text = (
        "Para\n\n-----\n\n=====  =====\nA      B\n=====  =====\n1      2\n=====  =====\n\n"
        "::\n\n    Code\n    ====\n\nlong title here\n==\n\nfirst line\nsecond line\n===========\n"
    )
    assert headings(text, "rst") == []


def test_rst_wide_characters_count_two_columns():
    """A title of four wide characters needs an underline of eight or, as docutils allows, at least four."""
    assert headings("見出し語\n========\n", "rst") == [(1, "見出し語")]
    assert headings("見出し語\n===\n", "rst") == []


def test_rst_headings_are_those_that_docutils_finds(real_texts):
    """Every heading of the real documents, with its level, as the reference implementation reads them."""
    docutils = pytest.importorskip("docutils", reason="docutils is the reference here and no dependency")
    from docutils import frontend, nodes, utils
    from docutils.parsers.rst import Parser

    settings = frontend.get_default_settings(Parser)
    settings.report_level = settings.halt_level = 5
    settings.file_insertion_enabled = settings.raw_enabled = False
    compared = 0
    for path in sorted((real_texts / "docs-peps" / "files").rglob("*.rst"))[::60]:
        text = path.read_text(encoding="utf-8")
        tree = utils.new_document(str(path), settings)
        Parser().parse(text, tree)

        def sections(node, level=1):
            for child in node.children:
                if isinstance(child, nodes.section):
                    yield level, " ".join(child.next_node(nodes.title).rawsource.split())
                    yield from sections(child, level + 1)

        assert headings(text, "rst") == list(sections(tree)), (path.name, docutils.__version__)
        compared += 1
    assert compared >= 10


def test_a_section_that_fits_is_one_chunk_with_all_beneath_it(minilm, document):
    """Small subsections stay together under the heading they share."""
    text = "# Book\n\n## Small\n\n### A\n\nOne.\n\n### B\n\nTwo.\n\n## Large\n\n" + "Many words follow here. " * 30
    chunks = Chunker(minilm, max_seq_length=64).chunk(document(text))
    assert chunks[0].headings == ("Book", "Small")
    assert chunks[0].text == "# Book\n\n## Small\n\n### A\n\nOne.\n\n### B\n\nTwo."
    assert {chunk.headings for chunk in chunks[1:]} == {("Book", "Large")}


def test_a_heading_never_stands_alone(minilm, document):
    """A heading without text of its own goes with the first section beneath it."""
    text = "# Book\n\n## Part\n\n### First\n\n" + "Words of the first. " * 20 + "\n\n### Second\n\n" + "Second. " * 60
    chunks = Chunker(minilm, max_seq_length=64).chunk(document(text))
    assert chunks[0].text.startswith("# Book\n\n## Part\n\n### First\n\nWords")
    assert chunks[0].headings == ("Book", "Part", "First")


def test_cuts_prefer_paragraphs_then_sentences_then_words(minilm, document):
    """Each chunk ends where the best joint is, and code is cut between its lines."""
    paragraphs = "\n\n".join("Some words that make up a paragraph of prose" for _ in range(20))
    for chunk in Chunker(minilm, max_seq_length=40).chunk(document(paragraphs)):
        assert chunk.text.startswith("Some")
        assert chunk.text.endswith("prose")
    sentences = "A sentence of several plain words, e.g. these. " * 20
    for chunk in Chunker(minilm, max_seq_length=40).chunk(document(sentences)):
        assert chunk.text.startswith("A sentence")
        assert chunk.text.endswith("these.")
    code = "```\n" + "".join(f"call_{number}(first. Second, third)\n" for number in range(40)) + "```\n"
    for chunk in Chunker(minilm, max_seq_length=60).chunk(document(code))[1:]:
        assert chunk.text.startswith("call_")


def test_a_blank_line_in_code_is_a_worse_joint_than_one_between_paragraphs(minilm, document):
    """Code that fits stays in one piece."""
    prose = "Plain words of a paragraph before the code go here. " * 5
    code = "```\na = 1\n\nb = 2\n\nc = 3\n```"
    text = f"{prose}\n\n{code}\n\n{prose}\n\n{prose}\n\n{code}\n\n{prose}"
    chunks = Chunker(minilm, max_seq_length=90).chunk(document(text))
    assert sum(chunk.text.count(code) for chunk in chunks) == 2
    assert len(chunks) > 2


@pytest.mark.parametrize("unit", ["👩\u200d👩\u200d👧\u200d👦", "e\u0301\u0323", "👍🏽", "🇩🇪", "नि"])
def test_a_visible_character_is_not_torn(byte_level, document, unit):
    """Joined emoji, letters with marks, skin tones and flags stay whole in a word without end."""
    chunks = Chunker(byte_level, max_seq_length=64).chunk(document(unit * 200, "text"))
    assert len(chunks) > 1
    for chunk in chunks:
        assert len(chunk.text) % len(unit) == 0
        assert chunk.text == unit * (len(chunk.text) // len(unit))
