"""frugal-rt restore"""

from pathlib import Path
from typing import Any

import click

from .. import __version__
from ..runtime.images import check_output, read_photo, to_picture, write_png
from ..runtime.restorer import Restorer
from ..runtime.switch import METHODS
from ..runtime.tasks import prepare
from . import options
from .progress import stages, steps


@click.command()
@options.engine
@click.argument("image", type=options.PATH)
@options.damage
@click.option(
    "--fit", type=click.Choice(["crop", "resize"]), help="Bring a picture of the wrong size to the right one."
)
@click.option("--method", type=click.Choice(list(METHODS)), default="hybrid", show_default=True)
@click.option("--switch", metavar="auto|K", help="When the hybrid switches: auto, or K DMPS steps at the end.")
@options.steps
@click.option("--zeta", type=float, help="A constant step size for DPS, as in the paper; by default it finds its own.")
@click.option(
    "--lambda", "lam", type=float, help="A constant step size for DMPS, as in the paper; by default it finds its own."
)
@options.seed
@options.backend
@click.option("-o", "--output", type=options.PATH, help="Default: IMAGE.restored.png, beside IMAGE.")
@options.force
def command(
    engine: Path,
    image: Path,
    fit: str | None,
    method: str,
    switch: str | None,
    steps_: int,
    zeta: float | None,
    lam: float | None,
    seed: int,
    backend: str,
    output: Path | None,
    force: bool,
    **damage: Any,
) -> None:
    """Restore IMAGE, a picture or a .npy measurement, with the prior in PLAN.

    With no task named it is read off the picture: smaller than the prior's images by a whole factor is
    super-resolution, transparent pixels are inpainting, one channel is colourising, anything else is denoising.
    """
    if switch is not None and method != "hybrid":
        raise click.UsageError(f"--switch is for the hybrid; --method {method} has none")
    target = check_output(output or image.parent / f"{image.stem}.restored.png", force)
    with stages() as on_stage:
        on_stage("reading the plan")
        photo = read_photo(image)
        restorer = Restorer.load(engine, backend)
        job = prepare(photo, restorer.image_shape, options.read_damage(damage), fit)
    click.echo(f"{image.name}: {job.task} ({job.because})")
    with steps(job.task, steps_) as on_step:
        result = restorer.restore(
            job.y,
            job.operator,
            sigma=job.sigma,
            steps=steps_,
            switch=METHODS[method] if switch is None else switch,
            zeta=zeta,
            lam=lam,
            seed=seed,
            on_step=on_step,
        )
    write_png(
        target,
        to_picture(result.image),
        {"frugal_rt": __version__, **result.settings, "task": job.task, "fit": fit, "k": result.k[0]},
    )
    click.echo(
        f"{target}: {sum(result.seconds.values()):.1f} s, {result.forwards[0]} network calls and "
        f"{result.pullbacks[0]} gradients; DMPS ran the last {result.k[0]} of {steps_} steps"
    )
