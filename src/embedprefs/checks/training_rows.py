"""Rules about training settings together with the data: what only the rows can say, before any weights are read."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median

from embedprefs.checks.rule import Found, training_rule
from embedprefs.checks.subject import TrainingSubject
from embedprefs.checks.training_losses import HOST_LOSSES

__all__: list[str] = []

_SAMPLE = 2_000
#: An anchor that is this much longer than its positive is likely the passage.
_LONGER = 2.0
#: Share of texts that may be cut without a word.
_CUT = 0.05
#: Batches this much smaller than asked for are worth a word.
_SMALL = 0.75
_FEWEST_QUERIES = 100
_FEWEST_STEPS = 10
#: Set that is evaluated on -> the preference that names it.
_LEAKING = {"test": "training.evaluation_data", "guard": "training.guard_data"}


@training_rule(
    "training-loss-unfit",
    "error",
    host_today="CoSENTLoss without labels fails in the first step with an AttributeError, TripletLoss on pairs with an "
    "unpacking error; a label column that the loss does not take is ignored without a message.",
    example='[training]\nloss = "CoSENTLoss"  # on pairs without a score',
    fix="Remove training.loss, so that it is chosen for the data, or write one that takes such data.",
)
def training_loss_unfit(subject: TrainingSubject) -> Iterator[Found]:
    """The loss does not take such data.

    Each loss is made for one kind of rows.
    """
    if subject.loss_problem is not None:
        yield Found("training.loss", subject.loss_problem[0], subject.loss_problem[1])


@training_rule(
    "training-refused",
    "error",
    host_today="A KeyError at the first evaluation for a metric that nobody reports; other settings are accepted and "
    "mean something else.",
    example='[training.arguments]\nmetric_for_best_model = "eval_dev_cosine_ndcg@5"  # with metric = "ndcg@10"',
    fix="What the finding says.",
)
def training_refused(subject: TrainingSubject) -> Iterator[Found]:
    """A setting does not fit the data, the loss or the run.

    The same is refused when training begins; here it costs nothing.
    """
    for key, message, fix in subject.refused:
        yield Found(key, message, fix)


@training_rule(
    "training-label-ignored",
    "warning",
    host_today="The column is recognised as a label and handed to the loss, which does not look at it. No message.",
    example="A column `score` beside anchor, positive and negative, and MultipleNegativesRankingLoss.",
    fix="Remove the column from the data, or train with a loss that takes it.",
)
def training_label_ignored(subject: TrainingSubject) -> Iterator[Found]:
    """The data have a score or label that the loss does not look at.

    What somebody judged has no influence on the model.
    """
    host = HOST_LOSSES.get(subject.loss or "")
    if host is not None and host.label == "none" and subject.label_roles:
        names = " and ".join(subject.label_roles)
        fitting = [
            name
            for name, loss in HOST_LOSSES.items()
            if subject.kind in loss.data and loss.label != "none" and loss.unsupported is None
        ]
        yield Found(
            "training.loss",
            f"The {names} of {subject.name} is not used by {subject.loss}.",
            f"Remove the column, or train with {' or '.join(fitting)}.",
        )


@training_rule(
    "training-columns-left-out",
    "note",
    host_today="Every column that is no label is tokenised and trained on: a column of identifiers became a negative.",
    example="A column `doc_id` beside anchor and positive.",
    fix="Nothing, where these columns are not meant to be trained on; else name their roles in training.columns.",
)
def training_columns_left_out(subject: TrainingSubject) -> Iterator[Found]:
    """Columns of the data are not trained on.

    Only columns with a role are: an identifier would be taken for a text.
    """
    if subject.left_out:
        yield Found(
            "training.columns",
            f"Not trained on: {', '.join(subject.left_out)}.",
            "Give a column a role in [training.columns] where it should be: anchor, positive, negative, score …",
        )


@training_rule(
    "training-columns-swapped",
    "warning",
    host_today="One line in the log. The inverse task is trained: finding a question by its passage.",
    example="A column `answer` as anchor and `question` as positive.",
    fix='Name the columns the other way round: [training.columns] anchor = "question", positive = "answer".',
)
def training_columns_swapped(subject: TrainingSubject) -> Iterator[Found]:
    """Questions and passages seem to be in each other's place.

    Prompts and the direction of the loss follow the roles: the anchor is what is asked with.
    """
    if not {"anchor", "positive"} <= set(subject.text_roles):
        return
    rows = subject.rows[:_SAMPLE]
    anchors, positives = [row["anchor"] for row in rows], [row["positive"] for row in rows]
    asking = [sum(text.rstrip().endswith("?") for text in texts) / len(texts) for texts in (anchors, positives)]
    longer = median(map(len, anchors)) > _LONGER * median(map(len, positives))
    shared = len(set(anchors)) < len(set(positives))
    if (asking[1] > 0.5 and asking[0] < 0.1) or (longer and shared):
        reason = (
            f"{asking[1]:.0%} of the positives end in a question mark"
            if asking[1] > 0.5
            else "the anchors are longer than the positives, and several rows share one"
        )
        yield Found(
            "training.columns",
            f"The anchors look like passages: {reason}.",
            "Name the columns the other way round in [training.columns], or ignore this where it is meant.",
        )


@training_rule(
    "training-rows-lost",
    "error",
    host_today="No message: of 48 rows with 6 different positives, `no_duplicates` showed 18 to the model.",
    example='[training.arguments]\nbatch_sampler = "no_duplicates"  # where many questions share a passage',
    fix="Remove batch_sampler: then every row is seen, and no two rows of a batch share a text.",
)
def training_rows_lost(subject: TrainingSubject) -> Iterator[Found]:
    """Rows of the data are never trained on.

    The sampler puts rows that share a text off, and the epoch ends before their turn.
    """
    if not subject.rows_lost:
        return
    total = len(subject.rows)
    share = subject.rows_lost / total
    stated = subject.preferences.training.arguments
    dropped = stated.get("dataloader_drop_last") is True and "batch_sampler" not in stated
    field = "dataloader_drop_last" if dropped else "batch_sampler"
    yield Found(
        f"training.arguments.{field}",
        f'With "{subject.sampler}" {subject.rows_lost:,} of {total:,} rows ({share:.1%}) are not seen in an epoch.',
        f"Remove {field}.",
        None if share >= 0.05 else "warning",
    )


@training_rule(
    "training-false-negatives",
    "warning",
    host_today="The default sampler draws at random: where several questions share a passage, it becomes its own "
    "question's negative.",
    example='[training.arguments]\nbatch_sampler = "batch_sampler"  # where many questions share a passage',
    fix="Remove batch_sampler: then no two rows of a batch share a text.",
)
def training_false_negatives(subject: TrainingSubject) -> Iterator[Found]:
    """Right answers are taken for wrong ones.

    The negatives are the other rows of a batch; a row that shares a text with another one is told to push it away.
    """
    host = HOST_LOSSES.get(subject.loss or "")
    if subject.false_negatives and host is not None and host.in_batch_negatives:
        yield Found(
            "training.arguments.batch_sampler",
            f"In an epoch {subject.false_negatives:,} of {len(subject.rows):,} rows share a text with another row of "
            "their batch.",
            "Remove batch_sampler.",
        )


@training_rule(
    "training-batches-small",
    "warning",
    host_today="Rows are lost, or become false negatives.",
    example="48 rows with 6 different positives, and per_device_train_batch_size = 16.",
    fix="Write a smaller batch size, or keep fewer questions of each passage.",
)
def training_batches_small(subject: TrainingSubject) -> Iterator[Found]:
    """Batches cannot be as large as asked for.

    No two rows of a batch may share a text, and each row is used: where many rows share one text, there have to be as
    many batches as that text has rows.
    """
    largest = max(subject.batch_sizes, default=0)
    asked = min(subject.batch_size, len(subject.rows))
    if subject.sampler == "covering" and 0 < largest < _SMALL * asked:
        name = "per_device_train_batch_size"
        shared = f"one text is shared by {len(subject.batch_sizes):,} rows"
        if name in subject.preferences.training.arguments:
            message = f"Batches have {largest} rows, and {asked} are asked for: {shared}."
            yield Found(f"training.arguments.{name}", message, f"Write {largest}, or keep fewer rows of each passage.")
        else:
            message = f"Batches have {largest} rows, where {asked} would be chosen: {shared}."
            yield Found("training.data", message, "Keep fewer rows of each passage, where larger batches are wanted.")


@training_rule(
    "training-leakage",
    "error",
    host_today="Nothing is compared. Most published gains come from random splits of single rows.",
    example='[training]\ndata = "folder"\nevaluation_data = "folder"  # the same judgements',
    fix="Take what is evaluated out of the training data; name the split with training.evaluation_split.",
)
def training_leakage(subject: TrainingSubject) -> Iterator[Found]:
    """What is evaluated is trained on.

    The result would be what was learnt by heart, not how well the model does on what it has not seen. Shared source
    documents and near-duplicates are warnings, shared queries or passages are errors.
    """
    for part, words in subject.leakage.items():
        if words == "none":
            continue
        equal = any(name in words for name in ("quer", "passage"))
        yield Found(
            _LEAKING.get(part, "training.split.development"),
            f"The {part} set shares with training: {words}.",
            "Take them out of the training data, or write training.evaluation_split."
            if part in _LEAKING
            else 'Write training.split.near_duplicates = "together", or name the documents.',
            None if equal else "warning",
        )


@training_rule(
    "training-evaluation-small",
    "warning",
    host_today="A mean without an interval.",
    example="A test part with 40 queries.",
    fix="Judge more queries, or take a larger part: training.split.test.",
)
def training_evaluation_small(subject: TrainingSubject) -> Iterator[Found]:
    """So few queries show hardly any difference.

    With 100 queries, differences below about 0.07 of nDCG cannot be told from chance.
    """
    for part, count in subject.queries.items():
        if 0 < count < _FEWEST_QUERIES:
            yield Found(
                "training.split.test" if part == "test" else "training.split.development",
                f"The {part} part has {count} {'query' if count == 1 else 'queries'}.",
                f"Take at least {_FEWEST_QUERIES}; 200 to 500 are better.",
            )


@training_rule(
    "training-texts-cut",
    "warning",
    host_today="Cut without a message.",
    example="[training]\nmax_seq_length = 32  # of passages with 200 tokens",
    fix="Raise training.max_seq_length, or cut the texts into smaller passages.",
)
def training_texts_cut(subject: TrainingSubject) -> Iterator[Found]:
    """Many texts are longer than what is read of them.

    What lies behind the limit is not learnt.
    """
    for role, share in subject.truncated.items():
        if share > _CUT:
            yield Found(
                "training.max_seq_length",
                f"{share:.0%} of the texts in {role} have more than the {subject.length} tokens that are read.",
                "Raise it, where tokenizer.max_seq_length and memory allow, or cut the texts into smaller passages.",
            )


@training_rule(
    "training-memory",
    "error",
    host_today="Memory runs out in some step, when a batch with long texts comes.",
    example="[training.arguments]\nper_device_train_batch_size = 4096",
    fix="Use a cached loss with a smaller mini_batch_size, activation checkpointing, shorter texts, or LoRA.",
)
def training_memory(subject: TrainingSubject) -> Iterator[Found]:
    """A batch does not fit into memory.

    Of all ways out a cached loss with smaller mini-batches is the first: its gradient is the same.
    """
    needed, free = subject.memory_needed, subject.memory_free
    if needed is not None and free is not None and needed > free:
        yield Found(
            "training.arguments.per_device_train_batch_size",
            f"Training takes up to {needed / 1024**3:.1f} GiB, and {subject.device} has {free / 1024**3:.1f} GiB free.",
            "Write a smaller mini_batch_size in [training.loss_parameters] of a cached loss, "
            'activation_checkpointing = "on", or a smaller training.max_seq_length.',
            None if needed > 1.25 * free else "warning",
        )


@training_rule(
    "training-few-steps",
    "warning",
    host_today="The learning rate rises and falls within a few steps, and little is learnt.",
    example="40 rows, and per_device_train_batch_size = 32.",
    fix="Write a smaller batch size, more epochs, or add data.",
)
def training_few_steps(subject: TrainingSubject) -> Iterator[Found]:
    """There are hardly any steps.

    Each step moves the weights by about the learning rate; a few of them change little.
    """
    if 0 < subject.steps < _FEWEST_STEPS:
        yield Found(
            "training.arguments.per_device_train_batch_size",
            f"The whole run has {subject.steps} {'step' if subject.steps == 1 else 'steps'}.",
            "Write a smaller batch size or more epochs (num_train_epochs), or add data.",
        )


@training_rule(
    "training-rows-rejected",
    "note",
    host_today="Empty texts and repeated rows are trained on.",
    example="A row whose positive is empty.",
    fix="Nothing, where they are not needed; the plan names the reasons and the first lines.",
)
def training_rows_rejected(subject: TrainingSubject) -> Iterator[Found]:
    """Some rows cannot be used.

    They are left out, and counted with their reason.
    """
    if subject.rejected:
        total = subject.rejected + len(subject.rows)
        large = subject.rejected > 0.1 * total
        yield Found(
            "training.data",
            f"{subject.rejected:,} rows of {subject.name} are left out.",
            "See the reasons in the plan (embedprefs train --plan).",
            "warning" if large else None,
        )


@training_rule(
    "training-pairs-needed",
    "error",
    host_today="Mining takes pairs alone; other data fail after the whole corpus was embedded.",
    example="[training]\nnegatives = { count = 4 }  # for scored pairs",
    fix="Remove training.negatives.",
)
def training_pairs_needed(subject: TrainingSubject) -> Iterator[Found]:
    """Negatives are to be mined for data that have none to be mined for.

    A negative is a passage near a question that is not its answer; rows that bring their own keep them.
    """
    count = subject.preferences.training.negatives.count
    field = "training.negatives.count"
    if count and subject.kind in ("triplets", "tuples"):
        yield Found(
            field,
            f"{count} negatives are asked for, and the rows of {subject.name} have negatives already: none are mined.",
            "Write count = 0, or take the negatives out of the data.",
        )
    elif count and subject.kind != "pairs":
        yield Found(
            field,
            f"{count} negatives are asked for, and {subject.name} holds no questions with their passages.",
            "Write count = 0.",
        )


@training_rule(
    "training-teacher-unused",
    "error",
    host_today="A script that loads a teacher and then trains with another loss runs, and learns nothing from it.",
    example='[training]\ndistill_from = "owner/larger"\nloss = "MultipleNegativesRankingLoss"',
    fix="Remove training.loss, or write one that learns from a teacher.",
)
def training_teacher_unused(subject: TrainingSubject) -> Iterator[Found]:
    """A larger model is named to learn from, and the loss does not ask it.

    Only some losses learn a teacher's vectors or scores.
    """
    if subject.preferences.training.distill_from is None or subject.loss is None or subject.needs_teacher:
        return
    fitting = [
        name
        for name, loss in HOST_LOSSES.items()
        if subject.kind in loss.data and loss.label in ("vector", "scores") and loss.unsupported is None
    ]
    yield Found(
        "training.distill_from",
        f"{subject.loss} does not learn from a larger model.",
        f'Write loss = "{fitting[0]}", or remove distill_from.' if fitting else "Remove distill_from.",
    )


@training_rule(
    "training-metric-unused",
    "warning",
    host_today="Nothing: the metric of an evaluator is its own.",
    example='[training]\nmetric = "mrr@10"  # with pairs that have scores',
    fix="Remove training.metric, or name data with questions and judgements in training.evaluation_data.",
)
def training_metric_unused(subject: TrainingSubject) -> Iterator[Found]:
    """A metric of rankings is stated where nothing is ranked.

    Pairs with scores are judged by Spearman's correlation with the similarities.
    """
    if subject.is_stated("training.metric") and not subject.uses_metric:
        judged = "judged by Spearman's correlation" if subject.kind == "scored_pairs" else "judged by nothing"
        yield Found(
            "training.metric",
            f"It is {subject.preferences.training.metric}, and {subject.name} is {judged}.",
            "Remove it.",
        )
