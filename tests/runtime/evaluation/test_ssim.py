"""SSIM, against scikit-image."""

import numpy as np
import pytest

from frugal_rt.runtime.evaluation.ssim import load_ssim


@pytest.mark.parametrize(("side", "window"), [(16, 7), (6, 5), (4, 3)])
def test_ssim_is_scikit_images(side, window):
    from skimage.metrics import structural_similarity

    a, b = np.clip(np.random.default_rng(0).standard_normal((2, 2, 3, side, side)), -1.5, 1.5).astype(np.float32)
    expected = [
        structural_similarity(
            np.clip(x, -1, 1).transpose(1, 2, 0),
            np.clip(y, -1, 1).transpose(1, 2, 0),
            win_size=window,
            channel_axis=-1,
            data_range=2,
        )
        for x, y in zip(a, b, strict=True)
    ]
    np.testing.assert_allclose(load_ssim()(a, b), expected, rtol=1e-6)
    np.testing.assert_allclose(load_ssim()(a, a), 1)
