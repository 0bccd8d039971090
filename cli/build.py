"""frugal-rt build"""

import json
from pathlib import Path

import click

from ..engines import PRECISIONS, open_plan
from ..engines.files import is_there
from ..engines.tensorrt.build import BATCHES, LEVEL, build
from ..engines.tensorrt.library import FLAVOURS
from ..engines.tensorrt.store import Built, bundle
from ..runtime.pictures.images import check_output
from . import options, talk
from .progress import building


@click.command()
@click.argument("plan", metavar="PLAN", type=options.PATH)
@click.option(
    "--precision",
    type=click.Choice(PRECISIONS),
    help="Compute in this precision. Default: the first that the plan holds.",
)
@options.batches(
    default=[",".join(map(str, BATCHES))],
    show_default=True,
    help="Tune for calls of these numbers of rows. Calls of more are split.",
)
@click.option(
    "--level",
    type=click.IntRange(0, 5),
    default=LEVEL,
    show_default=True,
    help="TensorRT's optimisation level: 0 builds fastest, 5 runs fastest.",
)
@click.option(
    "--flavour", type=click.Choice(list(FLAVOURS)), help="Build with this one. Default: the first that is installed."
)
@click.option(
    "--capability",
    metavar="X.Y",
    help="Build for a GPU that is not here, by its compute capability. With tensorrt-rtx only.",
)
@click.option(
    "--bundle", "bundled", is_flag=True, help="Put the engines into the plan too, for other machines like this."
)
@click.option("-o", "--output", type=options.PATH, help="Write this plan, with --bundle. Default: PLAN itself.")
@click.option("--force", is_flag=True, help="Build again what exists, and replace the output.")
@options.as_json
@talk.quiet
def command(
    plan: Path,
    precision: str | None,
    batches: tuple[int, ...],
    level: int,
    flavour: str | None,
    capability: str | None,
    bundled: bool,
    output: Path | None,
    force: bool,
    as_json: bool,
) -> None:
    """Compile the graphs of PLAN with TensorRT for this machine's GPU, and keep the engines in the user's cache.

    Engines are native code: `restore` loads those that you built, and with --trust-engines those in a plan.
    """
    if output is not None and not bundled:
        raise click.UsageError("-o names the plan that --bundle writes")
    if bundled and output is None and not is_there(plan):
        raise click.UsageError("--bundle writes a plan; name it with -o")
    target = plan if output is None else check_output(output, force, (".plan",))
    opened = open_plan(plan)
    with building() as on_progress:
        built = build(
            opened,
            flavour,
            precision=precision,
            batches=batches,
            level=level,
            capability=capability,
            force=force,
            on_progress=on_progress,
        )
    if bundled:
        bundle(opened, built).save(target)
    say(built, target if bundled else None, as_json)


def say(built: Built, bundled: Path | None, as_json: bool) -> None:
    """Print which engines were built, their sizes, and where they are."""
    record = built.record
    here, size = record.here, sum(file["bytes"] for file in record.files.values())
    if as_json:
        click.echo(
            json.dumps({**record.data(), "key": record.key, "bundled": None if bundled is None else str(bundled)})
        )
        return
    if talk.is_quiet():
        if bundled is not None:
            click.echo(str(bundled))
        return
    gpu = here.gpu or f"any GPU of compute capability {here.capability}"
    batches = ", ".join(map(str, record.batches))
    talk.say(f"{record.precision} engines for {gpu} by {here.flavour} {here.version}, {size / 1e6:.0f} MB")
    talk.say(
        f"tuned for batches of {batches}; kept in {'the cache' if bundled is None else f'the cache and {bundled}'}"
    )
