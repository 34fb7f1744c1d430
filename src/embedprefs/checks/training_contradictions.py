"""Rules about training settings that contradict each other, so that one of them is ignored."""

from __future__ import annotations

from collections.abc import Iterator

from embedprefs.checks.rule import Found, nearest, rule
from embedprefs.checks.subject import Subject
from embedprefs.checks.training_arguments import argument_key, strategies
from embedprefs.checks.training_losses import HOST_LOSSES, WRAPPERS

__all__: list[str] = []

#: Schedules without a warm-up.
_WITHOUT_WARMUP = frozenset({"constant", "reduce_lr_on_plateau", "greedy"})
#: Losses that compare rows of one label within a batch.
_GROUPED = frozenset(
    {"BatchAllTripletLoss", "BatchHardTripletLoss", "BatchHardSoftMarginTripletLoss", "BatchSemiHardTripletLoss"}
)


@rule(
    "training-steps-ignored",
    "error",
    host_today="Accepted. The number of steps is not looked at.",
    example='[training.arguments]\neval_strategy = "epoch"\neval_steps = 100',
    fix='Write "steps" as the strategy, or remove the number of steps.',
)
def training_steps_ignored(subject: Subject) -> Iterator[Found]:
    """A number of steps is stated where nothing happens by steps.

    Evaluations, checkpoints and log lines come by steps or by epochs; the strategy says which.
    """
    arguments = subject.training_arguments
    has_development = subject.preferences.training.split.development > 0
    evaluation, saving = strategies(arguments, has_development=has_development)
    for name, strategy, effective in (
        ("eval_steps", "eval_strategy", evaluation),
        ("save_steps", "save_strategy", saving),
        ("logging_steps", "logging_strategy", arguments.get("logging_strategy", "steps")),
    ):
        if name not in arguments or effective == "steps":
            continue
        if name == "eval_steps" and not has_development and arguments.get("eval_strategy") is None:
            yield Found(
                argument_key(name),
                f"eval_steps is {arguments[name]}, and training.split.development is 0: nothing is evaluated.",
                "Remove eval_steps, or write a share above 0.",
            )
            continue
        yield Found(
            argument_key(name),
            f'{name} is {arguments[name]}, and {strategy} is "{effective}".',
            f'Write {strategy} = "steps", or remove {name}.',
        )


@rule(
    "training-epochs-ignored",
    "error",
    host_today="Accepted. max_steps wins, and the number of epochs is not looked at.",
    example="[training.arguments]\nnum_train_epochs = 3\nmax_steps = 500",
    fix="Remove one of them.",
)
def training_epochs_ignored(subject: Subject) -> Iterator[Found]:
    """The length of the training is stated twice.

    max_steps ends the training, however many epochs are asked for.
    """
    arguments = subject.training_arguments
    steps = arguments.get("max_steps", -1)
    if isinstance(steps, int) and steps > 0 and "num_train_epochs" in arguments:
        yield Found(
            argument_key("num_train_epochs"),
            f"num_train_epochs is {arguments['num_train_epochs']}, and max_steps = {steps} decides.",
            "Remove num_train_epochs or max_steps.",
        )


@rule(
    "training-warmup-ignored",
    "error",
    host_today="Accepted. The schedule has no warm-up, and the first steps are as large as all others.",
    example='[training.arguments]\nlr_scheduler_type = "constant"\nwarmup_steps = 0.1',
    fix='Write lr_scheduler_type = "constant_with_warmup", or remove warmup_steps.',
)
def training_warmup_ignored(subject: Subject) -> Iterator[Found]:
    """A warm-up is stated for a schedule that has none.

    Only some schedules raise the learning rate at the beginning.
    """
    arguments = subject.training_arguments
    schedule = arguments.get("lr_scheduler_type")
    if arguments.get("warmup_steps") and schedule in _WITHOUT_WARMUP:
        yield Found(
            argument_key("warmup_steps"),
            f'warmup_steps is {arguments["warmup_steps"]}, and the schedule "{schedule}" has no warm-up.',
            'Write lr_scheduler_type = "constant_with_warmup", or remove warmup_steps.',
        )


@rule(
    "training-stopping-blind",
    "error",
    host_today="The callback stops with an error at the beginning, or only says in the log that it does nothing.",
    example="[training]\nearly_stopping = { patience = 3 }\nsplit = { development = 0.0 }",
    fix="Leave a development part, and let it be evaluated.",
)
def training_stopping_blind(subject: Subject) -> Iterator[Found]:
    """Training is to end early, and nothing says when.

    Early stopping looks at evaluations on the development part.
    """
    training = subject.preferences.training
    patience = training.early_stopping.patience
    if patience is None:
        return
    field = "training.early_stopping.patience"
    if training.split.development == 0.0:
        yield Found(field, "training.split.development is 0.", "Write a share above 0, or remove patience.")
    elif training.arguments.get("eval_strategy") == "no":
        yield Found(field, 'training.arguments.eval_strategy is "no".', 'Write eval_strategy = "steps".')


@rule(
    "training-length-above-serving",
    "warning",
    needs=("resolved",),
    host_today="`max_seq_length` is an attribute of the model: what is set for training is also what serves.",
    example="[tokenizer]\nmax_seq_length = 128\n[training]\nmax_seq_length = 512",
    fix="Write no more than tokenizer.max_seq_length.",
)
def training_length_above_serving(subject: Subject) -> Iterator[Found]:
    """Longer texts are to be trained on than the model reads later.

    What lies behind the serving length has no influence on the vectors that are used.
    """
    length = subject.preferences.training.max_seq_length
    serving = subject.choices["tokenizer.max_seq_length"]
    if length is not None and serving is not None and length > serving:
        yield Found(
            "training.max_seq_length",
            f"It is {length}, and the model reads {serving} tokens; {serving} are trained on.",
            f"Write {serving} or less, or raise tokenizer.max_seq_length.",
        )


@rule(
    "training-freeze-with-lora",
    "note",
    host_today="Both are accepted; an adapter freezes every weight of the model.",
    example='[training]\nfreeze = ["*embeddings*"]\nlora = { r = 16 }',
    fix="Remove freeze, or lora.",
)
def training_freeze_with_lora(subject: Subject) -> Iterator[Found]:
    """Weights are frozen that are frozen anyway.

    With low-rank adaptation only the added matrices are trained.
    """
    training = subject.preferences.training
    if training.lora is not None and training.freeze:
        yield Found("training.freeze", "training.lora freezes every weight of the model already.", "Remove it.")


@rule(
    "training-lora-target-unknown",
    "error",
    needs=("facts",),
    host_today="A ValueError of peft, after the model was loaded.",
    example='[training.lora]\ntarget_modules = ["q_proj"]  # of ModernBERT, whose layers are Wqkv, Wo and Wi',
    fix="Write names of the model's linear layers, or remove target_modules.",
)
def training_lora_target_unknown(subject: Subject) -> Iterator[Found]:
    """Low-rank adaptation is asked for on a layer that the model does not have.

    Layers are called differently in each architecture, and guides name those of language models.
    """
    lora = subject.preferences.training.lora
    layers = {
        name.removesuffix(".weight").rpartition(".")[2]
        for name, tensor in subject.model.tensors.items()
        if len(tensor.shape) == 2 and name.endswith(".weight") and "embeddings" not in name
    }
    if lora is None or lora.target_modules is None or not layers:
        return
    for target in lora.target_modules:
        # A longer name, such as attn.Wo, names some of the layers.
        if target.rpartition(".")[2] not in layers:
            close = nearest(target, layers)
            yield Found(
                "training.lora.target_modules",
                f'The model has no linear layer "{target}".',
                f"Did you mean {close}?" if close else f"Its layers: {', '.join(sorted(layers))}.",
            )


@rule(
    "training-token-in-file",
    "error",
    host_today="Accepted. The token lies in the file, and in training_args.bin of every checkpoint.",
    example='[training.arguments]\nhub_token = "hf_…"',
    fix="Set the environment variable HF_TOKEN.",
)
def training_token_in_file(subject: Subject) -> Iterator[Found]:
    """A secret stands in the preferences file.

    Files are shared and committed.
    """
    if subject.training_arguments.get("hub_token"):
        yield Found(argument_key("hub_token"), "A token is written in a file.", "Remove it, and set HF_TOKEN instead.")


@rule(
    "training-card-shows-texts",
    "warning",
    host_today="The host always writes texts of the training data into README.md, of every checkpoint too, whatever "
    "`generate_widget_examples` says; `push_to_hub` uploads them.",
    example="[training]\nmodel_card_texts = true",
    fix="Remove it where the texts are not meant for everybody who gets the model.",
)
def training_card_shows_texts(subject: Subject) -> Iterator[Found]:
    """The model card will hold texts that were trained on.

    A model is given away more easily than a corpus. Without the preference the card has numbers alone.
    """
    if subject.preferences.training.model_card_texts:
        pushed = subject.training_arguments.get("push_to_hub") is True
        yield Found(
            "training.model_card_texts",
            "Texts of the training data are written into README.md"
            + (", which push_to_hub uploads." if pushed else "."),
            "Remove it, unless the texts may be seen by everybody who gets the model.",
        )


@rule(
    "training-loss-parameter",
    "error",
    host_today="A TypeError when the loss is made, after model and data were loaded; a wrong value fails in the first "
    "step.",
    example='[training]\nloss = "CoSENTLoss"\nloss_parameters = { temperature = 0.05 }',
    fix="Write a parameter of the loss, by the host's name.",
)
def training_loss_parameter(subject: Subject) -> Iterator[Found]:
    """A parameter does not belong to the loss, or has a value that the loss does not take.

    Each loss has parameters of its own: what one calls temperature is 1 / scale of another.
    """
    training = subject.preferences.training
    if training.loss not in HOST_LOSSES:
        return
    inner = training.loss_parameters.get("loss")
    names = [training.loss, *([inner] if training.loss in WRAPPERS and inner in HOST_LOSSES else [])]
    if training.matryoshka_dims and training.loss not in WRAPPERS:
        names.append("MatryoshkaLoss")
    known = {name: parameter for loss in reversed(names) for name, parameter in HOST_LOSSES[loss].parameters.items()}
    if training.loss in WRAPPERS and inner is None:
        return  # the loss within is chosen for the data, and its parameters are judged then
    for name, value in training.loss_parameters.items():
        key = f"training.loss_parameters.{name}"
        if name not in known:
            close = nearest(name, known)
            own = ", ".join(item for item in known if item != "loss") or "none"
            yield Found(
                key,
                f'{training.loss} has no parameter "{name}".',
                f"Did you mean {close}?" if close else f"Its parameters: {own}.",
            )
        elif not known[name].accepts(value):
            allowed = ", ".join(known[name].choices) or known[name].kinds
            yield Found(key, f"{name} is {value!r}.", f"Allowed: {allowed}.")


@rule(
    "training-scale-not-cosine",
    "warning",
    host_today="Accepted. Dot products of vectors that are not normalised are multiplied by 20, and the loss knows "
    "only 0 and infinity.",
    example='[training]\nloss = "MultipleNegativesRankingLoss"\nloss_parameters = { similarity_fct = "dot_score" }',
    fix="Write scale = 1.0 with a dot product, or remove similarity_fct.",
)
def training_scale_not_cosine(subject: Subject) -> Iterator[Found]:
    """A scale that is meant for cosines is laid on dot products.

    The default of 20 spreads cosines, which lie between -1 and 1.
    """
    parameters = subject.preferences.training.loss_parameters
    similarity = parameters.get("similarity_fct")
    scale = parameters.get("scale", 20.0)
    if isinstance(similarity, str) and "dot" in similarity and isinstance(scale, (int, float)) and scale > 5:
        loss = HOST_LOSSES.get(subject.preferences.training.loss or "MultipleNegativesRankingLoss")
        if loss is not None and "scale" in loss.parameters:
            yield Found(
                "training.loss_parameters.similarity_fct",
                f'It is "{similarity}", and each is multiplied by scale = {scale}.',
                "Write scale = 1.0, or remove similarity_fct.",
            )


@rule(
    "training-cached-static",
    "error",
    needs=("facts",),
    host_today="An error in the first step: the model has no inputs that could be cut into small batches.",
    example='[training]\nloss = "CachedMultipleNegativesRankingLoss"  # of a static model',
    fix='Write loss = "MultipleNegativesRankingLoss".',
)
def training_cached_static(subject: Subject) -> Iterator[Found]:
    """A cached loss is stated for a static model.

    Static embeddings keep no activations, so that there is nothing to save either.
    """
    loss = HOST_LOSSES.get(subject.preferences.training.loss or "")
    if loss is not None and loss.cached and subject.model.is_static:
        plain = loss.name.removeprefix("Cached")
        yield Found(
            "training.loss", f"{loss.name} cannot train a static model.", f'Write loss = "{plain}", or remove it.'
        )


@rule(
    "training-label-batches",
    "error",
    host_today="A ValueError when the sampler is made; with another sampler the loss is 0 for most batches.",
    example='[training]\nloss = "BatchHardTripletLoss"\n[training.arguments]\nper_device_train_batch_size = 5',
    fix='Remove batch_sampler, which then is "group_by_label", and write an even batch size from 4 on.',
)
def training_label_batches(subject: Subject) -> Iterator[Found]:
    """A loss that compares rows of one label gets batches without two of them.

    Such a loss needs at least two labels in a batch, and two rows of each.
    """
    if subject.preferences.training.loss not in _GROUPED:
        return
    arguments, loss = subject.training_arguments, subject.preferences.training.loss
    sampler, size = arguments.get("batch_sampler"), arguments.get("per_device_train_batch_size")
    if sampler not in (None, "group_by_label"):
        yield Found(
            argument_key("batch_sampler"), f'{loss} needs "group_by_label", and it is "{sampler}".', "Remove it."
        )
    if isinstance(size, int) and (size < 4 or size % 2):
        yield Found(
            argument_key("per_device_train_batch_size"),
            f"It is {size}; {loss} needs an even number from 4 on.",
            f"Write per_device_train_batch_size = {max(4, size + size % 2)}.",
        )


@rule(
    "training-one-gpu-of-several",
    "note",
    needs=("hardware", "resolved"),
    host_today="Several visible GPUs in one process become DataParallel: a warning, the model copied in every step, "
    "and negatives from a part of the batch only.",
    example='[compute]\ndevice = "cuda"  # on a machine with two',
    fix="Start one process a GPU: torchrun --nproc-per-node 2 -m embedprefs.cli train.",
)
def training_one_gpu_of_several(subject: Subject) -> Iterator[Found]:
    """One GPU of several would train.

    In one process one GPU is used. Several are used by as many processes.
    """
    count = sum(accelerator.kind == "cuda" for accelerator in subject.machine.accelerators)
    training = subject.preferences.training
    if count > 1 and training.data is not None and subject.choices.devices[0].startswith("cuda"):
        yield Found(
            "compute.device",
            f"There are {count} GPUs, and one process trains on one of them.",
            f"To use all: torchrun --nproc-per-node {count} -m embedprefs.cli train.",
        )


@rule(
    "training-negatives-without-pairs",
    "error",
    host_today="Mining takes pairs alone; other data fail after the whole corpus was embedded.",
    example='[training]\nloss = "CoSENTLoss"\nnegatives = { count = 4 }',
    fix="Remove training.negatives, or train with a loss for pairs.",
)
def training_negatives_without_pairs(subject: Subject) -> Iterator[Found]:
    """Negatives are to be mined for a loss that takes none.

    Negatives are mined for pairs of a question and its passage.
    """
    training = subject.preferences.training
    loss = HOST_LOSSES.get(training.loss) if training.loss is not None else None
    if training.negatives.count and loss is not None and loss.data and not {"triplets", "tuples"} & set(loss.data):
        yield Found(
            "training.negatives.count",
            f"{training.negatives.count} negatives are asked for, and {loss.name} takes none.",
            "Write count = 0, or another loss.",
        )
