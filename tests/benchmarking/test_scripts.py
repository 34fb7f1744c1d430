"""The scripts of benchmarks/: what they print, keep and refuse, on tiny models. Never how long something took."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from embedprefs import InputError
from embedprefs.testing import tiny_modernbert_folder

SCRIPTS = Path(__file__).resolve().parents[2] / "benchmarks"
NAMES = ("figures", "materials", "apart", "cpu", "gpu")


@pytest.fixture(scope="module")
def scripts():
    """Import the scripts as Python does when one of them is run: from their own folder."""
    sys.path.insert(0, str(SCRIPTS))
    try:
        yield {name: importlib.import_module(name) for name in NAMES}
    finally:
        sys.path.remove(str(SCRIPTS))
        for name in NAMES:
            sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def modernbert(tmp_path_factory):
    return tiny_modernbert_folder(tmp_path_factory.mktemp("modernbert"))


@pytest.fixture
def tokenizer(modernbert):
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(modernbert / "tokenizer.json"))


def test_a_figure_is_met_missed_or_not_run(scripts):
    figure = scripts["figures"].Figure
    assert figure("speed", 4.1, target=4.0).verdict == "met"
    assert figure("speed", 3.9, target=4.0).verdict == "missed"
    assert figure("time", 3.9, target=4.0, at_least=False).verdict == "met"
    assert figure("time", 4.1, target=4.0, at_least=False).verdict == "missed"
    assert figure("speed", None, target=4.0, detail="not installed").verdict == "not run"
    assert figure("speed", 3.9).verdict == "-"
    assert figure("speed of it", 4.125, "x", 4.0, detail="why").line().split() == [
        "met", "speed", "of", "it", "4.12", "x", ">=", "4.00", "why",
    ]  # fmt: skip


def test_a_section_that_fails_says_why_and_the_next_one_runs(scripts, tmp_path, capsys):
    figures = scripts["figures"]

    def broken():
        yield figures.Figure("first", 1.0, target=1.0)
        raise InputError("the texts are not here.\n  Name them.")

    sections = [
        figures.Section("one", "Section one", broken),
        figures.Section("two", "Section two", lambda: [figures.Figure("second", 2.0, target=3.0)]),
    ]
    found = figures.run_sections(sections, failures=(InputError,))
    assert figures.print_figures(found) == 1
    shown = capsys.readouterr().out
    assert "the texts are not here. Name them." in shown
    assert "1 met, 1 missed, 1 not run" in shown
    figures.write_json(tmp_path / "found.json", {"date": "2026-01-01"}, found)
    kept = json.loads((tmp_path / "found.json").read_text())
    assert [figure["verdict"] for figure in kept["sections"]["one"]] == ["met", "not run"]
    assert kept["date"] == "2026-01-01"


def test_all_targets_met_is_exit_code_0(scripts):
    figures = scripts["figures"]
    assert figures.print_figures({"one": [figures.Figure("a", 1.0, target=1.0), figures.Figure("b", 1.0)]}) == 0


def test_columns_stand_under_each_other(scripts):
    assert scripts["figures"].aligned([["a", "bb"], ["ccc", "d"]]) == ["a    bb", "ccc  d"]


@pytest.mark.parametrize("tokens", [4, 16, 200])
def test_a_text_has_the_tokens_that_were_asked_for(scripts, tokenizer, tokens):
    text = scripts["materials"].text_of_tokens(tokenizer, tokens, ["the red river and the quiet old house"] * 40)
    assert len(tokenizer.encode(text).ids) == tokens


def test_paragraphs_are_real_distinct_and_the_same_every_time(scripts, test_data):
    found = scripts["materials"].paragraphs(test_data, 90)
    assert found == scripts["materials"].paragraphs(test_data, 90)
    assert len(set(found)) == 90
    lengths = sorted(len(text) for text in found)
    assert lengths[0] < 200
    assert lengths[-1] > 600


def test_data_and_models_that_are_missing_are_named(scripts, tmp_path):
    materials = scripts["materials"]
    with pytest.raises(InputError, match="--data"):
        materials.data_folder(tmp_path / "nowhere")
    assert materials.data_folder(tmp_path) == tmp_path
    assert materials.minilm_folder(tmp_path) == str(tmp_path)


def test_the_sections_of_the_processor_can_be_chosen(scripts, capsys):
    with pytest.raises(SystemExit) as ended:
        scripts["cpu"].main(["--only", "sped"])
    assert ended.value.code == 2
    assert "speed, quality, query, repeats, stream, long, serving" in capsys.readouterr().err


def test_questions_have_sixteen_tokens(scripts, minilm_folder):
    bench = scripts["cpu"].Bench(minilm_folder, None, quick=True, rounds=1)
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(minilm_folder / "tokenizer.json"))
    tokenizer.no_padding()
    assert {len(tokenizer.encode(text).ids) for text in bench.questions} == {16}
    assert len(set(bench.questions)) >= 10


def test_what_needs_a_process_of_its_own_gets_one(scripts, modernbert):
    """Memory at its highest and single vectors come back as JSON; a task that fails says why."""
    apart = scripts["apart"]
    long = apart.measure("long_text", model=str(modernbert), tokens=100, overrides={})
    assert long["highest"] >= long["before"] > 0
    with pytest.raises(RuntimeError, match="KeyError: 'nothing'"):
        apart.measure("nothing")


def test_a_stream_is_counted_and_timed(scripts, modernbert):
    found = scripts["apart"].stream(str(modernbert), 40, 2, {})
    assert len(found["seconds"]) == 2
    assert found["highest"] > 0


def test_without_a_gpu_the_script_says_so_and_ends_with_three(scripts, capsys, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert scripts["gpu"].main([]) == 3
    assert capsys.readouterr().err == "no CUDA device here\n"


@pytest.mark.filterwarnings("ignore")
def test_the_table_of_the_gpu_is_made_of_every_way_that_runs(scripts, modernbert, capsys):
    """On a processor the same code runs, so that a machine with a GPU is not the first to run it."""
    gpu = scripts["gpu"]
    model = gpu.Model("tiny", lambda folder: modernbert, 64, (80, 80, 80))
    rows = list(gpu.measure(model, modernbert, "cpu", rounds=1, share=0.1))
    ways = [row.way for row in rows if row.texts == "mixed"]
    assert ways[0] == "host default"
    assert {"host bfloat16", "ours", "ours, exact"} <= set(ways)
    assert [row.texts for row in rows[:: len(ways)]] == ["short", "mixed", "long"]
    assert all(len(row.cells()) == len(gpu.HEADINGS) for row in rows)
    exact = [row for row in rows if row.way == "ours, exact"]
    assert min(row.cosine_least for row in exact) > 1 - 1e-6
    assert "flash-attn: not here" in capsys.readouterr().out


def test_random_models_have_the_published_sizes(scripts):
    """Counted on shapes, so that nothing of that size is written: 22.7, 149 and 395 million weights."""
    from embedprefs.testing.files import bert_shapes, modernbert_shapes

    def weights(shapes):
        return sum(int(np.prod(shape)) for shape in shapes.values())

    sizes = {
        name: weights(
            modernbert_shapes(
                {"hidden_size": hidden, "intermediate_size": inner, "num_hidden_layers": layers, "vocab_size": 50_368}
            )
        )
        for name, (hidden, inner, layers, _) in scripts["materials"].MODERNBERT.items()
    }
    assert sizes == {"base": 149_014_272, "large": 394_781_696}
    minilm = {
        "hidden_size": 384,
        "intermediate_size": 1536,
        "num_hidden_layers": 6,
        "vocab_size": 30_522,
        "max_position_embeddings": 512,
        "type_vocab_size": 2,
    }
    assert weights(bert_shapes(minilm)) == 22_713_216
