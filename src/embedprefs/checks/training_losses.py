"""The host's losses: what data each takes, and its parameters.

The table is that of sentence-transformers 6.2, so that a loss can be judged without importing it; a test compares it
with the installed one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

__all__ = ["HOST_LOSSES", "WRAPPERS", "HostLoss", "LabelKind", "LossParameter", "unfit"]

LabelKind = Literal["none", "score", "binary", "class", "scores", "vector"]

PAIRS, TRIPLETS, TUPLES = "pairs", "triplets", "tuples"
SCORED, LABELLED, TEXTS = "scored_pairs", "labelled", "texts"


@dataclass(frozen=True)
class LossParameter:
    """One parameter of a loss, as a file can state it."""

    kinds: str
    """Types it takes, by Python's names, joined by ` | `."""
    default: Any
    choices: tuple[str, ...] = ()
    """The closed list of values, where there is one."""
    found_in: str | None = None
    """Where the host has the object that the value names: `sentence_transformers.util`."""

    def accepts(self, value: Any) -> bool:
        """Return whether a value of a preferences file fits; a whole number is also a number."""
        kinds = set(self.kinds.split(" | "))
        if isinstance(value, bool):
            return "bool" in kinds
        if isinstance(value, int) and {"int", "float"} & kinds:
            return True
        if isinstance(value, list) and "list" in kinds:
            return not self.choices or all(item in self.choices for item in value)
        return type(value).__name__ in kinds and (not self.choices or value in self.choices)


@dataclass(frozen=True)
class HostLoss:
    """One loss of the host."""

    name: str
    """Its class."""
    data: tuple[str, ...]
    """Kinds of data it takes; empty for a wrapper, which takes what the loss within takes."""
    label: LabelKind = "none"
    """What the label column holds: nothing; a number; 0 or 1; a class; a teacher's scores; a teacher's vector."""
    parameters: Mapping[str, LossParameter] = field(default_factory=dict)
    in_batch_negatives: bool = False
    """Whether the other rows of a batch are its negatives."""
    cached: bool = False
    """Whether a batch is computed in small parts, with the gradient of the whole."""
    unsupported: str | None = None
    """Why it cannot be trained with here, in a sentence."""

    @property
    def wraps(self) -> bool:
        """Whether it is laid around another loss."""
        return "loss" in self.parameters


_UTIL = "sentence_transformers.util"
_LOSSES = "sentence_transformers.sentence_transformer.losses"
_NUMBER, _WHOLE, _FLAG = "float", "int", "bool"
_SCALE = {"scale": LossParameter(_NUMBER, 20.0)}
_SIMILARITY = {"similarity_fct": LossParameter("str", "cos_sim", ("cos_sim", "dot_score"), _UTIL)}
_PAIRWISE_COSINE = {
    "similarity_fct": LossParameter("str", "pairwise_cos_sim", ("pairwise_cos_sim", "pairwise_dot_score"), _UTIL)
}
_PAIRWISE_DOT = {
    "similarity_fct": LossParameter("str", "pairwise_dot_score", ("pairwise_dot_score", "pairwise_cos_sim"), _UTIL)
}
_GATHER = {"gather_across_devices": LossParameter(_FLAG, False)}
_CACHED = {
    "mini_batch_size": LossParameter(_WHOLE, 32),
    "mini_batch_num_tokens": LossParameter(_WHOLE, None),
    "show_progress_bar": LossParameter(_FLAG, False),
}
_DIRECTIONS = ("query_to_doc", "query_to_query", "doc_to_query", "doc_to_doc")
_RANKING = {
    **_SCALE,
    **_SIMILARITY,
    **_GATHER,
    "directions": LossParameter("list", ("query_to_doc",), _DIRECTIONS),
    "partition_mode": LossParameter("str", "joint", ("joint", "per_direction")),
    "hardness_mode": LossParameter("str", None, ("in_batch_negatives", "hard_negatives", "all_negatives")),
    "hardness_strength": LossParameter(_NUMBER, 0.0),
}
_GUIDED = {
    "guide": LossParameter("str", None),
    "temperature": LossParameter(_NUMBER, 0.01),
    "margin_strategy": LossParameter("str", "absolute", ("absolute", "relative")),
    "margin": LossParameter(_NUMBER, 0.0),
    "contrast_anchors": LossParameter(_FLAG, True),
    "contrast_positives": LossParameter(_FLAG, True),
    **_GATHER,
}
_HARD_DISTANCE = {
    "distance_metric": LossParameter(
        "str",
        "euclidean_distance",
        ("euclidean_distance", "cosine_distance"),
        f"{_LOSSES}.BatchHardTripletLossDistanceFunction",
    )
}
_SIAMESE_DISTANCE = {
    "distance_metric": LossParameter(
        "str", "COSINE_DISTANCE", ("COSINE_DISTANCE", "EUCLIDEAN", "MANHATTAN"), f"{_LOSSES}.SiameseDistanceMetric"
    ),
    "margin": LossParameter(_NUMBER, 0.5),
}
_LAYERS = {
    "loss": LossParameter("str", None),
    "n_layers_per_step": LossParameter(_WHOLE, 1),
    "last_layer_weight": LossParameter(_NUMBER, 1.0),
    "prior_layers_weight": LossParameter(_NUMBER, 1.0),
    "kl_div_weight": LossParameter(_NUMBER, 1.0),
    "kl_temperature": LossParameter(_NUMBER, 0.3),
    "layer_weighting": LossParameter("str", "uniform", ("uniform", "log", "linear")),
}
_RANKED = (PAIRS, TRIPLETS, TUPLES)

_TABLE = (
    HostLoss("AdaptiveLayerLoss", (), parameters=_LAYERS),
    HostLoss("AnglELoss", (SCORED, TRIPLETS, TUPLES), "score", _SCALE),
    HostLoss("BatchAllTripletLoss", (LABELLED,), "class", {**_HARD_DISTANCE, "margin": LossParameter(_NUMBER, 5)}),
    HostLoss("BatchHardSoftMarginTripletLoss", (LABELLED,), "class", _HARD_DISTANCE),
    HostLoss("BatchHardTripletLoss", (LABELLED,), "class", {**_HARD_DISTANCE, "margin": LossParameter(_NUMBER, 5)}),
    HostLoss("BatchSemiHardTripletLoss", (LABELLED,), "class", {**_HARD_DISTANCE, "margin": LossParameter(_NUMBER, 5)}),
    HostLoss("CachedGISTEmbedLoss", _RANKED, "none", {**_GUIDED, **_CACHED}, in_batch_negatives=True, cached=True),
    HostLoss(
        "CachedMultipleNegativesRankingLoss",
        _RANKED,
        "none",
        {**_RANKING, **_CACHED},
        in_batch_negatives=True,
        cached=True,
    ),
    HostLoss(
        "CachedMultipleNegativesSymmetricRankingLoss",
        _RANKED,
        "none",
        {**_SCALE, **_SIMILARITY, **_GATHER, **_CACHED},
        in_batch_negatives=True,
        cached=True,
    ),
    HostLoss("CoSENTLoss", (SCORED,), "score", {**_SCALE, **_PAIRWISE_COSINE}),
    HostLoss("ContrastiveLoss", (SCORED,), "binary", {**_SIAMESE_DISTANCE, "size_average": LossParameter(_FLAG, True)}),
    HostLoss(
        "ContrastiveTensionLoss",
        (TEXTS,),
        unsupported="It needs a data loader of its own, which the host's trainer does not use.",
    ),
    HostLoss(
        "ContrastiveTensionLossInBatchNegatives", (PAIRS,), "none", {**_SCALE, **_SIMILARITY}, in_batch_negatives=True
    ),
    HostLoss("CosineSimilarityLoss", (SCORED,), "score"),
    HostLoss(
        "DenoisingAutoEncoderLoss",
        (PAIRS,),
        "none",
        {"decoder_name_or_path": LossParameter("str", None), "tie_encoder_decoder": LossParameter(_FLAG, True)},
    ),
    HostLoss(
        "DistillKLDivLoss",
        (TRIPLETS, TUPLES),
        "scores",
        {
            **_PAIRWISE_DOT,
            "temperature": LossParameter(_NUMBER, 1.0),
            "student_temperature": LossParameter(_NUMBER, None),
            "teacher_temperature": LossParameter(_NUMBER, None),
        },
    ),
    HostLoss(
        "EmbedDistillLoss",
        (TEXTS, PAIRS, TRIPLETS, TUPLES),
        "vector",
        {
            "distance_metric": LossParameter("str", "cosine", ("mse", "l2", "cosine")),
            "projection_dim": LossParameter(_WHOLE, None),
        },
    ),
    HostLoss("GISTEmbedLoss", _RANKED, "none", _GUIDED, in_batch_negatives=True),
    HostLoss(
        "GlobalOrthogonalRegularizationLoss",
        (PAIRS, TRIPLETS, TUPLES, TEXTS),
        "none",
        {
            **_SIMILARITY,
            "mean_weight": LossParameter(_NUMBER, 1.0),
            "second_moment_weight": LossParameter(_NUMBER, 1.0),
            "aggregation": LossParameter("str", "mean", ("mean", "sum")),
        },
        unsupported="Alone it only spreads vectors; it is to be added to another loss, which a file cannot state.",
    ),
    HostLoss("MSELoss", (TEXTS, PAIRS, TRIPLETS, TUPLES), "vector", {"projection_dim": LossParameter(_WHOLE, None)}),
    HostLoss("MarginMSELoss", (TRIPLETS, TUPLES), "scores", _PAIRWISE_DOT),
    HostLoss(
        "Matryoshka2dLoss",
        (),
        "none",
        {
            **_LAYERS,
            "matryoshka_dims": LossParameter("list", None),
            "matryoshka_weights": LossParameter("list", None),
            "n_dims_per_step": LossParameter(_WHOLE, 1),
        },
    ),
    HostLoss(
        "MatryoshkaLoss",
        (),
        "none",
        {
            "loss": LossParameter("str", None),
            "matryoshka_dims": LossParameter("list", None),
            "matryoshka_weights": LossParameter("list", None),
            "n_dims_per_step": LossParameter(_WHOLE, -1),
        },
    ),
    HostLoss(
        "MegaBatchMarginLoss",
        (PAIRS,),
        "none",
        {
            "positive_margin": LossParameter(_NUMBER, 0.8),
            "negative_margin": LossParameter(_NUMBER, 0.3),
            "use_mini_batched_version": LossParameter(_FLAG, True),
            **_CACHED,
            "mini_batch_size": LossParameter(_WHOLE, 50),
        },
        in_batch_negatives=True,
    ),
    HostLoss("MultipleNegativesRankingLoss", _RANKED, "none", _RANKING, in_batch_negatives=True),
    HostLoss(
        "MultipleNegativesSymmetricRankingLoss",
        _RANKED,
        "none",
        {**_SCALE, **_SIMILARITY, **_GATHER},
        in_batch_negatives=True,
    ),
    HostLoss("OnlineContrastiveLoss", (SCORED,), "binary", _SIAMESE_DISTANCE),
    HostLoss(
        "SoftmaxLoss",
        (SCORED,),
        "class",
        {
            "num_labels": LossParameter(_WHOLE, None),
            "concatenation_sent_rep": LossParameter(_FLAG, True),
            "concatenation_sent_difference": LossParameter(_FLAG, True),
            "concatenation_sent_multiplication": LossParameter(_FLAG, False),
        },
    ),
    HostLoss(
        "TripletLoss",
        (TRIPLETS,),
        "none",
        {
            "distance_metric": LossParameter(
                "str", "EUCLIDEAN", ("COSINE", "EUCLIDEAN", "MANHATTAN"), f"{_LOSSES}.TripletDistanceMetric"
            ),
            "triplet_margin": LossParameter(_NUMBER, 5),
        },
    ),
)

#: Losses of the host, by class name.
HOST_LOSSES: Mapping[str, HostLoss] = MappingProxyType({loss.name: loss for loss in _TABLE})
#: Losses that are laid around another one.
WRAPPERS = frozenset(loss.name for loss in _TABLE if loss.wraps)


_KIND_WORDS = {
    PAIRS: "pairs",
    TRIPLETS: "triplets",
    TUPLES: "tuples with several negatives",
    SCORED: "pairs with a score",
    LABELLED: "texts with a class",
    TEXTS: "texts alone",
}


def unfit(loss: HostLoss, kind: str, labels: LabelKind, *, teacher: bool) -> str | None:
    """Return why a loss cannot be trained with on some data, as a sentence; None where it can.

    Args:
        loss: The loss; a wrapper fits everything.
        kind: Kind of the data.
        labels: What its label column holds.
        teacher: Whether a larger model gives the scores or vectors that are missing.
    """
    if loss.unsupported is not None:
        return f"{loss.name} cannot be used. {loss.unsupported}"
    if loss.wraps:
        return None
    if kind not in loss.data:
        wanted = " or ".join(_KIND_WORDS[item] for item in loss.data)
        return f"{loss.name} takes {wanted}, and the data are {_KIND_WORDS[kind]}."
    if loss.label == "vector" and not teacher:
        return f"{loss.name} learns a larger model's vectors, and training.distill_from names no model."
    if loss.label == "scores" and labels not in ("scores", "score") and not teacher:
        return f"{loss.name} learns a teacher's scores, and there is neither a score column nor training.distill_from."
    if loss.label == "binary" and labels != "binary":
        return f"{loss.name} takes 0 and 1, and the score column holds other numbers."
    if loss.label == "class" and kind == SCORED and labels not in ("class", "binary"):
        return f"{loss.name} takes classes (whole numbers), and the score column holds others."
    return None
