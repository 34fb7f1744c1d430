"""Token ids are the host's, and so is where they are cut."""

from __future__ import annotations

import numpy as np
import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from embedprefs.engine.tokenising import TextTokenizer

WORDS = {
    word: number for number, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "river", "old", "town", ",", "a"])
}


def word_tokenizer(*, pre_tokenizer=None, normalizer=None) -> Tokenizer:
    """One token a word, between [CLS] and [SEP]."""
    tokenizer = Tokenizer(models.WordLevel(WORDS, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizer or pre_tokenizers.BertPreTokenizer()
    tokenizer.normalizer = normalizer or normalizers.BertNormalizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]"])
    return tokenizer


TEXTS = ["river", "old river, old town", "", "a [SEP] river", "river " * 40, "unheard-of words"]


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("limit", [3, 5, 8, None])
def test_texts_are_cut_as_the_library_cuts_them(side, limit):
    """The ids are those of a tokenizer with truncation; the lengths are those of one without."""
    cutting = word_tokenizer()
    if limit is not None:
        cutting.enable_truncation(limit, direction=side)
    found = TextTokenizer(word_tokenizer(), limit=limit, truncation_side=side).tokenise(TEXTS)
    assert [ids.tolist() for ids in found.ids] == [cutting.encode(text).ids for text in TEXTS]
    assert found.lengths.tolist() == [len(word_tokenizer().encode(text).ids) for text in TEXTS]
    assert found.at_least == frozenset()


def test_a_prompt_stands_before_each_text_and_is_counted_without_its_last_special_token():
    tokenizer = TextTokenizer(word_tokenizer(), limit=6)
    found = tokenizer.tokenise(["river", "old town"], prompt="a ")
    assert [ids.tolist() for ids in found.ids] == [[2, 8, 4, 3], [2, 8, 5, 6, 3]]
    assert found.prompt_tokens == 2
    assert tokenizer.tokenise(["river"]).prompt_tokens == 0


def test_a_huge_text_is_cut_without_reading_it_all():
    """The ids are those of the whole text; its length is a lower bound, and said to be one."""
    huge = "old river, town " * 5000
    limited = TextTokenizer(word_tokenizer(), limit=16).tokenise([huge, "river"])
    whole = TextTokenizer(word_tokenizer(), limit=None).tokenise([huge])
    assert limited.ids[0].tolist() == [*whole.ids[0][:15].tolist(), 3]
    assert limited.at_least == {0}
    assert 16 < limited.lengths[0] < whole.lengths[0] == 20002
    assert limited.lengths[1] == 3


@pytest.mark.parametrize(
    "tokenizer",
    [
        word_tokenizer(normalizer=normalizers.Replace("old river", "town")),
        word_tokenizer(pre_tokenizer=pre_tokenizers.Split("river old", "isolated")),
        word_tokenizer(pre_tokenizer=pre_tokenizers.ByteLevel(use_regex=False)),
    ],
    ids=["replaces across blanks", "splits across blanks", "splits nowhere"],
)
def test_a_tokenizer_that_looks_across_blanks_reads_all(tokenizer):
    found = TextTokenizer(tokenizer, limit=16).tokenise(["old river " * 5000])
    whole = TextTokenizer(tokenizer, limit=None).tokenise(["old river " * 5000])
    assert found.at_least == frozenset()
    assert found.lengths.tolist() == whole.lengths.tolist()


def test_a_huge_text_whose_beginning_proves_nothing_is_read_to_its_end():
    """Forty thousand blanks hold no token; what is read stands behind them."""
    text = "river" + " " * 40000 + "old town"
    found = TextTokenizer(word_tokenizer(), limit=4).tokenise([text])
    assert found.ids[0].tolist() == [2, 4, 5, 3]
    assert (found.lengths.tolist(), found.at_least) == ([5], frozenset())


def test_static_models_get_no_special_tokens():
    tokenizer = TextTokenizer(word_tokenizer(), limit=None, add_special_tokens=False)
    assert [ids.tolist() for ids in tokenizer.tokenise(["river", ""]).ids] == [[4], []]


def test_special_tokens_in_a_text_are_read_as_text_where_the_tokenizer_says_so():
    """The setting is one of the object and not of its file, so that a copy has to be told."""
    as_tokens, as_text = (
        TextTokenizer(word_tokenizer(), limit=None, encode_special_tokens=said) for said in (False, True)
    )
    assert as_tokens.tokenise(["[SEP]"]).ids[0].tolist() == [2, 3, 3]
    assert as_text.tokenise(["[SEP]"]).ids[0].tolist() == [2, 1, 1, 1, 3]


def test_the_tokenizer_that_was_given_is_left_as_it_is(tmp_path):
    tokenizer = word_tokenizer()
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=9, pad_id=7)
    before = tokenizer.to_str()
    TextTokenizer(tokenizer, limit=None).tokenise(["river " * 20])
    assert tokenizer.to_str() == before
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    read = TextTokenizer.from_file(tmp_path / "tokenizer.json", limit=3)
    assert read.pad_id == 7
    assert read.tokenise(["river river"]).ids[0].tolist() == [2, 4, 3]


def test_another_limit_shares_the_vocabulary():
    tokenizer = TextTokenizer(word_tokenizer(), limit=3)
    assert tokenizer.with_limit(3) is tokenizer
    assert len(tokenizer.with_limit(4).tokenise(["river river river"]).ids[0]) == 4
    assert len(tokenizer.tokenise(["river river river"]).ids[0]) == 3


def test_ids_are_numbers_of_four_bytes():
    assert TextTokenizer(word_tokenizer(), limit=3).tokenise(["river"]).ids[0].dtype == np.int32
