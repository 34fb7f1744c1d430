"""Rule -> a situation in which it fires, and one near it in which it does not: training settings without use."""


def arguments(**values):
    """Preferences with arguments for the host's trainer."""
    return {"stated": {"training.arguments": values}}


def training(**values):
    """Preferences of the section training; two underscores stand for a dot."""
    return {"stated": {f"training.{key.replace('__', '.')}": value for key, value in values.items()}}


PAIRS = {
    "training-setting-unused": (
        training(negatives__relative_margin=0.1),
        training(negatives__relative_margin=0.1, negatives__count=2),
    ),
    "training-needs-transformer": (
        {**training(lora__r=8), "model": "static"},
        {**training(lora__r=8), "model": "bert"},
    ),
    "training-parameter-unknown": (
        training(freeze=["encoder.layer.0.*"]),
        training(freeze=["*encoder.layer.0.*"]),
    ),
    "training-resume-inexact": (
        arguments(save_only_model=True),
        {"stated": {"training.arguments": {"save_only_model": True}, "training.resume": "never"}},
    ),
    "training-argument-range": (arguments(num_train_epochs=0), arguments(num_train_epochs=0.5)),
    "training-optimizer-arguments": (
        arguments(optim="sgd", adam_beta1=0.8),
        arguments(optim="sgd", optim_args="momentum=0.8"),
    ),
    "training-schedule-arguments": (
        arguments(lr_scheduler_type="cosine_with_min_lr"),
        arguments(lr_scheduler_type="cosine_with_min_lr", lr_scheduler_kwargs={"min_lr_rate": 0.1}),
    ),
}
