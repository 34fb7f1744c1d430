"""The report of a run can be looked at, and holds no text of the data."""

from __future__ import annotations

from html.parser import HTMLParser

import numpy as np
import pytest

from embedprefs.training.report import draw_curves

HISTORY = [
    *({"step": step, "loss": 3.0 / step, "learning_rate": 1e-4 * step} for step in range(1, 41)),
    {"step": 20, "eval_dev_cosine_ndcg@10": 0.61},
    {"step": 40, "eval_dev_cosine_ndcg@10": 0.66},
    {"step": 40, "train_runtime": 1.0},
]


def _pixels(path):
    image = pytest.importorskip("matplotlib.image")
    return image.imread(path)


def test_curves_are_a_picture_with_two_panels(tmp_path):
    """Loss on the left, the development metric on the right; both are drawn, on white."""
    path = draw_curves(HISTORY, tmp_path / "curves.png", metric="eval_dev_cosine_ndcg@10", before=0.5)
    picture = _pixels(path)
    height, width = picture.shape[:2]
    assert width > 2 * height
    for half in (picture[:, : width // 2], picture[:, width // 2 :]):
        dark = (half[..., :3].mean(axis=-1) < 0.6).mean()
        assert 0.005 < dark < 0.3


def test_without_a_development_set_there_is_one_panel(tmp_path):
    """Nothing is drawn for a metric that was not measured."""
    two = _pixels(draw_curves(HISTORY, tmp_path / "two.png", metric="eval_dev_cosine_ndcg@10"))
    one = _pixels(draw_curves(HISTORY, tmp_path / "one.png"))
    assert one.shape[1] < 0.6 * two.shape[1]


def test_a_run_of_one_step_can_be_drawn(tmp_path):
    """Smoothing and axes do not need many points."""
    path = draw_curves([{"step": 1, "loss": 2.0, "learning_rate": 0.0}], tmp_path / "curves.png")
    assert np.isfinite(_pixels(path)).all()


class Page(HTMLParser):
    """The text of a page, its pictures and what it refers to."""

    def __init__(self, text):
        super().__init__()
        self.words, self.images, self.refers = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        if tag == "img":
            self.images.append(found["src"])
        self.refers += [value for name, value in attrs if name in ("href", "src") and not value.startswith("data:")]

    def handle_data(self, data):
        self.words.append(data)


def test_the_page_needs_nothing_else_and_shows_verdict_curves_and_arguments(finished):
    """One file: the picture is inside, nothing is fetched, every argument stands there with its reason."""
    result, _ = finished
    page = Page(result.report.read_text(encoding="utf-8"))
    text = " ".join(page.words)
    assert page.refers == []
    assert len(page.images) == 1
    assert page.images[0].startswith("data:image/png;base64,")
    assert result.verdict.capitalize() in text
    assert "learning_rate" in text
    assert "ndcg@10" in text


def test_neither_report_nor_card_nor_checkpoints_hold_a_text_of_the_data(finished, rows):
    """Private texts stay in the data and in the saved evaluations, which are not shared with the model."""
    result, _ = finished
    texts = {row[role] for row in rows for role in ("anchor", "positive")}
    shared = [result.report, *(path for path in result.model.rglob("*") if path.is_file())]
    shared += [result.output / name for name in ("result.json", "plan.json", "run.json", "arguments.json")]
    shared += [path for path in (result.output / "checkpoints").rglob("*") if path.is_file()]
    assert any(path.name == "README.md" for path in shared)
    for path in shared:
        content = path.read_bytes()
        held = [text for text in texts if text.encode() in content]
        assert not held, path


def test_the_card_says_what_was_done_and_measured(finished):
    """Results with intervals, arguments and prompts, for hubs with their metadata."""
    result, _ = finished
    card = (result.model / "README.md").read_text(encoding="utf-8")
    assert card.startswith("---\nlibrary_name: sentence-transformers\n")
    assert "| ndcg@10 |" in card
    assert "learning_rate" in card
    assert "search_query: " in card
    assert str(result.output) not in card


def test_the_card_shows_texts_only_where_that_was_allowed(finished):
    """training.model_card_texts hands rows over; without it there are none to show."""
    from embedprefs.training.card import card_text

    result, _ = finished
    rows = [{"anchor": "a question", "positive": "its passage"}]
    assert "a question" in card_text(result, rows)
    assert "its passage" in card_text(result, rows)
    assert "Examples" not in card_text(result)
