"""Rules about the module chain: Transformer, Pooling, Dense, Normalize ..."""

from __future__ import annotations

from collections.abc import Iterator

from embedprefs.checks.rule import Found, rule
from embedprefs.checks.subject import Subject

__all__: list[str] = []


@rule(
    "modules-missing",
    "error",
    cases=(22,),
    needs=("facts",),
    host_today="A mean pooling is made up, without normalisation and with the tokenizer's length instead of the "
    "model's (512 for all-MiniLM-L6-v2, which was made for 256; vectors have length 6.1), and an INFO line says so.",
    example="A folder with config.json, model.safetensors and tokenizer.json, and no modules.json.",
    fix="Copy modules.json and the module folders too, or state model.pooling.",
)
def modules_missing(subject: Subject) -> Iterator[Found]:
    """Nothing says how token vectors become one vector.

    The folder holds a bare transformer. Which pooling it was trained with cannot be seen from its weights; another one
    gives vectors with a cosine of 0.51 to 0.66 to the right ones.
    """
    facts = subject.model
    if facts.modules or facts.is_static or not facts.config:
        return
    stated = subject.preferences.model.pooling
    if stated is None:
        yield Found(
            "model.pooling",
            f"{facts.name} has no modules.json, so nothing says how its token vectors become one vector.",
            'Copy modules.json and the module folders too, or write pooling = "mean" (or cls ...) under [model].',
        )
    else:
        yield Found(
            "model.pooling",
            f"{facts.name} has no modules.json; its token vectors are pooled by {stated}, without any further module.",
            "Make sure that the model was trained that way; set vectors.normalize if its vectors have length 1.",
            "note",
        )


@rule(
    "pooling-overridden",
    "error",
    cases=(21,),
    needs=("facts",),
    host_today="Another pooling can be put into the chain, without a message: cosine 0.51 to 0.66 to the right vector.",
    example='[model]\nname = "sentence-transformers/all-MiniLM-L6-v2"\npooling = "cls"',
    fix="Remove model.pooling.",
)
def pooling_overridden(subject: Subject) -> Iterator[Found]:
    """A pooling is stated for a model that has one.

    The model was trained with the pooling its files name. Another one reads vectors that were never trained to stand
    for the whole text.
    """
    facts = subject.model
    stated = subject.preferences.model.pooling
    if stated is None or facts.pooling_mode is None or not facts.modules:
        return
    if stated != facts.pooling_mode:
        yield Found(
            "model.pooling",
            f'The pooling is "{stated}", and the model was trained with "{facts.pooling_mode}".',
            "Remove pooling: it is only for a checkpoint that has none.",
        )
    else:
        yield Found(
            "model.pooling",
            f'The model\'s own pooling is "{stated}" already.',
            "Remove pooling: it is only for a checkpoint that has none.",
            "note",
        )


@rule(
    "pooling-differs",
    "warning",
    cases=(21,),
    needs=("facts", "resolved"),
    host_today="The folder's pooling is used, whatever the model was published with.",
    example="A copy of BAAI/bge-base-en-v1.5 whose 1_Pooling/config.json says mean.",
    fix="Copy 1_Pooling/config.json from the published model.",
)
def pooling_differs(subject: Subject) -> Iterator[Found]:
    """The pooling is not the one this model was published with.

    The table of known models says how it was trained; the folder says something else. A fine-tune may have changed
    it, a conversion may have lost it.
    """
    known = subject.known_model
    pooling = subject.model.pooling_mode
    if known is not None and known.pooling and pooling and pooling != known.pooling:
        yield Found(
            "model.name",
            f'The folder pools by "{pooling}", and {known.name} was published with "{known.pooling}".',
            "Copy 1_Pooling/config.json from the published model, unless yours was trained the other way.",
        )


@rule(
    "pooling-dimension-differs",
    "error",
    cases=(21,),
    needs=("facts",),
    host_today="The pooling reports the dimension its file names and passes on what it gets, without a message.",
    example="config.json: hidden_size 384; 1_Pooling/config.json: embedding_dimension 100",
    fix="Correct 1_Pooling/config.json.",
)
def pooling_dimension_differs(subject: Subject) -> Iterator[Found]:
    """The pooling was made for vectors of another length.

    Its file belongs to another model, and the dimension that is reported to stores and indexes is wrong.
    """
    facts = subject.model
    stated, produced = facts.pooling_dimension, facts.hidden_size
    if stated is not None and produced is not None and stated != produced:
        yield Found(
            "model.name",
            f"The pooling's file says {stated} dimensions, and the transformer's vectors have {produced}.",
            "Correct 1_Pooling/config.json, or put the right model's files together.",
        )


@rule(
    "normalize-missing",
    "warning",
    cases=(22, 26),
    needs=("facts", "resolved"),
    host_today="Nothing is said where the Normalize module of a model got lost; its vectors then have lengths such "
    "as 6.1, and dot products are no similarities.",
    example="A copy of a model whose modules.json lost its last entry, sentence_transformers.models.Normalize.",
    fix="Write vectors.normalize = true, or restore modules.json.",
)
def normalize_missing(subject: Subject) -> Iterator[Found]:
    """A model that was published with unit vectors returns others.

    The Normalize module at the end of the chain is lost, as happens in conversions. An index that compares by dot
    product then prefers long vectors.
    """
    known = subject.known_model
    if known is None or not known.normalizes:
        return
    if not subject.choices["vectors.normalize"]:
        stated = subject.is_stated("vectors.normalize")
        cause = "vectors.normalize is false" if stated else "the module chain has no Normalize"
        yield Found(
            "vectors.normalize",
            f"{known.name} was published with vectors of length 1, and {cause}.",
            "Write normalize = true under [vectors].",
        )


@rule(
    "dense-dimension-differs",
    "error",
    cases=(21,),
    needs=("facts",),
    host_today="A matrix multiplication fails in the first `encode`.",
    example="modules.json with a Dense module whose in_features are another model's dimension.",
    fix="Put the right module folders together.",
)
def dense_dimension_differs(subject: Subject) -> Iterator[Found]:
    """A Dense module expects vectors of another length than it gets.

    The module chain was put together from different models.
    """
    facts = subject.model
    length = facts.pooling_dimension or facts.hidden_size
    if length is not None and facts.pooling_mode is not None:
        length *= facts.pooling_mode.count("+") + 1  # several poolings are put one behind the other
    for module in facts.modules:
        if module.kind != "Dense":
            continue
        expected = module.config.get("in_features")
        if isinstance(expected, int) and length is not None and expected != length:
            yield Found(
                "model.name",
                f"The module {module.path} (Dense) takes {expected} dimensions, and gets {length}.",
                "Put the module folders of one model together.",
            )
        produced = module.config.get("out_features")
        length = produced if isinstance(produced, int) else length
