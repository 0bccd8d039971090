"""The closed form by a basis, beside the one by conjugate gradients: a table of docs/decisions/closed-form.md.

python tests/studies/moves.py --engine celeba.plan --images tune-100.tar --lpips lpips_alex.onnx

At 64x64 the matrix of a blur inside its border, or with pixels missing, is decomposed here (minutes, once). The second
move and those that were tried beside it run on the same operators without it.
"""

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import click
import numpy as np
from array_api_compat import array_namespace

from frugal_rt import Restorer, operators
from frugal_rt.engines import Array
from frugal_rt.engines.onnxruntime.lpips import Lpips
from frugal_rt.runtime.evaluation.picture_set import read_pictures
from frugal_rt.runtime.evaluation.suite import measure
from frugal_rt.runtime.operators import Circular, Decomposable, Linear, Partial, Shape
from frugal_rt.runtime.operators.dense import ValidMatrix
from frugal_rt.runtime.operators.kernels import valid_part
from frugal_rt.runtime.operators.separable import Valid
from frugal_rt.runtime.sampling import advance, equations
from frugal_rt.runtime.sampling.psnr import psnr
from frugal_rt.runtime.sampling.schedule import Coefficients

KERNEL = operators.motion_kernel(9, 30)
GAUSSIAN = operators.gaussian_kernel(2)
SIGMAS = (0.01, 0.05)
Move = Callable[..., Array]


def tasks(shape: Shape) -> dict[str, tuple[Callable[[], Decomposable], Linear]]:
    """Each with a basis, made when it is needed, and without."""
    missing = np.random.default_rng(0).random(shape[1:]) < 0.3
    blur, part = Circular(shape, KERNEL), valid_part(KERNEL, shape)
    channel: Shape = (1, *shape[1:])
    return {
        "motion": (lambda: blur, Partial(blur)),
        "motion, valid": (lambda: ValidMatrix(shape, KERNEL), Partial(blur, part)),
        "motion, 30% missing": (
            lambda: operators.MaskedMatrix(shape, Circular(channel, KERNEL), missing),
            Partial(blur, missing=missing),
        ),
        "Gaussian, valid": (
            lambda: Valid(shape, GAUSSIAN),
            Partial(Circular(shape, GAUSSIAN), valid_part(GAUSSIAN, shape)),
        ),
        "bicubic x4": (lambda: operators.Bicubic(shape, 4), operators.BicubicBlocks(shape, 4)),
        "Gaussian, 30% missing": (
            lambda: operators.MaskedMatrix(shape, operators.Deblur.gaussian(channel, 2), missing),
            Partial(operators.Deblur.gaussian(shape, 2), missing=missing),
        ),
        "bicubic x2, 30% missing": (
            lambda: operators.MaskedMatrix(shape, operators.Bicubic(channel, 2), missing[::2, ::2]),
            Partial(operators.Bicubic(shape, 2), missing=missing[::2, ::2]),
        ),
    }


def linear(belief: float, corrected: bool = True) -> Move:
    """x0hat moved by `belief` of its variance (1 - abar') / abar', its noise then renewed: DiffPIR's, at belief 1.

    `corrected` takes the noise that is kept about the moved estimate, as DiffPIR does.
    """

    def move(operator: Linear, y: Array, x: Array, x0hat: Array, z: Array, sigma: Array, c: Coefficients) -> Array:
        xp = array_namespace(x)
        root, left, kept = c.abar_prev**0.5, (1 - c.abar_prev) ** 0.5, (1 - c.fresh**2) ** 0.5
        scale = belief * (1 - c.abar_prev) / c.abar_prev + equations.TINY
        noise = xp.maximum(sigma + 0 * scale, equations.MIN_SIGMA_RATIO * scale**0.5 + 0 * sigma)
        moved = x0hat + scale * operator.AT(operator.resolvent(y - operator.A(x0hat), noise, scale))
        eps = (x - c.abar**0.5 * (moved if corrected else x0hat)) / (1 - c.abar) ** 0.5
        return root * moved + left * (kept * eps + c.fresh * z)

    return move


MOVES: dict[str, Move] = {
    "`resolvent_transition`": equations.resolvent_transition,
    "x0hat moved, noise kept about it (DiffPIR)": linear(1.0),
    "x0hat moved by 4 times its variance": linear(4.0),
    "x0hat moved, noise kept about x0hat (PiGDM)": linear(1.0, corrected=False),
}


class Iterations(logging.Handler):
    """Counts them."""

    total = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.total += record.args[1]  # type: ignore[index, operator]


@click.command(help=__doc__)
@click.option("--engine", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--images", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--lpips", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--count", default=4)
@click.option("--steps", default=50)
@click.option("--method", type=click.Choice(["closed-form", "frugal"]), default="closed-form")
@click.option("--moves", default="", help="Only those whose names hold this; 'ddrm_transition' is the basis's.")
@click.option("--tasks", "wanted", default="", help="Only those whose names hold this.")
def main(engine: Path, images: Path, lpips: Path, count: int, steps: int, method: str, moves: str, wanted: str) -> None:
    restorer, distance = Restorer.load(engine), Lpips(lpips)
    clean = read_pictures(images, restorer.image_shape, count, None).images
    log, counted = logging.getLogger("frugal_rt.runtime.operators.iterative"), Iterations()
    log.setLevel(logging.DEBUG)
    log.addHandler(counted)
    chosen = {task: both for task, both in tasks(restorer.image_shape).items() if wanted in task}
    heads = [f"{task}, {sigma}" for task in chosen for sigma in SIGMAS]
    click.echo(f"| | {' | '.join(heads)} |\n| --- |{' ---: |' * len(heads)}")

    def cell(operator: Any, sigma: float) -> str:
        y, counted.total, started = measure(operator, clean, sigma, 0), 0, time.perf_counter()
        image = restorer.restore(y, operator, sigma=sigma, steps=steps, method=method, batch=count).image
        seconds = (time.perf_counter() - started) / count
        click.echo(
            f"{operator.name}: {seconds:.2f} s an image, {counted.total / steps:.0f} iterations a step", err=True
        )
        return f"{psnr(image, clean).mean():.2f} / {distance(image, clean).mean():.4f}"

    if moves in "ddrm_transition":
        decomposed = (basis() for basis, _ in chosen.values())
        cells = [cell(operator, sigma) for operator in decomposed for sigma in SIGMAS]
        click.echo(f"| `ddrm_transition`, by a basis | {' | '.join(cells)} |")
    for name, move in MOVES.items():
        if moves in name:
            with patch.object(advance, "resolvent_transition", move):
                cells = [cell(operator, sigma) for _, operator in chosen.values() for sigma in SIGMAS]
            click.echo(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
