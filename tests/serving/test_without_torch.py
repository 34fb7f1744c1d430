"""An encoder needs neither torch nor transformers nor sentence-transformers: a fresh process proves it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest

#: What a service does without. The first three are not installed where an artefact serves; the others are, and cost
#: time at every start.
ABSENT = ("torch", "transformers", "sentence_transformers")
NOT_LOADED = ("pydantic", "typer", "rich", "huggingface_hub", "scipy", "sklearn", "nncf", "openvino_telemetry")

PROLOGUE = f"""
import importlib.abc, sys

class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {ABSENT!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Absent())
"""


def run_without_torch(code, *arguments, **environment):
    """Run code in a fresh process in which the absent packages cannot be imported; it prints one JSON value."""
    ended = subprocess.run(
        [sys.executable, "-c", PROLOGUE + textwrap.dedent(code), *(str(argument) for argument in arguments)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout.splitlines()[-1])


@pytest.mark.parametrize("kind", ["static", "bert", "prompted", "modernbert"])
def test_an_encoder_runs_where_torch_is_not_installed(kind, compiled, encoders, texts):
    """It gives the same vectors, and loads nothing that it does without."""
    result = run_without_torch(
        """
        import json, sys
        from embedprefs import load_encoder

        encoder = load_encoder(sys.argv[1])
        rows = encoder.encode_document(json.loads(sys.argv[2]), precision="float32")
        print(json.dumps({"rows": rows.tolist(), "fingerprint": encoder.fingerprint, "modules": sorted(sys.modules)}))
        """,
        compiled(kind),
        json.dumps(texts),
    )
    assert np.abs(np.array(result["rows"]) - encoders(kind).encode_document(texts, precision="float32")).max() <= 1e-5
    assert result["fingerprint"] == encoders(kind).fingerprint
    loaded = {name.partition(".")[0] for name in result["modules"]}
    assert loaded & {*ABSENT, *NOT_LOADED} == set()
    assert ("openvino" in loaded) == (kind != "static")


def test_everything_an_encoder_says_of_itself_is_there_without_torch(compiled):
    """Record, preferences, report and stream need pydantic at most."""
    result = run_without_torch(
        """
        import json, sys
        from embedprefs import load_encoder

        encoder = load_encoder(sys.argv[1])
        ids = [identifier for ids, _ in encoder.embed_stream(["a river", "a town"]) for identifier in ids]
        print(json.dumps({
            "fingerprint": encoder.record.fingerprint == encoder.fingerprint,
            "model": encoder.preferences.model.name,
            "numerics": encoder.record.numerics,
            "texts": encoder.report.texts,
            "ids": ids,
            "prompts": dict(encoder.prompts),
        }))
        """,
        compiled("prompted"),
    )
    assert result["fingerprint"] is True
    assert result["model"].endswith("bert")
    assert result["numerics"]["backend"] == "openvino"
    assert set(result["numerics"]["versions"]) == {"openvino", "tokenizers"}
    assert (result["texts"], result["ids"]) == (2, [0, 1])
    assert result["prompts"]["query"] == "query: "


def test_preferences_find_their_artefact_without_torch(preferences_of, compiled, shared_cache):
    """The model's files are read to make sure that they are what was compiled; its weights are not loaded."""
    compiled("prompted")
    result = run_without_torch(
        """
        import json, sys
        from embedprefs import load_encoder
        from embedprefs.layers import preferences_for_model

        overrides = json.loads(sys.argv[2])
        encoder = load_encoder(preferences_for_model(sys.argv[1], overrides))
        print(json.dumps({"folder": str(encoder.folder), "dimensions": encoder.encode("a river").shape[0]}))
        """,
        preferences_of("prompted").model.name,
        json.dumps({key: value for key, value in preferences_of("prompted").stated().items() if key != "model.name"}),
    )
    assert result == {"folder": str(compiled("prompted")), "dimensions": 16}


def test_a_missing_package_names_the_extra(compiled):
    result = run_without_torch(
        """
        import importlib.util, json, sys
        from embedprefs import MissingExtraError, load_encoder

        found = importlib.util.find_spec
        importlib.util.find_spec = lambda name, *rest: None if name == "openvino" else found(name, *rest)
        try:
            load_encoder(sys.argv[1])
        except MissingExtraError as error:
            print(json.dumps(str(error)))
        """,
        compiled("bert"),
    )
    assert 'pip install "embedprefs[serve]"' in result


def test_a_read_only_folder_serves(copy_of, tmp_path):
    """An image's files cannot be written: the compiled form is then made anew at each start."""
    folder = copy_of("bert")
    paths = [folder, *folder.rglob("*")]
    for path in paths:
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        before = {path: path.stat().st_mtime_ns for path in paths}
        shape = run_without_torch(
            """
            import json, sys
            from embedprefs import load_encoder

            print(json.dumps(load_encoder(sys.argv[1]).encode("a river").shape))
            """,
            folder,
            EMBEDPREFS_CACHE=str(tmp_path / "cache"),
        )
        assert shape == [32]
        assert {path: path.stat().st_mtime_ns for path in paths} == before
    finally:
        for path in paths:
            path.chmod(0o755 if path.is_dir() else 0o644)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_an_encoder_answers_in_a_forked_process(compiled):
    """Servers fork their workers: one that was loaded before gives the same vectors there, as does a new one."""
    result = run_without_torch(
        """
        import json, multiprocessing, sys
        from embedprefs import load_encoder

        encoder = load_encoder(sys.argv[1])
        here = encoder.encode("a river").tolist()

        def answer(queue):
            queue.put([encoder.encode("a river").tolist(), load_encoder(sys.argv[1]).encode("a river").tolist()])

        context = multiprocessing.get_context("fork")
        queue = context.Queue()
        worker = context.Process(target=answer, args=(queue,), daemon=True)
        worker.start()
        before, anew = queue.get(timeout=60)
        worker.join(60)
        print(json.dumps([here == before, here == anew, worker.exitcode]))
        """,
        compiled("bert"),
    )
    assert result == [True, True, 0]
