"""Block means and grey."""

import numpy as np

from frugal_rt import operators
from frugal_rt.runtime.operators import GREY_WEIGHTS

from .cases import normal


def test_block_mean_is_the_mean_of_blocks():
    x = normal((1, 3, 8, 12))
    expected = x.reshape(1, 3, 2, 4, 3, 4).mean(axis=(3, 5))
    np.testing.assert_allclose(operators.SuperResolution((3, 8, 12), 4).A(x), expected, atol=1e-12)


def test_grey_rec601_is_pillow_s():
    from PIL import Image

    levels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    theirs = np.asarray(Image.fromarray(levels).convert("L"), float)
    ours = operators.Colorize((3, 16, 16)).A(levels.transpose(2, 0, 1)[None].astype(float))[0, 0]
    assert np.abs(ours - theirs).max() <= 0.51
    assert all(abs(sum(weights) - 1) < 1e-9 for weights in GREY_WEIGHTS.values())
