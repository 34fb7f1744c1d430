"""Rules about the tokenizer and the length of texts."""

from __future__ import annotations

from collections.abc import Iterator

from embedprefs.checks.rule import Found, nearest, rule
from embedprefs.checks.subject import Subject

__all__: list[str] = []

#: Names that tokenizers of transformers 5 read, beside those that a preference stands for.
TOKENIZER_KWARGS = frozenset(
    {
        "add_bos_token",
        "add_eos_token",
        "add_prefix_space",
        "backend",
        "chat_template",
        "clean_up_tokenization_spaces",
        "do_basic_tokenize",
        "do_lower_case",
        "fix_mistral_regex",
        "force_download",
        "from_slow",
        "gguf_file",
        "legacy",
        "merges",
        "merges_file",
        "model_input_names",
        "pad_to_multiple_of",
        "processor_class",
        "proxies",
        "split_special_tokens",
        "strip_accents",
        "subfolder",
        "tokenize_chinese_chars",
        "tokenizer_class",
        "tokenizer_file",
        "tokenizer_type",
        "trim_offsets",
        "unk_id",
        "use_fast",
        "verbose",
        "vocab",
        "vocab_file",
    }
)

#: Vision processors read these; they have no effect on texts and are not misspelled.
PROCESSOR_KWARGS = frozenset({"max_pixels", "min_pixels", "size", "do_resize", "do_rescale", "do_normalize"})


@rule(
    "max-seq-length-too-long",
    "error",
    cases=(9,),
    needs=("facts", "resolved"),
    host_today="BERT and its kin raise a RuntimeError when the first long text arrives; ModernBERT reads on beyond "
    "the length it was trained for (9002 tokens with a limit of 8192), without a message.",
    example='[model]\nname = "sentence-transformers/all-MiniLM-L6-v2"\n[tokenizer]\nmax_seq_length = 1024',
    fix="Lower tokenizer.max_seq_length to what the model has positions for.",
)
def max_seq_length_too_long(subject: Subject) -> Iterator[Found]:
    """The model would be given more tokens than it has positions for.

    With learned positions there is no vector for the token after the last one: the first long text fails. With
    rotary positions the model computes on, in a range it was never trained for (a warning).
    """
    positions = subject.model.max_position_embeddings
    for key in ("tokenizer.max_seq_length", "training.max_seq_length"):
        length = subject.choices[key] if key.startswith("tokenizer.") else subject.preferences.training.max_seq_length
        if positions is None or length is None or length <= positions:
            continue
        learned = subject.model.absolute_positions
        consequence = "Longer texts cannot be read" if learned else "It was not trained for longer texts"
        yield Found(
            key,
            f"{length} tokens, and the model has {positions} positions. {consequence}.",
            f"Write max_seq_length = {positions} or less.",
            None if learned else "warning",
        )


@rule(
    "max-seq-length-too-short",
    "error",
    cases=(10,),
    needs=("facts", "resolved"),
    host_today="With a limit of 2 every text becomes [CLS][SEP] and all vectors are equal; 0 switches truncation off; "
    "None raises a TypeError in the first `encode`.",
    example="[tokenizer]\nmax_seq_length = 2",
    fix="Raise tokenizer.max_seq_length; 32 is little, 256 or more is usual.",
)
def max_seq_length_too_short(subject: Subject) -> Iterator[Found]:
    """The limit leaves no room for a text.

    The special tokens that the tokenizer adds count too. Where they fill the limit, every text gets the same vector.
    """
    length = subject.choices["tokenizer.max_seq_length"]
    tokenizer = subject.model.tokenizer
    specials = tokenizer.specials_per_text if tokenizer is not None else 0
    if length is not None and length <= specials:
        yield Found(
            "tokenizer.max_seq_length",
            f"The limit is {length} tokens, and the tokenizer adds {specials} special tokens to each text: "
            "nothing of the text is read.",
            f"Write max_seq_length = {max(32, specials + 1)} or more.",
        )
    elif length is not None and length < specials + 8 and subject.is_stated("tokenizer.max_seq_length"):
        yield Found(
            "tokenizer.max_seq_length",
            f"The limit is {length} tokens, {specials} of them special ones: texts are cut after {length - specials}.",
            "Write a larger max_seq_length, unless all texts are that short.",
            "warning",
        )


@rule(
    "max-seq-length-unlimited",
    "warning",
    cases=(10,),
    needs=("facts", "resolved"),
    host_today="Where no file states a length, none holds: a long text fails, or takes memory with its square.",
    example="A model whose files state neither max_seq_length, nor model_max_length, nor max_position_embeddings.",
    fix="Write tokenizer.max_seq_length.",
)
def max_seq_length_unlimited(subject: Subject) -> Iterator[Found]:
    """Nothing limits the length of a text.

    Neither the preferences nor the model's files say how many tokens are read. One long document then decides how
    much memory a batch takes.
    """
    if subject.model.is_static or subject.choices["tokenizer.max_seq_length"] is not None:
        return
    if subject.model.tokenizer is not None:
        yield Found(
            "tokenizer.max_seq_length",
            "Neither the preferences nor the model's files state a limit.",
            "Write max_seq_length = 512, or what the model was trained for.",
        )


@rule(
    "padding-side-left",
    "error",
    cases=(19,),
    needs=("facts", "resolved"),
    host_today="The setting is obeyed. On all-MiniLM-L6-v2 short texts in a mixed batch then have a cosine of 0.77 to "
    "0.81 to their right vectors (mean pooling), 0.57 with the last token.",
    example='[model]\nname = "sentence-transformers/all-MiniLM-L6-v2"\n[tokenizer]\npadding_side = "left"',
    fix='Write padding_side = "right", or leave it out.',
)
def padding_side_left(subject: Subject) -> Iterator[Found]:
    """Padding on the left moves the positions of short texts.

    A model with learned positions numbers tokens from the left, padding included. A short text then gets other
    positions, and another vector, whenever it shares a batch with a long one.
    """
    if subject.choices["tokenizer.padding_side"] == "left" and subject.model.absolute_positions:
        yield Found(
            "tokenizer.padding_side",
            f'Padding is on the "left", and {subject.model.model_type} counts positions from there: a text\'s vector '
            "would depend on its neighbours in the batch.",
            'Write padding_side = "right".',
            None if subject.is_stated("tokenizer.padding_side") else "warning",
        )


@rule(
    "truncation-side-left",
    "warning",
    cases=(20,),
    needs=("facts", "resolved"),
    host_today="The setting is obeyed, without a message; a text that is cut on the other side has a cosine of 0.58 "
    "to before. The prompt, which stands first, is what is cut off.",
    example='[tokenizer]\ntruncation_side = "left"',
    fix='Write truncation_side = "right", or leave it out.',
)
def truncation_side_left(subject: Subject) -> Iterator[Found]:
    """Over-long texts lose their beginning.

    Titles, and the prompt itself, stand at the beginning. Where a text is longer than the model reads, these are what
    is cut.
    """
    if subject.choices["tokenizer.truncation_side"] != "left":
        return
    prompts = [role for role in ("query", "document") if subject.choices[f"prompts.{role}"]]
    lost = f", and with it the {' and '.join(prompts)} prompt" if prompts else ""
    stated = "" if subject.is_stated("tokenizer.truncation_side") else " The model's own files say so."
    yield Found(
        "tokenizer.truncation_side",
        f"Texts longer than the model reads lose their beginning{lost}.{stated}",
        'Write truncation_side = "right", unless the end of your texts matters most.',
    )


@rule(
    "tokenizer-kwargs-unknown",
    "error",
    cases=(11,),
    host_today="Unknown names in `processor_kwargs` are swallowed: `model_max_lenght=64` changes nothing.",
    example="[tokenizer.kwargs]\nmodel_max_lenght = 64",
    fix="Correct the name, or use the preference that covers it.",
)
def tokenizer_kwargs_unknown(subject: Subject) -> Iterator[Found]:
    """A keyword argument for the tokenizer is one that no tokenizer reads.

    The host accepts every name and ignores those it does not know, so a misspelled setting does nothing.
    """
    from embedprefs.arguments.keywords import COVERED_TOKENIZER_KEYWORDS, REFUSED_TOKENIZER_KEYWORDS

    covered = COVERED_TOKENIZER_KEYWORDS
    known = TOKENIZER_KWARGS | PROCESSOR_KWARGS | set(covered) | set(REFUSED_TOKENIZER_KEYWORDS)
    if subject.facts is not None and subject.facts.tokenizer is not None:
        known |= set(subject.facts.tokenizer.config)
    for name in subject.preferences.tokenizer.kwargs:
        if name in known:
            continue
        close = nearest(name, known)
        if close is not None and close in covered:
            advice = f"Did you mean {close}? Write it as {covered[close]}."
        else:
            advice = f"Did you mean {close}?" if close else "Remove it."
        yield Found(f"tokenizer.kwargs.{name}", f'No tokenizer reads "{name}"; it would have no effect.', advice)


@rule(
    "tokenizer-larger-than-embedding",
    "error",
    cases=(18,),
    needs=("facts",),
    host_today="An IndexError when the first text with such a token arrives; on a GPU a device assertion that ends "
    "the process.",
    example="A folder whose tokenizer.json is another model's, with more tokens than the embedding has rows.",
    fix="Put the model's own tokenizer files into the folder.",
)
def tokenizer_larger_than_embedding(subject: Subject) -> Iterator[Found]:
    """The tokenizer knows more tokens than the model has vectors for.

    This tokenizer belongs to another model. Even the tokens that exist would mean something else.
    """
    tokenizer = subject.model.tokenizer
    rows = _embedding_rows(subject)
    if tokenizer is None or tokenizer.largest_id is None or rows is None or tokenizer.largest_id < rows:
        return
    yield Found(
        None,
        f"The tokenizer's largest token id is {tokenizer.largest_id}, and the model has {rows} token embeddings.",
        "Put the model's own tokenizer files into the folder, or name the model they belong to.",
    )


def _embedding_rows(subject: Subject) -> int | None:
    """Return how many token embeddings the model has, from the tensor itself where its name is telling."""
    for name, tensor in subject.model.tensors.items():
        last = ".".join(name.split(".")[-2:])
        if last in _TOKEN_EMBEDDINGS and len(tensor.shape) == 2:
            return tensor.shape[0]
    size = subject.model.config.get("vocab_size")
    return size if isinstance(size, int) else None


_TOKEN_EMBEDDINGS = frozenset(
    {
        "word_embeddings.weight",
        "tok_embeddings.weight",
        "embed_tokens.weight",
        "shared.weight",
        "wte.weight",
        "embedding.weight",
    }
)


@rule(
    "special-tokens-differ",
    "error",
    cases=(18,),
    needs=("facts",),
    host_today="The tokenizer and the model each use their own ids; padding may be read as text, or the pooled token "
    "be the wrong one.",
    example='config.json: {"pad_token_id": 50283}; tokenizer.json: "[PAD]" has the id 0.',
    fix="Put the model's own tokenizer files into the folder.",
)
def special_tokens_differ(subject: Subject) -> Iterator[Found]:
    """Tokenizer and model disagree about their special tokens.

    config.json says which ids the model was trained with. Where the tokenizer gives these tokens other ids, it is not
    this model's tokenizer.
    """
    tokenizer = subject.model.tokenizer
    if tokenizer is None:
        return
    for name in ("pad", "cls", "sep"):
        trained = subject.model.config.get(f"{name}_token_id")
        used = tokenizer.special_ids.get(f"{name}_token")
        if isinstance(trained, int) and used is not None and trained != used:
            token = tokenizer.special_tokens.get(f"{name}_token", name)
            yield Found(
                None,
                f'The tokenizer\'s {name}_token "{token}" has the id {used}; config.json says {trained}.',
                "Put the model's own tokenizer files into the folder, or correct config.json.",
                None if name == "pad" and subject.model.model_type in _POSITIONS_AFTER_PADDING else "warning",
            )


#: Model types that number positions from the padding token's id, so that another one moves every text.
_POSITIONS_AFTER_PADDING = {"camembert", "data2vec-text", "mpnet", "roberta", "xlm-roberta", "xlm-roberta-xl"}


@rule(
    "special-token-unknown",
    "error",
    cases=(18,),
    needs=("facts",),
    host_today="A special token that the vocabulary lacks is added with a new id, for which the model has no "
    "embedding: an IndexError when the first padded batch arrives.",
    example='[tokenizer.special_tokens]\npad_token = "<my-padding>"',
    fix="Name a token that the tokenizer has.",
)
def special_token_unknown(subject: Subject) -> Iterator[Found]:
    """A special token is replaced by one that may not be in the vocabulary.

    The model has an embedding for each token it was trained with. A new one has none, and another token in the place
    of a trained one changes every vector.
    """
    tokenizer = subject.model.tokenizer
    if tokenizer is None:
        return
    own = tokenizer.special_tokens
    for name, token in subject.preferences.tokenizer.special_tokens.items():
        tokens = [token] if isinstance(token, str) else list(token)
        for candidate in tokens:
            if name in own and own[name] == candidate:
                continue
            if candidate in own.values():
                yield Found(
                    f"tokenizer.special_tokens.{name}",
                    f'{name} becomes "{candidate}"; the model was trained with "{own.get(name, "none")}".',
                    "Leave it out, unless the model was trained that way.",
                    "warning",
                )
            else:
                yield Found(
                    f"tokenizer.special_tokens.{name}",
                    f'"{candidate}" is none of the special tokens of this tokenizer: {", ".join(own.values())}.',
                    "Name one of these, or leave it out.",
                )


@rule(
    "window-overlap-too-large",
    "error",
    cases=(8,),
    needs=("facts", "resolved"),
    host_today="There are no windows: a text longer than max_seq_length is cut, and no message says so.",
    example='[tokenizer]\noverflow = "window"\nmax_seq_length = 64\nwindow_overlap = 64',
    fix="Write a smaller tokenizer.window_overlap.",
)
def window_overlap_too_large(subject: Subject) -> Iterator[Found]:
    """The windows of a long text would not advance.

    Neighbouring windows share `window_overlap` tokens. Where that is as long as a window, each one begins where the
    last began.
    """
    tokenizer = subject.model.tokenizer
    length = subject.choices["tokenizer.max_seq_length"]
    stated = subject.preferences.tokenizer
    in_context = subject.preferences.index.chunk_context == "document"
    if not (stated.overflow == "window" or in_context) or length is None:
        return
    specials = tokenizer.specials_per_text if tokenizer is not None else 0
    room = length - specials
    if stated.window_overlap >= room:
        yield Found(
            "tokenizer.window_overlap",
            f"Windows share {stated.window_overlap} tokens, and one window holds {room} tokens of text.",
            f"Write window_overlap = {max(0, room // 8)}.",
        )
