"""Rules about the form of the vectors."""

from __future__ import annotations

from collections.abc import Iterator

from embedprefs.checks.rule import Found, rule
from embedprefs.checks.subject import Subject
from embedprefs.errors import EmbedPrefsError

__all__: list[str] = []


@rule(
    "truncate-dim-too-large",
    "error",
    cases=(24,),
    needs=("facts", "resolved"),
    host_today="Nothing is cut, and `get_embedding_dimension()` reports the larger number; 0 gives vectors without "
    "numbers, -10 all but the last ten.",
    example="[vectors]\ntruncate_dim = 2048  # of a model with 1024 dimensions",
    fix="Write a smaller vectors.truncate_dim, or leave it out.",
)
def truncate_dim_too_large(subject: Subject) -> Iterator[Found]:
    """More dimensions are to be kept than there are.

    A store that was set up for that many dimensions refuses the vectors that come.
    """
    dimension = subject.model.embedding_dimension
    for key, value in (
        ("vectors.truncate_dim", subject.preferences.vectors.truncate_dim),
        ("model.name", None if subject.is_stated("vectors.truncate_dim") else subject.model.truncate_dim),
    ):
        if value is None:
            continue
        own = "The model's own file keeps" if key == "model.name" else "The first"
        if value < 1:
            yield Found(key, f"{own} {value} dimensions.", "Write vectors.truncate_dim = a whole number above 0.")
        elif dimension is not None and value > dimension:
            yield Found(
                key,
                f"{own} {value} dimensions are to be kept, and the model's vectors have {dimension}.",
                f"Write truncate_dim = {dimension} or less, or leave it out.",
            )


@rule(
    "truncate-dim-not-trained",
    "warning",
    cases=(25,),
    needs=("facts", "resolved"),
    host_today="Every model's vectors are cut, whether or not it was trained for it.",
    example='[model]\nname = "sentence-transformers/all-MiniLM-L6-v2"\n[vectors]\ntruncate_dim = 64',
    fix="Use a length the model was trained for, or measure what the cut costs.",
)
def truncate_dim_not_trained(subject: Subject) -> Iterator[Found]:
    """The vectors are cut to a length the model was not trained for.

    Only Matryoshka training puts what matters most into the first dimensions. Other models lose quality with every
    dimension that is cut.
    """
    length = subject.choices["vectors.truncate_dim"]
    if length is None:
        return
    known = subject.known_model
    trained = tuple(known.matryoshka_dims or ()) if known is not None else ()
    planned = tuple(subject.preferences.training.matryoshka_dims or ())
    if length in planned or length == subject.model.truncate_dim:
        return
    if known is not None and known.supports_dimension(length):
        return
    name = known.name if known is not None else subject.model.name
    if trained:
        lengths = ", ".join(str(dimension) for dimension in sorted(trained, reverse=True))
        nearest = min(trained, key=lambda dimension: (abs(dimension - length), -dimension))
        said = f"{name} was trained for {lengths}."
        advice = f"Write truncate_dim = {nearest}."
    elif known is not None and known.matryoshka_range is not None:
        smallest, largest = known.matryoshka_range
        said = f"{name} was trained for {smallest} to {largest}."
        advice = f"Write truncate_dim = {smallest} or more."
    else:
        said = f"Nothing says that {name} was trained for shorter vectors."
        advice = "Look at the model's card, or measure what the cut costs."
    yield Found("vectors.truncate_dim", f"The vectors are cut to {length} dimensions. {said}", advice)


@rule(
    "truncate-without-normalize",
    "warning",
    cases=(23,),
    needs=("facts", "resolved"),
    host_today="Vectors are cut after they were normalised: 64 of 384 dimensions have a length of 0.37 to 0.41, and "
    "the dot product of a text with itself is 0.14.",
    example='[vectors]\ntruncate_dim = 64\nnormalize = false\nsimilarity_fn_name = "dot"',
    fix="Leave vectors.normalize out: where the full vectors have length 1, the cut ones get it again.",
)
def truncate_without_normalize(subject: Subject) -> Iterator[Found]:
    """Cut vectors are compared by dot product without being normalised.

    Cutting shortens each vector by another amount, so that the dot product ranks by what was cut off.
    """
    if subject.choices["vectors.truncate_dim"] is None or subject.choices["vectors.normalize"]:
        return
    if subject.choices["vectors.similarity_fn_name"] == "dot":
        yield Found(
            "vectors.normalize",
            f"The vectors are cut to {subject.choices['vectors.truncate_dim']} dimensions, not normalised, and "
            "compared by dot product.",
            "Write normalize = true under [vectors].",
        )


@rule(
    "normalize-without-effect",
    "warning",
    cases=(22,),
    needs=("facts",),
    host_today="`normalize_embeddings=False` leaves the Normalize module of the model where it is, without a message.",
    example='[model]\nname = "sentence-transformers/all-MiniLM-L6-v2"\n[vectors]\nnormalize = false',
    fix="Remove vectors.normalize.",
)
def normalize_without_effect(subject: Subject) -> Iterator[Found]:
    """Vectors are not to be normalised, and the model does it itself.

    The last module of its chain scales every vector to length 1. That is part of the model, and cannot be switched
    off.
    """
    stated = subject.preferences.vectors
    if stated.normalize is False and subject.model.normalizes and stated.truncate_dim is None:
        yield Found(
            "vectors.normalize",
            "normalize is false, and the model's chain ends in a Normalize module: its vectors have length 1.",
            "Remove normalize.",
        )


@rule(
    "dot-on-unnormalized",
    "warning",
    cases=(26,),
    needs=("facts", "resolved"),
    host_today="Any similarity can be combined with any model; long vectors win every search by dot product.",
    example='[vectors]\nsimilarity_fn_name = "dot"\nnormalize = false',
    fix="Use cosine, or write vectors.normalize = true.",
)
def dot_on_unnormalized(subject: Subject) -> Iterator[Found]:
    """Vectors of different lengths are compared by dot product.

    A few models are trained for that. For the others the length of a vector says nothing about relevance.
    """
    if subject.choices["vectors.similarity_fn_name"] != "dot" or subject.choices["vectors.normalize"]:
        return
    if subject.choices["vectors.truncate_dim"] is not None:
        return  # truncate-without-normalize says it
    known = subject.known_model
    if subject.model.similarity_fn_name == "dot" or (known is not None and known.similarity == "dot"):
        return
    yield Found(
        "vectors.similarity_fn_name",
        "Vectors are compared by dot product, and they are not normalised.",
        'Write similarity_fn_name = "cosine", or normalize = true.',
    )


@rule(
    "similarity-differs",
    "warning",
    cases=(26,),
    needs=("facts", "resolved"),
    host_today="The argument wins over what the model's own file says, without a message.",
    example='[model]\nname = "sentence-transformers/all-MiniLM-L6-v2"\n[vectors]\nsimilarity_fn_name = "euclidean"',
    fix="Leave vectors.similarity_fn_name out.",
)
def similarity_differs(subject: Subject) -> Iterator[Found]:
    """Vectors are compared in another way than the model was trained for.

    On vectors of length 1, cosine, dot product and euclidean distance rank alike; on others each ranks differently.
    """
    stated = subject.preferences.vectors.similarity_fn_name
    known = subject.known_model
    trained = subject.model.similarity_fn_name or (known.similarity if known is not None else None)
    if stated is None or trained is None or stated == trained:
        return
    alike = {"cosine", "dot", "euclidean"}
    if subject.choices["vectors.normalize"] and {stated, trained} <= alike:
        return
    yield Found(
        "vectors.similarity_fn_name",
        f'Vectors are compared by "{stated}", and the model was made for "{trained}".',
        f'Write similarity_fn_name = "{trained}", or leave it out.',
    )


@rule(
    "calibration-missing",
    "error",
    cases=(27,),
    host_today="int8 and uint8 ranges are the smallest and largest values of each call, so that the same text gets "
    "other codes in the next call; below 100 rows a line in the log, above nothing.",
    example='[vectors]\nprecision = "int8"',
    fix="Run embedprefs calibrate TEXTS, and write its file as vectors.calibration.",
)
def calibration_missing(subject: Subject) -> Iterator[Found]:
    """int8 and uint8 vectors need ranges that stay the same.

    A code only means something together with the range of its dimension. Ranges that are taken from each call make
    vectors of two calls incomparable.
    """
    vectors = subject.preferences.vectors
    if vectors.precision in {"int8", "uint8"} and vectors.calibration is None:
        yield Found(
            "vectors.calibration",
            f'vectors.precision is "{vectors.precision}", and no ranges are given.',
            'Run embedprefs calibrate TEXTS, and write calibration = "calibration.json".',
        )


@rule(
    "calibration-unusable",
    "error",
    cases=(27,),
    host_today="There is no calibration file; ranges come from each call.",
    example='[vectors]\nprecision = "int8"\ncalibration = "no-such-file.json"',
    fix="Run embedprefs calibrate TEXTS again.",
)
def calibration_unusable(subject: Subject) -> Iterator[Found]:
    """The calibration file cannot be used.

    It is absent, damaged, or was made for vectors of another length.
    """
    vectors = subject.preferences.vectors
    if vectors.precision not in {"int8", "uint8"} or vectors.calibration is None:
        return
    from embedprefs.calibration import Calibration

    path = subject.preferences.folder / vectors.calibration
    if subject.resolved is not None:
        path = subject.resolved.calibration_file or path
    advice = "Run embedprefs calibrate TEXTS again."
    try:
        calibration = Calibration.load(path)
    except EmbedPrefsError as error:
        yield Found("vectors.calibration", str(error).partition("\n")[0], advice)
        return
    dimension = subject.resolved.embedding_dimension if subject.resolved is not None else None
    if dimension is not None and calibration.dimensions != dimension:
        yield Found(
            "vectors.calibration",
            f"{vectors.calibration} was made for vectors of {calibration.dimensions} dimensions, and these have "
            f"{dimension}.",
            advice,
        )


@rule(
    "calibration-without-effect",
    "warning",
    cases=(27,),
    host_today="There is no calibration file.",
    example='[vectors]\nprecision = "float32"\ncalibration = "calibration.json"',
    fix='Write precision = "int8", or remove calibration.',
)
def calibration_without_effect(subject: Subject) -> Iterator[Found]:
    """Ranges are given for vectors that need none.

    Only int8 and uint8 vectors have ranges.
    """
    vectors = subject.preferences.vectors
    if vectors.calibration is not None and vectors.precision not in {"int8", "uint8"}:
        yield Found(
            "vectors.calibration",
            f'vectors.precision is "{vectors.precision}", which uses no ranges.',
            'Write precision = "int8" (or "uint8"), or remove calibration.',
        )


@rule(
    "binary-dimensions",
    "error",
    needs=("facts", "resolved"),
    host_today="The last byte is filled up with zeros: 100 dimensions become 13 bytes.",
    example='[vectors]\nprecision = "ubinary"\ntruncate_dim = 100',
    fix="Use a number of dimensions that is a multiple of 8.",
)
def binary_dimensions(subject: Subject) -> Iterator[Found]:
    """Binary vectors need a multiple of eight dimensions.

    Eight dimensions make one byte. What fills up the last byte is counted in every comparison.
    """
    precision = subject.choices["vectors.precision"]
    dimension = subject.choices.embedding_dimension
    if precision in {"binary", "ubinary"} and dimension is not None and dimension % 8:
        yield Found(
            "vectors.truncate_dim",
            f'{dimension} dimensions with precision "{precision}" do not fill their last byte.',
            f"Write truncate_dim = {dimension // 8 * 8}." if dimension >= 8 else "Use another precision.",
        )
