"""Which loss is chosen for which data, and what is refused before anything is loaded."""

from __future__ import annotations

import inspect
from dataclasses import replace

import pytest

from embedprefs import InvalidPreferenceError, Preferences, resolve, testing
from embedprefs.facts import read_facts
from embedprefs.hardware import Hardware
from embedprefs.training import LOSSES, choose_loss, read_training_data

PAIRS = [{"anchor": f"a{n}", "positive": f"p{n}"} for n in range(8)]
TRIPLETS = [{**row, "negative": f"n{n}"} for n, row in enumerate(PAIRS)]
SCORED = [{"sentence1": f"a{n}", "sentence2": f"b{n}", "score": n / 8} for n in range(8)]
BINARY = [{**row, "score": n % 2} for n, row in enumerate(SCORED)]
LABELLED = [{"text": f"t{n}", "label": n % 2} for n in range(8)]
TEXTS = [{"text": f"t{n}"} for n in range(8)]


def preferences(**training):
    return Preferences.model_validate({"model": {"name": "m"}, "training": training})


def chosen(rows, resolved=None, **training):
    return choose_loss(read_training_data(rows), preferences(**training), resolved=resolved)


@pytest.mark.parametrize(
    ("rows", "training", "name", "columns"),
    [
        (PAIRS, {}, "CachedMultipleNegativesRankingLoss", ("anchor", "positive")),
        (TRIPLETS, {}, "CachedMultipleNegativesRankingLoss", ("anchor", "positive", "negative")),
        (SCORED, {}, "CoSENTLoss", ("text_a", "text_b", "score")),
        (BINARY, {}, "OnlineContrastiveLoss", ("text_a", "text_b", "score")),
        (LABELLED, {}, "BatchHardSoftMarginTripletLoss", ("text", "label")),
        (PAIRS, {"distill_from": "larger"}, "EmbedDistillLoss", ("anchor", "positive", "label")),
        (TEXTS, {"distill_from": "larger"}, "EmbedDistillLoss", ("text", "label")),
        (TRIPLETS, {"loss": "TripletLoss"}, "TripletLoss", ("anchor", "positive", "negative")),
        (
            TRIPLETS,
            {"loss": "MarginMSELoss", "distill_from": "m"},
            "MarginMSELoss",
            ("anchor", "positive", "negative", "score"),
        ),
    ],
)
def test_the_loss_fits_the_data(rows, training, name, columns):
    """Chosen or stated; the columns are in the order the loss takes them, the label last."""
    choice = chosen(rows, **training)
    assert (choice.name, choice.columns) == (name, columns)
    assert choice.reason
    assert choice.needs_teacher == ("distill_from" in training)


@pytest.mark.parametrize(
    ("rows", "training", "words"),
    [
        (PAIRS, {"loss": "CoSENTLoss"}, "CoSENTLoss takes pairs with a score, and the data are pairs"),
        (PAIRS, {"loss": "TripletLoss"}, "TripletLoss takes triplets, and the data are pairs"),
        (SCORED, {"loss": "ContrastiveLoss"}, "takes 0 and 1"),
        (SCORED, {"loss": "SoftmaxLoss"}, "takes classes"),
        (PAIRS, {"loss": "MSELoss"}, "training.distill_from names no model"),
        (TRIPLETS, {"loss": "MarginMSELoss"}, "neither a score column nor training.distill_from"),
        (TEXTS, {"loss": "ContrastiveTensionLoss"}, "needs a data loader of its own"),
        (PAIRS, {"loss": "GISTEmbedLoss"}, "needs a second model"),
        (PAIRS, {"loss": "MultipleNegativeRankingLoss"}, "Did you mean MultipleNegativesRankingLoss"),
        (PAIRS, {"loss_parameters": {"scal": 50}}, "Did you mean scale"),
        (PAIRS, {"loss_parameters": {"scale": "high"}}, "scale is 'high'"),
        (PAIRS, {"loss_parameters": {"directions": ["forwards"]}}, "Allowed: query_to_doc"),
        (PAIRS, {"loss": "MatryoshkaLoss"}, "needs the lengths to train"),
        (TEXTS, {}, "texts alone"),
    ],
)
def test_what_does_not_fit_is_refused_with_what_would(rows, training, words):
    """The host fails in the first step, or trains something else."""
    with pytest.raises(InvalidPreferenceError, match=words):
        chosen(rows, **training)


def test_all_problems_are_listed_at_once():
    """A wrong parameter beside a loss that does not fit."""
    with pytest.raises(InvalidPreferenceError) as caught:
        chosen(PAIRS, loss="CoSENTLoss", loss_parameters={"temperature": 1, "scale": True})
    assert [problem.key for problem in caught.value.problems] == [
        "training.loss",
        "training.loss_parameters.temperature",
        "training.loss_parameters.scale",
    ]


def test_matryoshka_is_laid_around_and_parameters_find_their_loss():
    """`matryoshka_weights` belongs to the wrapper, `scale` to the loss within."""
    choice = chosen(PAIRS, matryoshka_dims=[32, 8], loss_parameters={"scale": 50.0, "matryoshka_weights": [1, 0.5]})
    assert choice.wrapper is not None
    assert (choice.wrapper.name, choice.matryoshka_dims) == ("MatryoshkaLoss", (32, 8))
    assert dict(choice.wrapper.parameters) == {"matryoshka_weights": [1, 0.5], "matryoshka_dims": [32, 8]}
    assert dict(choice.parameters) == {"scale": 50.0}
    assert choice.to_text().startswith(
        "MatryoshkaLoss [32, 8] around CachedMultipleNegativesRankingLoss (scale = 50.0)"
    )


def test_a_loss_over_layers_gets_one_that_is_not_cached():
    """Around a cached one the host fails in the first step."""
    choice = chosen(PAIRS, loss="AdaptiveLayerLoss", loss_parameters={"n_layers_per_step": 2})
    assert (choice.wrapper.name, choice.name) == ("AdaptiveLayerLoss", "MultipleNegativesRankingLoss")
    stated = chosen(
        PAIRS, loss="Matryoshka2dLoss", matryoshka_dims=[8], loss_parameters={"loss": "GISTEmbedLoss", "guide": "g"}
    )
    assert stated.name == "GISTEmbedLoss"


@pytest.fixture(scope="module")
def resolved_models(tmp_path_factory):
    """Name -> resolved preferences of a tiny BERT with much memory, with little, and of a static model."""
    folder = tmp_path_factory.mktemp("models")
    bert = read_facts(str(testing.tiny_bert_folder(folder / "bert")))
    static = read_facts(str(testing.static_model_folder(folder / "static")))
    machine = Hardware(
        system="Linux", machine="x86_64", python_version="3.12", cpu_count=2, memory_total=2**34, memory_available=2**34
    )
    return {
        name: resolve(Preferences.model_validate({"model": {"name": facts.name}}), facts, hardware)
        for name, facts, hardware in (
            ("roomy", bert, machine),
            ("tight", bert, replace(machine, memory_total=2**10)),
            ("unknown", bert, replace(machine, memory_total=None)),
            ("static", static, machine),
        )
    }


@pytest.mark.parametrize(
    ("name", "loss", "words"),
    [
        ("roomy", "MultipleNegativesRankingLoss", "would only cost time"),
        ("tight", "CachedMultipleNegativesRankingLoss", "with the gradient of the whole"),
        ("unknown", "CachedMultipleNegativesRankingLoss", "is not known"),
        ("static", "MultipleNegativesRankingLoss", "static model"),
    ],
)
def test_batches_are_computed_in_parts_where_memory_asks_for_it(resolved_models, name, loss, words):
    """The gradient is the same either way; the reason names both sides."""
    choice = chosen(PAIRS, resolved_models[name])
    assert choice.name == loss
    assert words in choice.reason


@pytest.mark.parametrize("parameters", [{"mini_batch_size": 4}, {"mini_batch_num_tokens": 512, "scale": 50.0}])
def test_a_size_of_parts_asks_for_a_cached_loss(resolved_models, parameters):
    """It is no parameter of the plain one; of a static model, which has no parts, it is refused."""
    choice = chosen(PAIRS, resolved_models["roomy"], loss_parameters=parameters)
    assert choice.name == "CachedMultipleNegativesRankingLoss"
    assert next(iter(parameters)) in choice.reason
    assert dict(choice.parameters) == parameters
    with pytest.raises(InvalidPreferenceError, match="has no parameter"):
        chosen(PAIRS, resolved_models["static"], loss_parameters=parameters)


def test_the_choice_does_not_depend_on_what_is_free_just_now(resolved_models):
    """A run that continues later has the same loss."""
    roomy = resolved_models["roomy"]
    crowded = replace(roomy, hardware=replace(roomy.hardware, memory_available=2**20))
    assert chosen(PAIRS, crowded).name == chosen(PAIRS, roomy).name


# --- the table


@pytest.mark.parametrize("name", LOSSES)
def test_the_table_is_that_of_the_installed_host(name):
    """Each loss with its parameters and their defaults; what a file cannot state is left out."""
    from sentence_transformers.sentence_transformer import losses

    cannot_be_stated = {"self", "model", "loss_fct", "cos_score_transformation", "embedding_dimension"}
    installed = {
        key: parameter
        for key, parameter in inspect.signature(getattr(losses, name).__init__).parameters.items()
        if key not in cannot_be_stated
    }
    table = LOSSES[name].parameters
    assert set(table) == set(installed)
    for key, parameter in table.items():
        default = installed[key].default
        if parameter.found_in is None and default is not inspect.Parameter.empty:
            assert parameter.default == default, key
        for choice in parameter.choices if parameter.found_in is not None else ():
            module, _, owner = parameter.found_in.rpartition(".")
            home = getattr(__import__(module, fromlist=[owner]), owner)
            assert hasattr(home, choice), choice


def test_every_loss_of_the_host_is_in_the_table():
    """None is missing, none is made up."""
    from sentence_transformers.sentence_transformer import losses

    installed = {
        name for name in losses.__all__ if name.endswith("Loss") or name == "ContrastiveTensionLossInBatchNegatives"
    }
    assert set(LOSSES) == installed
