"""A clock that is set by hand, and models to measure."""

from __future__ import annotations

import pytest

from embedprefs.testing import static_model_folder, tiny_bert_folder


class Clock:
    """Tells the time it was set to; work is done by moving it on."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    def pass_seconds(self, seconds):
        self.now += seconds


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture(scope="session")
def bert(tmp_path_factory):
    return tiny_bert_folder(tmp_path_factory.mktemp("bert"), prompts={"query": "query: ", "document": "text: "})


@pytest.fixture(scope="session")
def static(tmp_path_factory):
    return static_model_folder(tmp_path_factory.mktemp("static"), normalize=True)
