"""A static model whose vectors can be computed by hand, and a little evaluation set."""

from __future__ import annotations

import json
import random
import warnings
from types import SimpleNamespace

import numpy as np
import pytest

from embedprefs import EmbedPrefsWarning, load_model
from embedprefs.testing import static_model_folder


@pytest.fixture(scope="session")
def static_folder(tmp_path_factory):
    """A static model of sixty words with random directions of 16 dimensions, and axes for five colours."""
    generator = np.random.default_rng(0)
    words = {f"w{number}": tuple(generator.normal(size=16).round(3).tolist()) for number in range(60)}
    axes = np.eye(16)
    words |= {word: tuple(axes[at].tolist()) for at, word in enumerate(("red", "green", "blue", "grey", "pink"))}
    return static_model_folder(tmp_path_factory.mktemp("static") / "model", words)


@pytest.fixture(scope="session")
def load(static_folder):
    """Load the static model with overrides, each of them once."""
    models = {}

    def loaded(**overrides):
        key = json.dumps(overrides, sort_keys=True)
        if key not in models:
            values = {name.replace("__", "."): value for name, value in overrides.items()}
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", EmbedPrefsWarning)
                models[key] = load_model(static_folder, overrides={"compute.device": "cpu", **values})
        return models[key]

    return loaded


@pytest.fixture(scope="session")
def model(load):
    return load()


@pytest.fixture(scope="session")
def little():
    """30 sources of 3 passages each, two queries for each passage: corpus, queries, qrels."""
    chance = random.Random(1)
    names = [f"w{number}" for number in range(60)]
    corpus, queries, qrels = {}, {}, {}
    for source in range(30):
        for part in range(3):
            words = chance.sample(names, 6)
            passage = f"d{source}-{part}"
            corpus[passage] = {"title": "", "text": " ".join(words), "source": f"s{source}"}
            for number in range(2):
                query = f"q{source}-{part}-{number}"
                queries[query] = " ".join([*chance.sample(words, 2), chance.choice(names)])
                qrels[query] = {passage: chance.choice([1, 2])}
    return SimpleNamespace(corpus=corpus, queries=queries, qrels=qrels)


@pytest.fixture
def folder(tmp_path, little):
    """The little set in the BEIR layout."""
    home = tmp_path / "data"
    home.mkdir()
    write_jsonl(home / "corpus.jsonl", [{"_id": key, **value} for key, value in little.corpus.items()])
    write_jsonl(home / "queries.jsonl", [{"_id": key, "text": value} for key, value in little.queries.items()])
    rows = [f"{query}\t{doc}\t{grade}" for query, docs in little.qrels.items() for doc, grade in docs.items()]
    (home / "qrels.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *rows]) + "\n")
    return home


def write_jsonl(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
