"""Missing pixels of a measurement."""

import numpy as np

from frugal_rt import operators

from .cases import normal, spots


def test_a_mask_after_an_operator_loses_pixels_of_its_measurement(array):
    inner = operators.SuperResolution((3, 8, 12), 2)
    missing = spots(inner.measurement_shape)
    x = normal((2, 3, 8, 12))
    masked = operators.Masked(inner, missing)
    np.testing.assert_allclose(masked.A(array(x)), np.where(missing, 0, inner.A(x)), atol=1e-12)
    assert masked.name == "sr"
    assert masked.settings["scale"] == 2
    assert masked.settings["missing"] == missing.sum()
