"""Fine-tuning from the same preferences: a plan before any weights, the host's own trainer, a verdict at the end.

plan = plan_training(preferences, "pairs.jsonl")
result = train(preferences, "pairs.jsonl", output="runs/first")
print(result.to_text())
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from embedprefs.lazy_names import lazy_names

if TYPE_CHECKING:
    from embedprefs.training.arguments import ArgumentChoice, ArgumentChoices, choose_arguments
    from embedprefs.training.data import Rejected, TrainingData, read_training_data
    from embedprefs.training.evaluation_sets import EvaluationSet
    from embedprefs.training.losses import LOSSES, LossChoice, choose_loss
    from embedprefs.training.mining import MiningReport, mine_negatives, synthetic_queries
    from embedprefs.training.plan import TrainingPlan, plan_training
    from embedprefs.training.preparing import Prepared, prepare
    from embedprefs.training.progress import TrainingProgress
    from embedprefs.training.result import TrainingResult
    from embedprefs.training.run import train
    from embedprefs.training.sampler import CoveringBatchSampler
    from embedprefs.training.split import Leakage, Splits, split_by_document
    from embedprefs.training.trainer import build_trainer

#: Name -> the module that has it; each is imported when its name is first used, the host's packages with it.
_HOMES = {
    "ArgumentChoice": "arguments",
    "ArgumentChoices": "arguments",
    "CoveringBatchSampler": "sampler",
    "EvaluationSet": "evaluation_sets",
    "LOSSES": "losses",
    "Leakage": "split",
    "LossChoice": "losses",
    "MiningReport": "mining",
    "Prepared": "preparing",
    "Rejected": "data",
    "Splits": "split",
    "TrainingData": "data",
    "TrainingPlan": "plan",
    "TrainingProgress": "progress",
    "TrainingResult": "result",
    "build_trainer": "trainer",
    "choose_arguments": "arguments",
    "choose_loss": "losses",
    "mine_negatives": "mining",
    "plan_training": "plan",
    "prepare": "preparing",
    "read_training_data": "data",
    "split_by_document": "split",
    "synthetic_queries": "mining",
    "train": "run",
}

__all__ = [
    "LOSSES",
    "ArgumentChoice",
    "ArgumentChoices",
    "CoveringBatchSampler",
    "EvaluationSet",
    "Leakage",
    "LossChoice",
    "MiningReport",
    "Prepared",
    "Rejected",
    "Splits",
    "TrainingData",
    "TrainingPlan",
    "TrainingProgress",
    "TrainingResult",
    "build_trainer",
    "choose_arguments",
    "choose_loss",
    "mine_negatives",
    "plan_training",
    "prepare",
    "read_training_data",
    "split_by_document",
    "synthetic_queries",
    "train",
]


__getattr__ = lazy_names(__name__, _HOMES)
