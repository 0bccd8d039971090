"""Photographs of random pixels."""

import numpy as np

from frugal_rt.runtime.operators.masks import box_mask
from frugal_rt.runtime.pictures.decoding import Photo

SHAPE = (3, 16, 16)
RANDOM = np.random.default_rng(0)


def photo(width=16, height=16, channels=3, missing=None) -> Photo:
    return Photo(RANDOM.uniform(-1, 1, (channels, height, width)).astype(np.float32), missing)


HOLE = box_mask(SHAPE, 4, 6)
