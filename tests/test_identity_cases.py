"""Every pair of settings in identity_cases.toml, from files on disk to the verdict."""

from __future__ import annotations

import copy
import json
import shutil
import tomllib
from pathlib import Path

import pytest

from embedprefs.facts import facts_for
from embedprefs.hardware import Accelerator, Hardware
from embedprefs.preferences import Preferences
from embedprefs.record import Record
from embedprefs.resolve import resolve
from embedprefs.testing import tiny_bert_folder, tiny_modernbert_folder
from embedprefs.testing.files import write_safetensors

CASES = tomllib.loads((Path(__file__).parent / "identity_cases.toml").read_text(encoding="utf-8"))
BUILDERS = {"bert": tiny_bert_folder, "modernbert": tiny_modernbert_folder}
REPLACED_WHOLE = {"prompts", "files"}


def laid_over(base, patch):
    """Return `base` with `patch` over it, table by table; a model's prompts and files are replaced as a whole."""
    result = copy.deepcopy(base)
    for key, value in patch.items():
        if isinstance(value, dict) and isinstance(result.get(key), dict) and key not in REPLACED_WHOLE:
            result[key] = laid_over(result[key], value)
        else:
            result[key] = copy.deepcopy(value)
    return result


def edited_json(path, patch, without=()):
    values = {**json.loads(path.read_text(encoding="utf-8")), **patch}
    path.write_text(json.dumps({key: value for key, value in values.items() if key not in without}), encoding="utf-8")


def added_words(path, words):
    tokenizer = json.loads(path.read_text(encoding="utf-8"))
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary.update({word: len(vocabulary) + number for number, word in enumerate(words)})
    path.write_text(json.dumps(tokenizer), encoding="utf-8")


def added_dense(folder):
    """Put a Dense module behind the pooling."""
    import numpy as np

    modules = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
    dense = {"idx": 2, "name": "2", "path": "2_Dense", "type": "sentence_transformers.models.Dense"}
    (folder / "2_Dense").mkdir()
    config = {"in_features": 32, "out_features": 32, "bias": True}
    (folder / "2_Dense" / "config.json").write_text(json.dumps(config), encoding="utf-8")
    values = {"linear.weight": np.eye(32, dtype=np.float32), "linear.bias": np.zeros(32, dtype=np.float32)}
    write_safetensors(folder / "2_Dense" / "model.safetensors", values)
    (folder / "modules.json").write_text(json.dumps([*modules[:2], dense, *modules[2:]]), encoding="utf-8")


def model_folder(root, model):
    """Write the model that a side describes."""
    folder = BUILDERS[model["kind"]](
        root / model["folder"],
        seed=model["weights"],
        prompts=model["prompts"],
        pooling=model["pooling"],
        normalize=model["normalize"],
    )
    edited_json(folder / "config.json", model.get("config", {}), model.get("config_without", ()))
    added_words(folder / "tokenizer.json", model.get("words", ()))
    if model.get("dense"):
        added_dense(folder)
    for name, text in model.get("files", {}).items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def neighbours(root):
    """Write what preferences may name beside the model: adapters and calibration files."""
    import numpy as np

    for name, value in (("adapter-one", 0.1), ("adapter-two", 0.2)):
        adapter = root / name
        adapter.mkdir()
        config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "base_model_name_or_path": "someone/base"}
        (adapter / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
        values = {"base_model.model.encoder.lora_A.weight": np.full((2, 32), value, dtype=np.float32)}
        write_safetensors(adapter / "adapter_model.safetensors", values)
        ranges = {"ranges": [[-value] * 32, [value] * 32]}
        (root / f"ranges-{name.removeprefix('adapter-')}.json").write_text(json.dumps(ranges), encoding="utf-8")
    shutil.copytree(root / "adapter-one", root / "adapter-one-copied")
    shutil.copy(root / "ranges-one.json", root / "ranges-one-copied.json")


def hardware(machine):
    accelerators = tuple(Accelerator("cuda", int(name[-1]), "A GPU") for name in machine["accelerators"])
    return Hardware(cpu_count=2, accelerators=accelerators, torch_cuda_version="12.8", packages=machine["packages"])


def record_of(root, side):
    """Take one side from its files to its record."""
    root.mkdir()
    neighbours(root)
    described = laid_over(CASES["base"], side)
    folder = model_folder(root, described["model"])
    values = described["preferences"]
    values["model"]["name"] = str(folder)
    preferences = Preferences.model_validate(values).with_origins({}, root / "embedprefs.toml")
    resolved = resolve(preferences, facts_for(preferences), hardware(described["machine"]))
    return Record.of(resolved, template=side.get("template"), chunk_context=side.get("chunk_context"))


@pytest.mark.parametrize("case", CASES["case"], ids=lambda case: case["name"])
def test_verdict(case, tmp_path):
    """The verdict on each pair is the one the table gives, in both directions."""
    left = record_of(tmp_path / "left", case.get("left", {}))
    right = record_of(tmp_path / "right", case.get("right", {}))

    comparison = left.compare(right)

    assert comparison.status == case["expected"], f"{case['why']}\n{comparison.to_text()}"
    assert right.compare(left).status == case["expected"]
    if "template" not in case.get("left", {}) and "template" not in case.get("right", {}):
        assert (left.fingerprint == right.fingerprint) == (case["expected"] != "different")
    if case["expected"] == "soft":
        assert left.numerics != right.numerics


def test_every_case_says_why():
    """No verdict stands without its reason, no name is used twice, and every verdict occurs."""
    cases = CASES["case"]
    assert len(cases) >= 40
    assert len({case["name"] for case in cases}) == len(cases)
    assert all(case["why"].endswith(".") for case in cases)
    assert {case["expected"] for case in cases} == {"same", "soft", "different"}
