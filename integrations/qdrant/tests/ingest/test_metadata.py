"""Metadata of declared types, from reading to searching."""

from __future__ import annotations

import pytest

from embedprefs import InputError
from embedprefs_qdrant import Document
from embedprefs_qdrant.metadata import with_typed_metadata

FIELDS = {"year": "integer", "price": "float", "draft": "bool", "day": "datetime", "code": "keyword", "key": "uuid"}


def typed(values, fields=None):
    return with_typed_metadata(Document("a", "x", metadata=values), fields or FIELDS).metadata


@pytest.mark.parametrize(
    ("given", "stored"),
    [
        ({"year": "2020"}, {"year": 2020}),
        ({"year": 2020.0}, {"year": 2020}),
        ({"year": ["1", 2]}, {"year": [1, 2]}),
        ({"year": " "}, {"year": None}),
        ({"year": None, "other": "7"}, {"year": None, "other": "7"}),
        ({"price": "1.5"}, {"price": 1.5}),
        ({"draft": "Yes"}, {"draft": True}),
        ({"draft": 0}, {"draft": False}),
        ({"day": "2024-02-29"}, {"day": "2024-02-29"}),
        ({"code": 7}, {"code": "7"}),
        ({"code": ""}, {"code": ""}),
        ({"key": "AB" + 30 * "0"}, {"key": "ab000000-0000-0000-0000-000000000000"}),
    ],
)
def test_values_become_what_is_declared(given, stored):
    """A csv file holds nothing but texts; an index of whole numbers holds no text."""
    found = typed(given)
    assert found == stored
    assert [type(value) for value in found.values()] == [type(value) for value in stored.values()]


def test_a_dotted_name_reaches_into_an_object():
    """A name with a dot that stands there as it is comes first."""
    assert typed({"book": {"year": "1"}}, {"book.year": "integer"}) == {"book": {"year": 1}}
    assert typed({"book.year": "1"}, {"book.year": "integer"}) == {"book.year": 1}


def test_the_document_that_was_given_is_not_changed():
    """Its metadata belong to the caller."""
    values = {"book": {"year": "1"}}
    typed(values, {"book.year": "integer"})
    assert values == {"book": {"year": "1"}}


@pytest.mark.parametrize(
    "values",
    [
        *({"year": "many"}, {"year": 1.5}, {"year": True}, {"year": 2**64}, {"price": "inf"}, {"price": [1, "x"]}),
        *({"draft": "perhaps"}, {"day": "tomorrow"}, {"day": 2024}, {"code": {"a": 1}}, {"key": "7"}),
    ],
)
def test_a_value_that_cannot_be_converted_is_named_with_what_is_allowed(values):
    """Stored as it is, no search would find it."""
    with pytest.raises(InputError, match=f"(?s){next(iter(values))} is .*Allowed"):
        typed(values)


def test_all_problems_are_told_at_once():
    """Two fields, two problems."""
    with pytest.raises(InputError, match=r"(?s)year is 'x'.*price is 'y'"):
        typed({"year": "x", "price": "y"})


def test_a_csv_column_is_filtered_by_its_declared_type(make_ingestor, store, tmp_path):
    """Numbers, truth values, days and codes with leading zeros."""
    table = tmp_path / "table.csv"
    table.write_text(
        "id,text,year,price,draft,day,code\n"
        "a,Ban kel,2019,9.5,true,2024-02-28,007\n"
        "b,Ban kel lim,2020,10,false,2024-02-29T12:30:00Z,7\n"
        "c,Ban kel mos,2021,,false,2024-03-01,0070\n"
        "d,Ban kel rut,soon,1,false,2024-03-01,1\n",
        encoding="utf-8",
    )
    kinds = {"year": "integer", "price": "float", "draft": "bool", "day": "datetime", "code": "keyword"}
    ingestor = make_ingestor(store, metadata_fields=kinds)
    ingestor.root = tmp_path
    report = ingestor.ingest(str(table))
    assert list(report.failed) == ["table.csv#d"]

    def found(*conditions):
        return {hit.source.partition("#")[2] for hit in ingestor.search("ban kel", where=conditions)}

    assert found("year>=2020") == {"b", "c"}
    assert found("year=2019|2021") == {"a", "c"}
    assert found("price<10") == {"a"}
    assert found("price=10") == {"b"}
    assert found("draft=false") == {"b", "c"}
    assert found("day=2024-02-29") == {"b"}
    assert found("day>2024-02-29") == {"c"}
    assert found("day<=2024-02-29") == {"a", "b"}
    assert found("day!=2024-02-29") == {"a", "c"}
    assert found("day>=2024-02-29T12:30:00Z", "day<2024-02-29T12:30:01Z") == {"b"}
    assert found("code=007") == {"a"}
    assert found("code=7|0070") == {"b", "c"}
    assert found("code!=007", "year>2000") == {"b", "c"}


def test_a_changed_type_is_brought_up_to_date_without_embedding(make_ingestor, store):
    """The payload is rewritten, the vector stays; true is not taken for 1."""
    ingestor = make_ingestor(store)
    ingestor.ingest([Document("a", "Ban kel.", metadata={"flag": 1})])
    report = ingestor.ingest([Document("a", "Ban kel.", metadata={"flag": True})])
    assert (report.changed, report.embedded) == (1, 0)
    [point] = ingestor.store.scroll("documents")
    assert point.payload["metadata"]["flag"] is True
