"""frugal-rt restore"""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import click
from click.core import ParameterSource

from ..engines import FrugalError, InputError, cache, open_plan
from ..engines.fastest import recommendation
from ..engines.files import is_there
from ..runtime.offline import animation, trace
from ..runtime.offline.folder import Failed, Order, Prepared, find_pictures, name_of
from ..runtime.offline.gpus import gpus_named
from ..runtime.offline.outputs import Targets
from ..runtime.offline.run import Beside, Elsewhere, Resources, Run, Written
from ..runtime.offline.streams import STREAM, is_stream
from ..runtime.pictures.formats import PICTURES
from ..runtime.pictures.images import check_output
from ..runtime.pictures.measurement import Measurement
from ..runtime.pictures.options import read_damage
from ..runtime.restorer import Restorer
from ..runtime.sampling.guidance import METHOD, METHODS, PRESET, PRESETS, PRESETS_FROM_NOISE, Guidance
from . import options, params, talk
from .progress import pictures, stages, steps

GROUPS = {
    "The damage": (
        *("task", "mask", "hole", "keep", "scale", "filter", "kernel", "border", "keep_fraction", "matrix", "grey"),
        *("noise", "sigma"),
    ),
    "The picture": ("fit", "align_", "frame"),
    "The restoration": ("aim", "preset", "steps_", "samples", "seed"),
    "The sampler": ("method", "switch", "every", "guidance", "zeta", "lam"),
    "The prior, and the machine": ("engine", "backend", "trust_engines", "devices", "ray", "workers"),
    "The output": ("output", "kind", "resume", "force", "as_json", "quiet", "verbose"),
    "Records of a restoration": ("params", "save_params", "traces", "save_steps", "video"),
}
EXAMPLES = (
    "frugal-rt restore photo.jpg                                     # -> photo.restored.png",
    "frugal-rt restore photo.jpg --mask scratches.png                # fill what is white in the mask",
    "frugal-rt restore small.jpg --scale 2 --aim detail              # twice the size",
    "frugal-rt restore blurred.jpg --kernel gaussian:2 --noise 3     # undo a blur of 2 pixels",
    "frugal-rt restore photos -o restored --resume                   # a folder",
    "frugal-rt restore -e celeba party.jpg --align                   # the faces in a photograph",
)


@click.command(cls=params.Repeating, groups=GROUPS, examples=EXAMPLES)
@params.params
@options.engine
@click.argument("images", metavar="IMAGE...", type=options.PATH, nargs=-1, required=True)
@options.damage
@click.option(
    "--fit",
    type=click.Choice(["crop", "resize", "pad"]),
    help="Bring the picture to the size of the prior's images, where they have one size. pad, the default, leaves it "
    "at its own.",
)
@click.option("--tile", is_flag=True, hidden=True, help="What is done anyway, and once had to be asked for.")
@click.option(
    "--align",
    "align_",
    is_flag=True,
    help="Find the faces in a photograph, restore them, and paste them back. The rest is not touched. It needs a prior "
    "of faces: -e celeba.",
)
@click.option(
    "--frame",
    type=click.IntRange(1),
    metavar="N",
    help="Restore this frame or page of a file that has several. Default: the first.",
)
@options.aim
@click.option(
    "--method",
    type=click.Choice(list(METHODS)),
    help=f"The sampler. Default: {METHOD}; denoising and a JPEG go by their aim.",
)
@options.switch
@click.option(
    "--preset",
    type=click.Choice(list(PRESETS)),
    help=f"Sampling steps by name: {', '.join(f'{name} {steps}' for name, steps in PRESETS.items())}; "
    f"{', '.join(map(str, PRESETS_FROM_NOISE.values()))} by a method other than {METHOD}. Default: {PRESET}.",
)
@click.option("--steps", "steps_", metavar="T", type=int, help="Take T sampling steps, in place of the preset's.")
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
    help="Restore N times from noise. Write the mean, each of them, and a picture of their deviation.",
)
@options.backend
@options.trust_engines
@click.option(
    "-o",
    "--output",
    type=options.PATH,
    help=f"Write to this file, whose name ends in {', '.join(PICTURES)}; a folder for several pictures; - for "
    "standard output. Default: IMAGE.restored.png, beside IMAGE.",
)
@click.option(
    "--format",
    "kind",
    type=click.Choice(["png", "jpg", "webp", "tif"]),
    help="The format of pictures that -o does not name: in a folder, or on standard output. Default: png.",
)
@click.option("--resume", is_flag=True, help="Skip pictures whose output exists.")
@click.option(
    "--trace",
    "traces",
    metavar="FILE",
    multiple=True,
    type=options.PATH,
    help=f"Write what the switch saw: {', '.join(trace.SUFFIXES)}, a table or a plot. May be repeated.",
)
@click.option("--save-steps", metavar="DIR", type=options.PATH, help="Write the estimate after every step into DIR.")
@click.option(
    "--video",
    metavar="FILE",
    type=options.PATH,
    help=f"Write those estimates as one animation: {', '.join(animation.SUFFIXES)}.",
)
@click.option(
    "--devices", metavar="N,N", help="Spread a folder over these CUDA devices of this machine, a process each."
)
@click.option(
    "--ray",
    metavar="ADDRESS",
    help="Spread a folder over a Ray cluster: auto, HOST:PORT, or local for one that is started here.",
)
@click.option(
    "--workers",
    metavar="N",
    type=click.IntRange(1),
    help="Workers on the Ray cluster. Default: as many as it has room for.",
)
@params.save_params
@options.as_json
@options.force
@talk.quiet
@talk.verbose
@click.pass_context
def command(
    ctx: click.Context,
    /,
    engine: Path,
    images: tuple[Path, ...],
    fit: str | None,
    tile: bool,
    align_: bool,
    frame: int | None,
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
    kind: str | None,
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
    """Restore IMAGE with the prior in PLAN.

    IMAGE is a picture, a measurement (.npy), or - for standard input. Several may be named, and folders, and patterns
    such as 'a/*.jpg'. Where two are named and the second is a picture's name that does not exist, it is the output.

    Without --task the picture decides. Transparent pixels are filled in, a coarse JPEG has its artefacts removed, and
    any other picture is denoised. A grey picture stays grey. Where nothing is found wrong, nothing is written, or with
    -o the picture as it was. A picture that is smaller by a whole factor than the images of a prior of one size is
    enlarged to them. Where --noise is left out, it is estimated to denoise, and 1.3 grey levels otherwise.

    A picture that fails stops no other; all failures are printed at the end, and the exit status is 1.
    """
    if tile and fit in ("crop", "resize"):
        raise click.UsageError("--tile takes a picture at its own size; leave --fit out")
    if align_ and (tile or fit is not None):
        raise click.UsageError("--align says how a face comes to the prior's size; leave --tile and --fit out")
    if output is None and len(images) == 2 and images[1].suffix.lower() in PICTURES:
        if is_there(images[1]):
            raise InputError(
                f"{images[1]} is there, so it is a picture to restore: name a folder for both, -o FOLDER, or replace "
                f"it, -o {images[1]} --force"
            )
        output, images = images[1], images[:1]
        ctx.params["images"] = images  # what --params is to repeat
    if ctx.get_parameter_source("kind") is ParameterSource.COMMANDLINE:
        _check_format(kind, output)
    suffix = f".{kind or 'png'}"
    if STREAM in images and len(images) > 1:
        raise click.UsageError("- is one picture from standard input; name no others")
    for stream in filter(is_stream, images):
        if devices or ray:
            raise click.UsageError(f"{stream} is one picture, read once and here; leave --devices and --ray out")
        if output is None:
            said = f"say where the restoration of {name_of(stream)} goes: -o FILE, or -o - for standard output"
            raise InputError(said)
    if output == STREAM and as_json:
        raise click.UsageError("--json and -o - both write to standard output; leave one of them out")
    sources = find_pictures(images, talk.note)
    one = len(images) == 1 and sources == [*images]
    if (devices or ray or not one) and (traces or save_steps or video):
        raise click.UsageError("--trace, --save-steps and --video are for one picture, restored here")
    if workers is not None and ray is None:
        raise click.UsageError("--workers is for a cluster: --ray ADDRESS")
    if devices is not None and ray:
        raise click.UsageError("--devices is for this machine and --ray for a cluster; leave one of them out")
    gpus = [] if devices is None else gpus_named(devices)
    targets = Targets.settle(sources, one, output, samples, resume, force, suffix)
    if save_params is not None:
        check_output(save_params, force, (".json",))
    if samples > 1 and aim is not None:
        raise click.UsageError("--samples draws from noise, and --aim starts elsewhere; leave one of them out")
    if samples > 1 and preset is None:
        preset = PRESET
    presets = PRESETS if method in (None, METHOD) else PRESETS_FROM_NOISE
    count = presets[preset or PRESET] if steps_ is None else steps_
    with stages() as on_stage:
        on_stage("reading the plan")
        settings = Guidance(
            aim=aim,
            preset=preset,
            steps=steps_,
            method=method,
            switch=switch,
            every=every,
            guidance=guidance,
            zeta=zeta,
            lam=lam,
            seed=seed,
        )
        before = params.repeated(ctx)
        order = Order(read_damage(damage, talk.note), fit, align_, settings, samples, params.tile(before), frame)
        plan = open_plan(engine)
        kept = params.record(ctx, plan)
        run = Run(
            plan,
            order,
            targets,
            Beside(traces, save_steps, video, force),
            Resources(engine, backend, trust_engines, gpus, ray, workers),
            kept,
        )
    name = plan.manifest["prior"]["name"]
    talk.detail(f"{engine}: {name}, {plan.size}, by {run.backend}")
    talk.detail(f"cache: {cache.folder() or 'off'}")
    if output == STREAM:
        stdout: IO[str] | None = sys.stderr
    else:  # None: rich keeps lines printed to a terminal above its bar
        stdout = None if sys.stdout.isatty() else sys.stdout
    if not one:
        each = f", {count} steps each" if settings.of_methods else ""  # with an aim, each has its own number
        talk.note(f"{len(targets.paths)} pictures by {name}{each}")

    advised: list[str] = []
    if run.resources.spread and (advice := run.advice()):
        talk.note(advice)

    def ready(found: Prepared) -> None:
        params.refuse_another_way(before, found.restorer)
        said = f"{name_of(found.source)}: {_intention(found, name, settings)}"
        if not one:
            talk.detail(said)
        elif not talk.is_quiet():
            talk.say(said, file=sys.stderr if as_json else stdout)
        if not advised and (line := run.advice(found)):  # once for all pictures
            advised.append(line)
            talk.note(line if one else f"{name_of(found.source)}: {line}")

    outcomes = []
    with ExitStack() as stack:
        if ray and stdout is not None:
            stack.enter_context(redirect_stdout(sys.stderr))  # Ray prints its nodes' output to standard output
        for outcome in _watched(run, stack, count, samples, ready):
            if one and isinstance(outcome, Failed):
                raise InputError(outcome.why)
            outcomes.append(outcome)
            if not isinstance(outcome, Written):
                continue
            for line in outcome.notes:
                talk.note(line)
            if as_json:
                continue
            if not talk.is_quiet():
                talk.say(_sentence(outcome, count, one), file=stdout)
            elif output != STREAM:
                click.echo("\n".join(map(str, outcome.paths)), file=stdout)
    if save_params is not None:
        params.save(save_params, kept)
    restored, failed = run.apart(outcomes)
    seconds = sum(one.figures["seconds"] for one in restored if not one.unchanged)
    if backend == "auto" and not talk.is_quiet() and (faster := recommendation(run.backend, seconds)):
        talk.note(faster)
    elsewhere = [outcome.source for outcome in outcomes if isinstance(outcome, Elsewhere)]
    if as_json:
        failures = [{"image": str(outcome.source), "error": outcome.why} for outcome in failed]
        there = [*map(str, (*targets.there, *elsewhere))]
        click.echo(json.dumps({"restored": [*map(_said, restored)], "failed": failures, "there": there}))
    elif not one and not talk.is_quiet():
        untouched = sum(written.unchanged for written in restored)
        left = f"{untouched} left alone, " if untouched else ""
        count = len(targets.there) + len(elsewhere)
        click.echo(f"{len(restored) - untouched} restored, {left}{len(failed)} failed, {count} were there")
    if failed:
        raise FrugalError("; ".join(f"{outcome.source}: {outcome.why}" for outcome in failed))


def _watched(
    run: Run, stack: ExitStack, count: int, samples: int, on_ready: Callable[[Prepared], None]
) -> Iterator[Written | Failed | Elsewhere]:
    """Yield the outcomes of a run, and show a bar: of steps (`count` expected for each sample), or of pictures.

    `on_ready` is called with each picture before its first step.
    """
    if not run.resources.spread:
        total = count * len(run.targets.paths) * samples
        watch = stack.enter_context(steps("restoring", total, by_row=True))
        guidance = run.order.guidance

        def ready(found: Prepared) -> None:
            on_ready(found)
            due = sum(_steps(found.restorer, one, guidance) for one in found.measurements)
            watch.on_more((due - count) * samples)

        for outcome in run.here(ready, watch.on_step, watch.on_tiles):
            if not isinstance(outcome, Written) or outcome.unchanged:
                watch.on_more(-count * samples)  # the total already holds the expected number
            yield outcome
        return
    ray = run.resources.ray
    with stages() as on_stage:
        on_stage(f"joining the cluster at {ray}" if ray else "starting processes")
        workers = stack.enter_context(run.hire(talk.note))
    on_picture = stack.enter_context(pictures("restoring", len(run.targets.paths)))
    for outcome in run.spread(workers):
        yield outcome
        on_picture(f"by {workers.workers} workers")


def _check_format(kind: str | None, output: Path | None) -> None:
    """Raise UsageError where --format contradicts the suffix of -o."""
    named = None if output is None else PICTURES.get(output.suffix.lower())
    if named not in (None, PICTURES[f".{kind}"]):
        raise click.UsageError(f"--format {kind} is for pictures that -o does not name; {output} says its own")


def _intention(found: Prepared, prior: str, guidance: Guidance) -> str:
    """Return a line that says what a restoration is about to do."""
    measurement, restorer = found.measurement, found.restorer
    height, width = restorer.image_shape[-2:]
    tiles = "whole" if restorer.tile is None else f"in {restorer.tiles} tiles"
    count = _steps(restorer, measurement, guidance)
    size = f"{width}x{height}, {tiles}, by {prior} in {count} step{'s' * (count != 1)}"
    return f"{measurement.task} ({measurement.because}); {size}"


def _steps(restorer: Restorer, measurement: Measurement, guidance: Guidance) -> int:
    """Return the number of steps of a restoration of `measurement`."""
    return restorer._steps(measurement.operator, replace(guidance, sigma=measurement.sigma))


def _said(written: Written) -> dict[str, Any]:
    """Return a picture's outcome as --json prints it."""
    return {
        "image": str(written.source),
        "outputs": [str(path) for path in written.paths],
        "task": written.task,
        "because": written.because,
        "sigma": written.sigma,
        "aim": written.aim,
        "unchanged": written.unchanged,
        "notes": [*written.notes],
        **written.figures,
    }


def _sentence(written: Written, count: int, one: bool) -> str:
    if written.unchanged:
        return f"{written.paths[0]}: left as it was; {written.because}"
    figures = written.figures
    samples, forwards, gradients = len(figures["k"]), figures["forwards"][0], figures["gradients"][0]
    target = "standard output" if written.paths[0] == STREAM else written.paths[0]
    said = f"{target}: {figures['seconds']:.1f} s, {forwards} network call{'s' * (forwards != 1)} "
    said += f"and {gradients} gradient{'s' * (gradients != 1)}"
    if samples > 1:
        said += f" for each of {samples} samples"
    if written.aim is not None:
        said += f", aim {written.aim}"
    elif one and gradients:
        return f"{said}; none in the last {figures['k'][0]} of {count} steps"
    return said if one else f"{said}; {written.task} ({written.because})"
