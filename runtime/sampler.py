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
TRUST = 0.3
"""DPS's own step never moves x further than this multiple of sqrt(beta), root mean square over the image."""
LAMBDA = 1.75
"""DMPS's own step size where it follows the paper: the official one, bounded where steps are few."""
ERROR = 0.02
"""The variance of a settled estimate's error, a pixel on [-1, 1], at most: chosen on tune-100 (docs/method.md)."""


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


def likelihood_score(operator: Linear, y: Array, x: Array, sigma: Any, abar: Array) -> Array:
    """The score at x_t of N(y; A x_t / sqrt(abar), sigma^2 I + (1 - abar)/abar A A^T): DMPS, eq. 14, by the SVD.

    g = 1/sqrt(abar) V S^T (sigma^2 I + (1-abar)/abar S S^T)^{-1} (U^T y - S V^T x_t / sqrt(abar))
    """
    root, scale = abar**0.5, (1 - abar) / abar
    s = operator.spectrum(x)
    return operator.V(operator.filter(sigma, scale, s) * (operator.Ut(y) - s * operator.Vt(x) / root)) / root


def settled_guidance(operator: Linear, y: Array, x: Array, x0hat: Array, sigma: Any, abar: Array, cap: Array) -> Array:
    """DMPS's own move, lambda g, for an estimate x0hat that has settled. Sizes and directions differ by singular value.

    DMPS takes the prior to be flat: x_t / sqrt(abar) is its estimate, (1-abar)/abar its variance, and so it corrects
    x_t's noise, and leaves in place the error that x0hat has where y knows better. Where y says more about a
    direction than x0hat does, the residual is therefore taken at x0hat, at lambda 1: x0hat is brought to y. Elsewhere
    it stays at x_t, at LAMBDA, as in the paper. The share of the first is a posterior's, v s^2 / (sigma^2 + v s^2),
    v the variance of x0hat's error: (1-abar)/abar, ERROR at most.

    g takes LAMBDA w mean_x0 of x_t's noise out of a direction, w = scale s^2 / (sigma^2 + scale s^2), where the
    ancestral mean holds mean_x sqrt(abar) of it; `cap` (B, 1, 1, 1) on w keeps what is left from changing its sign,
    which it would when steps are few.
    """
    xp = array_namespace(x)
    root, scale = abar**0.5, (1 - abar) / abar
    s, seen = operator.spectrum(x), operator.Ut(y)
    filtered = operator.filter(sigma, scale, s)
    w = scale * s * filtered
    bounded = LAMBDA * xp.where(w > cap, cap / (w + TINY), xp.ones_like(w))
    variance = scale / (1 + scale / ERROR)
    share = variance * s * operator.filter(sigma, variance, s)
    at_x, at_x0hat = seen - s * operator.Vt(x) / root, seen - s * operator.Vt(x0hat)
    return operator.V(filtered * (share * at_x0hat + (1 - share) * bounded * at_x)) / root


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
    residual down to the noise at once, times kappa = beta / (1 - abar), the share of x_t's noise that this step
    removes, times the share of the gradient that the clip lets through.
    """
    (out, variance), pull = pullback(x, c.t)
    x0hat, unclipped = estimate(x, out, c)
    reach, excess = gradient(x0hat)
    cotangent = unclipped * reach
    pulled = c.x0_x * cotangent - pull(c.x0_out * cotangent)
    xp = array_namespace(x)
    square = _square_sum(pulled) + TINY
    kappa = c.beta / (1 - c.abar)
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
    guide: Callable[[Array, Array], Array],
) -> tuple[Array, Array]:
    """x_{t-1} and the unguided x0hat. DMPS, Algorithm 1: x_{t-1} = x' + beta / sqrt(alpha) lambda g(x_t).

    `guide(x0hat, cap)` is lambda times `likelihood_score`, or `settled_guidance`.
    """
    out, variance = predict(x, c.t)
    x0hat, _ = estimate(x, out, c)
    cap = c.mean_x * c.abar**0.5 / (c.mean_x0 * LAMBDA + TINY)
    return ancestral(x, x0hat, variance, z, c) + c.beta / c.alpha**0.5 * guide(x0hat, cap), x0hat


def _square_sum(a: Array) -> Array:
    """The sum of squares of each row, (B, 1, 1, 1)."""
    flat = a.reshape(a.shape[0], -1)
    return (flat * flat).sum(1)[:, None, None, None]
