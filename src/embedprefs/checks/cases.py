"""Forty settings that go wrong without an error, and what became of each.

Each one was observed with sentence-transformers 6.2 and transformers 5.23. It is covered by rules, which name its
number, or made impossible by the factory, or both.
"""

from __future__ import annotations

from dataclasses import dataclass

from embedprefs.checks.table import RULES

__all__ = ["CASES", "Case"]


@dataclass(frozen=True)
class Case:
    """One way to get worse vectors without an error."""

    number: int
    title: str
    host_today: str
    """What sentence-transformers does with it."""
    mechanism: str = ""
    """What makes it impossible, beside or instead of rules."""

    @property
    def codes(self) -> tuple[str, ...]:
        """Codes of the rules that cover it."""
        return tuple(rule.code for rule in RULES.values() if self.number in rule.cases)

    @property
    def test_prefix(self) -> str:
        """How the two tests of its mechanism begin."""
        return f"test_case_{self.number:02d}_"


CASES: tuple[Case, ...] = (
    Case(
        1,
        "The model has no prompts, or they have other names",
        "`encode_query` equals `encode`, without a message.",
        "The table of known models fills in what a model's own files leave out.",
    ),
    Case(
        2,
        'Prompts are named "query" and "passage"',
        "Documents are embedded without their prompt (cosine 0.57 to the right vector).",
        'A preferences file with "passage" or "corpus" is refused; a model\'s own is taken for "document".',
    ),
    Case(
        3,
        "`default_prompt_name` with `encode_query` or `encode_document`",
        "The empty placeholder wins, and the default is not applied.",
    ),
    Case(
        4,
        "`model.prompts` is replaced",
        "The prompts that are not among the new ones are lost.",
        "The prompts of a `PreferredSentenceTransformer` cannot be changed.",
    ),
    Case(5, "The prefix stands in the text already", "It is put before the text once more."),
    Case(6, "A prompt ends without a space", "Other tokens for byte-level tokenizers, without a message."),
    Case(7, "The prompt takes up `max_seq_length`", "With a limit of 8 tokens two words of the text are read."),
    Case(
        8,
        "A text is longer than `max_seq_length`",
        "It is cut, without any message.",
        "Tokens are counted before they are cut: `tokenizer.on_overflow` counts, warns or refuses, and "
        '`overflow = "window"` embeds the whole text.',
    ),
    Case(
        9,
        "`max_seq_length` above the model's positions",
        "BERT fails at the first long text; ModernBERT reads on where it was never trained.",
    ),
    Case(
        10,
        "`max_seq_length` of 0, 2 or None",
        "No truncation, equal vectors for all texts, or a TypeError in `encode`.",
        "Values below 1 are refused by the declaration, and the effective value is always passed on.",
    ),
    Case(11, "A misspelled tokenizer argument", "Swallowed without a message."),
    Case(12, "A misspelled configuration field", "Dropped without a message."),
    Case(13, "An older name of a configuration field", "Kept as an attribute that nothing reads."),
    Case(
        14,
        "An override that keeps the shapes and changes the meaning",
        "Obeyed: cosine 0.86 (heads), 0.60 (activation), 0.38 (epsilon).",
    ),
    Case(15, "Fewer or more layers than the checkpoint has", "A table in the log; cosine 0.36, or random layers."),
    Case(16, "Names of weights that do not match", "A table in the log; the whole model is random (cosine -0.32)."),
    Case(17, "`ignore_mismatched_sizes=True`", "Weights that do not fit become random."),
    Case(18, "A tokenizer of another model", "An IndexError when an unknown token arrives; on a GPU the process ends."),
    Case(
        19,
        "Padding on the left with learned positions",
        "Short texts in a mixed batch: cosine 0.77 to 0.81, 0.57 with the last token.",
    ),
    Case(20, "Truncation on the left", "The beginning, and with it the prompt, is cut: cosine 0.58."),
    Case(21, "The wrong pooling", "Cosine 0.51 to 0.66; a wrong dimension is reported as it is written."),
    Case(
        22,
        "modules.json or its Normalize module is missing",
        "A mean pooling is made up, without normalisation and with another length.",
    ),
    Case(
        23,
        "`truncate_dim` behind the Normalize module",
        "Vectors of length 0.37 to 0.41; the dot product of a text with itself is 0.14.",
        "Where the full vectors have length 1, the cut ones are scaled to it again.",
    ),
    Case(
        24,
        "`truncate_dim` above the dimension, 0 or negative",
        "Nothing is cut, nothing is left, or all but the last dimensions.",
        "Values below 1 are refused by the declaration.",
    ),
    Case(25, "`truncate_dim` for a model that was not trained for it", "Cut without a message."),
    Case(26, "Dot product on vectors that are not normalised", "Long vectors win, without a message."),
    Case(
        27,
        "int8 and uint8 ranges of each call",
        "The same text gets other codes in the next call; above 100 rows without a message.",
        "Vectors are quantised with stored ranges, which `embedprefs calibrate` measures.",
    ),
    Case(28, "float16 on a processor", "Obeyed, 3.8 times slower than float32."),
    Case(
        29,
        "config.json names half precision",
        "The model silently runs in it; only on a processor there is a line in the log.",
        "The precision is always passed to the host, whatever config.json says.",
    ),
    Case(30, "Half precision makes vectors depend on their batch", "Differences of 1e-3, without a message."),
    Case(
        31,
        "A pool or a list of devices leaves the model on the processor",
        "The next call runs there, without a message.",
        "The model is put back on its device after the call.",
    ),
    Case(
        32,
        "`encode(device=...)` moves the model, and `encode` ends training mode",
        "Both stay so, without a message.",
        "Device and mode are as they were before, after each call.",
    ),
    Case(33, "The ONNX provider and `device`", "The first provider is taken, whatever `device` says."),
    Case(34, "A device that is not there", "An error after the weights were loaded."),
    Case(
        35,
        "Another attention than the one asked for",
        "eager without a message; downloads of compiled code with one.",
        "The attention is always passed to the host, and compared after loading.",
    ),
    Case(36, "A custom attention without a mask function", "Padding is read as text, without a message."),
    Case(37, "`revision` for a folder", "Ignored without a message."),
    Case(
        38,
        "Training prompts keyed by anything but columns",
        "Ignored without a message; `model.prompts` is not used in training, and nothing is saved.",
    ),
    Case(
        39,
        "Training arguments that do nothing or fail late",
        "fp16 does nothing on a processor; a wrong metric fails at the first evaluation.",
    ),
    Case(40, "CUDA_VISIBLE_DEVICES is set too late", "Ignored without a message."),
)
