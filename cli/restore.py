"""frugal-rt restore"""

import math
from pathlib import Path
from typing import Any

import click

from .. import __version__
from ..runtime.explain import SUFFIXES, explain, load_plots, write_trace
from ..runtime.images import LARGEST, check_output, read_photo, to_picture, write_png
from ..runtime.restorer import Restorer
from ..runtime.settings import GUIDANCE, PRESETS
from ..runtime.switch import METHODS
from ..runtime.tasks import full_size, prepare
from . import options
from .progress import stages, steps


@click.command()
@options.engine
@click.argument("image", type=options.PATH)
@options.damage
@click.option(
    "--fit", type=click.Choice(["crop", "resize"]), help="Bring a picture of the wrong size to the right one."
)
@click.option("--tile", is_flag=True, help="Restore a larger picture at its own size, in overlapping tiles.")
@click.option("--method", type=click.Choice(list(METHODS)), default="hybrid", show_default=True)
@options.switch
@click.option(
    "--preset",
    type=click.Choice(list(PRESETS)),
    default="balanced",
    show_default=True,
    help=f"Sampling steps by name: {', '.join(f'{name} {steps}' for name, steps in PRESETS.items())}.",
)
@click.option("--steps", "steps_", metavar="T", type=int, help="Sampling steps, in place of the preset's.")
@options.every
@options.guidance
@options.zeta
@options.lam
@options.seed
@options.backend
@click.option("-o", "--output", type=options.PATH, help="Default: IMAGE.restored.png, beside IMAGE.")
@click.option(
    "--trace",
    "traces",
    metavar="FILE",
    multiple=True,
    type=options.PATH,
    help=f"Write what the switch saw: {', '.join(SUFFIXES)}, a table or a plot. May be repeated.",
)
@options.force
def command(
    engine: Path,
    image: Path,
    fit: str | None,
    tile: bool,
    method: str,
    switch: str | None,
    preset: str,
    steps_: int | None,
    every: int | None,
    guidance: str | None,
    zeta: float | None,
    lam: float | None,
    seed: int,
    backend: str,
    output: Path | None,
    traces: tuple[Path, ...],
    force: bool,
    **damage: Any,
) -> None:
    """Restore IMAGE, a picture or a .npy measurement, with the prior in PLAN.

    With no task named it is read off the picture: smaller than the prior's images by a whole factor is
    super-resolution, transparent pixels are inpainting, one channel is colourising, anything else is denoising.
    """
    if tile and fit is not None:
        raise click.UsageError("--tile takes a picture at its own size; leave --fit out")
    if switch is not None and method != "hybrid":
        raise click.UsageError(f"--switch is for the hybrid; --method {method} has none")
    target = check_output(output or image.parent / f"{image.stem}.restored.png", force)
    written = [check_output(path, force, SUFFIXES) for path in traces]
    count = PRESETS[preset] if steps_ is None else steps_
    with stages() as on_stage:
        on_stage("reading the plan")
        load_plots(written)
        described = options.read_damage(damage)
        photo = read_photo(image, LARGEST if described.is_picture else math.inf)
        restorer = Restorer.load(engine, backend)
        if tile:
            restorer = restorer.tiled(*full_size(photo, described))
        job = prepare(photo, restorer.image_shape, described, fit)
        if method != "dps":
            on_stage("preparing the operator")
            job.operator.prepare()
    click.echo(f"{image.name}: {job.task} ({job.because})")
    with steps(job.task, count) as on_step:
        result = restorer.restore(
            job.y,
            job.operator,
            sigma=job.sigma,
            steps=count,
            switch=METHODS[method] if switch is None else switch,
            every=every,
            guidance=guidance or GUIDANCE[0],
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
    for path in written:
        write_trace(path, explain(result, restorer.plan))
    gradients = f"{result.pullbacks[0]} gradient{'s' * (result.pullbacks[0] != 1)}"
    click.echo(
        f"{target}: {sum(result.seconds.values()):.1f} s, {result.forwards[0]} network calls and {gradients}; "
        f"DMPS ran the last {result.k[0]} of {count} steps"
    )
