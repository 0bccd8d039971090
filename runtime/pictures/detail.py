"""The detail of a photograph beyond the resolution of a smaller image, as far as it exceeds the noise."""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from .images import resized

BLOCK = 6
"""Side in pixels of a band's grid of the blocks over which its variance is measured."""
OPPONENT = np.array([[2, 2, 2], [6**0.5, 0, -(6**0.5)], [2**0.5, -(8**0.5), 2**0.5]], np.float32) / 12**0.5
"""(3, 3) orthonormal: lightness and two colour differences. White noise stays white; the differences are mostly
noise."""


def detail(square: np.ndarray, size: int, sigma: float, known: np.ndarray | None = None) -> np.ndarray:
    """Return the bands of `square` (C, s, s) beyond the resolution `size` x `size`, each weighted by Wiener's gain.

    Down_m takes means over s/m x s/m pixels, Up is bicubic, m_0 = size < m_1 < .. < m_J = s are about a factor of 2
    apart, and I_m = Up Down_m (I_s the identity). The bands of P, and their weights, are

        B_j = D_j P,    D_j = I_{m_j} - I_{m_{j-1}},
        w_j = max(0, 1 - N_j / V_j),    N_j = sigma^2 |D_j|_F^2 / s^2,

    where V_j is the mean of B_j^2 around a pixel, and N_j the part of it due to noise of deviation `sigma`. The result
    is sum_j w_j B_j. Without noise it is P - Up Down_size P, so that Up x + detail is P where x = Down_size P. Channels
    are weighted in the basis OPPONENT.

    known: (s, s) bool, the pixels over which V_j is measured; None: all. A square no larger than `size` has no bands.
    """
    side = square.shape[1]
    if side <= size:
        return np.zeros_like(square)
    turned = np.tensordot(OPPONENT, square, 1) if len(square) == 3 else square
    bands = max(1, round(np.log2(side / size)))
    grids = [round(size * (side / size) ** (j / bands)) for j in range(bands + 1)]
    seen = np.ones((side, side), np.float32) if known is None else known.astype(np.float32)
    blocks = [max(1, round(fine / BLOCK)) for fine in grids[1:]]
    shares = [np.maximum(_around(seen, count), np.float32(1e-6)) for count in blocks]
    noises = [np.float32(sigma**2 * gain) for gain in _gains(side, grids)]
    found = np.zeros_like(turned)
    for channel, kept in zip(turned, found, strict=True):
        coarse = _held(channel, grids[0])
        for grid, count, share, noise in zip(grids[1:], blocks, shares, noises, strict=True):
            fine = _held(channel, grid)
            band = fine - coarse
            power = np.maximum(_around(seen * band**2, count) / share, np.finfo(np.float32).tiny)
            kept += np.maximum(0, 1 - noise / power) * band
            coarse = fine
    return np.asarray(np.tensordot(OPPONENT.T, found, 1) if len(square) == 3 else found)


def _held(channel: np.ndarray, size: int) -> np.ndarray:
    """Return Up Down_size of a channel (s, s)."""
    side = len(channel)
    return resized(resized(channel, (size, size), Image.Resampling.BOX), (side, side), Image.Resampling.BICUBIC)


def _gains(side: int, grids: Sequence[int]) -> list[float]:
    """Return |I_fine - I_coarse|_F^2 / side^2 of each two grids: the mean variance of a band of noise of variance 1.

    I_m is a Kronecker product of rows and columns, M_m x M_m, so that the norm takes no more than M_m (side, side):
    |M_f x M_f - M_c x M_c|^2 = |M_f|^4 - 2 <M_f, M_c>^2 + |M_c|^4.
    """
    one, gains = np.eye(side, dtype=np.float32), []

    def along(size: int) -> np.ndarray:
        return resized(resized(one, (side, size), Image.Resampling.BOX), (side, side), Image.Resampling.BICUBIC)

    coarse = along(grids[0])
    for grid in grids[1:]:
        fine = along(grid)
        norm, product, least = (float(np.vdot(a, b)) for a, b in ((fine, fine), (fine, coarse), (coarse, coarse)))
        gains.append((norm**2 - 2 * product**2 + least**2) / side**2)
        coarse = fine
    return gains


def _around(values: np.ndarray, blocks: int) -> np.ndarray:
    """Return the means of values (s, s) over blocks x blocks blocks, interpolated between their centres."""
    means = resized(values, (blocks, blocks), Image.Resampling.BOX)
    return resized(means, (values.shape[1], values.shape[0]), Image.Resampling.BILINEAR)
