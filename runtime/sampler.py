"""The equations of one step: ancestral DDPM, DPS (Chung et al., 2023), DMPS (Meng and Kabashima, 2022).

Pure functions over a batch (B, C, H, W); `c` holds each row's coefficients. Nothing here knows devices or loops.
"""

import math
from collections.abc import Callable
from typing import Any

from array_api_compat import array_namespace

from ..engines import Array, Prediction, Pull
from .operators import Linear, Operator
from .schedule import Coefficients

TINY = 1e-12
KAPPA = 4.0
"""DPS's own step size, as a multiple of the share of the noise that a step removes; see dps_step."""
TRUST = 0.3
"""DPS's own step never moves x further than this multiple of sqrt(beta), root mean square over the image."""
LAMBDA = 1.75
"""DMPS's own step size: the official one, bounded where steps are few."""


def estimate(x: Array, out: Array, c: Coefficients) -> tuple[Array, Array]:
    """x0hat = E[x0 | x_t] clipped to [-1, 1], and a mask that is 1 where it was not clipped.

    An infinity becomes NaN rather than hide behind the clip.
    """
    raw = c.x0_x * x - c.x0_out * out
    x0hat = raw.clip(-1.0, 1.0) + 0 * raw
    return x0hat, array_namespace(x).astype(raw == x0hat, x.dtype)


def ancestral(x: Array, x0hat: Array, variance: Array | None, z: Array, c: Coefficients) -> Array:
    """A draw from p(x_{t-1} | x_t, x0hat): DDPM, eq. 7; the learned range is Nichol and Dhariwal (2021), eq. 15."""
    xp = array_namespace(x)
    log_var = c.log_var
    if variance is not None:
        share = (variance + 1) / 2
        log_var = share * c.log_var_max + (1 - share) * c.log_var
    return c.mean_x0 * x0hat + c.mean_x * x + c.noise * xp.exp(log_var / 2) * z


def residual_gradient(operator: Operator, y: Array, x0hat: Array, sigma: Array) -> tuple[Array, Array]:
    """The gradient of || y - A x0hat ||_2 with respect to x0hat, row by row, and how far the norm is above the noise's.

    The noise alone has a norm of about sigma sqrt(m), m the number of values measured (Morozov's discrepancy
    principle); the excess (B, 1, 1, 1) is 0 below it.
    """
    xp = array_namespace(x0hat)
    r = y - operator.A(x0hat)
    norm = xp.sqrt(_square_sum(r))
    return -operator.vjp(x0hat, r) / (norm + TINY), xp.clip(norm - sigma * operator.measured**0.5, 0.0, None)


def likelihood_score(
    operator: Linear, y: Array, x: Array, sigma: Any, abar: Array, cap: Array | float = math.inf
) -> Array:
    """The score at x_t of N(y; A x_t / sqrt(abar), sigma^2 I + (1 - abar)/abar A A^T): DMPS, eq. 14, by the SVD.

    g = 1/sqrt(abar) V S^T (sigma^2 I + (1-abar)/abar S S^T)^{-1} (U^T y - S V^T x_t / sqrt(abar))

    The share of (1-abar)/abar s^2 in the denominator, w in 0..1, is how much a direction trusts the measurement;
    `cap` (B, 1, 1, 1) bounds it, and infinity leaves the equation as it is.
    """
    xp = array_namespace(x)
    root, scale = abar**0.5, (1 - abar) / abar
    s = operator.spectrum(x)
    filtered = operator.filter(sigma, scale, s)
    w = scale * s * filtered
    bounded = filtered * xp.where(w > cap, cap / (w + TINY), xp.ones_like(w))
    return operator.V(bounded * (operator.Ut(y) - s * operator.Vt(x) / root)) / root


def dps_step(
    x: Array,
    z: Array,
    c: Coefficients,
    pullback: Callable[[Array, Array], tuple[Prediction, Pull]],
    gradient: Callable[[Array], tuple[Array, Array]],
    zeta: Array,
) -> tuple[Array, Array]:
    """x_{t-1} and x0hat. DPS, Algorithm 1: x_{t-1} = x' - zeta grad_{x_t} || y - A(x0hat(x_t)) ||_2.

    `gradient(x0hat)` is `residual_gradient`; the pullback takes it through the clip and the network. zeta (B, 1, 1, 1)
    is the paper's constant, or NaN for a step of its own: Polyak's step excess / |grad|^2, which would bring the
    residual down to the noise at once, times kappa = KAPPA sqrt(abar) beta / (1 - abar), at most 1, times the share of
    the gradient that the clip lets through. beta / (1 - abar) is the share of x_t's noise that this step removes,
    sqrt(abar) how much of x_t is signal: a gradient through an estimate made from noise is worth little.
    """
    (out, variance), pull = pullback(x, c.t)
    x0hat, unclipped = estimate(x, out, c)
    reach, excess = gradient(x0hat)
    cotangent = unclipped * reach
    pulled = c.x0_x * cotangent - pull(c.x0_out * cotangent)
    xp = array_namespace(x)
    square = _square_sum(pulled) + TINY
    kappa = xp.clip(KAPPA * c.abar**0.5 * c.beta / (1 - c.abar), 0.0, 1.0)
    passed = _square_sum(cotangent) / (_square_sum(reach) + TINY)
    longest = TRUST * (c.beta * math.prod(x.shape[1:]) / square) ** 0.5
    own = xp.minimum(kappa * passed * excess / square, longest)
    step = xp.where(xp.isnan(zeta), own, zeta)
    return ancestral(x, x0hat, variance, z, c) - step * pulled, x0hat


def dmps_step(
    x: Array,
    z: Array,
    c: Coefficients,
    predict: Callable[[Array, Array], Prediction],
    score: Callable[[Array, Array], Array],
    lam: Array,
) -> tuple[Array, Array]:
    """x_{t-1} and the unguided x0hat. DMPS, Algorithm 1: x_{t-1} = x' + lambda beta / sqrt(alpha) g(x_t).

    `score(x, cap)` is `likelihood_score`. lambda (B, 1, 1, 1) is the paper's constant, or NaN for LAMBDA with a bound:
    g takes lambda w mean_x0 of x_t's noise out of what is measured, where the ancestral mean holds mean_x sqrt(abar)
    of it; `cap` keeps the difference from changing sign, which it would when steps are few.
    """
    out, variance = predict(x, c.t)
    x0hat, _ = estimate(x, out, c)
    xp = array_namespace(x)
    own = xp.isnan(lam)
    lam = xp.where(own, LAMBDA * xp.ones_like(lam), lam)
    cap = xp.where(own, c.mean_x * c.abar**0.5 / (c.mean_x0 * lam + TINY), math.inf * xp.ones_like(lam))
    return ancestral(x, x0hat, variance, z, c) + lam * c.beta / c.alpha**0.5 * score(x, cap), x0hat


def _square_sum(a: Array) -> Array:
    """The sum of squares of each row, (B, 1, 1, 1)."""
    flat = a.reshape(a.shape[0], -1)
    return (flat * flat).sum(1)[:, None, None, None]
