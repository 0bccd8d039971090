"""How often the truth lies within the samples' deviation."""

import json
from pathlib import Path

import numpy as np
import pytest

from frugal_rt import InputError
from frugal_rt.runtime.evaluation.calibration import STRIDE, coverage, draw
from frugal_rt.runtime.operators import Denoise

from ...commands import runs
from .blur import Blur

SHAPE = (3, 16, 16)
QUICK = ("eval", "-e", "tiny.plan", "--images", "faces", "--steps", "3")


@pytest.mark.parametrize("samples", [4, 64])
def test_coverage_of_samples_drawn_as_the_truth_is_that_of_students_t(samples):
    from scipy import stats

    random = np.random.default_rng(1)
    spread = random.uniform(0.1, 1, (2, 3, 64, 64))
    centre = random.standard_normal(spread.shape)
    clean = centre + spread * random.standard_normal(spread.shape)
    images = centre + spread * random.standard_normal((samples, *spread.shape))
    found = coverage(clean, images.mean(0), images.std(0, ddof=1), samples)
    for n, gauss in ((1, 0.683), (2, 0.954)):
        expected = 2 * stats.t.cdf(n, samples - 1) - 1
        np.testing.assert_allclose(found[f"coverage{n}"], expected, atol=0.02)
        assert samples < 64 or abs(expected - gauss) < 0.005
    error = np.abs(clean - images.mean(0)).reshape(2, -1)
    expected = [np.corrcoef(e, s.ravel())[0, 1] for e, s in zip(error, images.std(0, ddof=1), strict=True)]
    np.testing.assert_allclose(found["correlation"], expected)
    assert (found["correlation"] > 0.2).all()


def test_samples_have_keys_of_their_own_and_costs_that_add_up():
    images = np.zeros((2, *SHAPE), np.float32)
    blur = Blur(images)
    outcome, deviation = draw(blur, images, Denoise(SHAPE), 0.1, 7, 3, lambda event: None)
    assert blur.calls == [("denoise", 7, 0), ("denoise", 7, STRIDE), ("denoise", 7, 2 * STRIDE)]
    drawn = np.stack([0.1 * np.random.default_rng([7, j * STRIDE]).standard_normal(images.shape) for j in range(3)])
    np.testing.assert_allclose(outcome.images, drawn.mean(0), atol=1e-6)
    np.testing.assert_allclose(deviation, drawn.std(0, ddof=1), atol=1e-6)
    assert (outcome.forwards, outcome.gradients, outcome.seconds) == ([12, 12], [6, 6], 18.0)
    assert outcome.k == [None, None]
    with pytest.raises(InputError, match="at least 2 samples"):
        draw(blur, images, Denoise(SHAPE), 0.1, 7, 1, lambda event: None)


def test_samples_through_the_command(here, restored):
    arguments = (*QUICK, "--tasks", "sr4", "--methods", "dmps", "--samples", "3", "--count", "2", "-o", "out")
    result = runs(*arguments)
    assert len(restored) == 3
    (row,) = json.loads(Path("out/results.json").read_text())["rows"]
    assert row["calls"] == 9
    assert row["k"] == 3
    assert 0 <= row["coverage1"] <= row["coverage2"] <= 1
    assert {"coverage1_se", "correlation"} <= row.keys()
    assert "within 1 (Gaussian: 0.683)" in result.stdout
    again = runs(*arguments)
    assert len(restored) == 3
    assert again.stdout == result.stdout
