"""The equations of one step: ancestral DDPM, DPS (Chung et al., 2023), DMPS (Meng and Kabashima, 2022), DDRM's move,
`frugal`'s, the probability flow (Song et al., 2021), half-quadratic splitting (Zhang et al., 2021), self-ensembles.

Pure functions over a batch (B, C, H, W); `c` holds each row's coefficients. Nothing here knows devices or loops.
"""

import math
from typing import Any

from ...engines import Array, Pull
from ...engines.array_api import array_namespace
from ..operators import Decomposable, Linear, Operator
from .schedule import Coefficients

TINY = 1e-12
DPS_MAX_STEP = 0.3
"""DPS's own step never moves x further than this multiple of sqrt(beta), root mean square over the image."""
FRUGAL_MAX_STEP = 0.35
"""`frugal`'s gradient never moves x further than this multiple of the deviation of the ancestral steps that it stands
for, root mean square over the image."""
DMPS_LAMBDA = 1.75
"""DMPS's own step, before it is bounded: the official code's."""
CORRELATION_POWER = 0.5
"""How the closed form weighs a measurement noisier than x_{t-1}: 1 as Bayes does, 0 as if it were no noisier."""

MIN_SIGMA_RATIO = 0.01
"""Where there is no basis, y's deviation is taken for no less than this share of what x0's may still be."""


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


def probability_flow_step(x: Array, x0hat: Array, c: Coefficients) -> Array:
    """x_{t-1} without a draw: sqrt(abar') x0hat + sqrt((1 - abar') / (1 - abar)) (x_t - sqrt(abar) x0hat).

    It is DDIM (Song et al., 2021), eq. 12 with eta = 0: Euler's step of the probability flow. In z = x_t / sqrt(abar)
    and s = sqrt(1 - abar) / sqrt(abar) it reads z' = x0hat + s'/s (z - x0hat).
    """
    return c.abar_prev**0.5 * x0hat + c.noise_left * (x - c.abar**0.5 * x0hat)


def flipped(images: Array, c: Coefficients) -> Array:
    """Each row mirrored, upside down, both or as it is, by `c`; applied twice it changes nothing.

    A denoiser that knows pieces of any picture should give the same, flipped; a trained one does so only nearly. With
    another flip at each step its errors average out: equivariant plug-and-play, Terris et al. (2024).
    """
    xp = array_namespace(images)
    images = xp.where(c.mirrored > 0, xp.flip(images, axis=3), images)
    return xp.where(c.inverted > 0, xp.flip(images, axis=2), images)


def mean_step(x: Array, x0hat: Array, c: Coefficients) -> Array:
    """The mean of the estimates so far, of which `x` has those before: a self-ensemble, Timofte et al. (2016)."""
    return (1 - c.share) * x + c.share * x0hat


def splitting_step(operator: Linear, y: Array, x0hat: Array, sigma: Array, c: Coefficients) -> Array:
    """x_{t-1} = sqrt(abar') E[x0 | y], of N(x0hat, s^2): half-quadratic splitting, whose denoiser is the network.

    Zhang et al. (2021), eq. 6 and 7. It draws nothing, and of x_t it keeps nothing.
    """
    return c.abar_prev**0.5 * operator.mean(y, x0hat, sigma, x0_variance(c))


def x0_variance(c: Coefficients) -> Array:
    """(1 - abar) / abar, x_t's noise beside its signal: what stands for the variance of x0 given x_t."""
    return (1 - c.abar) / c.abar


def residual_gradient(operator: Operator, y: Array, x0hat: Array, sigma: Array) -> tuple[Array, Array]:
    """The gradient of || y - A x0hat ||_2 with respect to x0hat, row by row, and how far the norm is above the noise's.

    The noise alone has a norm of about sigma sqrt(m), m the number of values measured (Morozov's discrepancy
    principle); the excess (B, 1, 1, 1) is 0 below it.
    """
    xp = array_namespace(x0hat)
    r = y - operator.A(x0hat)
    norm = xp.sqrt(_square_sum(r))
    return -operator.vjp(x0hat, r) / (norm + TINY), xp.clip(norm - sigma * operator.measured**0.5, 0.0, None)


def likelihood_score(operator: Linear, y: Array, x: Array, sigma: Any, abar: Array, gain: Any = 0.0) -> Array:
    """The score at x_t of N(y; A x_t / sqrt(abar), sigma^2 I + (1 - abar)/abar A A^T): DMPS, eq. 14, by the SVD.

    g = 1/sqrt(abar) V S^T (sigma^2 I + (1-abar)/abar S S^T)^{-1} (U^T y - S V^T x_t / sqrt(abar)), or where there is no
    SVD, 1/sqrt(abar) A^T (sigma^2 I + (1-abar)/abar A A^T)^{-1} (y - A x_t / sqrt(abar)).

    gain: what a step multiplies the score by, over sqrt(abar), as of `dmps_gain`. The score is made smaller where the
    step would pass what y says: gain s^2 / (sigma^2 + (1-abar)/abar s^2) is 1 at most in each direction of the SVD,
    and without an SVD by the one factor that holds for any s. 0 bounds nothing.
    """
    xp = array_namespace(x)
    root, scale = abar**0.5, (1 - abar) / abar
    if not isinstance(operator, Decomposable):
        score = operator.AT(operator.resolvent(y - operator.A(x) / root, sigma, scale)) / root
        return score / xp.maximum(gain / scale, xp.ones_like(scale))
    s = operator.spectrum(x)
    weight = operator.filter(sigma, scale, s)
    passed = gain * s * weight
    weight = weight / xp.maximum(passed, xp.ones_like(passed))
    return operator.V(weight * (operator.Ut(y) - s * operator.Vt(x) / root)) / root


def dmps_gain(lam: Array, c: Coefficients) -> tuple[Array, Array]:
    """lambda, DMPS_LAMBDA where it is NaN; and what bounds a step of that size, lambda beta / (sqrt(alpha) abar).

    The second is 0, no bound, where lambda was given: the paper's step as it is.
    """
    xp = array_namespace(lam)
    own = xp.isnan(lam)
    lam = xp.where(own, DMPS_LAMBDA, lam)
    return lam, xp.where(own, lam * c.beta / (c.alpha**0.5 * c.abar), 0.0)


def ddrm_transition(
    operator: Decomposable, y: Array, x: Array, x0hat: Array, z: Array, sigma: Array, c: Coefficients
) -> Array:
    """A draw of x_{t-1} that knows y, in closed form: DDRM (Kawar et al., 2022, eq. 7 and 8), but for the third line.

    With s' = sqrt(1 - abar_{t-1}), kept = sqrt(1 - eta^2), eta = c.fresh, and eps the noise that x0hat leaves in x_t,
    direction by direction:

        not measured (s = 0):     sqrt(abar') x0hat + s' (kept eps + eta z)
        sigma / s below the noise: sqrt(abar') U^T y / s + sqrt(s'^2 - abar' sigma^2 / s^2) z
        sigma / s above it:       sqrt(abar') x0hat + s' (q n + kept (eps - q n) + eta sqrt(1 - q^2) z)

    The noises compared are those of sqrt(abar') y / s and of x_{t-1}; n = (U^T y / s - x0hat) s / sigma is the first,
    in its deviations. So where y knows more it stands in for x0hat; where it knows less, x_{t-1}'s noise goes on as in
    the first line, but around q n instead of 0. If y is taken for a noisier x_{t-1}, their noises have a correlation of
    rho, the ratio of their deviations, and q = rho is the law of x_{t-1} given x0 and y; here q = rho^CORRELATION_POWER
    (docs/method.md). DDRM's is kept n + eta z, in which y is believed the more, the more steps there are.
    """
    xp = array_namespace(x)
    root, left = c.abar_prev**0.5, (1 - c.abar_prev) ** 0.5
    kept = (1 - c.fresh**2) ** 0.5
    eps = (x - c.abar**0.5 * x0hat) / (1 - c.abar) ** 0.5
    unseen = root * x0hat + left * (kept * eps + c.fresh * z)
    s = operator.spectrum(x)
    seen = xp.astype(s > 0, x.dtype)
    s = s + (1 - seen)  # divides by 1 where nothing is seen
    noise = root * sigma / s  # of sqrt(abar') U^T y / s
    estimate, drawn, eps = root * operator.Vt(x0hat), operator.Vt(z), operator.Vt(eps)
    gap = root * operator.Ut(y) / s - estimate
    near = estimate + gap + xp.sqrt(xp.clip(left**2 - noise**2, 0.0, None)) * drawn
    q = xp.clip(left / (noise + TINY), None, 1.0) ** CORRELATION_POWER
    centre = q * gap / (noise + TINY)
    far = estimate + left * (centre + kept * (eps - centre) + c.fresh * xp.sqrt(1 - q**2) * drawn)
    return unseen + operator.V(seen * (xp.where(noise <= left, near, far) - operator.Vt(unseen)))


def resolvent_transition(
    operator: Linear, y: Array, x: Array, x0hat: Array, z: Array, sigma: Array, c: Coefficients
) -> Array:
    """`ddrm_transition` without a basis: a draw of x_{t-1} that knows y, by one resolvent.

    In a direction of singular value s, with s', kept, eta and eps as there, rho = s' s / (sqrt(abar') sigma), and
    w = 4 rho^2 / (1 + 4 rho^2), from 0 where y is noise to 1 where it is exact:

        sqrt(abar') (x0hat + w (y / s - x0hat)) + s' (kept (eps - q n) + eta (1 - 2 w) z)

    where q n = sqrt(abar / (1 - abar)) w (y / s - x0hat). It is the third line of `ddrm_transition` throughout, with
    q = 4 rho / (1 + 4 rho^2) for the correlation of the two noises: sqrt(1 - q^2) is then |1 - 2 w|, and w is all that
    has to be computed: w (y / s - x0hat) = c A^T (sigma^2 I + c A A^T)^{-1} (y - A x0hat), c = 4 (1 - abar') / abar'.
    The two terms in w are one such solution. sigma is MIN_SIGMA_RATIO sqrt(c) at least, so that the system has a
    condition number of 1 / MIN_SIGMA_RATIO^2 at most, and what A all but loses stays x0hat's.
    """
    xp = array_namespace(x)
    root, left = c.abar_prev**0.5, (1 - c.abar_prev) ** 0.5
    kept = (1 - c.fresh**2) ** 0.5
    eps = (x - c.abar**0.5 * x0hat) / (1 - c.abar) ** 0.5
    ahead = root - left * kept * (c.abar / (1 - c.abar)) ** 0.5
    scale = 4 * (1 - c.abar_prev) / c.abar_prev + TINY  # above 0 where there is no noise left, nor any in y
    asked = ahead * (y - operator.A(x0hat)) - 2 * left * c.fresh * operator.A(z)
    known = operator.resolvent(asked, xp.maximum(sigma + 0 * scale, MIN_SIGMA_RATIO * scale**0.5 + 0 * sigma), scale)
    return root * x0hat + left * (kept * eps + c.fresh * z) + scale * operator.AT(known)


def mean_transition(
    operator: Linear, y: Array, x: Array, x0hat: Array, z: Array, sigma: Array, c: Coefficients
) -> Array:
    """A draw of x_{t-1} around E[x0 | y], with eps the noise that x0hat leaves in x_t.

    sqrt(abar') E[x0 | y] + sqrt(1 - abar') (sqrt(1 - eta^2) eps + eta z): DDIM (Song et al., 2021), eq. 12, with
    `Linear.mean` in the place of x0hat. It asks no more of y than that mean, so y may be rounded.
    """
    eps = (x - c.abar**0.5 * x0hat) / (1 - c.abar) ** 0.5
    mean = operator.mean(y, x0hat, sigma, x0_variance(c))
    return c.abar_prev**0.5 * mean + (1 - c.abar_prev) ** 0.5 * ((1 - c.fresh**2) ** 0.5 * eps + c.fresh * z)


def gradient_at_x_t(
    gradient: Array, excess: Array, unclipped: Array, pull: Pull, c: Coefficients
) -> tuple[Array, Array]:
    """The residual's gradient at x_t, (B, C, H, W), from the one at x0hat; and Polyak's step along it, (B, 1, 1, 1).

    `gradient` and `excess` are `residual_gradient`'s, `unclipped` is `estimate`'s, `pull` the network's
    vector-Jacobian product. Polyak's step, excess / |grad|^2, would bring the residual down to the noise at once, to
    first order. It is weighed by the share of the gradient that the clip lets through.
    """
    cotangent = unclipped * gradient
    at_x_t = c.x0_x * cotangent - pull(c.x0_out * cotangent)
    passed = _square_sum(cotangent) / (_square_sum(gradient) + TINY)
    return at_x_t, passed * excess / (_square_sum(at_x_t) + TINY)


def dps_step(x_prime: Array, gradient: Array, polyak: Array, zeta: Array, c: Coefficients) -> Array:
    """x_{t-1} = x' - zeta grad_{x_t} || y - A(x0hat(x_t)) ||_2: DPS, Algorithm 1; x' is the ancestral draw.

    `gradient` and `polyak` are `gradient_at_x_t`'s. zeta (B, 1, 1, 1) is the paper's constant, or NaN for a step of its
    own: kappa = beta / (1 - abar), the share of x_t's noise that this step removes, of Polyak's.
    """
    xp = array_namespace(gradient)
    own = limited_step(c.beta / (1 - c.abar) * polyak, gradient, DPS_MAX_STEP * c.beta**0.5)
    return x_prime - xp.where(xp.isnan(zeta), own, zeta) * gradient


def dmps_step(x_prime: Array, score: Array, lam: Array, c: Coefficients) -> Array:
    """x_{t-1} = x' + lambda beta / sqrt(alpha) g(x_t): DMPS, Algorithm 1; x' is the ancestral draw.

    `score` is `likelihood_score`, g at x_t; lam is `dmps_gain`'s.
    """
    return x_prime + lam * c.beta / c.alpha**0.5 * score


def frugal_step(transition: Array, gradient: Array, polyak: Array, every: Array, c: Coefficients) -> Array:
    """x_{t-1}: the closed form's draw, moved along DPS's gradient for what the operator does not see.

    `transition` is `ddrm_transition` or `resolvent_transition`, `gradient` and `polyak` are `gradient_at_x_t`'s. One
    such step stands for `every` (B, 1, 1, 1), and takes Polyak's step whole, relaxed by 1 + abar: for a linear residual
    any factor below 2 converges, and the less noise is left, the more linear it is.
    """
    deviation = (every * c.beta * (1 - c.abar_prev) / (1 - c.abar)) ** 0.5  # of so many ancestral steps
    return transition - limited_step((1 + c.abar) * polyak, gradient, FRUGAL_MAX_STEP * deviation) * gradient


def limited_step(step: Array, gradient: Array, longest: Array) -> Array:
    """`step`, but no more than moves x along `gradient` by `longest`, root mean square over the image."""
    size = math.prod(gradient.shape[1:])
    return array_namespace(gradient).minimum(step, longest * (size / (_square_sum(gradient) + TINY)) ** 0.5)


def _square_sum(a: Array) -> Array:
    """The sum of squares of each row, (B, 1, 1, 1)."""
    flat = a.reshape((a.shape[0], -1))
    return (flat * flat).sum(1)[:, None, None, None]
