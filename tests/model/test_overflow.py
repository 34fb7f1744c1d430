"""Over-long texts never vanish silently: they are counted, warned of, refused, or embedded in windows."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

from embedprefs import EmbedPrefsWarning, InvalidPreferenceError, OverlongTextError
from embedprefs.model.tokens import TokenCounter, token_windows
from embedprefs.model.windows import pool_windows

LONG = "the old town by the river sleeps under snow " * 12
VERY_LONG = "a warm fire in the house " * 100


def test_long_texts_are_counted_with_their_true_lengths(ours):
    model = ours("bert")
    with model.collect_report() as report:
        model.encode(["short", LONG, "short too", VERY_LONG])
    lengths = [len(model.tokenizer(text, truncation=False)["input_ids"]) for text in (LONG, VERY_LONG)]
    assert report.truncated == 2
    assert [(text.position, text.tokens) for text in report.overlong] == [(1, lengths[0]), (3, lengths[1])]


def test_a_text_of_exactly_the_limit_is_not_long(ours):
    """`max_seq_length` is 64 with two special tokens, so 62 words fit and 63 do not."""
    model = ours("bert")
    with model.collect_report() as report:
        model.encode(["river " * 62, "river " * 63])
    assert [text.position for text in report.overlong] == [1]


def test_the_prompt_counts(ours):
    model = ours("bert")
    with model.collect_report() as report:
        model.encode(["river " * 60], prompt="search query: ")
    assert report.overlong[0].tokens == 60 + 3 + 2


def test_a_repeated_long_text_is_counted_each_time(ours):
    with ours("bert").collect_report() as report:
        ours("bert").encode([LONG, "short", LONG])
    assert report.truncated == 2
    assert [text.position for text in report.overlong] == [0, 2]


def test_the_limit_of_a_call_wins(ours):
    """`processing_kwargs` change the limit for one call, and what is counted follows."""
    with ours("bert").collect_report() as report:
        ours("bert").encode(["one two three four five six"], processing_kwargs={"text": {"max_length": 5}})
    assert report.truncated == 1


def test_token_embeddings_are_counted_too(ours):
    with ours("bert").collect_report() as report:
        ours("bert").encode([LONG], output_value="token_embeddings")
    assert report.truncated == 1


def test_warn_says_it_once_a_call(load):
    model = load("bert", tokenizer__on_overflow="warn")
    with pytest.warns(EmbedPrefsWarning, match=r"2 of 3 inputs.*64 tokens.*input 0 .*, 2 ") as caught:
        model.encode([LONG, "short", LONG])
    mine = [warning for warning in caught if warning.category is EmbedPrefsWarning]
    assert [warning.filename for warning in mine] == [__file__]
    with pytest.warns(EmbedPrefsWarning) as caught:
        model.encode_query(LONG)
    assert caught[0].filename == __file__


def test_error_names_the_inputs_before_anything_is_computed(load):
    model = load("bert", tokenizer__on_overflow="error")
    with model.collect_report() as report, pytest.raises(OverlongTextError, match="input 1 ") as caught:
        model.encode(["short", LONG, "short", VERY_LONG])
    assert caught.value.positions == (1, 3)
    assert caught.value.tokens == tuple(len(model.tokenizer(text)["input_ids"]) for text in (LONG, VERY_LONG))
    assert report.batches == 0
    assert model.encode(["short"]).shape == (1, 32)


def test_error_names_positions_of_the_stream(load):
    model = load("bert", tokenizer__on_overflow="error")
    texts = ["short"] * 5 + [LONG]
    with pytest.raises(OverlongTextError) as caught:
        list(model.embed_stream(texts, chunk_size=2))
    assert caught.value.positions == (5,)


# Windows


def test_windows_cover_every_token_and_share_the_overlap():
    assert token_windows(range(10), 4, 1) == [range(4), range(3, 7), range(6, 10)]
    assert token_windows(range(11), 4, 1) == [range(4), range(3, 7), range(6, 10), range(9, 11)]
    assert token_windows(range(4), 4, 1) == [range(4)]
    assert token_windows(range(5), 4, 0) == [range(4), range(4, 5)]


@pytest.mark.parametrize("pooling", ["mean", "weighted", "max", "first"])
@pytest.mark.parametrize("name", ["bert", "roberta", "modernbert"])
def test_windows_equal_a_computation_by_hand(name, pooling, load, host):
    """Special tokens and prompt in each window, the model's own vectors pooled, the result scaled to length 1."""
    model = load(
        name, tokenizer__overflow="window", tokenizer__window_overlap=5, tokenizer__window_pooling=pooling,
        tokenizer__max_seq_length=32, prompts__document="passage: ",
    )  # fmt: skip
    plain = host(name)
    tokenizer = plain.tokenizer
    ids = tokenizer("passage: " + LONG, truncation=False)["input_ids"]
    first, last, prompt = ids[:1], ids[-1:], tokenizer("passage:")["input_ids"][1:-1]
    assert ids[1 : 1 + len(prompt)] == prompt
    content = ids[1 + len(prompt) : -1]
    size = 32 - 2 - len(prompt)
    vectors, weights = [], []
    for start in range(0, len(content) - 5, size - 5):
        part = content[start : start + size]
        row = torch.tensor([first + prompt + part + last])
        with torch.no_grad():
            features = {"input_ids": row, "attention_mask": torch.ones_like(row), "modality": "text"}
            vectors.append(plain(features)["sentence_embedding"][0].numpy())
        weights.append(len(part))
    stacked = np.stack(vectors)
    expected = {
        "mean": stacked.mean(axis=0),
        "weighted": np.average(stacked, axis=0, weights=weights),
        "max": stacked.max(axis=0),
        "first": stacked[0],
    }[pooling]
    with model.collect_report() as report:
        found = model.encode_document(["short", LONG])
    assert found[1] == pytest.approx(expected / np.linalg.norm(expected), abs=2e-6)
    assert found[0] == pytest.approx(plain.encode("passage: short"), abs=1e-6)
    assert (report.windowed, report.windows, report.truncated) == (1, len(weights), 0)


def test_the_first_window_is_what_the_host_reads_of_the_text(load, host):
    """Prompt and text are tokenised together, as the host does: byte-level BPE joins the prompt's space to the word."""
    model = load(
        "modernbert", tokenizer__overflow="window", tokenizer__window_overlap=0, tokenizer__window_pooling="first",
        tokenizer__max_seq_length=24,
    )  # fmt: skip
    from sentence_transformers import SentenceTransformer

    plain = SentenceTransformer(modules=list(host("modernbert")), device="cpu")
    prompt = "search_query: "
    expected = plain.encode(LONG, prompt=prompt, processing_kwargs={"text": {"max_length": 24}})
    assert model.encode(LONG, prompt=prompt) == pytest.approx(expected, abs=1e-6)


def test_windows_are_cut_and_scaled_after_pooling(load):
    whole = load("bert", tokenizer__overflow="window", tokenizer__window_overlap=4)
    cut = load("bert", tokenizer__overflow="window", tokenizer__window_overlap=4, vectors__truncate_dim=8)
    expected = whole.encode(LONG)[:8]
    assert cut.encode(LONG) == pytest.approx(expected / np.linalg.norm(expected), abs=1e-6)


def test_windows_come_as_tensors_and_codes_too(load):
    model = load("bert", tokenizer__overflow="window", tokenizer__window_overlap=4)
    texts = ["short", LONG, LONG]
    vectors = model.encode(texts)
    assert torch.allclose(model.encode(texts, convert_to_tensor=True), torch.from_numpy(vectors), atol=1e-6)
    assert np.array_equal(model.encode(texts, precision="ubinary"), np.packbits(vectors > 0, axis=-1))
    assert np.array_equal(vectors[1], vectors[2])


def test_windows_without_room_are_refused(load):
    model = load("bert", tokenizer__overflow="window", tokenizer__window_overlap=10)
    with pytest.raises(InvalidPreferenceError, match=r"tokenizer.window_overlap|are left for the text"):
        model.encode(LONG, prompt="the " * 60)


def test_pooling_of_windows_keeps_texts_apart():
    vectors = np.array([[1, 0], [3, 0], [0, 5]], dtype=np.float32)
    assert pool_windows(vectors, [2, 1], [3, 1, 7], "weighted").tolist() == [[1.5, 0], [0, 5]]
    assert pool_windows(vectors, [2, 1], [3, 1, 7], "mean").tolist() == [[2, 0], [0, 5]]
    assert pool_windows(torch.from_numpy(vectors), [2, 1], [3, 1, 7], "max").tolist() == [[3, 0], [0, 5]]


# Counting


@pytest.mark.parametrize("name", ["bert", "roberta", "modernbert", "minilm"])
@pytest.mark.parametrize(
    "text",
    [
        "river",
        "日本語のテキスト",
        "ﷺ" * 30,
        "İSTANBUL" * 20,
        "é" * 50,
        "😀👩‍👩‍👧" * 20,
        "한국어" * 40,
        " \n\t" * 30,
        "",
        "½ ﬁ Ⅻ" * 30,
    ],
)
def test_a_text_never_has_more_tokens_than_the_bound(name, text, ours):
    """The bound that spares short texts the tokenizer holds for whatever normalisation may lengthen."""
    counter = ours(name).token_counter
    assert counter.lengths([text])[0] <= counter.at_most(text)


def test_counting_leaves_the_models_tokenizer_alone(ours):
    model = ours("minilm")
    backend = model.tokenizer.backend_tokenizer
    model.tokenizer(["a", "b c"], truncation=True, max_length=256, padding=True)
    before = (backend.truncation, backend.padding)
    counted = TokenCounter(backend).lengths(["word " * 1000])
    assert counted == [1002]
    assert (backend.truncation, backend.padding) == before
    assert before[0]["max_length"] == 256


def test_a_tokenizer_that_lengthens_texts_is_always_asked(ours):
    """A normaliser that replaces patterns may lengthen a text beyond any bound, so nothing is skipped."""
    import tokenizers

    backend = tokenizers.Tokenizer.from_str(ours("bert").tokenizer.backend_tokenizer.to_str())
    backend.normalizer = tokenizers.normalizers.Replace("x", "river river river river")
    counter = TokenCounter(backend)
    assert counter.longer_than(["x x x x"], 10) == {0: 18}


def test_short_texts_raise_no_warning_and_no_count(ours, texts):
    with warnings.catch_warnings(), ours("minilm").collect_report() as report:
        warnings.simplefilter("error", EmbedPrefsWarning)
        ours("minilm").encode(texts)
    assert report.truncated == 0
    assert report.overlong == ()
