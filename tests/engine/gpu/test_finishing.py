"""What a device makes of vectors before they are copied back is what the processor would have made of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sentence_transformers.util.quantization import quantize_embeddings

from embedprefs.calibration import Calibration
from embedprefs.engine.backend import Codes, Finish
from embedprefs.engine.gpu.finishing import finish_on_device
from embedprefs.engine.pipeline import Settings, finished

VECTORS = np.random.default_rng(5).standard_normal((40, 21)).astype(np.float32)
VECTORS[3] = 0


@pytest.mark.parametrize("truncate_dim", [None, 13])
@pytest.mark.parametrize("normalize", [True, False])
def test_vectors_are_cut_and_scaled_as_by_the_pipeline(truncate_dim: int | None, *, normalize: bool) -> None:
    (ours,) = finish_on_device(torch.from_numpy(VECTORS), Finish(truncate_dim, normalize))
    expected = finished(VECTORS, Settings(None, 8, truncate_dim=truncate_dim, normalize=normalize))
    np.testing.assert_allclose(ours.numpy(), expected, atol=1e-7)


@pytest.mark.parametrize("precision", ["binary", "ubinary"])
@pytest.mark.parametrize("dimensions", [21, 16])
def test_bits_are_the_hosts(precision: str, dimensions: int) -> None:
    """Dimensions that fill no byte leave zeros behind them."""
    nothing = np.empty(0, np.float32)
    (ours,) = finish_on_device(
        torch.from_numpy(VECTORS), Finish(dimensions, normalize=True, codes=Codes(precision, nothing, nothing))
    )
    theirs = quantize_embeddings(VECTORS[:, :dimensions], precision=precision)
    assert ours.numpy().dtype == theirs.dtype
    np.testing.assert_array_equal(ours.numpy(), theirs)


@pytest.mark.parametrize("precision", ["int8", "uint8"])
def test_codes_are_those_of_the_calibration(precision: str) -> None:
    """Values outside the ranges become the nearest end, and are counted."""
    calibration = Calibration(
        np.full(21, -1.5, np.float32), np.r_[np.full(20, 1.25), -1.5].astype(np.float32), 9, "fingerprint"
    )
    theirs, clipped = calibration.quantize(VECTORS, precision)
    ours, counted = finish_on_device(torch.from_numpy(VECTORS), Finish(codes=calibration.codes(precision)))
    assert ours.numpy().dtype == theirs.dtype
    np.testing.assert_array_equal(ours.numpy(), theirs)
    assert int(counted) == clipped > 0
