"""Bicubic, by its decomposition and by blocks, against torch and Pillow."""

import numpy as np
import pytest
import torch

from frugal_rt import operators

from .cases import normal


@pytest.mark.parametrize("scale", [2, 3, 4, 8, 16])
def test_bicubic_is_torch_s_and_nearly_pillow_s(scale):
    from PIL import Image

    x = normal((2, 3, 48, 96))
    operator = operators.Bicubic(x.shape[1:], scale)
    size = operator.measurement_shape[1:]
    theirs = torch.nn.functional.interpolate(torch.tensor(x), size, mode="bicubic", antialias=True)
    np.testing.assert_allclose(operator.A(x), theirs, atol=1e-12)
    image = Image.fromarray(x[0, 0].astype(np.float32))
    theirs = np.asarray(image.resize(size[::-1], Image.Resampling.BICUBIC))
    np.testing.assert_allclose(operator.A(x)[0, 0], theirs, atol=1e-5)


@pytest.mark.parametrize("scale", [2, 3, 4, 8])
def test_by_blocks_it_is_the_same(scale, array):
    x = normal((2, 3, 24, 48))
    by_blocks, by_matrices = operators.BicubicBlocks(x.shape[1:], scale), operators.Bicubic(x.shape[1:], scale)
    np.testing.assert_allclose(by_blocks.A(array(x)), by_matrices.A(x), atol=1e-12)
    assert by_blocks.settings == by_matrices.settings


def test_a_long_side_goes_by_blocks():
    assert isinstance(operators.bicubic((3, 256, 1024), 2), operators.Bicubic)
    assert isinstance(operators.bicubic((3, 64, 4096), 4), operators.BicubicBlocks)
