"""The photograph's detail beyond an image's resolution, against matrices of its bands."""

import numpy as np
import pytest
from PIL import Image

from frugal_rt.runtime.pictures.detail import BLOCK, OPPONENT, detail

BOX, CUBIC, LINEAR = Image.Resampling.BOX, Image.Resampling.BICUBIC, Image.Resampling.BILINEAR


def along(side: int, size: int, how: Image.Resampling) -> np.ndarray:
    """(size, side) the matrix that brings a row of `side` pixels to `size`, probed by its columns."""
    rows = np.eye(side, dtype=np.float32)
    columns = [Image.fromarray(row[None]).resize((size, 1), how) for row in rows]
    return np.stack([np.asarray(column)[0] for column in columns], axis=1).astype(np.float64)


def held(side: int, size: int) -> np.ndarray:
    """(side, side) Up Down_size of a row."""
    return along(size, side, CUBIC) @ along(side, size, BOX) if size < side else np.eye(side)


def smooth(side: int, blocks: int, values: np.ndarray) -> np.ndarray:
    around = along(blocks, side, LINEAR) @ along(side, blocks, BOX)
    return around @ values @ around.T


def dense(square: np.ndarray, grids: list[int], sigma: float, known: np.ndarray) -> np.ndarray:
    """`detail` as its docstring has it, by dense matrices (s^2, s^2)."""
    side = square.shape[1]
    turned, found = np.einsum("ij,jyx->iyx", OPPONENT, square), []
    whole = [np.kron(held(side, grid), held(side, grid)) for grid in grids]
    for channel in turned:
        total = np.zeros((side, side))
        for coarse, fine, grid in zip(whole, whole[1:], grids[1:], strict=False):
            band = ((fine - coarse) @ channel.reshape(-1)).reshape(side, side)
            noise = sigma**2 * np.square(fine - coarse).sum(axis=1).mean()
            blocks = max(1, round(grid / BLOCK))
            power = smooth(side, blocks, known * band**2) / smooth(side, blocks, known)
            total += np.maximum(0, 1 - noise / power) * band
        found.append(total)
    return np.einsum("ij,iyx->jyx", OPPONENT, np.stack(found))


def square(side: int, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).uniform(-1, 1, (channels, side, side)).astype(np.float32)


@pytest.mark.parametrize(
    ("side", "size", "grids"), [(24, 6, [6, 12, 24]), (23, 9, [9, 23]), (40, 5, [5, 10, 20, 40]), (20, 17, [17, 20])]
)
def test_bands_and_their_weights_are_those_of_the_equation(side, size, grids):
    known = np.random.default_rng(1).uniform(size=(side, side)) < 0.9
    expected = dense(square(side), grids, 0.3, known)
    np.testing.assert_allclose(detail(square(side), size, 0.3, known), expected, atol=2e-5)
    assert 0.01 < np.abs(expected).mean() < 0.9 * np.abs(detail(square(side), size, 0)).mean()


@pytest.mark.parametrize("channels", [1, 3])
def test_without_noise_it_is_all_that_the_means_do_not_hold(channels):
    photo = square(50, channels)
    low = np.stack([held(50, 12) @ channel @ held(50, 12).T for channel in photo])
    np.testing.assert_allclose(low + detail(photo, 12, 0), photo, atol=1e-5)


def test_noise_alone_has_none_and_an_edge_in_noise_keeps_its_own():
    clean = np.full((3, 96, 96), -0.5, np.float32)
    clean[:, :, 43:] = 0.5
    noise = 0.1 * np.random.default_rng(0).standard_normal(clean.shape).astype(np.float32)
    found, own = detail(clean + noise, 16, 0.1), detail(clean, 16, 0)
    assert np.sqrt(np.square(found[:, :, :20]).mean()) < 0.02
    near = np.s_[:, :, 40:46]
    assert np.square(found[near] - own[near]).mean() < 0.1 * np.square(own[near]).mean()


@pytest.mark.parametrize("size", [30, 64])
def test_a_square_no_larger_than_the_image_has_none(size):
    assert (detail(square(30), size, 0) == 0).all()
