"""Compressed sensing, against scipy's Hadamard matrix."""

import numpy as np
import scipy.linalg
import scipy.ndimage
import scipy.signal

from frugal_rt import operators

from .cases import dense


def test_sensing_is_scipy_s_hadamard_matrix_over_shuffled_pixels():
    operator = operators.WalshHadamard((1, 4, 8), 0.5, seed=3)
    matrix = dense(operator)
    expected = scipy.linalg.hadamard(32)[:16] / 32**0.5
    bits = [1, 2, 4, 8]  # the rows that tell columns apart: compare columns as sets
    ours, theirs = (a[:, np.lexsort(np.sign(a[bits]))] for a in (matrix, expected))
    np.testing.assert_allclose(ours, theirs, atol=1e-12)
    assert not np.array_equal(dense(operators.WalshHadamard((1, 4, 8), 0.5, seed=4)), matrix)
    assert operator.settings == {"fraction": 0.5, "seed": 3}
    first = dense(operators.WalshHadamard((1, 2, 4), 1, seed=0))
    assert np.flatnonzero(first[1] < 0).tolist() == [2, 5, 6, 7]  # pinned: a measurement outlives its software
