"""The detail of a photograph that a smaller image of it cannot hold, as far as noise lets it be seen."""

from itertools import pairwise

import numpy as np
from PIL import Image

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
    found = np.zeros_like(turned)
    for coarse, fine in pairwise(grids):
        noise = sigma**2 * _gain(side, coarse, fine)
        blocks = max(1, round(fine / BLOCK))
        share = _around(seen, blocks)
        for channel, kept in zip(turned, found, strict=True):
            band = _held(channel, fine) - _held(channel, coarse)
            power = _around(seen * band**2, blocks) / np.maximum(share, np.float32(1e-6))
            kept += band * np.maximum(0, 1 - noise / np.maximum(power, np.finfo(np.float32).tiny)).astype(np.float32)
    return np.asarray(np.tensordot(OPPONENT.T, found, 1) if len(square) == 3 else found)


def _held(channel: np.ndarray, size: int) -> np.ndarray:
    """Up Down_size of a channel (s, s)."""
    side = len(channel)
    return _at(_at(channel, (size, size), Image.Resampling.BOX), (side, side), Image.Resampling.BICUBIC)


def _gain(side: int, coarse: int, fine: int) -> float:
    """Return |I_fine - I_coarse|_F^2 / side^2: the mean variance of a band of white noise of variance 1.

    I_m is a Kronecker product of rows and columns, M_m x M_m, so that the norm takes no more than M_m (side, side):
    |M_f x M_f - M_c x M_c|^2 = |M_f|^4 - 2 <M_f, M_c>^2 + |M_c|^4.
    """
    one = np.eye(side, dtype=np.float32)

    def along(size: int) -> np.ndarray:
        return _at(_at(one, (side, size), Image.Resampling.BOX), (side, side), Image.Resampling.BICUBIC)

    upper, lower = along(fine), along(coarse)
    norm, product, least = (float(np.vdot(a, b)) for a, b in ((upper, upper), (upper, lower), (lower, lower)))
    return (norm**2 - 2 * product**2 + least**2) / side**2


def _around(values: np.ndarray, blocks: int) -> np.ndarray:
    """Means of values (s, s) over blocks x blocks of them, and between their centres what lies between."""
    means = _at(values, (blocks, blocks), Image.Resampling.BOX)
    return _at(means, (values.shape[1], values.shape[0]), Image.Resampling.BILINEAR)


def _at(values: np.ndarray, size: tuple[int, int], how: Image.Resampling) -> np.ndarray:
    image = Image.fromarray(np.asarray(values, np.float32))
    return np.asarray(image if image.size == size else image.resize(size, how))
