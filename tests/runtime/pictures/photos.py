"""Photographs of random pixels, and of faces."""

import numpy as np
from PIL import Image

from frugal_rt.runtime.operators.masks import box_mask
from frugal_rt.runtime.pictures.decoding import Photo
from frugal_rt.runtime.pictures.images import PORTRAIT

SHAPE = (3, 16, 16)
RANDOM = np.random.default_rng(0)


def photo(width=16, height=16, channels=3, missing=None) -> Photo:
    return Photo(RANDOM.uniform(-1, 1, (channels, height, width)).astype(np.float32), missing)


HOLE = box_mask(SHAPE, 4, 6)


def scene(*more: tuple[int, int, int]) -> Image.Image:
    """Return a smooth gradient with the packaged portrait at (70, 30), and at other sizes and places."""
    slope = np.linspace(40, 200, 200)[None, :, None] + np.linspace(0, 40, 150)[:, None, None] * [1, 0, -1]
    picture = Image.fromarray(slope.clip(0, 255).astype(np.uint8))
    portrait = Image.open(PORTRAIT).convert("RGB")
    for size, left, top in ((64, 70, 30), *more):
        picture.paste(portrait.resize((size, size), Image.Resampling.BICUBIC), (left, top))
    return picture


def photo_of(picture: Image.Image) -> Photo:
    return Photo((np.asarray(picture, np.float32) / 127.5 - 1).transpose(2, 0, 1))
