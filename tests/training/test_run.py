"""`train`: a baseline, training, and a verdict on the same test; what is saved just works."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from dataclasses import replace

import numpy as np
import pytest

from embedprefs import fingerprint, load_model, load_preferences
from embedprefs.errors import CheckFailedError, InputError, ResourceError
from embedprefs.evaluation.statistics import Interval
from embedprefs.layers import preferences_for_model
from embedprefs.testing import static_model_folder
from embedprefs.training import train
from embedprefs.training.checkpoints import require_room
from embedprefs.training.progress import TrainingProgress

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.fixture(scope="session")
def static(tmp_path_factory, rows):
    """A static model of the words of the made-up documents, in random directions."""
    generator = np.random.default_rng(5)
    known = sorted({word for row in rows for word in row["positive"].split()})
    words = {word: tuple(generator.normal(size=12).round(3).tolist()) for word in known}
    return static_model_folder(tmp_path_factory.mktemp("static") / "model", words)


@pytest.fixture
def run_of(static, tmp_path):
    """Train the static model, which takes a moment."""

    def run(data, folder="run", **overrides):
        values = {
            "compute.device": "cpu",
            "training.split": {"development": 0.2, "test": 0.3},
            "training.arguments": {"per_device_train_batch_size": 8, "num_train_epochs": 2},
        }
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return train(preferences_for_model(str(static), {**values, **overrides}), data, output=tmp_path / folder)

    return run


# The whole run of a transformer --------------------------------------------------------------------------------------


def test_a_run_trains_every_step_and_judges_on_the_same_test(finished):
    """Baseline and result were measured on one set, by a paired test with an interval, resampled by document."""
    result, _ = finished
    assert result.steps == result.planned_steps > 0
    assert result.baseline.data.digest == result.tuned.data.digest
    found = result.comparison
    assert found.metric == "ndcg@10"
    assert found.grouped_by == "document_id"
    assert found.result.a == result.baseline["ndcg@10"]
    assert found.result.interval.low <= found.result.difference <= found.result.interval.high
    assert result.verdict in {"better", "worse", "equivalent within the margin", "not enough queries to tell"}
    assert result.to_text().startswith("VERDICT")


def test_the_saved_model_is_an_ordinary_one_with_the_preferences_it_was_trained_with(finished):
    """Merged weights, prompts by role, the serving length: by the folder's name alone."""
    result, _ = finished
    assert (result.model / "model.safetensors").is_file()
    assert not (result.model / "adapter_config.json").exists()
    model = load_model(result.model, overrides={"compute.device": "cpu"})
    assert dict(model.prompts) == {"query": "search_query: ", "document": "search_document: "}
    assert model.max_seq_length == 256
    assert model.fingerprint == result.fingerprints["trained"]


def test_the_trained_model_is_another_one_than_its_base(finished, modernbert):
    """Fingerprints differ, so that collections of the base refuse it."""
    result, _ = finished
    base = load_model(modernbert, overrides={"compute.device": "cpu"})
    assert fingerprint(base) == result.fingerprints["base"] != result.fingerprints["trained"]
    trained = load_model(result.model, overrides={"compute.device": "cpu"})
    assert np.abs(base.encode(["mula rito"]) - trained.encode(["mula rito"])).max() > 1e-4
    comparison = base.record.compare(trained.record)
    assert comparison.status == "different"
    assert {item.field for item in comparison.differences if item.severity == "different"} == {"weights"}


def test_the_preferences_beside_it_name_the_trained_model(finished, monkeypatch):
    """In the run's folder every command works with the result."""
    result, _ = finished
    monkeypatch.chdir(result.output)
    assert load_model(load_preferences()).fingerprint == result.fingerprints["trained"]


def test_progress_names_every_stage_and_ends_at_the_last_step(finished):
    """Steps only grow, and from the third on the time left is told."""
    result, states = finished
    assert list(dict.fromkeys(state.stage for state in states)) == ["baseline", "training", "test"]
    training = [state for state in states if state.stage == "training"]
    assert [state.done for state in training] == list(range(1, result.steps + 1))
    assert all(state.seconds_left is not None for state in training[1:])
    assert training[-1].loss is not None
    assert training[-1].metric is not None


def test_a_state_is_told_in_a_line():
    """What stands on the screen: step, time left, loss, metric."""
    state = TrainingProgress("training", 1_200, 3_280, 3_725.0, 0.41234, 0.7)
    assert state.to_text() == "training 1,200/3,280, 1 h 2 min left, loss 0.412, development 0.7000"


def test_the_result_is_saved_for_other_programs(finished):
    """result.json holds the verdict, the figures and the history."""
    result, _ = finished
    saved = json.loads((result.output / "result.json").read_text(encoding="utf-8"))
    assert saved["verdict"] == result.verdict
    assert saved["test"]["metrics"]["ndcg@10"]["b"] == result.tuned["ndcg@10"]
    assert any("loss" in entry for entry in saved["history"])


def test_a_collection_of_the_base_is_refused_and_a_new_one_just_works(finished, modernbert, tmp_path, monkeypatch):
    """The trained model indexes documents as it is, and never into the vectors of its base."""
    qdrant = pytest.importorskip("embedprefs_qdrant")
    from embedprefs.errors import PreferenceMismatchError

    result, _ = finished
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "one.md").write_text("# Bread\n\nMix flour and water.\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    place = f"local:{tmp_path / 'store'}"

    def ingest(folder, collection):
        model = load_model(folder, overrides={"compute.device": "cpu", "index.collection": collection})
        with qdrant.open_store(place) as store, qdrant.QdrantIngestor(model, store, root=tmp_path / "docs") as ingestor:
            return ingestor.ingest([tmp_path / "docs"])

    ingest(modernbert, "base")
    with pytest.raises(PreferenceMismatchError, match="weights"):
        ingest(result.model, "base")
    assert ingest(result.model, "trained") is not None


# What a run refuses, and when ----------------------------------------------------------------------------------------


def test_a_folder_with_something_else_is_left_alone(run_of, rows, tmp_path):
    """Nothing is written beside files that belong to somebody else."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="no run of training"):
        run_of(rows)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["thesis.txt"]


def test_a_finished_run_is_not_run_again(run_of, rows):
    """The verdict was given; the test is used once."""
    run_of(rows)
    with pytest.raises(InputError, match="is finished"):
        run_of(rows)


def test_errors_of_the_plan_stop_a_run_before_weights_are_read(run_of, rows, tmp_path):
    """An argument that does nothing is an error, and nothing is left behind."""
    with pytest.raises(CheckFailedError, match="auto_find_batch_size"):
        run_of(rows, **{"training.arguments": {"auto_find_batch_size": True}})
    assert not (tmp_path / "run").exists()


def test_a_disk_that_is_too_small_is_noticed_before_training(tmp_path, monkeypatch):
    """Three checkpoints with two moments of every weight, and the result: the sum is said with what to do."""
    monkeypatch.setattr("shutil.disk_usage", lambda _path: type("Usage", (), {"free": 10_000_000})())
    assert require_room(tmp_path / "run", weight_bytes=700_000, trained_bytes=700_000, checkpoints=2) == 7_000_000
    with pytest.raises(ResourceError, match="save_total_limit"):
        require_room(tmp_path / "run", weight_bytes=7_000_000, trained_bytes=7_000_000, checkpoints=2)


@pytest.mark.parametrize(
    ("stage", "words"),
    [
        ("baseline", "no checkpoint was made yet"),
        ("test", "training is finished, and its checkpoints are safe"),
    ],
)
def test_an_interruption_says_what_is_safe(static, rows, tmp_path, stage, words):
    """In whatever stage Ctrl-C comes; the same call ends the run."""
    stated = {"compute.device": "cpu", "training.split": {"development": 0.2, "test": 0.3}}
    preferences = preferences_for_model(str(static), stated)

    def interrupt(state):
        if state.stage == stage:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt, match=words) as raised:
        train(preferences, rows, output=tmp_path / "run", progress=interrupt)
    assert "The same command" in str(raised.value)
    assert train(preferences, rows, output=tmp_path / "run").verdict is not None


def test_an_interruption_before_anything_was_written_says_so(static, tmp_path):
    """Reading data leaves nothing behind."""

    def interrupted():
        yield {"anchor": "a", "positive": "b"}
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt, match="nothing was written"):
        train(preferences_for_model(str(static), {"compute.device": "cpu"}), interrupted(), output=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_mining_reports_how_far_it_is(rows, static, tmp_path):
    """Questions and passages are counted, to the last of them."""
    stated = {
        "compute.device": "cpu",
        "training.negatives": {"count": 1, "relative_margin": 0.0},
        "training.split": {"development": 0.0, "test": 0.3},
        "training.arguments": {"per_device_train_batch_size": 8, "max_steps": 2},
    }
    states = []
    result = train(preferences_for_model(str(static), stated), rows, output=tmp_path / "run", progress=states.append)
    mining = [state for state in states if state.stage == "mining"]
    assert mining
    assert mining[-1].done == mining[-1].total
    assert any("1 hard negative was mined for each" in note for note in result.notes)


def _other_passages(rows, count):
    """Passages in the words of the made-up documents that none of them holds."""
    words = sorted({word for row in rows for word in row["positive"].split()})
    generator = np.random.default_rng(7)
    return [" ".join(generator.choice(words, size=8, replace=False)) for _ in range(count)]


# Other data ----------------------------------------------------------------------------------------------------------


def test_a_model_that_learns_what_it_can_is_found_to_be_better(tmp_path):
    """Words of questions and words of answers have nothing in common at first; which belong together is learnt."""
    generator = np.random.default_rng(1)
    topics = range(12)
    kinds = [f"{kind}{topic}" for kind in ("ask", "say") for topic in topics]
    kinds += [f"noise{number}" for number in range(90)]
    words = {word: tuple(generator.normal(size=24).round(3).tolist()) for word in kinds}
    folder = static_model_folder(tmp_path / "model", words)
    data = [
        {
            "anchor": f"ask{number % 12} noise{generator.integers(90)}",
            "positive": f"say{number % 12} noise{generator.integers(90)} noise{generator.integers(90)}",
            "document_id": f"d{number}",
        }
        for number in range(240)
    ]
    stated = {
        "compute.device": "cpu",
        "training.split": {"development": 0.2, "test": 0.4},
        "training.arguments": {"per_device_train_batch_size": 12, "num_train_epochs": 10},
    }
    result = train(preferences_for_model(str(folder), stated), data, output=tmp_path / "run")
    assert result.verdict == "better"
    assert result.comparison.result.interval.low > 0
    assert result.development["best"] > result.development["before"]
    assert result.is_acceptable


@pytest.mark.parametrize(
    ("high", "verdict", "words"),
    [
        (0.004, "equivalent", "equivalent within the margin"),
        (0.05, "equivalent", "not enough queries to tell"),
        (0.05, "undecided", "not enough queries to tell"),
        (-0.02, "worse", "worse"),
    ],
)
def test_equivalent_means_that_a_gain_is_ruled_out_too(finished, high, verdict, words):
    """A comparison asks for no loss beyond the margin; a run also asks whether training was of use."""
    result, _ = finished
    found = result.comparison
    item = replace(found.result, a=0.8, interval=Interval(low=-0.001, high=high))
    changed = replace(found, verdict=verdict, margin=0.01, identical=False, metrics={found.metric: item})
    judged = replace(result, comparison=changed, guard=changed)
    assert judged.verdict == words
    assert judged.to_text().startswith(f"VERDICT {words}")
    assert judged.is_acceptable == (verdict != "worse")
    if verdict == "equivalent":
        assert "guard no worse than the margin allows" in judged.to_text()


def test_scored_pairs_are_judged_by_their_order(run_of, rows):
    """Spearman's correlation, with the host's name of the metric while training."""
    texts = _other_passages(rows, 100)
    pairs = [
        {"sentence1": texts[at], "sentence2": texts[at + 1], "score": (at % 7) / 7} for at in range(0, len(texts), 2)
    ]
    result = run_of(pairs)
    assert result.comparison.metric == "spearman"
    assert result.development["metric"] == "eval_dev_spearman_cosine"


def test_labelled_texts_look_for_their_own_kind(run_of, rows):
    """Texts of one label are each other's answers; labels may be words."""
    texts = list(dict.fromkeys(row["positive"] for row in rows))
    labelled = [{"text": text, "label": "even" if at % 2 else "odd"} for at, text in enumerate(texts)]
    result = run_of(labelled, **{"training.split": {"development": 0.2, "test": 0.4}})
    assert result.comparison.metric == "ndcg@10"


def test_the_guard_set_is_measured_before_and_after(run_of, rows, tmp_path):
    """A second set that must not get worse has a verdict of its own."""
    folder = tmp_path / "guard"
    folder.mkdir()
    texts = _other_passages(rows, 30)
    corpus = [{"_id": f"g{at}", "text": text} for at, text in enumerate(texts)]
    queries = [{"_id": f"q{at}", "text": text.split()[0]} for at, text in enumerate(texts)]
    for name, records in (("corpus", corpus), ("queries", queries)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    lines = [f"q{at}\tg{at}\t1" for at in range(len(texts))]
    (folder / "qrels.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *lines]) + "\n")
    result = run_of(rows, **{"training.guard_data": str(folder)})
    assert result.guard.observations == len(texts)
    assert "guard" in result.to_text()
    assert result.is_acceptable == ("worse" not in {result.comparison.verdict, result.guard.verdict})


def test_a_run_without_a_test_says_so(run_of, rows):
    """There is no verdict where nothing was measured."""
    result = run_of(rows, **{"training.split": {"development": 0.2, "test": 0.0}})
    assert result.verdict is None
    assert result.to_text().startswith("VERDICT none")


def test_a_run_that_no_longer_improves_ends_early_and_says_so(run_of, rows):
    """Nothing is learnt at such a rate: after so many evaluations the run ends, with a result."""
    stated = {"per_device_train_batch_size": 8, "num_train_epochs": 4, "learning_rate": 1e-30, "eval_steps": 1}
    result = run_of(rows, **{"training.arguments": stated, "training.early_stopping.patience": 2})
    assert result.steps == 3 < result.planned_steps
    assert any(note.startswith(f"Training ended early, in step 3 of {result.planned_steps}") for note in result.notes)
    assert result.verdict == "equivalent within the margin"


@pytest.mark.slow
def test_an_adapter_can_stay_apart(modernbert, rows, tmp_path):
    """With merge = false the result is the base with an adapter, and the preferences beside it load both."""
    stated = {
        "compute.device": "cpu",
        "training.lora": {"r": 2, "merge": False},
        "training.split": {"development": 0.0, "test": 0.3},
        "training.arguments": {"per_device_train_batch_size": 8, "max_steps": 2, "learning_rate": 1e-2},
    }
    result = train(preferences_for_model(str(modernbert), stated), rows, output=tmp_path / "run")
    assert (result.model / "adapter_config.json").is_file()
    model = load_model(load_preferences(tmp_path / "run" / "embedprefs.toml"))
    assert model.fingerprint == result.fingerprints["trained"] != result.fingerprints["base"]


@pytest.mark.slow
def test_several_processes_train_together(modernbert, rows, tmp_path):
    """Started by torchrun: half of the steps, one baseline, one verdict, one model."""
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "embedprefs.toml").write_text(
        f'[model]\nname = "{modernbert}"\n[compute]\ndevice = "cpu"\n[training]\ndata = "pairs.jsonl"\n'
        "split = { development = 0.2, test = 0.3 }\n"
        "arguments = { per_device_train_batch_size = 4, num_train_epochs = 2 }\n"
    )
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    ended = subprocess.run(
        [sys.executable, *launcher, "-m", "embedprefs.cli", "train", "--output", "run"],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert ended.returncode in (0, 1), ended.stderr
    assert ended.stdout.count("VERDICT") == 1
    found = json.loads((tmp_path / "run" / "result.json").read_text())
    assert json.loads((tmp_path / "run" / "run.json").read_text())["processes"] == 2
    batches = found["rows"]["train"] // 4
    assert found["steps"] == found["planned_steps"] == 2 * (batches // 2)
    trained = load_model(tmp_path / "run" / "model", overrides={"compute.device": "cpu"})
    assert trained.fingerprint == found["fingerprints"]["trained"] != found["fingerprints"]["base"]
