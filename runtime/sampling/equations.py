"""The equations of a step: ancestral DDPM, DPS (Chung et al., 2023), DMPS (Meng and Kabashima, 2022), DDRM's transition
(Kawar et al., 2022), `frugal`'s, the probability flow (Song et al., 2021), half-quadratic splitting (Zhang et al.,
2021), moment matching (Boys et al., 2023; Rozet et al., 2024), self-ensembles (Timofte et al., 2016).

They are pure functions of a batch (B, C, H, W), without devices or loops; `c` holds each row's coefficients.
"""

import math
from typing import Any

from ...engines import Array, Pull
from ...engines.array_api import array_namespace
from ..operators import Coded, Decomposable, Linear, Operator
from .schedule import Coefficients

TINY = 1e-12
DPS_MAX_STEP = 0.3
"""The largest root mean square change of x by a DPS step of our own size, in units of sqrt(beta)."""
FRUGAL_MAX_STEP = 0.35
"""The largest root mean square change of x by `frugal`'s gradient, in units of the standard deviation of the ancestral
steps that it replaces."""
DMPS_LAMBDA = 1.75
"""lambda of a DMPS step of our own size, before the bound: the official code's."""
CORRELATION_POWER = 0.5
"""The exponent in `ddrm_transition` for a measurement noisier than x_{t-1}: 1 is Bayes's rule, 0 ignores the noise."""
MATCHED_LEAST = 0.6
"""The least product in `matched_estimate`. Chosen on tune-100 (docs/decisions/matched.md)."""
DRAWN, DRAWN_SPREAD = 0.5, 0.25
"""DRAWN: the variance with which `drawn_estimate` draws x0, divided by V; twice that where the mean in a JPEG's cells
takes part of it back. DRAWN_SPREAD: the variance that this mean then assumes, divided by `x0_variance`. Chosen on
tune-20 (docs/decisions/fidelity.md, docs/decisions/drawn.md)."""
BLOCK = 8
"""The side of a block of `local_variance`, in pixels."""
MIN_SIGMA_RATIO = 0.01
"""The least ratio of sigma to sqrt(c), c = 4 (1 - abar') / abar', in `resolvent_transition`: it bounds the condition
number."""


def estimate(x: Array, out: Array, c: Coefficients) -> tuple[Array, Array]:
    """Return x0hat = E[x0 | x_t] clipped to [-1, 1], and a mask that is 1 where it was not clipped.

    An infinity becomes NaN, as clipping would hide it.
    """
    raw = c.x0_x * x - c.x0_out * out
    x0hat = raw.clip(-1.0, 1.0) + 0 * raw
    return x0hat, array_namespace(x).astype(raw == x0hat, x.dtype)


def ancestral(x: Array, x0hat: Array, variance: Array | None, z: Array, c: Coefficients) -> Array:
    """Draw from p(x_{t-1} | x_t, x0hat): DDPM, eq. 7; a learned variance is Nichol and Dhariwal (2021), eq. 15."""
    xp = array_namespace(x)
    log_var = c.log_var
    if variance is not None:
        share = (variance + 1) / 2
        log_var = share * c.log_var_max + (1 - share) * c.log_var
    return c.mean_x0 * x0hat + c.mean_x * x + c.noise * xp.exp(log_var / 2) * z


def probability_flow_step(x: Array, x0hat: Array, c: Coefficients) -> Array:
    """Return x_{t-1} = sqrt(abar') x0hat + sqrt((1 - abar') / (1 - abar)) (x_t - sqrt(abar) x0hat), without noise.

    It is DDIM (Song et al., 2021), eq. 12 with eta = 0: Euler's step of the probability flow. In z = x_t / sqrt(abar)
    and s = sqrt(1 - abar) / sqrt(abar) it reads z' = x0hat + s'/s (z - x0hat).
    """
    return c.abar_prev**0.5 * x0hat + c.noise_left * (x - c.abar**0.5 * x0hat)


def flipped(images: Array, c: Coefficients) -> Array:
    """Return each row flipped left to right, upside down, both or not at all, by `c`. Twice is the identity.

    A denoiser of any picture should commute with flips; a trained one does so only approximately. With another flip at
    each step its errors average out: equivariant plug-and-play, Terris et al. (2024).
    """
    xp = array_namespace(images)
    images = xp.where(c.mirrored > 0, xp.flip(images, axis=3), images)
    return xp.where(c.inverted > 0, xp.flip(images, axis=2), images)


def mean_step(x: Array, x0hat: Array, c: Coefficients) -> Array:
    """Return the mean of the estimates; `x` is that of the earlier ones. A self-ensemble (Timofte et al., 2016)."""
    return (1 - c.share) * x + c.share * x0hat


def splitting_step(operator: Linear, y: Array, x0hat: Array, sigma: Array, c: Coefficients) -> Array:
    """Return x_{t-1} = sqrt(abar') E[x0 | y] for the prior N(x0hat, s^2 I): half-quadratic splitting.

    Zhang et al. (2021), eq. 6 and 7, with the network as the denoiser. It draws no noise, and uses x_t only through
    x0hat.
    """
    return c.abar_prev**0.5 * operator.mean(y, x0hat, sigma, x0_variance(c))


def matched_direction(
    operator: Linear, y: Array, x0hat: Array, sigma: Array, c: Coefficients
) -> tuple[Array, Array, Array]:
    """Return A^T p, (B, C, H, W), and r.p and sigma^2 p.p, (B, 1, 1, 1), for `matched_estimate`.

    r = y - A x0hat, p = (sigma^2 I + (1 - abar) A A^T)^-1 r.
    """
    r = y - operator.A(x0hat)
    p = operator.resolvent(r, sigma, 1 - c.abar)
    return operator.AT(p), _dot(r, p), sigma**2 * _square_sum(p)


def matched_estimate(
    x0hat: Array, unclipped: Array, pull: Pull, back: Array, asked: Array, noise: Array, c: Coefficients
) -> Array:
    """Return x0hat moved towards E[x0 | x_t, y] by moment matching: Boys et al. (2023), Rozet et al. (2024).

    By Tweedie's second formula V = (1 - abar) / sqrt(abar) d x0hat / d x_t is the covariance of x0 given x_t, and V A^T
    (sigma^2 I + A V A^T)^-1 r the move. q = V A^T p, with one vector-Jacobian product, is its direction after one step
    of conjugate gradients that p preconditions, and r.p / (sigma^2 p.p + (A^T p).q) its length. For the product in the
    denominator, MATCHED_LEAST of what V = (1 - abar) I would give is the least: a network's V is not always positive.
    `back`, `asked` and `noise` come from `matched_direction`, `unclipped` from `estimate`; `pull` is the network's
    vector-Jacobian product.
    """
    xp = array_namespace(x0hat)
    cotangent = unclipped * back
    size = xp.sqrt(_square_sum(cotangent)) + TINY  # pulled at length 1, as half precision would overflow
    through = c.x0_x * cotangent - size * pull(c.x0_out * cotangent / size)
    q = (1 - c.abar) / c.abar**0.5 * unclipped * through
    found = xp.maximum(_dot(back, q), MATCHED_LEAST * (1 - c.abar) * _square_sum(back))
    return x0hat + asked / (noise + found + TINY) * q


def x0_variance(c: Coefficients) -> Array:
    """Return (1 - abar) / abar, the variance of x_t's noise beside its signal, used as the variance of x0 given x_t."""
    return (1 - c.abar) / c.abar


def residual_gradient(operator: Operator, y: Array, x0hat: Array, sigma: Array) -> tuple[Array, Array]:
    """Return the gradient of || y - A x0hat ||_2 in x0hat, and the excess of the norm over the noise's, for each row.

    The norm of noise alone is about sigma sqrt(m), for m measured values (Morozov's discrepancy principle). The excess
    (B, 1, 1, 1) is 0 below it.
    """
    xp = array_namespace(x0hat)
    r = y - operator.A(x0hat)
    norm = xp.sqrt(_square_sum(r))
    return -operator.vjp(x0hat, r) / (norm + TINY), xp.clip(norm - sigma * operator.measured**0.5, 0.0, None)


def likelihood_score(operator: Linear, y: Array, x: Array, sigma: Any, abar: Array, gain: Any = 0.0) -> Array:
    """Return the score in x_t of N(y; A x_t / sqrt(abar), sigma^2 I + (1 - abar)/abar A A^T): DMPS, eq. 14, by the SVD.

    g = 1/sqrt(abar) V S^T (sigma^2 I + (1-abar)/abar S S^T)^{-1} (U^T y - S V^T x_t / sqrt(abar)), or without an SVD,
    g = 1/sqrt(abar) A^T (sigma^2 I + (1-abar)/abar A A^T)^{-1} (y - A x_t / sqrt(abar)).

    gain: the factor by which a step multiplies the score, over sqrt(abar), from `dmps_gain`; 0 sets no bound. The score
    is reduced where the step would overshoot y: gain s^2 / (sigma^2 + (1-abar)/abar s^2) is at most 1 in each direction
    of the SVD. Without an SVD one factor is used that is small enough for any s.
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
    """Return lambda, DMPS_LAMBDA where it is NaN, and the gain lambda beta / (sqrt(alpha) abar) of `likelihood_score`.

    The gain is 0, no bound, where lambda was given: that is the paper's step.
    """
    xp = array_namespace(lam)
    own = xp.isnan(lam)
    lam = xp.where(own, DMPS_LAMBDA, lam)
    return lam, xp.where(own, lam * c.beta / (c.alpha**0.5 * c.abar), 0.0)


def ddrm_transition(
    operator: Decomposable,
    y: Array,
    x: Array,
    x0hat: Array,
    z: Array,
    sigma: Array,
    c: Coefficients,
    drawn: bool = False,
) -> Array:
    """Draw x_{t-1} given y in closed form: DDRM (Kawar et al., 2022, eq. 7 and 8), except for the third line.

    With s' = sqrt(1 - abar_{t-1}), eta = c.fresh, kept = sqrt(1 - eta^2), and eps = (x_t - sqrt(abar) x0hat) /
    sqrt(1 - abar), in each direction of the SVD:

        not measured (s = 0):     sqrt(abar') x0hat + s' (kept eps + eta z)
        sigma / s below the noise: sqrt(abar') U^T y / s + sqrt(s'^2 - abar' sigma^2 / s^2) z
        sigma / s above it:       sqrt(abar') x0hat + s' (q n + kept (eps - q n) + eta sqrt(1 - q^2) z)

    Compared are the deviations of the noise in sqrt(abar') y / s and in x_{t-1}; n = (U^T y / s - x0hat) s / sigma is
    the first noise, in units of its deviation. Where y is less noisy, it replaces x0hat. Where it is noisier, the noise
    of x_{t-1} is as in the first line, but around q n instead of 0. If y is taken for a noisier x_{t-1}, the two noises
    have a correlation rho, the ratio of their deviations, and q = rho gives the distribution of x_{t-1} given x0 and y.
    Here q = rho^CORRELATION_POWER (docs/method.md). DDRM has kept n + eta z, which weighs y more, the more steps there
    are.

    drawn: in the first line x0 is drawn around x0hat (`drawn_estimate`), with V of the directions not measured.
    """
    xp = array_namespace(x)
    root, left = c.abar_prev**0.5, (1 - c.abar_prev) ** 0.5
    kept, eps = c.kept, noise_found(x, x0hat, c)
    s = operator.spectrum(x)
    seen = xp.astype(s > 0, x.dtype)
    s = s + (1 - seen)  # avoids a division by 0
    noise = root * sigma / s  # of sqrt(abar') U^T y / s
    estimate, fresh, old = root * operator.Vt(x0hat), operator.Vt(z), operator.Vt(eps)
    x0 = x0hat
    if drawn:
        variance = local_variance(eps - operator.V(seen * old), z - operator.V(seen * fresh), c)
        x0 = drawn_estimate(x0hat, variance, z, c)
    unseen = root * x0 + left * (kept * eps + c.fresh * z)
    gap = root * operator.Ut(y) / s - estimate
    near = estimate + gap + xp.sqrt(xp.clip(left**2 - noise**2, 0.0, None)) * fresh
    q = xp.clip(left / (noise + TINY), None, 1.0) ** CORRELATION_POWER
    centre = q * gap / (noise + TINY)
    far = estimate + left * (centre + kept * (old - centre) + c.fresh * xp.sqrt(1 - q**2) * fresh)
    return unseen + operator.V(seen * (xp.where(noise <= left, near, far) - operator.Vt(unseen)))


def resolvent_transition(
    operator: Linear,
    y: Array,
    x: Array,
    x0hat: Array,
    z: Array,
    sigma: Array,
    c: Coefficients,
    drawn: bool = False,
) -> Array:
    """Draw x_{t-1} given y, for an operator without an SVD, by one resolvent.

    In a direction of singular value s, with s', kept, eta and eps as in `ddrm_transition`, rho = s' s / (sqrt(abar')
    sigma), and w = 4 rho^2 / (1 + 4 rho^2), which is 0 where y is noise and 1 where it is exact:

        sqrt(abar') (x0hat + w (y / s - x0hat)) + s' (kept (eps - q n) + eta (1 - 2 w) z)

    where q n = sqrt(abar / (1 - abar)) w (y / s - x0hat). It is the third line of `ddrm_transition` in all directions,
    with q = 4 rho / (1 + 4 rho^2) for the correlation of the two noises. Then sqrt(1 - q^2) is |1 - 2 w|, and only w
    has to be computed: w (y / s - x0hat) = c A^T (sigma^2 I + c A A^T)^{-1} (y - A x0hat), c = 4 (1 - abar') / abar'.
    The two terms in w are computed by one such solution. sigma is at least MIN_SIGMA_RATIO sqrt(c), so that the
    system's condition number is at most 1 / MIN_SIGMA_RATIO^2; directions that A almost loses keep x0hat.

    drawn: x0 is drawn around x0hat (`drawn_estimate`), with V of all directions, and takes its place after eps.
    """
    xp = array_namespace(x)
    root, left = c.abar_prev**0.5, (1 - c.abar_prev) ** 0.5
    kept, eps = c.kept, noise_found(x, x0hat, c)
    if drawn:
        x0hat = drawn_estimate(x0hat, local_variance(eps, z, c), z, c)
    ahead = root - left * kept * (c.abar / (1 - c.abar)) ** 0.5
    scale = 4 * (1 - c.abar_prev) / c.abar_prev + TINY  # above 0 where neither x_{t-1} nor y has noise
    asked = ahead * (y - operator.A(x0hat)) - 2 * left * c.fresh * operator.A(z)
    known = operator.resolvent(asked, xp.maximum(sigma + 0 * scale, MIN_SIGMA_RATIO * scale**0.5 + 0 * sigma), scale)
    return root * x0hat + left * (kept * eps + c.fresh * z) + scale * operator.AT(known)


def mean_transition(
    operator: Coded, y: Array, x: Array, x0hat: Array, z: Array, sigma: Array, c: Coefficients
) -> Array:
    """Draw x_{t-1} around E[x0 | y], with x0 drawn around x0hat first. y may be rounded: only that mean uses it.

    With kept, eta and eps as in `ddrm_transition` it is

        sqrt(abar') E[x0 | y, x0] + sqrt(1 - abar') (kept eps + eta z)

    with x0 from `drawn_estimate`. With x0hat in the place of that mean it would be DDIM (Song et al., 2021), eq. 12.
    It is given 2 V, and V in damaged pixels, where the mean takes nothing back.
    """
    eps = noise_found(x, x0hat, c)
    x0 = drawn_estimate(x0hat, (1 + operator.known(x)) * local_variance(eps, z, c), z, c)
    mean = operator.mean(y, x0, sigma, DRAWN_SPREAD * x0_variance(c))
    return c.abar_prev**0.5 * mean + (1 - c.abar_prev) ** 0.5 * (c.kept * eps + c.fresh * z)


def noise_found(x: Array, x0hat: Array, c: Coefficients) -> Array:
    """Return eps = (x_t - sqrt(abar) x0hat) / sqrt(1 - abar), the noise that x0hat leaves in x_t."""
    return (x - c.abar**0.5 * x0hat) / (1 - c.abar) ** 0.5


def drawn_estimate(x0hat: Array, variance: Array, z: Array, c: Coefficients) -> Array:
    """Draw x0 around x0hat for DDIM's step (Song et al., 2021), eq. 12, which takes x0hat for it.

    But x0 varies around x0hat by V, which eps, as it is made from x0hat, lacks. With s and s' the deviations of the
    noise in x_t / sqrt(abar) and in x_{t-1} / sqrt(abar'), and kept as in `ddrm_transition`, x_{t-1} / sqrt(abar')
    would have (1 - kept s'/s)^2 V too little variance, which is texture. So x0 is x0hat + (1 - kept s'/s) sqrt(DRAWN V)
    z', where z' is the mean of z over channels, as nearly all of V is lightness, turned by half a turn: no pixel shares
    its noise. `variance` is V, (B, 1, H, W), from `local_variance`. At the last step nothing is drawn.
    """
    xp = array_namespace(z)
    ratio = ((1 - c.abar_prev) / c.abar_prev / x0_variance(c)) ** 0.5
    grey = xp.flip(xp.mean(z, axis=1, keepdims=True), axis=(2, 3))
    return x0hat + c.noise * (1 - c.kept * ratio) * xp.sqrt(DRAWN * variance) * grey


def local_variance(eps: Array, z: Array, c: Coefficients) -> Array:
    """Return V, the variance of x0's lightness given x_t around each pixel, (B, 1, H, W), at least 0.

    Where x0hat = E[x0 | x_t] and v = s^2 is the variance of the noise in x_t / sqrt(abar) = x0 + s n, the mean of
    (x_t / sqrt(abar) - x0hat)^2 = v eps^2 is v - V: the network's noise lacks what it takes for the image. The square
    is of the mean over channels, and its mean is over blocks of BLOCK x BLOCK pixels, each with its neighbours, weighed
    1, 2, 1 along both axes. z is white noise of variance 1: the same mean of its square counts as 1, so that
    projections of eps and z, which have fewer dimensions, give V within that subspace.
    """
    xp, (height, width) = array_namespace(eps), eps.shape[2:]
    found, full = (_around(xp.mean(one, axis=1) ** 2) for one in (eps, z))
    share = xp.repeat(xp.repeat(found / (full + TINY), BLOCK, axis=1), BLOCK, axis=2)
    return x0_variance(c) * xp.clip(1 - share[:, None, :height, :width], 0.0, None)


def _around(a: Array) -> Array:
    """Return the sums of `a` (B, H, W) over blocks, with half of each beside, (B, rows, columns)."""
    xp = array_namespace(a)
    for _ in range(2):  # along each axis, which takes the other's place
        batch, height, width = a.shape
        blocks = -(-height // BLOCK)
        below = xp.zeros((batch, blocks * BLOCK - height, width), dtype=a.dtype, device=a.device)
        a = xp.sum(xp.reshape(xp.concat([a, below], axis=1), (batch, blocks, BLOCK, width)), axis=2)
        none = xp.zeros_like(a[:, :1, :])
        wide = xp.concat([none, a, none], axis=1)
        a = xp.permute_dims(a + (wide[:, :-2, :] + wide[:, 2:, :]) / 2, (0, 2, 1))
    return a


def gradient_at_x_t(
    gradient: Array, excess: Array, unclipped: Array, pull: Pull, c: Coefficients
) -> tuple[Array, Array]:
    """Return the residual's gradient in x_t, (B, C, H, W), given the one in x0hat; and Polyak's step, (B, 1, 1, 1).

    `gradient` and `excess` come from `residual_gradient`, `unclipped` from `estimate`; `pull` is the network's
    vector-Jacobian product. To first order Polyak's step, excess / |grad|^2, reduces the residual to the noise's. It is
    multiplied by the share of the gradient's square that lies where x0hat was not clipped.
    """
    cotangent = unclipped * gradient
    at_x_t = c.x0_x * cotangent - pull(c.x0_out * cotangent)
    passed = _square_sum(cotangent) / (_square_sum(gradient) + TINY)
    return at_x_t, passed * excess / (_square_sum(at_x_t) + TINY)


def dps_step(x_prime: Array, gradient: Array, polyak: Array, zeta: Array, c: Coefficients) -> Array:
    """Return x_{t-1} = x' - zeta grad_{x_t} || y - A(x0hat(x_t)) ||_2: DPS, Algorithm 1; x' is the ancestral draw.

    `gradient` and `polyak` come from `gradient_at_x_t`. zeta (B, 1, 1, 1) is the paper's constant, or NaN for our step
    size: Polyak's step times beta / (1 - abar), the share of x_t's noise that this step removes, limited.
    """
    xp = array_namespace(gradient)
    own = limited_step(c.beta / (1 - c.abar) * polyak, gradient, DPS_MAX_STEP * c.beta**0.5)
    return x_prime - xp.where(xp.isnan(zeta), own, zeta) * gradient


def dmps_step(x_prime: Array, score: Array, lam: Array, c: Coefficients) -> Array:
    """Return x_{t-1} = x' + lambda beta / sqrt(alpha) g(x_t): DMPS, Algorithm 1; x' is the ancestral draw.

    `score` is g from `likelihood_score`, `lam` is lambda from `dmps_gain`.
    """
    return x_prime + lam * c.beta / c.alpha**0.5 * score


def frugal_step(transition: Array, gradient: Array, polyak: Array, every: Array, c: Coefficients) -> Array:
    """Return x_{t-1}: the closed form's draw, moved along DPS's gradient for what the operator does not see.

    `transition` is the result of `ddrm_transition` or `resolvent_transition`; `gradient` and `polyak` come from
    `gradient_at_x_t`. The gradient replaces those of `every` (B, 1, 1, 1) steps, so it takes Polyak's whole step times
    1 + abar: for a linear residual any factor below 2 converges, and the residual is the more linear, the less noise is
    left.
    """
    deviation = (every * c.beta * (1 - c.abar_prev) / (1 - c.abar)) ** 0.5  # of `every` ancestral steps
    return transition - limited_step((1 + c.abar) * polyak, gradient, FRUGAL_MAX_STEP * deviation) * gradient


def limited_step(step: Array, gradient: Array, longest: Array) -> Array:
    """Limit `step` so that it changes x along `gradient` by at most `longest`, root mean square over the image."""
    size = math.prod(gradient.shape[1:])
    return array_namespace(gradient).minimum(step, longest * (size / (_square_sum(gradient) + TINY)) ** 0.5)


def _square_sum(a: Array) -> Array:
    """Return the sum of squares of each row, (B, 1, 1, 1)."""
    return _dot(a, a)


def _dot(a: Array, b: Array) -> Array:
    """Return the inner product of each row of `a` with that of `b`, (B, 1, 1, 1)."""
    rows = (a.shape[0], -1)
    return (a.reshape(rows) * b.reshape(rows)).sum(1)[:, None, None, None]
