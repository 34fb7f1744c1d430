"""Working tokenizers of test models, made of a fixed vocabulary, and the configuration that belongs to them."""

from __future__ import annotations

import string
from collections.abc import Iterable, Sequence
from typing import Any

from embedprefs.errors import MissingExtraError

# Ordinary words, so that texts of tests become a few tokens instead of one token a letter.
_TEXT = """
a an and are as at be by can do for from had has have he how in is it its not of on or our she so that the their
then there they this to was we were what when where which who why will with you answer apple bank bird black
blue book boy brown cat child city cloud cold cook day dog door drink dry eat fast fish flower fox garden girl
good grass green hello hot house is jump lake large lazy light long man model moon morning mountain music new
night ocean old paper passage people plant play quick quiet rain read red river road run search see sing sky
slow small snow song sound star stone story street strong summer sun sweet table talk tall text time town tree
walk wall warm water weather white wind window winter woman word world write year yellow young query document
token length vector meaning language question
"""
_WORDS = _TEXT.split()


def tokenizers_package() -> Any:
    """Return the `tokenizers` package with its parts imported."""
    try:
        import tokenizers
        import tokenizers.models
        import tokenizers.normalizers
        import tokenizers.pre_tokenizers
        import tokenizers.processors
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            "tokenizers", extra="sentence-transformers", needed_for="Writing a test model"
        ) from error
    return tokenizers


def wordpiece_tokenizer(specials: Sequence[str]) -> Any:
    """Return a lower-case WordPiece tokenizer of the words above, single letters and punctuation."""
    tokenizers = tokenizers_package()
    letters = string.ascii_lowercase + string.digits
    tokens = [*specials, *string.punctuation, *letters, *(f"##{letter}" for letter in letters), "##s", "##ed", "##ing"]
    vocabulary = {token: position for position, token in enumerate(dict.fromkeys([*tokens, *_WORDS]))}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordPiece(vocabulary, unk_token="[UNK]"))  # noqa: S106 - a token
    tokenizer.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])],
    )
    tokenizer.add_special_tokens(list(specials))
    return tokenizer


def byte_level_tokenizer(
    specials: Sequence[str], *, unknown: str, add_prefix_space: bool, last: bool = False, vocab_size: int = 0
) -> Any:
    """Return a byte-level BPE tokenizer; `last` puts the special tokens behind the others, as ModernBERT has them."""
    tokenizers = tokenizers_package()
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    merges: dict[tuple[str, str], None] = {}
    for word in _merged_words():
        for end in range(1, len(word)):
            merges[word[:end], word[end]] = None
    joined = [left + right for left, right in merges]
    ordinary = list(dict.fromkeys([*alphabet, *joined]))
    filler = [f"[unused{number}]" for number in range(max(0, vocab_size - len(ordinary) - len(specials)))]
    tokens = [*ordinary, *filler, *specials] if last else [*specials, *ordinary, *filler]
    vocabulary = {token: position for position, token in enumerate(tokens)}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, list(merges), unk_token=unknown))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    tokenizer.add_special_tokens(
        [
            tokenizers.AddedToken(token, lstrip=token in {"[MASK]", "<mask>"}, normalized=False, special=True)
            for token in specials
        ]
    )
    return tokenizer


def _merged_words() -> Iterable[str]:
    """Words as byte-level BPE sees them inside a text (after a space) and at its start."""
    for word in _WORDS:
        yield f"Ġ{word}"
    for word in _WORDS:
        yield word


def modernbert_tokenizer(vocab_size: int = 0) -> Any:
    """Return ModernBERT's kind of tokenizer; `vocab_size` fills it up with unused tokens."""
    tokenizers = tokenizers_package()
    tokenizer = byte_level_tokenizer(
        ("[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"),
        unknown="[UNK]",
        add_prefix_space=False,
        last=True,
        vocab_size=vocab_size,
    )
    tokenizer.normalizer = tokenizers.normalizers.NFC()
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B [SEP]",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")],
    )
    return tokenizer


def tokenizer_config(
    tokenizer_class: str, specials: Sequence[str], model_max_length: int, **further: Any
) -> dict[str, Any]:
    """Return a tokenizer_config.json."""
    names = {"[PAD]": "pad_token", "[UNK]": "unk_token", "[CLS]": "cls_token", "[SEP]": "sep_token"}
    tokens = {names.get(token, "mask_token"): token for token in specials}
    return {**tokens, "tokenizer_class": tokenizer_class, "model_max_length": model_max_length, **further}


def modernbert_tokenizer_config(model_max_length: int) -> dict[str, Any]:
    """Return the tokenizer_config.json that ModernBERT models are published with."""
    return tokenizer_config(
        "PreTrainedTokenizerFast",
        ("[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"),
        model_max_length,
        clean_up_tokenization_spaces=True,
        model_input_names=["input_ids", "attention_mask"],
    )


def modernbert_config(tokenizer: Any, **sizes: Any) -> dict[str, Any]:
    """Return a config.json with the keys, live and dead, that ModernBERT models are published with."""
    ids = {name: tokenizer.token_to_id(f"[{name}]") for name in ("CLS", "SEP", "PAD")}
    return {
        "architectures": ["ModernBertModel"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": ids["CLS"],
        "classifier_activation": "gelu",
        "classifier_bias": False,
        "classifier_dropout": 0.0,
        "classifier_pooling": "mean",
        "cls_token_id": ids["CLS"],
        "decoder_bias": True,
        "deterministic_flash_attn": False,
        "embedding_dropout": 0.0,
        "eos_token_id": ids["SEP"],
        "global_attn_every_n_layers": 3,
        "global_rope_theta": 160000.0,
        "gradient_checkpointing": False,
        "hidden_activation": "gelu",
        "initializer_cutoff_factor": 2.0,
        "initializer_range": 0.02,
        "layer_norm_eps": 1e-05,
        "local_rope_theta": 10000.0,
        "mlp_bias": False,
        "mlp_dropout": 0.0,
        "model_type": "modernbert",
        "norm_bias": False,
        "norm_eps": 1e-05,
        "pad_token_id": ids["PAD"],
        "position_embedding_type": "absolute",
        "reference_compile": False,
        "repad_logits_with_grad": False,
        "sep_token_id": ids["SEP"],
        "sparse_pred_ignore_index": -100,
        "sparse_prediction": False,
        "transformers_version": "4.48.0",
        "vocab_size": tokenizer.get_vocab_size(),
        **sizes,
    }
