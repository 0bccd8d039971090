"""Measurements of the tiny prior's images."""

import numpy as np

SHAPE = (3, 16, 16)


def measurement(operator, rows=5):
    return np.random.default_rng(0).uniform(-1, 1, (rows, *operator.measurement_shape)).astype(np.float32)
