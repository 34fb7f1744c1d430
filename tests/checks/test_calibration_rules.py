"""Rules that read the calibration file."""

from __future__ import annotations

import json

from embedprefs.checks import RULES


def calibration(path, dimensions):
    values = {
        "version": 1,
        "fingerprint": "x",
        "count": 10,
        "minimum": [-1.0] * dimensions,
        "maximum": [1.0] * dimensions,
    }
    path.write_text(json.dumps(values))
    return str(path)


def test_a_calibration_of_another_length_is_found(tmp_path, ask):
    """Ranges that were measured with another truncation."""
    rule = RULES["calibration-unusable"]
    stated = {"vectors.precision": "uint8", "vectors.calibration": calibration(tmp_path / "ranges.json", 32)}
    assert ask(rule, stated=stated) == []
    (finding,) = ask(rule, stated={**stated, "vectors.truncate_dim": 16})
    assert "32 dimensions, and these have 16" in finding.message


def test_a_damaged_calibration_is_found(tmp_path, ask):
    """The message names the file."""
    file = tmp_path / "ranges.json"
    file.write_text("{")
    (finding,) = ask(
        RULES["calibration-unusable"], stated={"vectors.precision": "int8", "vectors.calibration": str(file)}
    )
    assert str(file) in finding.message
