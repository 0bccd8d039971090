"""Time a blur without a basis: its decomposition, and conjugate gradients (a table of docs/decisions/closed-form.md).

OMP_NUM_THREADS=1 python tests/studies/decompose.py

CPU seconds of one thread: the matrix and its decomposition, once; and the operator's share of a restoration, one
picture's `dmps` steps without a network, whose estimate is the picture and noise that falls with the steps.
"""

import time
from collections.abc import Callable

import click
import numpy as np

from frugal_rt import operators
from frugal_rt.engines import Array
from frugal_rt.runtime.operators import Circular, Decomposable, Linear, Partial, Shape
from frugal_rt.runtime.operators.dense import ValidMatrix
from frugal_rt.runtime.operators.kernels import valid_part
from frugal_rt.runtime.pictures.images import PORTRAIT, fit_photo, read_photo
from frugal_rt.runtime.sampling.equations import ddrm_transition, resolvent_transition
from frugal_rt.runtime.sampling.schedule import Schedule

KERNEL = operators.motion_kernel(9, 30)
SIDES = (16, 24, 32, 40, 48, 64)


def forms(shape: Shape) -> dict[str, tuple[Callable[[], Decomposable], Linear]]:
    """By a basis, made when it is needed, and without."""
    missing, blur = np.random.default_rng(0).random(shape[1:]) < 0.3, Circular(shape, KERNEL)
    channel: Shape = (1, *shape[1:])
    return {
        "30% missing": (
            lambda: operators.MaskedMatrix(shape, Circular(channel, KERNEL), missing),
            Partial(blur, missing=missing),
        ),
        "valid": (lambda: ValidMatrix(shape, KERNEL), Partial(blur, valid_part(KERNEL, shape))),
    }


def restored(operator: Linear, sigma: float, steps: int) -> float:
    """The CPU seconds of all steps."""
    random, schedule = np.random.default_rng(0), Schedule.respaced({}, steps)
    clean = fit_photo(read_photo(PORTRAIT), operator.image_shape[1:], "crop").pixels[None]
    noise = random.standard_normal((1, *operator.measurement_shape), np.float32)
    y = operator.observed(np.asarray(operator.A(clean)) + np.float32(sigma) * noise)
    x: Array = random.standard_normal(clean.shape, np.float32)
    deviation = np.full((1, 1, 1, 1), sigma, np.float32)
    started = time.process_time()
    for step in range(steps - 1, -1, -1):
        c = Schedule.gather([schedule], [step], x, np)
        z, wrong = random.standard_normal((2, *clean.shape), np.float32)
        x0hat = clean + 0.1 * (1 - c.abar) ** 0.5 * wrong
        known = y, x, x0hat, z, deviation, c
        x = (
            ddrm_transition(operator, *known)
            if isinstance(operator, Decomposable)
            else resolvent_transition(operator, *known)
        )
    return time.process_time() - started


@click.command(help=__doc__)
@click.option("--steps", default=50)
@click.option("--sigma", default=0.01)
def main(steps: int, sigma: float) -> None:
    figures = ("decomposition", "its steps", "conjugate gradients")
    names = [f"{task}: {figure}" for task in forms((3, 16, 16)) for figure in figures]
    click.echo(f"| pixels | {' | '.join(names)} |\n| --- |{' ---: |' * len(names)}")
    for side in SIDES:
        cells = []
        for basis, without in forms((3, side, side)).values():
            started = time.process_time()
            by_basis = basis()
            by_basis.prepare()
            taken = time.process_time() - started
            cells += [taken, restored(by_basis, sigma, steps), restored(without, sigma, steps)]
        click.echo(f"| {side}x{side} | {' | '.join(f'{seconds:.2f}' for seconds in cells)} |")


if __name__ == "__main__":
    main()
