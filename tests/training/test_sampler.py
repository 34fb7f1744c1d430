"""Batches without duplicates that lose no row, and the host's sampler protocol around them."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedprefs.training import read_training_data
from embedprefs.training.batches import (
    Batches,
    EpochPlan,
    no_duplicates_epoch,
    random_epoch,
    shared_texts,
    split_texts,
)


def assert_covers(plan: EpochPlan, texts) -> None:
    """Every row once, and no text twice in a batch."""
    assert sorted(row for batch in plan.batches for row in batch) == list(range(len(texts)))
    for batch in plan.batches:
        counts = Counter(text for row in batch for text in texts[row])
        assert max(counts.values(), default=1) == 1
    assert plan.coverage == 1.0
    assert plan.lost == 0
    assert plan.false_negatives(texts) == 0


def questions_of_passages(passages, each):
    """Texts of rows: `each` questions of every passage."""
    return [(passage, 10_000 + passage * each + number) for passage in range(passages) for number in range(each)]


# --- batches


@pytest.mark.parametrize(
    ("passages", "each", "size"), [(100, 5, 32), (40, 8, 32), (7, 1, 16), (16, 16, 16), (300, 3, 64), (1, 1, 4)]
)
def test_batches_are_full_save_the_last(passages, each, size):
    """Wherever no passage has more questions than there are batches."""
    texts = questions_of_passages(passages, each)
    batches = Batches(texts, size, seed=3)
    for epoch in range(3):
        plan = batches.epoch(epoch)
        assert_covers(plan, texts)
        full, rest = divmod(len(texts), size)
        assert plan.sizes == (size,) * full + ((rest,) if rest else ())


def test_forty_eight_questions_of_six_passages():
    """The host's sampler shows 18 of the 48 rows to the model; here all are seen, in batches as large as can be."""
    texts = questions_of_passages(6, 8)
    lost = no_duplicates_epoch(texts, 16)
    assert (len(lost.batches), len(lost.batches) * 6, lost.lost) == (3, 18, 30)
    plan = Batches(texts, 16).epoch(0)
    assert_covers(plan, texts)
    assert plan.sizes == (6,) * 8


def test_one_passage_with_very_many_questions_makes_equal_batches():
    """As many batches as it has questions; none of them stays empty or tiny."""
    texts = [*((0, 1_000 + number) for number in range(50)), *((number, 2_000 + number) for number in range(1, 151))]
    plan = Batches(texts, 64).epoch(1)
    assert_covers(plan, texts)
    assert plan.sizes == (4,) * 50


def test_the_same_seed_and_epoch_give_the_same_batches():
    """So that a resumed run goes on with them; another epoch or seed has others."""
    texts = questions_of_passages(30, 4)
    first, again, other = Batches(texts, 16, seed=5), Batches(texts, 16, seed=5), Batches(texts, 16, seed=6)
    again.epoch(0)
    assert first.epoch(2).batches == again.epoch(2).batches
    assert first.epoch(1).batches != first.epoch(2).batches
    assert first.epoch(1).batches != other.epoch(1).batches
    assert {len(first.epoch(epoch).batches) for epoch in range(5)} == {first.count}


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 12), st.integers(20, 50), st.integers(60, 75)), max_size=90),
    st.integers(1, 24),
    st.integers(0, 3),
)
def test_rows_that_share_several_texts_are_all_seen(rows, size, seed):
    """Questions, passages and negatives may each be shared; a text may stand in several columns."""
    texts = [tuple(sorted(set(row))) for row in rows]
    batches = Batches(texts, size, seed=seed)
    for epoch in (0, 1):
        plan = batches.epoch(epoch)
        assert_covers(plan, texts)
        assert max(plan.sizes, default=0) <= size
        assert len(plan.batches) == batches.count


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 8), st.integers(0, 15), st.lists(st.integers(0, 20), min_size=1, max_size=3)),
        max_size=70,
    ),
    st.integers(1, 24),
    st.integers(0, 3),
)
def test_negatives_may_be_shared_and_are_never_the_answer_of_a_row_beside(rows, size, seed):
    """Every row once; no text of a row stands in another row of its batch, as its own or as a negative."""
    own = [(100 + question, passage) for passage, question, _ in rows]
    negatives = [tuple(sorted({text for text in wrong if text != passage})) for passage, _, wrong in rows]
    batches = Batches(own, size, seed=seed, negatives=negatives)
    for epoch in (0, 1):
        plan = batches.epoch(epoch)
        assert sorted(row for batch in plan.batches for row in batch) == list(range(len(rows)))
        assert max(plan.sizes, default=0) <= size
        assert plan.false_negatives(own, negatives) == 0
        for batch in plan.batches:
            beside = [text for row in batch for text in {*own[row], *negatives[row]} - set(own[row])]
            assert not set(beside) & {text for row in batch for text in own[row]}


def test_a_negative_of_very_many_rows_does_not_make_batches_small():
    """Mined negatives repeat: a passage that is near to many questions is wrong for each of them."""
    own = questions_of_passages(200, 1)
    negatives = [(50_000 + row // 100,) for row in range(len(own))]
    assert Batches(own, 32, negatives=negatives).epoch(0).sizes == (32,) * 6 + (8,)
    together = [(*texts, *wrong) for texts, wrong in zip(own, negatives, strict=True)]
    assert max(Batches(together, 32).epoch(0).sizes) == 2


def test_without_negatives_nothing_changes():
    """The batches of pairs are those that they were."""
    texts = questions_of_passages(30, 4)
    assert Batches(texts, 16, seed=5).epoch(1) == Batches(texts, 16, seed=5, negatives=[()] * 120).epoch(1)


def test_negatives_are_told_by_their_columns():
    """Equal texts have one number, wherever they stand."""
    own, negatives = split_texts(
        {"anchor": ["a", "b"], "positive": ["One  text", "c"], "negative_1": ["c", "one text "]}
    )
    assert own == [(0, 2), (1, 3)]
    assert negatives == [(3,), (2,)]
    assert split_texts({"anchor": ["a"], "positive": ["b"]}) == ([(0, 1)], [()])


def test_texts_are_shared_across_columns_whatever_their_case_and_spaces():
    """A negative of one row that is the positive of another is a wrong negative too."""
    texts = shared_texts({"anchor": ["a", "b"], "positive": ["One  text", "other"], "negative": ["x", "one text "]})
    assert set(texts[0]) & set(texts[1])
    assert shared_texts({"anchor": ["a", "b"], "score": [0.5, 0.5]}) == [(0,), (1,)]


def test_batches_of_one_size_for_several_processes():
    """Only the last is dropped; where all are smaller than asked for, all are cut to one size."""
    plan = Batches(questions_of_passages(50, 2), 32).epoch(0).in_equal_parts(32)
    assert plan.sizes == (32,) * 3
    assert plan.lost == 4
    small = Batches([(0, 10 + n) for n in range(7)] + [(n, 20 + n) for n in range(1, 4)], 8).epoch(0)
    assert set(small.in_equal_parts(8).sizes) == {1}


def test_a_random_epoch_has_false_negatives():
    """What the host's default sampler does to questions that share a passage."""
    texts = questions_of_passages(20, 10)
    assert random_epoch(len(texts), 32).coverage == 1.0
    assert random_epoch(len(texts), 32).false_negatives(texts) > 100


# --- the host's protocol


@pytest.fixture(scope="module")
def many_questions():
    """A data set with 8 questions of each of 30 passages."""
    rows = [{"anchor": f"question {n}", "positive": f"passage {n // 8}"} for n in range(240)]
    return read_training_data(rows)


def test_the_host_takes_the_class(many_questions, tmp_path):
    """Its trainer's data loader has every row in full batches, the same again for the same epoch."""
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

    from embedprefs.testing import static_model_folder
    from embedprefs.training import CoveringBatchSampler

    model = SentenceTransformer(str(static_model_folder(tmp_path / "model")), device="cpu")
    arguments = SentenceTransformerTrainingArguments(
        str(tmp_path / "out"), per_device_train_batch_size=20, batch_sampler=CoveringBatchSampler, use_cpu=True, seed=3
    )
    trainer = SentenceTransformerTrainer(
        model, arguments, many_questions.dataset(), loss=MultipleNegativesRankingLoss(model)
    )
    sampler = trainer.get_train_dataloader().batch_sampler
    assert len(sampler) == 12
    seen = []
    for epoch in (0, 1, 0):
        sampler.set_epoch(epoch)
        batches = [list(batch) for batch in sampler]
        assert sorted(row for batch in batches for row in batch) == list(range(240))
        assert all(len({row // 8 for row in batch}) == 20 for batch in batches)
        seen.append(batches)
    assert seen[0] == seen[2] != seen[1]


def test_no_row_is_lost_where_the_host_loses_them():
    """48 questions of 6 passages in batches of 16: the host's epoch has 3 steps, and ends after 18 rows."""
    import torch
    from sentence_transformers.base.sampler import NoDuplicatesBatchSampler

    from embedprefs.training import CoveringBatchSampler

    data = read_training_data([{"anchor": f"q{n}", "positive": f"p{n % 6}"} for n in range(48)]).dataset()
    host = NoDuplicatesBatchSampler(data, 16, drop_last=False, generator=torch.Generator(), seed=0)
    seen = [row for batch, _ in zip(host, range(len(host)), strict=False) for row in batch]
    texts = shared_texts({name: data[name] for name in data.column_names})
    simulated = no_duplicates_epoch(texts, 16)
    assert (len(host), len(set(seen))) == (3, 18)
    assert (len(simulated.batches), 48 - simulated.lost) == (3, 18)
    own = CoveringBatchSampler(data, 16, drop_last=False)
    assert sorted(row for batch in own for row in batch) == list(range(48))


def test_labels_are_no_texts():
    """Rows of one label may share a batch."""
    from embedprefs.training import CoveringBatchSampler

    rows = [{"anchor": f"a{n}", "positive": f"p{n}", "negative": f"n{n}", "score": 1.0} for n in range(20)]
    data = read_training_data(rows).dataset()
    sampler = CoveringBatchSampler(data, 10, drop_last=False, valid_label_columns=["label", "score"])
    assert [len(batch) for batch in sampler] == [10, 10]


def test_several_processes_get_batches_of_one_size():
    """What is left over is dropped, as `drop_last` asks."""
    from embedprefs.training import CoveringBatchSampler

    data = read_training_data([{"anchor": f"a{n}", "positive": f"p{n}"} for n in range(25)]).dataset()
    sampler = CoveringBatchSampler(data, 10, drop_last=True)
    assert [len(batch) for batch in sampler] == [10, 10]
    assert len(sampler) == 2
    assert sampler.batch_size == 10


# --- real texts


@pytest.mark.parametrize("size", [64, 256])
def test_every_question_of_wikipedia_is_seen(test_data, size):
    """5,081 questions of 1,051 paragraphs: full batches, no paragraph twice in one."""
    data = read_training_data(test_data / "squadshifts-wiki")
    texts = shared_texts({role: [row[role] for row in data.rows] for role in data.text_roles})
    plan = Batches(texts, size, seed=1).epoch(1)
    assert_covers(plan, texts)
    assert set(plan.sizes[:-1]) == {size}
    assert random_epoch(len(texts), size).false_negatives(texts) > 200


def test_questions_on_long_articles_are_seen_where_the_host_loses_most(test_data):
    """1,217 questions of few articles, one of which has 108: the host's sampler shows half of them or fewer."""
    data = read_training_data(test_data / "covidqa-long")
    texts = shared_texts({role: [row[role] for row in data.rows] for role in data.text_roles})
    assert_covers(Batches(texts, 128).epoch(0), texts)
    assert no_duplicates_epoch(texts, 128).coverage < 0.6


def test_each_epoch_of_a_training_has_its_own_batches(many_questions, tmp_path):
    """The host tells the sampler which epoch it is."""
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

    from embedprefs.testing import static_model_folder
    from embedprefs.training import CoveringBatchSampler

    seen = []

    class Watched(CoveringBatchSampler):
        def __iter__(self):
            for batch in super().__iter__():
                seen.append((self.epoch, tuple(batch)))
                yield batch

    model = SentenceTransformer(str(static_model_folder(tmp_path / "model")), device="cpu")
    options = {"use_cpu": True, "report_to": "none", "save_strategy": "no", "disable_tqdm": True}
    arguments = SentenceTransformerTrainingArguments(
        str(tmp_path / "out"), per_device_train_batch_size=20, num_train_epochs=2, batch_sampler=Watched, **options
    )
    loss = MultipleNegativesRankingLoss(model)
    SentenceTransformerTrainer(model, arguments, many_questions.dataset(), loss=loss).train()
    epochs = [[batch for number, batch in seen if number == epoch] for epoch in (0, 1)]
    assert [len(batches) for batches in epochs] == [12, 12]
    assert all(sorted(row for batch in batches for row in batch) == list(range(240)) for batches in epochs)
    assert set(epochs[0]).isdisjoint(epochs[1])


def test_two_processes_share_the_batches(many_questions):
    """As accelerate shards them: each process as many, no row twice, none but the rest lost."""
    from accelerate.data_loader import BatchSamplerShard

    from embedprefs.training import CoveringBatchSampler

    sampler = CoveringBatchSampler(many_questions.dataset(), 24, drop_last=True)
    shards = [list(BatchSamplerShard(sampler, num_processes=2, process_index=index)) for index in range(2)]
    assert [len(shard) for shard in shards] == [5, 5]
    rows = [row for shard in shards for batch in shard for row in batch]
    assert sorted(rows) == list(range(240))
