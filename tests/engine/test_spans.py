"""Spans of a text get vectors that know the whole text."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embedprefs import EmbedPrefsWarning, InputError, InvalidPreferenceError, load_model, testing
from embedprefs.engine.spans import checked_spans, pool_spans

TEXT = "The river froze. Its ice held the winter market of the old town.\n\n  It was a cold one. Ωmega ñandú 日本語 😀!"
PROMPTS = {"query": "search_query: ", "document": "search_document: "}


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of models that average token vectors, by a short name, and of one that does not."""
    root = tmp_path_factory.mktemp("spans")
    return {
        "modernbert": testing.tiny_modernbert_folder(root / "modernbert", prompts=PROMPTS),
        "bert": testing.tiny_bert_folder(root / "bert", prompts=PROMPTS, max_seq_length=120),
        "roberta": testing.tiny_roberta_folder(root / "roberta", normalize=False, max_seq_length=120),
        "first-token": testing.tiny_bert_folder(root / "first-token", pooling="cls"),
        "static": testing.static_model_folder(root / "static"),
    }


@pytest.fixture(scope="session")
def load(folders: dict[str, Path]) -> Callable[..., Any]:
    """Load a model by its short name; each combination once."""
    known: dict[Any, Any] = {}

    def loaded(name: str, **overrides: Any) -> Any:
        key = (name, *sorted(overrides.items()))
        if key not in known:
            values = {"compute.device": "cpu", **{key.replace("__", "."): value for key, value in overrides.items()}}
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", EmbedPrefsWarning)
                known[key] = load_model(folders[name], overrides=values)
        return known[key]

    return loaded


def _sentences(text: str) -> list[tuple[int, int]]:
    end = text.index("\n\n")
    return [(0, text.index(".") + 1), (text.index(".") + 1, end), (end, len(text))]


def _counted(characters: range) -> list[int]:
    """Return the characters of a token that decide where it belongs: those that are no blanks, if there are any."""
    return [at for at in characters if not TEXT[at].isspace()] or list(characters)


@pytest.mark.parametrize("role", ["query", "document"])
@pytest.mark.parametrize("name", ["modernbert", "bert", "roberta"])
def test_a_span_of_the_whole_text_is_the_text(load: Any, name: str, role: str) -> None:
    """With the prompt of the role, special tokens and normalisation: what `encode_query` and `encode_document` give."""
    model = load(name)
    expected = getattr(model, f"encode_{role}")(TEXT)
    whole = model.embed_spans(TEXT, [(0, len(TEXT))], role)
    assert whole.shape == (1, 32)
    assert whole.dtype == np.float32
    np.testing.assert_allclose(whole[0], expected, atol=1e-5)


@pytest.mark.parametrize("name", ["modernbert", "bert", "roberta"])
def test_blanks_around_the_text_do_not_matter_to_what_is_whole(load: Any, name: str) -> None:
    """A span that has everything else is the text, whether it has the blanks around it or not."""
    model = load(name)
    text = f"  {TEXT}\n"
    found = model.embed_spans(text, [(2, len(text) - 1), (0, len(text))])
    np.testing.assert_allclose(found, [model.encode_document(text)] * 2, atol=1e-5)


@pytest.mark.parametrize("name", ["modernbert", "bert", "roberta"])
def test_a_span_is_the_mean_of_its_tokens(load: Any, name: str) -> None:
    """Against the host's own token vectors and offsets, sentence by sentence."""
    model = load(name, vectors__normalize=False)
    prompt = model.prompts["document"]
    read = prompt + TEXT
    states = model.encode([read], prompt="", output_value="token_embeddings")[0].float().numpy()
    encoding = model.tokenizer(read, return_offsets_mapping=True)["offset_mapping"]
    spans = _sentences(TEXT)
    found = model.embed_spans(TEXT, spans)
    for (start, end), vector in zip(spans, found, strict=True):
        inside = [
            place
            for place, (first, last) in enumerate(encoding)
            if any(start <= at < end for at in _counted(range(max(0, first - len(prompt)), last - len(prompt))))
        ]
        expected = states[inside[0] : inside[-1] + 1].mean(axis=0)
        if model.chain_normalizes:
            expected = expected / np.linalg.norm(expected)
        np.testing.assert_allclose(vector, expected, atol=1e-5)


def test_a_span_knows_its_surroundings(load: Any) -> None:
    """The same words have another vector in another text, and another than alone."""
    model = load("modernbert")
    here, there = "It froze. The river is wide.", "It burned. The river is wide."
    spans = [[(here.index("The"), len(here))], [(there.index("The"), len(there))]]
    vectors = [model.embed_spans(text, span)[0] for text, span in zip((here, there), spans, strict=True)]
    alone = model.encode_document("The river is wide.")
    assert not np.allclose(vectors[0], vectors[1], atol=1e-4)
    assert not np.allclose(vectors[0], alone, atol=1e-4)


def test_spans_may_overlap_and_come_in_any_order(load: Any) -> None:
    """Every span's vector is its own, whatever stands beside it."""
    model = load("bert")
    spans = [*_sentences(TEXT), (10, 60)]
    forwards = model.embed_spans(TEXT, spans)
    backwards = model.embed_spans(TEXT, spans[::-1])
    np.testing.assert_allclose(forwards, backwards[::-1], atol=1e-6)
    np.testing.assert_allclose(model.embed_spans(TEXT, np.array(spans)), forwards, atol=1e-6)
    assert model.embed_spans(TEXT, []).shape == (0, 32)


def test_dimensions_and_precision_are_those_of_the_preferences(load: Any) -> None:
    """Cut vectors have length 1 again, and bits are packed as by `encode`."""
    cut = load("modernbert", vectors__truncate_dim=8, vectors__normalize=True)
    whole = cut.embed_spans(TEXT, [(0, len(TEXT)), (0, 6)])
    assert whole.shape == (2, 8)
    np.testing.assert_allclose(np.linalg.norm(whole, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(whole[0], cut.encode_document(TEXT), atol=1e-5)
    bits = load("modernbert", vectors__precision="ubinary")
    assert bits.embed_spans(TEXT, [(0, 6)]).dtype == np.uint8
    np.testing.assert_array_equal(bits.embed_spans(TEXT, [(0, len(TEXT))])[0], bits.encode_document(TEXT))


def test_another_prompt_can_be_asked_for(load: Any) -> None:
    """By its text, by its name, or none at all."""
    model = load("modernbert")
    whole = [(0, len(TEXT))]
    np.testing.assert_allclose(
        model.embed_spans(TEXT, whole, prompt="")[0], model.encode_document(TEXT, prompt=""), atol=1e-5
    )
    np.testing.assert_allclose(
        model.embed_spans(TEXT, whole, prompt_name="query")[0], model.encode_query(TEXT), atol=1e-5
    )


def test_an_overlong_text_is_read_in_windows(load: Any) -> None:
    """Far from the windows' edges a span is what it is in a text that fits; the report counts what was read."""
    model = load("bert")
    words = " ".join(f"{word} number {number}" for number, word in enumerate(["river", "town", "snow"] * 60))
    spans = [(at, at + 40) for at in range(0, len(words) - 40, 40)]
    with model.collect_report() as report:
        vectors = model.embed_spans(words, spans)
    assert vectors.shape == (len(spans), 32)
    assert np.isfinite(vectors).all()
    assert report.texts == 1
    assert report.windowed == 1
    assert report.windows == report.batches > 3
    assert report.tokens > 4 * 90
    assert report.truncated == 0
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


class _Positions:
    """A backend whose token vector is the token's id, and the number of tokens before it in its window."""

    name, numerics, dimension = "torch", "float32", 2

    def token_vectors(self, ids: Any, mask: Any) -> Any:
        assert mask.all()
        return np.stack((ids, np.arange(ids.shape[1])[None]), axis=2).astype(np.float32)


def _word_tokenizer(limit: int) -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    from embedprefs.engine.tokenising import TextTokenizer

    vocabulary = {"[CLS]": 0, "[SEP]": 1, "p:": 2, **{f"w{number}": 10 + number for number in range(100)}, "a": 3}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="a"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 0), ("[SEP]", 1)]
    )
    return TextTokenizer(tokenizer, limit=limit)


@pytest.mark.parametrize("tokens", [8, 9, 10, 25, 40])
def test_every_token_is_taken_once_and_from_where_it_stands_most_in_the_middle(tokens: int) -> None:
    """Windows of eight tokens beside prompt and special ones, of which neighbours share two."""
    words = [f"w{number}" for number in range(tokens)]
    text = " ".join(words)
    starts = np.cumsum([0, *(len(word) + 1 for word in words[:-1])])
    spans = [(int(start), int(start) + len(word)) for start, word in zip(starts, words, strict=True)]
    pooled = pool_spans(text, spans, tokenizer=_word_tokenizer(11), backend=_Positions(), prompt="p: ")  # type: ignore[arg-type]
    np.testing.assert_array_equal(pooled.vectors[:, 0], 10 + np.arange(tokens))
    inside = pooled.vectors[:, 1] - 2
    assert pooled.windows == (1 if tokens == 8 else -(-(tokens - 8) // 6) + 1)
    assert ((inside >= 0) & (inside < 8)).all()
    if pooled.windows > 1:
        # Only the text's own ends may stand at the edge of a window.
        assert (inside[1:] >= 1).all()
        assert (inside[:-1] <= 6).all()


def test_windows_without_room_are_refused() -> None:
    """The message says what fills a window."""
    with pytest.raises(InvalidPreferenceError, match=r"2 special tokens and 1 of the prompt; 3 are left"):
        pool_spans(
            "w1 w2 w3 w4",
            [(0, 2)],
            tokenizer=_word_tokenizer(6),
            backend=_Positions(),  # type: ignore[arg-type]
            prompt="p: ",
            overlap=3,
        )


@pytest.mark.parametrize(
    ("spans", "said"),
    [
        ([(0, 3), (5, 5)], r"Span 1 is \(5, 5\), which holds no character"),
        ([(7, 5)], r"Span 0 is \(7, 5\), which holds no character"),
        ([(-1, 5)], r"Span 0 is \(-1, 5\), which is not within the text"),
        ([(0, 10_000)], r"Span 0 is \(0, 10000\), which is not within the text"),
        ([(0, 1.5)], r"Span 0 is \(0, 1.5\), and no pair of whole numbers"),
        ([5], r"Span 0 is 5, and no pair"),
        (["ab"], r"Span 0 is 'ab', and no pair"),
        ([(0, 3, 4)], r"Span 0 is \(0, 3, 4\), and no pair"),
        ([(True, 3)], r"no pair of whole numbers"),
    ],
)
def test_wrong_spans_are_named(spans: Any, said: str) -> None:
    """Place and value of each, and what is allowed."""
    with pytest.raises(InputError, match=said) as error:
        checked_spans("A short text.", spans)
    assert "0 <= start < end <= 13" in str(error.value)


def test_all_wrong_spans_are_counted() -> None:
    """Five are named, the rest counted."""
    with pytest.raises(InputError, match=r"and 3 more"):
        checked_spans("text", [(9, 10)] * 8)


def test_spans_without_a_token_are_named(load: Any) -> None:
    """A span of blanks has no vector."""
    with pytest.raises(InputError, match=r"Span 1 is \(4, 6\), '  ', which holds no token"):
        load("bert").embed_spans("town  river", [(0, 4), (4, 6)])


@pytest.mark.parametrize(
    ("name", "said"), [("first-token", 'pooling "mean", and this model\'s is "cls"'), ("static", "transformer")]
)
def test_models_that_do_not_average_tokens_are_refused(load: Any, name: str, said: str) -> None:
    """With the reason, and what to do instead."""
    with pytest.raises(InputError, match=said) as error:
        load(name).embed_spans("red apple", [(0, 3)])
    assert "encode_document" in str(error.value)


def test_a_list_of_texts_and_an_unknown_role_are_refused(load: Any) -> None:
    """One text at a time, in one of two roles."""
    with pytest.raises(InputError, match="takes one text, and was given a list"):
        load("bert").embed_spans(["a"], [(0, 1)])
    with pytest.raises(InputError, match="role is 'passage'"):
        load("bert").embed_spans("a", [(0, 1)], "passage")


def test_training_mode_is_left_as_it_was(load: Any) -> None:
    """Dropout does not reach the vectors."""
    model = load("bert")
    expected = model.embed_spans(TEXT, [(0, 6)])
    model.train()
    try:
        np.testing.assert_array_equal(model.embed_spans(TEXT, [(0, 6)]), expected)
        assert model.training
        assert all(module.training for module in model.modules())
    finally:
        model.eval()
