"""A plain estimate of the measured image, without a prior, and its expected error.

`frugal`, and restorations with an aim, start from it.
"""

from functools import cache
from weakref import WeakKeyDictionary

import numpy as np
from PIL import Image

from ...engines.stopping import check
from ..operators import Coded, Denoise, Inpaint, Jpeg, Linear, Shape

DECAY, CONTRAST, COLOUR = 1.2, 0.45, 0.5
"""Statistics of `stand_in`, the model of a photograph: amplitudes fall as 1 / frequency^DECAY, values have the standard
deviation CONTRAST on [-1, 1], and the two axes of colour have COLOUR times that of lightness. Chosen on tune-20
(docs/method.md)."""
KEPT = 64
"""The most values of sigma for which an operator's expected errors are kept."""
SIDE = 256
"""Pixels of the stand-in's period."""
RIDGE = 0.05
"""The least deviation of noise that is assumed where the operator is inverted."""
ROUNDS = 10
"""Steps of conjugate gradients at each level of the pyramid that fills a hole; with more steps large holes overshoot.
Chosen on tune-20 (docs/method.md)."""
TINY = 1e-6


def plain_estimate(operator: Linear, y: np.ndarray, sigma: float) -> np.ndarray:
    """Return an estimate (C, H, W) of the image measured as y (c, h, w) with noise of deviation `sigma`.

    By operator it is y itself, y with its holes filled, y enlarged, y decoded, or otherwise least squares with a ridge,
    A^T (rho^2 I + A A^T)^-1 y, rho = max(sigma, RIDGE).
    """
    channels, height, width = operator.image_shape
    if isinstance(operator, Denoise):
        return y
    if isinstance(operator, Coded):
        decoded = operator.decoded(y)
        # JPEG has spread the damage to the pixels around it, which the biharmonic equation would continue inwards.
        return decoded if operator.hidden is None else filled(decoded, operator.hidden, rounds=0)
    if isinstance(operator, Inpaint):
        assert operator.missing is not None
        return filled(y, operator.missing)
    count, rows, columns = operator.measurement_shape
    scale = height // rows
    if count == channels and scale > 1 and (rows * scale, columns * scale) == (height, width):
        small = y if operator.missing is None else filled(y, operator.missing)
        return np.stack([_enlarged(channel, (height, width)) for channel in small])
    rho = np.asarray(max(sigma, RIDGE))
    return np.asarray(operator.AT(operator.resolvent(y[None], rho, 1.0))[0], np.float32)


def expected_error(operator: Linear, sigma: float) -> float:
    """Return the expected root mean square error, on the [-1, 1] scale, of `plain_estimate` for a photograph.

    It is the error for `stand_in`, measured with noise of deviation `sigma`. An operator keeps KEPT of them.
    """
    return _expected(operator, sigma)[0]


def expected_error_unseen(operator: Linear, sigma: float) -> float:
    """Return the expected root mean square error of `plain_estimate` in the values that `operator` does not measure.

    For missing pixels it is the error in them. For another operator it is ((error^2 - (1 - u) sigma^2) / u)^(1/2), with
    u the share of values that are not measured: measured values are taken to have the noise's error. It is the error
    itself where all values are measured.
    """
    error, missing = _expected(operator, sigma)
    if isinstance(operator, Inpaint):
        return missing
    unseen = operator.unseen
    return (max(error**2 - (1 - unseen) * sigma**2, 0) / unseen) ** 0.5 if unseen else error


def _expected(operator: Linear, sigma: float) -> tuple[float, float]:
    """Return `_errors_of_stand_in`, computed once for an operator and sigma."""
    known = _errors.setdefault(operator, {})
    if sigma not in known:
        if len(known) == KEPT:
            known.clear()
        known[sigma] = _errors_of_stand_in(operator, sigma)
    return known[sigma]


def _errors_of_stand_in(operator: Linear, sigma: float) -> tuple[float, float]:
    """Return the root mean square errors over the stand-in, and over its missing pixels (0 where none are missing)."""
    if isinstance(operator, Coded):
        operator = operator.at(SIDE, SIDE)  # a whole period of `stand_in` is enough
    image = stand_in(operator.image_shape)
    if isinstance(operator, Jpeg):
        y = operator.rounded(image)
    else:
        noise = np.random.default_rng(1).standard_normal(operator.measurement_shape, np.float32)
        y = operator.observed(np.asarray(operator.A(image)) + np.float32(sigma) * noise)
    squares = np.square(plain_estimate(operator, y, sigma) - image)
    holes = operator.missing if isinstance(operator, Inpaint) else None
    in_holes = 0.0 if holes is None or not holes.any() else float(np.sqrt(np.mean(squares[:, holes])))
    return float(np.sqrt(np.mean(squares))), in_holes


def stand_in(shape: Shape) -> np.ndarray:
    """Return an image (C, H, W) with the statistics of photographs: Gaussian, with a spectrum that falls with
    frequency.

    The power spectra of natural images fall as 1 / frequency^2 to 1 / frequency^2.5 (Ruderman and Bialek, 1994). Three
    channels are made of lightness and two axes of colour; with another number each channel is an independent lightness.
    """
    channels, height, width = shape
    rows, columns = (np.arange(side) % SIDE for side in (height, width))
    return np.asarray(_texture(channels)[:, rows[:, None], columns], np.float32)


@cache
def _texture(channels: int) -> np.ndarray:
    """Return a periodic image (channels, SIDE, SIDE)."""
    frequency = np.hypot(np.fft.fftfreq(SIDE)[:, None], np.fft.rfftfreq(SIDE))
    frequency[0, 0] = np.inf
    white = np.random.default_rng(0).standard_normal((channels, SIDE, SIDE))
    planes = np.fft.irfft2(np.fft.rfft2(white) / frequency**DECAY, (SIDE, SIDE))
    planes /= planes.std(axis=(1, 2), keepdims=True)
    if channels == 3:
        turns = 2 * np.pi / 3 * np.arange(3)
        mixed = np.stack([np.ones(3), COLOUR * np.cos(turns), COLOUR * np.sin(turns)], axis=1)
        planes = np.tensordot(mixed, planes, 1)
    image: np.ndarray = CONTRAST * planes / planes.std()
    return image


_errors: "WeakKeyDictionary[Linear, dict[float, tuple[float, float]]]" = WeakKeyDictionary()


def filled(y: np.ndarray, missing: np.ndarray, rounds: int = ROUNDS) -> np.ndarray:
    """Return y (C, h, w) with its missing pixels (h, w) filled in smoothly, and the others unchanged.

    A missing pixel takes the mean of the smallest block of a pyramid that holds a known pixel, enlarged smoothly (push
    and pull; Gortler and others, 1996); each level is smoothed by `rounds` of `_smoothed`. This fills thin holes like
    the biharmonic equation. Large holes, where that overshoots, are filled mostly by the pyramid. Where all pixels are
    missing the result is 0.
    """
    known = np.where(missing, np.float32(0), np.float32(1))[None]
    return np.asarray(_pushed(y * known, known, rounds), np.float32) if known.any() else np.zeros_like(y)


def _pushed(total: np.ndarray, weight: np.ndarray, rounds: int) -> np.ndarray:
    """Return (C, h, w): the means of pixels with a `weight` (1, h, w) of 1; others get the means of larger blocks."""
    mean: np.ndarray = total / np.maximum(weight, TINY)
    height, width = weight.shape[1:]
    if weight.min() >= 1 or max(height, width) == 1:
        return mean
    sums, weights = _halved(total), _halved(weight)
    most = np.minimum(weights, 1)
    check()
    below = _pushed(sums / np.maximum(weights, TINY) * most, most, rounds)
    smooth = np.stack([_enlarged(channel, (2 * below.shape[1], 2 * below.shape[2])) for channel in below])
    return _smoothed(np.asarray(weight * mean + (1 - weight) * smooth[:, :height, :width]), weight[0] == 0, rounds)


def _smoothed(image: np.ndarray, hole: np.ndarray, rounds: int) -> np.ndarray:
    """Return `image` (C, h, w) after `rounds` steps of conjugate gradients on || Laplacian of image ||^2 in `hole` (h,
    w).

    The minimum is biharmonic in the hole. Starting from the coarser level, few steps smooth the finer details
    (cascadic multigrid; Bornemann and Deuflhard, 1996). Only the hole and the pixels next to it are visited.
    """
    near = hole.copy()
    near[1:] |= hole[:-1]
    near[:-1] |= hole[1:]
    near[:, 1:] |= hole[:, :-1]
    near[:, :-1] |= hole[:, 1:]
    inner, outer = (_stencil(mask) for mask in (hole, near))
    check()
    values = image.reshape(len(image), hole.size).copy()
    flow, moved = np.zeros_like(values), np.zeros_like(values)

    def twice(of: np.ndarray) -> np.ndarray:
        flow[:, outer[0]] = _laplacian(of, outer)
        return _laplacian(flow, inner)

    residual = -twice(values)
    direction, square = residual, float(np.vdot(residual, residual))
    for _ in range(rounds):
        if square <= TINY**2:
            break
        moved[:, inner[0]] = direction
        product = twice(moved)
        step = square / float(np.vdot(direction, product))
        values[:, inner[0]] += step * direction
        residual = residual - step * product
        before, square = square, float(np.vdot(residual, residual))
        direction = residual + square / before * direction
    return values.reshape(image.shape)


def _stencil(mask: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return indices into a flattened image of the pixels in `mask` (h, w) and of their four neighbours, (n,) each.

    At the border a pixel is its own neighbour, so that the flux there is 0.
    """
    check()
    (height, width), (rows, columns) = mask.shape, np.nonzero(mask)
    at = rows * width + columns
    up, down = np.where(rows > 0, at - width, at), np.where(rows < height - 1, at + width, at)
    return at, up, down, np.where(columns > 0, at - 1, at), np.where(columns < width - 1, at + 1, at)


def _laplacian(values: np.ndarray, stencil: tuple[np.ndarray, ...]) -> np.ndarray:
    """Return the sums of differences between pixels and their neighbours, (C, n), of a flattened image (C, h w)."""
    at, *neighbours = stencil
    found: np.ndarray = -len(neighbours) * values.take(at, axis=1, mode="clip")  # "raise" is slower
    for neighbour in neighbours:
        check()
        found += values.take(neighbour, axis=1, mode="clip")
    return found


def _halved(array: np.ndarray) -> np.ndarray:
    """Return the sums (C, ceil(h/2), ceil(w/2)) over blocks of 2x2."""
    count, height, width = array.shape
    even = np.pad(array, ((0, 0), (0, height % 2), (0, width % 2)))
    return np.asarray(even.reshape(count, (height + 1) // 2, 2, (width + 1) // 2, 2).sum((2, 4)))


def _enlarged(channel: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize a channel (h, w) to (height, width) by a bicubic filter."""
    image = Image.fromarray(np.asarray(channel, np.float32))
    return np.asarray(image.resize(size[::-1], Image.Resampling.BICUBIC))
