"""What the rules about training arguments say in their other situations: further causes, and what they advise."""

from __future__ import annotations

import pytest

from embedprefs.checks import RULES
from embedprefs.hardware import Accelerator

GPU = Accelerator("cuda", 0, "NVIDIA H200", 140 * 2**30, 139 * 2**30, (9, 0))
CUDA = {"torch_version": "2.13.0+cu130", "torch_cuda_version": "13.0"}


def arguments(**values):
    return {"training.arguments": values}


#: (code, situation, severity, words of the message, words of the fix)
VARIANTS = [
    *(
        ("training-best-model", {"stated": stated}, "error", message, fix)
        for stated, message, fix in (
            (arguments(greater_is_better=False), "the worst would be chosen", "Remove it"),
            (arguments(eval_steps=0.2, save_steps=0.3), "each 30% of the steps", "save_steps = 0.2"),
            (arguments(eval_steps=50, save_steps=0.5), "one is a share", "save_steps = 50"),
            (arguments(load_best_model_at_end=True, save_strategy="no"), "No checkpoints", 'save_strategy = "steps"'),
            (
                {**arguments(save_strategy="best"), "training.split.development": 0.0},
                "saves no checkpoint",
                "Remove save_strategy",
            ),
            (
                {**arguments(load_best_model_at_end=True), "training.split.development": 0.0},
                "split.development is 0",
                "development part",
            ),
        )
    ),
    ("training-argument-type", {"stated": arguments(optim="adamw")}, "error", 'optim is "adamw"', "Did you mean"),
    (
        "training-argument-type",
        {"stated": arguments(report_to=["wandb", "tensorbord"])},
        "error",
        'report_to is "tensorbord"',
        'Did you mean "tensorboard"?',
    ),
    (
        "training-loader-workers",
        {"stated": arguments(dataloader_persistent_workers=True)},
        "error",
        "workers is 0",
        "remove dataloader_persistent_workers",
    ),
    (
        "training-steps-ignored",
        {"stated": arguments(eval_strategy="epoch", save_steps=100)},
        "error",
        'save_strategy is "epoch"',
        "remove save_steps",
    ),
    (
        "training-steps-ignored",
        {"stated": {**arguments(eval_steps=100), "training.split.development": 0.0}},
        "error",
        "nothing is evaluated",
        "Remove eval_steps",
    ),
    (
        "training-one-gpu-of-several",
        {
            "stated": {"training.data": "pairs.jsonl"},
            "hardware": {**CUDA, "accelerators": (GPU, GPU), "all_accelerators": (GPU, GPU)},
        },
        "note",
        "2 GPUs",
        "torchrun --nproc-per-node 2 -m embedprefs.cli train",
    ),
    *(
        ("training-setting-unused", {"stated": stated}, "warning", message, fix)
        for stated, message, fix in (
            ({"training.early_stopping.threshold": 0.01}, "nothing ends early", "Write patience"),
            ({"training.evaluation_split": "test"}, "evaluation_data names no data", "Write evaluation_data"),
            (
                {"training.split.test": 0.2, "training.evaluation_data": "folder"},
                "evaluation_data is the test",
                "remove test",
            ),
            (arguments(eval_strategy="no"), "kept from training", "split.development = 0.0"),
        )
    ),
    (
        "training-needs-transformer",
        {"model": "static", "stated": {"training.max_seq_length": 32}},
        "warning",
        "not cut",
        "Remove it",
    ),
    (
        "training-needs-transformer",
        {"model": "static", "stated": {"training.activation_checkpointing": "on"}},
        "warning",
        "no activations",
        "Remove it",
    ),
    *(
        ("training-parameter-unknown", {"stated": arguments(learning_rate_mapping={pattern: 1e-4})}, "error", *words)
        for pattern, words in (
            ("encoder.layer.7", ('has "encoder.layer.7" in its name', "0.model.")),
            ("layer(", ("is no regular expression", "Correct it")),
        )
    ),
    (
        "training-resume-inexact",
        {"stated": arguments(ignore_data_skip=True)},
        "warning",
        "a second time",
        "Remove ignore_data_skip",
    ),
    *(
        ("training-argument-range", {"stated": arguments(**{name: value})}, "error", f"{name} is {value:g}", words)
        for name, value, words in (
            ("per_device_train_batch_size", 0, "1 or more"),
            ("learning_rate", -1.0, "more than 0"),
            ("warmup_steps", -0.1, "0 or more"),
            ("max_steps", 0, "1 or more"),
        )
    ),
    *(
        ("training-optimizer-arguments", {"stated": stated}, "error", message, fix)
        for stated, message, fix in (
            (arguments(optim_args="momentum=0.8"), '"adamw_torch_fused" reads nothing', "Remove it"),
            (arguments(optim="galore_adamw"), "have to be named", "all-linear"),
            (arguments(optim_target_modules=["query"]), "does not read it", "Remove it"),
        )
    ),
    *(
        ("training-schedule-arguments", {"stated": arguments(**stated)}, "error", message, fix)
        for stated, message, fix in (
            ({"lr_scheduler_kwargs": {"num_cycle": 2}}, 'has no "num_cycle"', "Did you mean num_cycles?"),
            ({"lr_scheduler_type": "linear", "lr_scheduler_kwargs": {"power": 2}}, 'has no "power"', "It has none"),
            ({"lr_scheduler_type": "warmup_stable_decay"}, "needs num_decay_steps", "num_decay_steps = 100"),
            (
                {"lr_scheduler_type": "reduce_lr_on_plateau", "lr_scheduler_kwargs": {"patience": 2}},
                "take less for better",
                'mode = "max"',
            ),
            (
                {"lr_scheduler_type": "greedy", "learning_rate": 2e-5, "lr_scheduler_kwargs": {"mode": "max"}},
                "never goes below 0.001",
                "min_lr = 2e-06",
            ),
        )
    ),
]


@pytest.mark.parametrize(
    ("code", "situation_values", "severity", "message", "fix"),
    VARIANTS,
    ids=[f"{variant[0]}-{number}" for number, variant in enumerate(VARIANTS)],
)
def test_a_rule_says(code, situation_values, severity, message, fix, ask):
    """Severity, what was found, what to do."""
    findings = ask(RULES[code], **situation_values)
    assert [finding for finding in findings if finding.severity == severity and message in finding.message], findings
    assert any(fix in finding.fix for finding in findings), findings


#: (code, situation): nothing is said, because the run does the rest by itself.
SILENT = [
    ("training-best-model", {"stated": arguments(load_best_model_at_end=True)}),
    ("training-best-model", {"stated": arguments(eval_strategy="epoch")}),
    ("training-best-model", {"stated": arguments(save_strategy="best", eval_steps=0.1)}),
    ("training-best-model", {"stated": arguments(save_strategy="no")}),
    ("training-best-model", {"stated": arguments(eval_steps=0.1, save_steps=0.3)}),
    ("training-best-model", {"stated": arguments(lr_scheduler_type="reduce_lr_on_plateau")}),
    ("training-steps-ignored", {"stated": arguments(eval_steps=50)}),
    ("training-schedule-arguments", {"stated": arguments(lr_scheduler_type="reduce_lr_on_plateau")}),
    ("training-optimizer-arguments", {"stated": arguments(optim="galore_adamw", optim_target_modules="all-linear")}),
    ("training-argument-type", {"stated": arguments(report_to=["wandb", "tensorboard"])}),
    ("training-needs-transformer", {"model": "static", "stated": {"training.activation_checkpointing": "auto"}}),
    ("training-parameter-unknown", {"stated": arguments(learning_rate_mapping={r"encoder\.layer\.0": 1e-4})}),
    ("training-setting-unused", {"stated": {"training.evaluation_data": "folder", "training.evaluation_split": "x"}}),
]


@pytest.mark.parametrize(
    ("code", "situation_values"), SILENT, ids=[f"{item[0]}-{number}" for number, item in enumerate(SILENT)]
)
def test_a_rule_is_silent(code, situation_values, ask):
    """What the run does by itself is no contradiction."""
    assert ask(RULES[code], **situation_values) == []
