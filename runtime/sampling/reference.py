"""The default methods on one page, for one image in float64.

`restore`, for an operator with an SVD and a switch at a given step, starts from a plain estimate with noise. It takes
DDRM's closed form at each step, and adds DPS's gradient at every M-th step until k steps are left; from there on it
draws x0 around its estimate, unless almost all is known. `denoise`, where the only damage is noise, follows the
probability flow from the picture down. The runtime does not call them; a test holds `Restorer` equal to them.
docs/method.md gives the reasons, docs/equations.md the symbols.
"""

from collections.abc import Callable

import numpy as np

from ..operators import Decomposable
from .noise import Use, normal

Vjp = Callable[[np.ndarray], np.ndarray]


def restore(
    predict: Callable[[np.ndarray, int], np.ndarray],
    pullback: Callable[[np.ndarray, int], tuple[np.ndarray, Vjp]],
    operator: Decomposable,
    y: np.ndarray,
    sigma: float,
    train_betas: np.ndarray,
    steps: int,
    k: int,
    every: int,
    estimate: np.ndarray,
    start: float,
    seed: int = 0,
) -> np.ndarray:
    """Restore the image x0, (1, C, H, W) on [-1, 1], from y (1, c, h, w) = A x0 + sigma n.

    predict(x_t, t) returns the network's eps; pullback(x_t, t) returns eps and its vector-Jacobian product in x_t.
    estimate (1, C, H, W): a plain estimate of x0. start: standard deviation of the noise added to it, above 0. k: the
    last steps, which take no gradient; from `steps` on, none does. every: M.
    """
    trained = np.cumprod(1 - train_betas)
    levels = np.linspace(start**0.5, min(start, 0.02) ** 0.5, steps) ** 2  # deviations of the noise in x_t / sqrt(abar)
    nearest = [np.argmin(np.abs((1 - trained) ** 0.5 - (1 + level**-2) ** -0.5)) for level in levels]
    timesteps = sorted({int(t) for t in nearest})
    abars, steps = np.append(trained[timesteps[:-1]], 1 / (1 + start**2)), len(timesteps)
    shape, s, Uty = operator.image_shape, np.asarray(operator.spectrum(y), np.float64), operator.Ut(y)
    seen = s > 0
    s = np.where(seen, s, 1.0)
    x = abars[-1] ** 0.5 * (estimate + start * np.asarray(normal(shape, seed, 0, Use.START)[None], np.float64))
    for step in reversed(range(steps)):
        t, abar, abar_prev = int(timesteps[step]), abars[step], abars[step - 1] if step else 1.0
        beta, z = 1 - abar / abar_prev, np.asarray(normal(shape, seed, 0, Use.STEP, step)[None], np.float64)
        takes_gradient = step >= k and (steps - 1 - step) % every == 0
        eps, vjp = pullback(x, t) if takes_gradient else (predict(x, t), None)
        tweedie = (x - (1 - abar) ** 0.5 * eps) / abar**0.5  # E[x0 | x_t]
        x0hat = np.clip(tweedie, -1, 1)

        # Draw x_{t-1} given y, in each direction of the SVD: DDRM, eq. 7 and 8 (`ddrm_transition`).
        root, left = abar_prev**0.5, (1 - abar_prev) ** 0.5  # factors of x0 and of the noise in x_{t-1}
        eta = min(0.85, (1 - (1 - beta / (1 - abar)) ** (1.5 + 6.5 * abar)) ** 0.5)  # the share of noise drawn anew
        old = (x - abar**0.5 * x0hat) / (1 - abar) ** 0.5
        x0 = x0hat
        if 0 < step < k and start >= (0.5 if k >= steps else 1):  # x0 varies around x0hat by V (`drawn_estimate`)
            hidden = (np.asarray(a - operator.V(seen * operator.Vt(a))) for a in (old, z))
            found, full = (around(a.mean(1) ** 2) for a in hidden)
            blocks = np.kron(found / (full + 1e-12), np.ones((8, 8)))[:, None, : shape[1], : shape[2]]
            V = (1 - abar) / abar * np.maximum(1 - blocks, 0)
            lost = 1 - (1 - eta**2) ** 0.5 * ((1 - abar_prev) / abar_prev / (1 - abar) * abar) ** 0.5
            x0 = x0hat + lost * (0.5 * V) ** 0.5 * np.flip(z.mean(1, keepdims=True), (2, 3))
        unseen = root * x0 + left * ((1 - eta**2) ** 0.5 * old + eta * z)
        noise = root * sigma / s  # deviation of the noise in sqrt(abar_prev) U^T y / s
        gap = root * (Uty / s - operator.Vt(x0hat))
        near = gap + np.maximum(left**2 - noise**2, 0) ** 0.5 * operator.Vt(z)
        q = np.minimum(left / (noise + 1e-12), 1) ** 0.5  # the correlation of y's noise with x_{t-1}'s
        centre = q * gap / (noise + 1e-12)
        kept = (1 - eta**2) ** 0.5 * (operator.Vt(old) - centre)
        far = left * (centre + kept + eta * (1 - q**2) ** 0.5 * operator.Vt(z))
        known = root * operator.Vt(x0hat) + np.where(noise <= left, near, far)
        x_prev = unseen + operator.V(seen * (known - operator.Vt(unseen)))

        if vjp is not None:  # DPS: the gradient of ||y - A x0hat||_2 in x_t, for what the operator does not see
            r = y - operator.A(x0hat)
            norm = np.linalg.norm(r)
            excess = max(norm - sigma * operator.measured**0.5, 0)  # over the noise's norm: Morozov's principle
            descent = np.asarray(-operator.AT(r)) / (norm + 1e-12)
            inside = descent * (tweedie == x0hat)
            g = (inside - vjp((1 - abar) ** 0.5 * inside)) / abar**0.5
            polyak = excess / (np.sum(g**2) + 1e-12) * np.sum(inside**2) / (np.sum(descent**2) + 1e-12)
            longest = 0.35 * (every * beta * (1 - abar_prev) / (1 - abar)) ** 0.5 / (np.mean(g**2) ** 0.5 + 1e-12)
            x_prev = x_prev - min((1 + abar) * polyak, longest) * g
        x = x_prev
    return np.asarray(np.clip(x, -1, 1))


def around(a: np.ndarray) -> np.ndarray:
    """Sum `a` (B, H, W) over blocks of 8x8, each with half of those beside it: (B, ceil(H / 8), ceil(W / 8))."""
    for _ in range(2):
        a = np.pad(a, ((0, 0), (0, -a.shape[1] % 8), (0, 0)))
        a = np.pad(a.reshape(len(a), -1, 8, a.shape[2]).sum(2), ((0, 0), (1, 1), (0, 0)))
        a = (a[:, 1:-1] + (a[:, :-2] + a[:, 2:]) / 2).transpose(0, 2, 1)
    return a


def denoise(
    predict: Callable[[np.ndarray, int], np.ndarray], y: np.ndarray, sigma: float, train_betas: np.ndarray, steps: int
) -> np.ndarray:
    """Denoise y = x0 + sigma n, (1, C, H, W) on [-1, 1]; sigma is above 0.

    y is x_t / sqrt(abar_t) at the noise level sigma. One step gives E[x0 | y], more steps follow the probability flow
    to its end. `predict` as in `restore`.
    """
    abars = np.cumprod(1 - train_betas)
    noises = ((1 - abars) / abars) ** 0.5
    levels = np.linspace(sigma**2, min(sigma, 0.02) ** 2, steps)
    timesteps = [int(np.argmin(np.abs((1 - abars) ** 0.5 - (level / (1 + level)) ** 0.5))) for level in levels]
    timesteps = sorted(set(timesteps), reverse=True)
    z, s = y, sigma
    for t, following in zip(timesteps, [*timesteps[1:], None], strict=True):
        eps = predict(z / (1 + s**2) ** 0.5, t)
        x0hat = np.clip(z - s * eps, -1, 1)
        s_next = 0.0 if following is None else float(noises[following])
        z = x0hat + s_next / s * (z - x0hat)
        s = s_next
    return z
