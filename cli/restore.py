"""frugal-rt restore"""

import json
import sys
from collections.abc import Iterator
from contextlib import ExitStack, redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any

import click

from ..engines import FrugalError, InputError, Plan, gpu_backend, open_engine
from ..engines.files import is_folder, make_folder
from ..engines.plan import WEIGHTS
from ..runtime.offline import animation
from ..runtime.offline.folder import Asked, Failed, Prepared, Restored, find_pictures, restore_pictures, targets_in
from ..runtime.offline.gpus import Devices, gpus_named
from ..runtime.offline.outputs import check_outputs, output_paths, write_result
from ..runtime.offline.ray_cluster import Cluster
from ..runtime.offline.trace import SUFFIXES, explain, load_plots, write_trace
from ..runtime.pictures.align import framing_of
from ..runtime.pictures.images import check_output, read_bytes, to_picture
from ..runtime.pictures.settings import png_settings
from ..runtime.restorer import Restorer
from ..runtime.sampling.guidance import GUIDANCE, PRESETS
from ..runtime.sampling.loop import StepEvent
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
@click.option(
    "--samples",
    metavar="N",
    type=click.IntRange(1, 1000),
    default=1,
    help="Restore N times: the mean, each, and a picture of their deviation.",
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
    help=f"Write what the switch saw: {', '.join(SUFFIXES)}, a table or a plot. May be repeated.",
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
    engine: Path,
    images: tuple[Path, ...],
    fit: str | None,
    tile: bool,
    align_: bool,
    method: str,
    switch: str | None,
    preset: str,
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
    if switch is not None and method != "hybrid":
        raise click.UsageError(f"--switch is for the hybrid; --method {method} has none")
    sources = find_pictures(images)
    one = len(images) == 1 and sources == [images[0]]
    if (devices or ray or not one) and (traces or save_steps or video):
        raise click.UsageError("--trace, --save-steps and --video are for one picture, restored here")
    if workers is not None and ray is None:
        raise click.UsageError("--workers is of a cluster: --ray ADDRESS")
    if devices is not None and ray:
        raise click.UsageError("--devices is of this machine and --ray of a cluster; leave one of them out")
    gpus = [] if devices is None else gpus_named(devices)
    targets, there = _targets(sources, one, output, samples, resume, force)
    sources = [source for source in sources if source in targets]
    written = [check_output(path, force, SUFFIXES) for path in traces]
    for path, suffixes in ((video, animation.SUFFIXES), (save_params, (".json",))):
        if path is not None:
            check_output(path, force, suffixes)
    count = PRESETS[preset] if steps_ is None else steps_
    with stages() as on_stage:
        on_stage("reading the plan")
        load_plots(written)
        asked = Asked(
            damage=options.read_damage(damage),
            fit=fit,
            tile=tile,
            align=align_,
            settings={
                "steps": count,
                "switch": METHODS[method] if switch is None else switch,
                "every": every,
                "guidance": guidance or GUIDANCE[0],
                "zeta": zeta,
                "lam": lam,
                "seed": seed,
            },
            samples=samples,
        )
        plan = Plan.open(engine)
        kept = params.record(params.options_of(ctx), plan.manifest["members"][WEIGHTS]["sha256"])
        params.check(ctx, kept)
        if gpus:
            backend = gpu_backend(plan, backend, trust_engines)
        restorer = None if ray or gpus else Restorer(plan, open_engine(plan, backend, trust_engines=trust_engines))
    if framing_of(plan) is not None and (tile or fit in ("crop", "resize")):
        name = plan.manifest["prior"]["name"]
        click.echo(f"{name} knows whole faces framed in one way, and does poorly elsewhere: see --align", err=True)
    recorder = animation.Recorder(
        None if save_steps is None else animation.check_folder(save_steps, force), keep=video is not None
    )

    def here(restorer: Restorer, stack: ExitStack) -> Iterator[Restored | Failed]:
        watch = stack.enter_context(steps("restoring", count * len(sources) * samples, by_row=True))
        prepared = asked.preparing(restorer, watch.on_tiles)

        def ready(source: Path) -> Prepared:
            found = prepared(source, read_bytes(source))
            if one:
                click.echo(f"{source.name}: {found.measurement.task} ({found.measurement.because})", err=as_json)
            return found

        def each(event: StepEvent) -> None:
            recorder(event)
            watch.on_step(event)

        return restore_pictures(sources, ready, asked, each)

    out = None if sys.stdout.isatty() else sys.stdout  # a bar on a terminal wants to know what is written beside it

    def spread(stack: ExitStack) -> Iterator[Restored | Failed]:
        if ray and out is not None:
            stack.enter_context(redirect_stdout(sys.stderr))  # Ray prints there what its nodes say
        on_loss = partial(click.echo, err=True)
        with stages() as on_stage:
            on_stage(f"joining the cluster at {ray}" if ray else "starting processes")
            spreading = stack.enter_context(
                Cluster(ray, plan, asked, backend, workers, on_loss, trust_engines=trust_engines)
                if ray
                else Devices(engine, asked, backend, gpus, on_loss, trust_engines=trust_engines)
            )
        words = f"by {spreading.workers} workers"
        on_picture = stack.enter_context(pictures("restoring", len(sources)))
        for outcome in spreading.restore(sources):
            yield outcome
            on_picture(words)

    restored, failed = [], []
    with ExitStack() as stack:
        for outcome in here(restorer, stack) if restorer else spread(stack):
            if isinstance(outcome, Failed):
                if one:
                    raise InputError(outcome.why)
                failed.append(outcome)
                continue
            result = outcome.result
            asked_for = params.alone(kept, outcome.source)
            settings = png_settings(result.settings, result.k, outcome.task, fit, asked_for, outcome.frame)
            if output is not None and not one:
                make_folder(output)  # not before there is something to put into it
            paths = write_result(targets[outcome.source], outcome, settings)
            restored.append(_said(outcome, paths))
            if not as_json:
                click.echo(_sentence(outcome, targets[outcome.source], count, one), file=out)
            for path in written:
                write_trace(path, explain(outcome.result, plan))
            if video is not None:
                recorder.write(video, to_picture(outcome.result.image[0]))
    if save_params is not None:
        params.save(save_params, kept)
    if restorer is None:  # they come in the order in which they are done
        rank = {str(source): place for place, source in enumerate(sources)}
        restored.sort(key=lambda said: rank[said["image"]])
        failed.sort(key=lambda one: rank[str(one.source)])
    if as_json:
        failures = [{"image": str(one.source), "error": one.why} for one in failed]
        click.echo(json.dumps({"restored": restored, "failed": failures, "there": [str(path) for path in there]}))
    elif not one:
        click.echo(f"{len(restored)} restored, {len(failed)} failed, {len(there)} were there")
    if failed:
        raise FrugalError("; ".join(f"{one.source}: {one.why}" for one in failed))


def _targets(
    sources: list[Path], one: bool, output: Path | None, samples: int, resume: bool, force: bool
) -> tuple[dict[Path, Path], list[Path]]:
    """Where each picture that is to be restored goes, and those that are left because theirs is there."""
    if one and not (output and is_folder(output)):
        source = sources[0]
        targets = {source: output or source.parent / f"{source.stem}.restored.png"}
    elif output is None:
        raise InputError("say where the restored pictures go: -o FOLDER")
    else:
        if output.is_file():
            raise InputError(f"{output} is a file; several pictures go into a folder: -o FOLDER")
        targets = targets_in(output, sources)
    there = [
        source
        for source, target in targets.items()
        if resume and all(p.exists() for p in output_paths(target, samples))
    ]
    due = {source: target for source, target in targets.items() if source not in there}
    if one or (output and is_folder(output)):
        for target in due.values():
            check_outputs(target, samples, force or resume)
    return due, there


def _said(outcome: Restored, paths: list[Path]) -> dict[str, Any]:
    """A restoration for scripts."""
    return {
        "image": str(outcome.source),
        "outputs": [str(path) for path in paths],
        "task": outcome.task,
        "because": outcome.because,
        "sigma": outcome.sigma,
        **outcome.result.figures,
    }


def _sentence(outcome: Restored, target: Path, count: int, one: bool) -> str:
    result = outcome.result
    gradients = f"{result.pullbacks[0]} gradient{'s' * (result.pullbacks[0] != 1)}"
    said = f"{target}: {sum(result.seconds.values()):.1f} s, {result.forwards[0]} network calls and {gradients}"
    if len(result.image) > 1:
        said = f"{said} for each of {len(result.image)} samples"
    return (
        f"{said}; DMPS ran the last {result.k[0]} of {count} steps"
        if one
        else f"{said}; {outcome.task} ({outcome.because})"
    )
