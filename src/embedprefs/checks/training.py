"""Rules about fine-tuning: arguments that the host accepts and then ignores, or that fail hours later."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from embedprefs.checks.rule import Found, nearest, rule
from embedprefs.checks.subject import Subject
from embedprefs.checks.training_arguments import (
    CHOICES,
    DEPRECATED,
    IN_BATCH_NEGATIVES_LOSSES,
    LOSSES,
    NO_EFFECT,
    STALE,
    TRAINING_ARGUMENTS,
    argument_key,
    strategies,
)

__all__: list[str] = []

#: More allowed values than this are not listed where one of them is near.
_MANY = 20


@rule(
    "training-argument-unknown",
    "error",
    cases=(39,),
    host_today="A TypeError when the arguments are built, after model and data were loaded.",
    example="[training.arguments]\nlearning_rat = 2e-5",
    fix="Correct the name.",
)
def training_argument_unknown(subject: Subject) -> Iterator[Found]:
    """A training argument does not exist.

    [training.arguments] takes the host's arguments by their names of today.
    """
    for name in subject.training_arguments:
        if name in TRAINING_ARGUMENTS or name in STALE:
            continue
        close = nearest(name, [*TRAINING_ARGUMENTS, *STALE])
        yield Found(
            argument_key(name),
            f'SentenceTransformerTrainingArguments has no "{name}".',
            (STALE.get(close) or f"Did you mean {close}?") if close else "Remove it.",
        )


@rule(
    "training-argument-renamed",
    "error",
    cases=(39,),
    host_today="A TypeError when the arguments are built, after model and data were loaded.",
    example='[training.arguments]\nevaluation_strategy = "steps"',
    fix="Write what the finding names.",
)
def training_argument_renamed(subject: Subject) -> Iterator[Found]:
    """A training argument has another name today, or is gone.

    Many guides still use the names of older versions.
    """
    for name in subject.training_arguments:
        if name in STALE:
            yield Found(argument_key(name), f'"{name}" is no argument of the installed generation.', STALE[name])


@rule(
    "training-argument-deprecated",
    "warning",
    host_today="A FutureWarning; the next major version of transformers removes the name.",
    example="[training.arguments]\ngradient_checkpointing = true",
    fix="Write what the finding names.",
)
def training_argument_deprecated(subject: Subject) -> Iterator[Found]:
    """A training argument will not work for long, or has a preference of its own.

    The new name works today already.
    """
    for name in subject.training_arguments:
        if name in DEPRECATED:
            yield Found(argument_key(name), f'"{name}" is written in a better place today.', DEPRECATED[name])


@rule(
    "training-argument-without-effect",
    "error",
    cases=(39,),
    host_today="Accepted, and then not used by the trainer of sentence-transformers, without a message.",
    example='[training.arguments]\ntrain_sampling_strategy = "group_by_length"',
    fix="Remove it.",
)
def training_argument_without_effect(subject: Subject) -> Iterator[Found]:
    """A training argument is ignored for embedding models.

    The trainer of sentence-transformers replaces the data loader and the loss of transformers, and with them what
    these arguments would control.
    """
    for name, value in subject.training_arguments.items():
        if name in NO_EFFECT and value != TRAINING_ARGUMENTS[name].default:
            yield Found(argument_key(name), f"{name} has no effect here. {NO_EFFECT[name]}", "Remove it.")


@rule(
    "training-argument-type",
    "error",
    host_today="Some values are converted, others fail in the middle of training.",
    example='[training.arguments]\nlearning_rate = "2e-5"',
    fix="Write a value of the right type; numbers without quotation marks.",
)
def training_argument_type(subject: Subject) -> Iterator[Found]:
    """A training argument has a value of the wrong type, or one that it does not take.

    The host accepts any value at first.
    """
    for name, value in subject.training_arguments.items():
        argument = TRAINING_ARGUMENTS.get(name)
        if argument is None:
            continue
        if not argument.accepts(value):
            shown = f'"{value}"' if isinstance(value, str) else value
            yield Found(argument_key(name), f"{name} is {shown}.", f"Write a value of the type {argument.kinds}.")
            continue
        for item in (value if isinstance(value, list) else [value]) if name in CHOICES else ():
            if item not in CHOICES[name]:
                close = nearest(str(item), CHOICES[name])
                meant = f'Did you mean "{close}"? ' if close else ""
                # Of many names the near one is enough.
                rest = "" if close and len(CHOICES[name]) > _MANY else f"Allowed: {', '.join(CHOICES[name])}."
                yield Found(argument_key(name), f'{name} is "{item}".', f"{meant}{rest}".strip())


@rule(
    "training-remove-unused-columns",
    "warning",
    host_today="No column is dropped: each one that is no label is tokenised and trained on. A column of identifiers "
    "became a negative of its question.",
    example="[training.arguments]\nremove_unused_columns = true",
    fix="Remove it, and keep the columns that are trained on alone in the data.",
)
def training_remove_unused_columns(subject: Subject) -> Iterator[Found]:
    """Columns are thought to be dropped that are trained on.

    In sentence-transformers the order of the columns decides their role, and none is unused.
    """
    if subject.training_arguments.get("remove_unused_columns") is True:
        yield Found(
            argument_key("remove_unused_columns"),
            "It drops no column of embedding data: every column that is no label is a text to train on.",
            "Remove it; leave identifiers and other columns out of the data.",
        )


@rule(
    "training-prompts-covered",
    "error",
    cases=(38,),
    host_today="`prompts` of the arguments is keyed by the names of columns. Other keys are ignored without a message, "
    "`model.prompts` is not looked at in training, and what was used is not saved with the model.",
    example='[prompts]\nquery = "search_query: "\n[training.arguments]\nprompts = { query = "search_query: " }',
    fix="Write the prompts under [prompts]; training uses them by role, and they are saved with the model.",
)
def training_prompts_covered(subject: Subject) -> Iterator[Found]:
    """Prompts are given to the trainer a second time.

    A model that was trained with other prompts than it is used with is worse than one without. The prompts of [prompts]
    are put before the right columns and saved with the model.
    """
    prompts = subject.training_arguments.get("prompts")
    if prompts is None:
        return
    keys = f" (keys: {', '.join(prompts)})" if isinstance(prompts, dict) and prompts else ""
    yield Found(
        argument_key("prompts"),
        f"The host would look its keys up among the columns of the data{keys}, and ignore those that are none.",
        "Remove it: [prompts] is used in training too, by role.",
    )


@rule(
    "training-half-precision",
    "error",
    cases=(39,),
    host_today="`fp16=True` does nothing on a processor, without a message; fp16 and bf16 together raise an error when "
    "the arguments are built.",
    example='[compute]\ndevice = "cpu"\n[training.arguments]\nfp16 = true',
    fix="Remove fp16, or write bf16 = true where the hardware computes it.",
)
def training_half_precision(subject: Subject) -> Iterator[Found]:
    """Half precision is asked for where it does nothing, or twice.

    Mixed precision in float16 needs a GPU.
    """
    arguments = subject.training_arguments
    on_cpu = arguments.get("use_cpu") is True
    if subject.resolved is not None:
        on_cpu = on_cpu or all(device == "cpu" for device in subject.resolved.devices)
    for name in ("fp16", "fp16_full_eval"):
        if arguments.get(name) is True and on_cpu:
            yield Found(
                argument_key(name),
                f"{name} does nothing on a processor.",
                f"Remove {name}, or train on a GPU.",
                "warning",
            )
    for half, brain in (("fp16", "bf16"), ("fp16_full_eval", "bf16_full_eval")):
        if arguments.get(half) is True and arguments.get(brain) is True:
            yield Found(argument_key(half), f"{half} and {brain} are both on.", f"Remove {half}.")


@rule(
    "training-best-model",
    "error",
    cases=(39,),
    host_today="Some combinations raise an error when the arguments are built; a checkpoint that cannot be loaded at "
    "the end is logged, and the last weights are returned as if they were the best.",
    example='[training.arguments]\nload_best_model_at_end = true\neval_strategy = "no"',
    fix='Write eval_strategy = "steps" and save_strategy = "steps", with save_steps a multiple of eval_steps.',
)
def training_best_model(subject: Subject) -> Iterator[Found]:
    """The best model is to be loaded, and it would not be known or not be saved.

    Each evaluation has to fall together with a checkpoint. Where only one of them is stated, the other follows.
    """
    arguments = subject.training_arguments
    has_development = subject.preferences.training.split.development > 0
    evaluation, saving = strategies(arguments, has_development=has_development)
    best = arguments.get("load_best_model_at_end")
    if best is True and evaluation == "no":
        nothing = 'eval_strategy is "no".' if has_development else "training.split.development is 0."
        yield Found(
            argument_key("load_best_model_at_end"),
            f"Nothing is evaluated: {nothing}",
            'Write eval_strategy = "steps" (or "epoch"), with a development part.',
        )
    elif saving == "best" and evaluation == "no":
        yield Found(
            argument_key("save_strategy"),
            'Nothing is evaluated, so that "best" saves no checkpoint at all.',
            "Remove save_strategy, or let the development part be evaluated.",
        )
    elif best is True and saving == "no":
        yield Found(
            argument_key("save_strategy"), "No checkpoints are saved.", f'Write save_strategy = "{evaluation}".'
        )
    elif best is not False and "no" not in (evaluation, saving):
        if saving not in {"best", evaluation}:
            yield Found(
                argument_key("save_strategy"),
                f'Checkpoints are saved by "{saving}", evaluations are made by "{evaluation}".',
                f'Write save_strategy = "{evaluation}".',
            )
        elif evaluation == saving == "steps":
            yield from _steps(arguments)
    if arguments.get("greater_is_better") is False:
        yield Found(
            argument_key("greater_is_better"),
            "The metrics that choose the best checkpoint are better the larger they are: the worst would be chosen.",
            "Remove it.",
        )
    needs = {"reduce_lr_on_plateau", "greedy"}
    if arguments.get("lr_scheduler_type") in needs and evaluation == "no":
        yield Found(
            argument_key("lr_scheduler_type"),
            f'"{arguments["lr_scheduler_type"]}" looks at evaluations, and nothing is evaluated.',
            'Write eval_strategy = "steps", with training.split.development above 0.',
        )


def _steps(arguments: Mapping[str, Any]) -> Iterator[Found]:
    save, evaluate = arguments.get("save_steps"), arguments.get("eval_steps")
    if not isinstance(save, (int, float)) or not isinstance(evaluate, (int, float)) or evaluate <= 0:
        return
    if (save < 1) != (evaluate < 1):
        yield Found(
            argument_key("save_steps"),
            f"save_steps is {save:g}, and eval_steps is {evaluate:g}: one is a share of all steps, the other a number.",
            f"Write save_steps = {evaluate:g}.",
        )
        return
    ratio = round(save / evaluate, 6)
    if ratio < 1 or not ratio.is_integer():
        yield Found(
            argument_key("save_steps"),
            f"Checkpoints are saved every {save:g} steps, evaluations are made every {evaluate:g}."
            if evaluate >= 1
            else f"Checkpoints are saved after each {save:.0%} of the steps, evaluations are at each {evaluate:.0%}.",
            f"Write save_steps = {evaluate * max(1, int(ratio)):g}.",
        )


#: Metrics that transformers' own examples use, and no evaluator of retrieval reports.
FOREIGN_METRICS = frozenset({"accuracy", "f1", "precision", "recall", "auc", "mse", "rmse", "perplexity", "bleu"})


@rule(
    "training-metric-unknown",
    "error",
    cases=(39,),
    host_today="A KeyError at the first evaluation, when the time until then is spent.",
    example='[training.arguments]\nmetric_for_best_model = "accuracy"',
    fix="Leave it out: the metric of the evaluation is used. Its names are such as eval_dev_cosine_ndcg@10.",
)
def training_metric_unknown(subject: Subject) -> Iterator[Found]:
    """The metric that chooses the best model is one that nobody reports.

    `compute_metrics` is never called for embedding models, so there is no accuracy. Metrics come from evaluators, and
    their names say what was evaluated.
    """
    metric = subject.training_arguments.get("metric_for_best_model")
    if not isinstance(metric, str):
        return
    name = metric.removeprefix("eval_")
    advice = "Remove it, or write a name such as eval_dev_cosine_ndcg@10."
    if name in FOREIGN_METRICS:
        yield Found(argument_key("metric_for_best_model"), f'No evaluation of embeddings reports "{metric}".', advice)
    elif name == "loss" and subject.preferences.training.split.development == 0.0:
        yield Found(
            argument_key("metric_for_best_model"),
            '"loss" needs evaluation data, and training.split.development is 0.',
            advice,
        )


@rule(
    "training-gradient-accumulation",
    "error",
    host_today="Accepted. The loss is computed for each small batch, so a text is compared with fewer others than "
    "with a batch of the whole size.",
    example='[training]\nloss = "MultipleNegativesRankingLoss"\n[training.arguments]\ngradient_accumulation_steps = 8',
    fix="Use CachedMultipleNegativesRankingLoss, with a large batch and a small mini_batch_size.",
)
def training_gradient_accumulation(subject: Subject) -> Iterator[Found]:
    """Gradients are accumulated for a loss that needs a large batch.

    The negatives of such a loss are the other rows of the batch. Accumulation adds up gradients of small batches, and
    adds no negatives. A cached loss has the same gradient as the large batch, in the memory of the small one.
    """
    steps = subject.training_arguments.get("gradient_accumulation_steps", 1)
    loss = subject.preferences.training.loss
    if not isinstance(steps, int) or steps <= 1 or (loss is not None and loss not in IN_BATCH_NEGATIVES_LOSSES):
        return
    named = loss or "The loss that is chosen for pairs"
    yield Found(
        argument_key("gradient_accumulation_steps"),
        f"{named} takes its negatives from the batch, and {steps} steps of accumulation add none.",
        'Remove it; write loss = "CachedMultipleNegativesRankingLoss" and a large per_device_train_batch_size.',
        None if loss is not None else "warning",
    )


@rule(
    "training-duplicates-lost",
    "warning",
    host_today="Rows that share a text with one of their batch are left over, and dropped where no batch takes them: "
    "of 48 rows with 6 different positives 18 were seen, without a message.",
    example='[training.arguments]\nbatch_sampler = "no_duplicates"',
    fix="Remove it: embedprefs samples batches without duplicates in which every row is seen.",
)
def training_duplicates_lost(subject: Subject) -> Iterator[Found]:
    """The sampler drops rows where many share a text.

    Synthetic questions share the passage they were made from, so that most of them may never be trained on.
    """
    sampler = subject.training_arguments.get("batch_sampler")
    if sampler in {"no_duplicates", "no_duplicates_hashed"}:
        yield Found(
            argument_key("batch_sampler"),
            f'"{sampler}" drops rows without a message where many rows share a text.',
            "Remove it, or make sure that each text stands in few rows.",
        )


@rule(
    "training-loader-workers",
    "error",
    host_today="An error when the data loader is built.",
    example="[training.arguments]\ndataloader_prefetch_factor = 2",
    fix="Write dataloader_num_workers too.",
)
def training_loader_workers(subject: Subject) -> Iterator[Found]:
    """An argument of the data loader needs worker processes.

    Without workers there is nobody who could fetch ahead.
    """
    arguments = subject.training_arguments
    if arguments.get("dataloader_num_workers", 0):
        return
    for name in ("dataloader_prefetch_factor", "dataloader_persistent_workers"):
        if arguments.get(name):
            yield Found(
                argument_key(name),
                "dataloader_num_workers is 0.",
                f"Write dataloader_num_workers = 2, or remove {name}.",
            )


@rule(
    "training-loss-unknown",
    "error",
    host_today="An AttributeError or ImportError.",
    example='[training]\nloss = "MultipleNegativeRankingLoss"',
    fix="Correct the name; it is the name of a class in sentence_transformers.sentence_transformer.losses.",
)
def training_loss_unknown(subject: Subject) -> Iterator[Found]:
    """The loss does not exist, or its parts do not fit together.

    Losses are named by their classes. A loss over layers needs the token vectors of all layers, which a cached loss
    does not keep.
    """
    training = subject.preferences.training
    if training.loss is None:
        return
    if training.loss not in LOSSES:
        close = nearest(training.loss, LOSSES)
        yield Found(
            "training.loss",
            f'sentence-transformers has no loss "{training.loss}".',
            f"Did you mean {close}?" if close else f"Losses: {', '.join(LOSSES)}.",
        )
    inner = training.loss_parameters.get("loss")
    over_layers = training.loss in {"AdaptiveLayerLoss", "Matryoshka2dLoss"}
    if over_layers and isinstance(inner, str) and inner.startswith("Cached"):
        yield Found(
            "training.loss_parameters.loss",
            f"{training.loss} cannot be laid around {inner}: it fails in the first step.",
            f'Write loss = "{inner.removeprefix("Cached")}" under [training.loss_parameters].',
        )


@rule(
    "training-matryoshka-dims",
    "error",
    cases=(25,),
    needs=("facts", "resolved"),
    host_today="A ValueError for dimensions the model does not have; a warning where the full dimension is missing.",
    example="[training]\nmatryoshka_dims = [2048, 256]  # of a model with 1024 dimensions",
    fix="Name the full dimension, and the one that vectors.truncate_dim uses.",
)
def training_matryoshka_dims(subject: Subject) -> Iterator[Found]:
    """The dimensions that are trained are not those that are used.

    Only the lengths that are trained are good vectors; the full one has to be among them.
    """
    dims = subject.preferences.training.matryoshka_dims
    full = subject.model.embedding_dimension
    if not dims:
        return
    key = "training.matryoshka_dims"
    twice = sorted({dim for dim in dims if dims.count(dim) > 1})
    if twice:
        yield Found(
            key,
            f"{twice[0]} stands there twice: it would be trained twice, and one evaluation would overwrite the other.",
            f"Write {twice[0]} once.",
        )
    if full is not None:
        large = [dim for dim in dims if dim > full]
        if large:
            yield Found(key, f"{large[0]} dimensions are asked for, and the model has {full}.", f"Remove {large[0]}.")
        elif full not in dims:
            yield Found(key, f"The full {full} dimensions are not trained.", f"Add {full}.", "warning")
    used = subject.choices["vectors.truncate_dim"]
    if used is not None and used not in dims:
        yield Found(
            key, f"vectors.truncate_dim is {used}, which is not trained.", f"Add {used} to matryoshka_dims.", "warning"
        )


@rule(
    "training-pool-too-small",
    "error",
    host_today="Mining returns fewer negatives than asked for, and leaves rows out.",
    example="[training.negatives]\ncount = 8\nrange_min = 10\nrange_max = 12",
    fix="Raise training.negatives.range_max.",
)
def training_pool_too_small(subject: Subject) -> Iterator[Found]:
    """Fewer passages are looked at than negatives are wanted.

    Negatives are taken from the passages between range_min and range_max.
    """
    negatives = subject.preferences.training.negatives
    if negatives.range_max is not None and negatives.range_max - negatives.range_min < negatives.count:
        yield Found(
            "training.negatives.range_max",
            f"{negatives.count} negatives are to be taken from the passages {negatives.range_min} to "
            f"{negatives.range_max}.",
            f"Write range_max = {negatives.range_min + 10 * negatives.count}.",
        )
