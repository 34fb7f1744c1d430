"""The template's fields and problems, and what a chunk's id depends on."""

import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedprefs.errors import InvalidPreferenceError
from embedprefs_qdrant.chunking import Template, chunk_id


def test_a_template_puts_the_heading_path_before_the_text():
    """Headings are joined outermost first, braces are doubled, and braces in the text are text."""
    template = Template("{title} {{x}}\n{headings}\n\n{text}")
    rendered = template.render(text="{text} {0}", headings=("A", "B"), title="T", source="s")
    assert rendered == "T {x}\nA > B\n\n{text} {0}"


def test_a_chunk_without_headings_starts_with_its_text():
    """Empty fields leave no blank lines at the ends."""
    assert Template("{headings}\n\n{text}").render(text="body") == "body"


def test_all_problems_of_a_template_are_listed_at_once():
    """Unknown fields get the nearest known one, formatting is refused, and a missing text is named."""
    with pytest.raises(InvalidPreferenceError) as caught:
        Template("{heading} {source!r} {title:>10} {0} {}")
    message = str(caught.value)
    assert "Did you mean {headings}?" in message
    assert "no {text}" in message
    assert len(caught.value.problems) == 6


@pytest.mark.parametrize("text", ["{text", "text}", "{text} {"])
def test_an_open_brace_is_refused(text):
    """A template that cannot be read is refused with what it may hold."""
    with pytest.raises(InvalidPreferenceError, match=r"index\.template is no template"):
        Template(text)


@given(st.tuples(st.text(), st.text(), st.integers(0, 9)), st.tuples(st.text(), st.text(), st.integers(0, 9)))
def test_ids_differ_exactly_when_source_hash_or_occurrence_differ(one, other):
    """No two different chunks share an id, however their parts could be joined, and the id is a version 5 UUID."""
    assert (chunk_id(*one) == chunk_id(*other)) == (one == other)
    assert uuid.UUID(chunk_id(*one)).version == 5


def test_an_id_stays_what_it_is():
    """Stored collections depend on this value: it may never change."""
    assert chunk_id("guide/start.md", "0" * 64, 0) == "095c902b-0e45-52f7-93d7-f3759e38ae1a"
