"""frugal-rt restore"""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any

import click

from ..engines import FrugalError, InputError, Plan
from ..runtime.offline import animation, trace
from ..runtime.offline.folder import Failed, Order, Prepared, find_pictures
from ..runtime.offline.gpus import gpus_named
from ..runtime.offline.outputs import Targets
from ..runtime.offline.run import Beside, Resources, Run, Written
from ..runtime.pictures.images import check_output
from ..runtime.sampling.guidance import PRESET, PRESETS, Guidance
from ..runtime.sampling.switch import METHODS
from . import options, params
from .progress import pictures, stages, steps


@click.command()
@params.params
@options.engine
@click.argument("images", metavar="IMAGE...", type=options.PATH, nargs=-1, required=True)
@options.damage
@click.option(
    "--fit",
    type=click.Choice(["crop", "resize", "pad"]),
    help="Bring a picture of the wrong size to the right one; pad restores a smaller one at its own size.",
)
@click.option("--tile", is_flag=True, help="Restore a larger picture at its own size, in overlapping tiles.")
@click.option("--align", "align_", is_flag=True, help="Find the face in a photograph, restore that, and paste it back.")
@options.aim
@click.option("--method", type=click.Choice(list(METHODS)), help="How to steer; default: hybrid.")
@options.switch
@click.option(
    "--preset",
    type=click.Choice(list(PRESETS)),
    help=f"Sampling steps by name, {PRESET} by default: "
    f"{', '.join(f'{name} {steps}' for name, steps in PRESETS.items())}.",
)
@click.option("--steps", "steps_", metavar="T", type=int, help="Sampling steps, in place of the preset's.")
@options.every
@options.guidance
@options.zeta
@options.lam
@options.seed
@click.option(
    "--samples",
    metavar="N",
    type=click.IntRange(1, 1000),
    default=1,
    help="Restore N times, from noise: the mean, each, and a picture of their deviation.",
)
@options.backend
@options.trust_engines
@click.option("-o", "--output", type=options.PATH, help="Default: IMAGE.restored.png, beside IMAGE. A folder for many.")
@click.option("--resume", is_flag=True, help="Pass over pictures whose output is there.")
@click.option(
    "--trace",
    "traces",
    metavar="FILE",
    multiple=True,
    type=options.PATH,
    help=f"Write what the switch saw: {', '.join(trace.SUFFIXES)}, a table or a plot. May be repeated.",
)
@click.option("--save-steps", metavar="DIR", type=options.PATH, help="Write the estimate after every step into DIR.")
@click.option("--video", metavar="FILE", type=options.PATH, help=f"Write them as one: {', '.join(animation.SUFFIXES)}.")
@click.option("--devices", metavar="N,N", help="Spread a folder over CUDA devices of this machine, a process each.")
@click.option(
    "--ray",
    metavar="ADDRESS",
    help="Spread a folder over a Ray cluster: auto, HOST:PORT, or local, one made for it here.",
)
@click.option(
    "--workers", metavar="N", type=click.IntRange(1), help="Of the cluster; default: as many as its CPUs or GPUs take."
)
@params.save_params
@options.as_json
@options.force
@click.pass_context
def command(
    ctx: click.Context,
    /,
    engine: Path,
    images: tuple[Path, ...],
    fit: str | None,
    tile: bool,
    align_: bool,
    aim: str | None,
    method: str | None,
    switch: str | None,
    preset: str | None,
    steps_: int | None,
    every: int | None,
    guidance: str | None,
    zeta: float | None,
    lam: float | None,
    seed: int,
    samples: int,
    backend: str,
    trust_engines: bool,
    output: Path | None,
    resume: bool,
    traces: tuple[Path, ...],
    save_steps: Path | None,
    video: Path | None,
    devices: str | None,
    ray: str | None,
    workers: int | None,
    save_params: Path | None,
    as_json: bool,
    force: bool,
    **damage: Any,
) -> None:
    """Restore IMAGE, a picture or a .npy measurement, with the prior in PLAN; or several, a folder, or 'a/*.jpg'.

    With no task named it is read off the picture: smaller than the prior's images by a whole factor is
    super-resolution, transparent pixels are inpainting, one channel is colourising, anything else is denoising.
    Of many pictures one that fails is told at the end and stops no other; the exit status is 1 then.
    """
    if tile and fit in ("crop", "resize"):
        raise click.UsageError("--tile takes a picture at its own size; leave --fit out, or --fit pad a short side")
    if align_ and (tile or fit is not None):
        raise click.UsageError("--align says how a face comes to the prior's size; leave --tile and --fit out")
    if switch is not None and method not in (None, "hybrid"):
        raise click.UsageError(f"--switch is for the hybrid; --method {method} has none")
    sources = find_pictures(images)
    one = len(images) == 1 and sources == [*images]
    if (devices or ray or not one) and (traces or save_steps or video):
        raise click.UsageError("--trace, --save-steps and --video are for one picture, restored here")
    if workers is not None and ray is None:
        raise click.UsageError("--workers is of a cluster: --ray ADDRESS")
    if devices is not None and ray:
        raise click.UsageError("--devices is of this machine and --ray of a cluster; leave one of them out")
    gpus = [] if devices is None else gpus_named(devices)
    targets = Targets.settle(sources, one, output, samples, resume, force)
    if save_params is not None:
        check_output(save_params, force, (".json",))
    if samples > 1 and aim is not None:
        raise click.UsageError("--samples draws, and with --aim all would be the same; leave one of them out")
    if samples > 1 and preset is None:
        preset = PRESET
    count = PRESETS[preset or PRESET] if steps_ is None else steps_
    with stages() as on_stage:
        on_stage("reading the plan")
        settings = Guidance(
            aim=aim,
            preset=preset,
            steps=steps_,
            switch=METHODS[method] if switch is None and method is not None else switch,
            every=every,
            guidance=guidance,
            zeta=zeta,
            lam=lam,
            seed=seed,
        )
        order = Order(options.read_damage(damage), fit, tile, align_, settings, samples)
        plan = Plan.open(engine)
        kept = params.record(ctx, plan)
        run = Run(
            plan,
            order,
            targets,
            Beside(traces, save_steps, video, force),
            Resources(engine, backend, trust_engines, gpus, ray, workers),
            kept,
        )
    if run.leaves_framing:
        name = plan.manifest["prior"]["name"]
        click.echo(f"{name} knows whole faces framed in one way, and does poorly elsewhere: see --align", err=True)
    out = None if sys.stdout.isatty() else sys.stdout  # a bar on a terminal wants to know what is written beside it

    def ready(found: Prepared) -> None:
        if one:
            measurement = found.measurement
            click.echo(f"{found.source.name}: {measurement.task} ({measurement.because})", err=as_json)

    outcomes = []
    with ExitStack() as stack:
        if ray and out is not None:
            stack.enter_context(redirect_stdout(sys.stderr))  # Ray prints there what its nodes say
        for outcome in _watched(run, stack, count, samples, ready):
            if one and isinstance(outcome, Failed):
                raise InputError(outcome.why)
            outcomes.append(outcome)
            if isinstance(outcome, Written) and not as_json:
                click.echo(_sentence(outcome, count, one), file=out)
    if save_params is not None:
        params.save(save_params, kept)
    restored, failed = run.apart(outcomes)
    if as_json:
        failures = [{"image": str(outcome.source), "error": outcome.why} for outcome in failed]
        there = [str(path) for path in targets.there]
        click.echo(json.dumps({"restored": [*map(_said, restored)], "failed": failures, "there": there}))
    elif not one:
        untouched = sum(written.unchanged for written in restored)
        left = f"{untouched} left alone, " if untouched else ""
        click.echo(f"{len(restored) - untouched} restored, {left}{len(failed)} failed, {len(targets.there)} were there")
    if failed:
        raise FrugalError("; ".join(f"{outcome.source}: {outcome.why}" for outcome in failed))


def _watched(
    run: Run, stack: ExitStack, count: int, samples: int, on_ready: Callable[[Prepared], None]
) -> Iterator[Written | Failed]:
    """The outcomes of a run, with a bar of steps, `count` a sample as it is foreseen, or of pictures for workers."""
    if not run.resources.spread:
        total = count * len(run.targets.paths) * samples
        watch = stack.enter_context(steps("restoring", total, by_row=True, each=count))
        yield from run.here(on_ready, watch.on_step, watch.on_tiles)
        return
    ray = run.resources.ray
    with stages() as on_stage:
        on_stage(f"joining the cluster at {ray}" if ray else "starting processes")
        workers = stack.enter_context(run.hire(partial(click.echo, err=True)))
    on_picture = stack.enter_context(pictures("restoring", len(run.targets.paths)))
    for outcome in run.spread(workers):
        yield outcome
        on_picture(f"by {workers.workers} workers")


def _said(written: Written) -> dict[str, Any]:
    """A picture's outcome for scripts."""
    return {
        "image": str(written.source),
        "outputs": [str(path) for path in written.paths],
        "task": written.task,
        "because": written.because,
        "sigma": written.sigma,
        "aim": written.aim,
        "unchanged": written.unchanged,
        **written.figures,
    }


def _sentence(written: Written, count: int, one: bool) -> str:
    if written.unchanged:
        return f"{written.paths[0]}: left as it was; {written.because}"
    figures = written.figures
    samples, gradients = len(figures["k"]), figures["gradients"][0]
    said = f"{written.paths[0]}: {figures['seconds']:.1f} s, {figures['forwards'][0]} network calls "
    said += f"and {gradients} gradient{'s' * (gradients != 1)}"
    if samples > 1:
        said += f" for each of {samples} samples"
    if written.aim is not None:
        said += f", aim {written.aim}"
    elif one:
        return f"{said}; DMPS ran the last {figures['k'][0]} of {count} steps"
    return said if one else f"{said}; {written.task} ({written.because})"
