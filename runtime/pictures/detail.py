"""The detail of a photograph that a smaller image of it cannot hold, as far as noise lets it be seen."""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from .images import resized

BLOCK = 6
"""Pixels of a band's own grid along which its signal is measured: enough for a variance, few enough for an edge."""
OPPONENT = np.array([[2, 2, 2], [6**0.5, 0, -(6**0.5)], [2**0.5, -(8**0.5), 2**0.5]], np.float32) / 12**0.5
"""(3, 3) orthonormal: light, and two differences of colour. White noise stays white; little but noise is in the two."""


def detail(square: np.ndarray, size: int, sigma: float, known: np.ndarray | None = None) -> np.ndarray:
    """Return the bands of `square` (C, s, s) that its means at `size` x `size` do not hold, each weighted by its noise.

    Down_m takes means over s/m x s/m pixels, Up is bicubic, m_0 = size < m_1 < .. < m_J = s are about a factor of 2
    apart, and I_m = Up Down_m (I_s the identity). The bands of P, and their weights, are

        B_j = D_j P,    D_j = I_{m_j} - I_{m_{j-1}},
        w_j = max(0, 1 - N_j / V_j),    N_j = sigma^2 |D_j|_F^2 / s^2,

    V_j the mean of B_j^2 around a pixel and N_j what noise of deviation `sigma` adds to it: Wiener's gain, signal over
    signal and noise. The result is sum_j w_j B_j. Without noise that is P - Up Down_size P, and Up x + detail holds all
    of P but for what x changes. Colours are weighted as OPPONENT has them.

    known: (s, s) bool, pixels that V_j is measured on; None is all. A square no larger than `size` has no such bands.
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
    """Up Down_size of a channel (s, s)."""
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
    """Means of values (s, s) over blocks x blocks of them, and between their centres what lies between."""
    means = resized(values, (blocks, blocks), Image.Resampling.BOX)
    return resized(means, (values.shape[1], values.shape[0]), Image.Resampling.BILINEAR)
