"""frugal-rt bench"""

import json
import tempfile
from pathlib import Path

import click

from ..engines import BACKENDS, InputError, open_plan
from ..engines.files import atomic_write
from ..export import build_plan
from ..export.priors.random_prior import ARCHITECTURES, random_prior
from ..runtime.evaluation.bench import bench
from ..runtime.evaluation.bench_report import markdown
from ..runtime.pictures.images import check_output
from . import options, talk


@click.command()
@click.option("-e", "--engine", metavar="PLAN", type=options.PATH, help="The plan to measure.")
@click.option(
    "--random-weights",
    metavar="NAME",
    help=f"Measure forward calls and steps of an architecture with random weights: {', '.join(ARCHITECTURES)}.",
)
@options.batches(help="Measure batches of these sizes. Default: 1,4,16 for a plan, 1 for random weights.")
@click.option(
    "--backend",
    "only",
    type=options.Backend(list(BACKENDS)),
    multiple=True,
    help="Measure this backend, such as tensorrt:bf16. May be repeated. Default: all.",
)
@click.option("--steps", "steps_", type=int, default=100, show_default=True, help="Sampling steps T of a restoration.")
@click.option(
    "--rounds",
    type=click.IntRange(1),
    help="Measure everything this often, in turn. Default: 7, or 3 for random weights.",
)
@click.option("--compile/--no-compile", default=True, help="Measure torch.compile too, which takes minutes to start.")
@click.option("--vs", type=click.Choice(["deepinv"]), help="Also time this library's DPS on the same network.")
@click.option(
    "--json", "json_", metavar="FILE", type=options.PATH, help="Write everything to FILE, each round's samples too."
)
@click.option("--markdown", "markdown_", metavar="FILE", type=options.PATH, help="Write what is printed to FILE too.")
@options.force
@talk.quiet
def command(
    engine: Path | None,
    random_weights: str | None,
    batches: tuple[int, ...],
    only: tuple[str, ...],
    steps_: int,
    rounds: int | None,
    compile: bool,
    vs: str | None,
    json_: Path | None,
    markdown_: Path | None,
    force: bool,
) -> None:
    """Measure forward calls, steps and restorations by every backend here, and by torch as others run it.

    Prints a Markdown page: times, ratios within each round, the share of the machine's peak. Leave the machine alone
    meanwhile; it takes a quarter of an hour on two cores.
    """
    if (engine is None) == (random_weights is None):
        raise InputError("say what to measure: --engine PLAN, or --random-weights celebahq-256 (one of the two)")
    if vs and random_weights:
        raise InputError("--vs times whole restorations, which --random-weights leaves out; give --engine PLAN")
    targets = {
        kind: check_output(path, force, (f".{kind}",))
        for kind, path in (("json", json_), ("md", markdown_))
        if path is not None
    }

    on_stage = talk.note  # plain lines: a spinner's thread would be measured along
    if engine is not None:
        plan = open_plan(engine)
    else:
        with tempfile.TemporaryDirectory() as folder:
            plan = build_plan(random_prior(random_weights or "", Path(folder)), on_stage)
    report = bench(
        plan,
        steps=steps_,
        batches=batches or ((1, 4, 16) if engine else (1,)),
        rounds=rounds or (7 if engine else 3),
        restorations=engine is not None,
        compiled=compile,
        deepinv=vs == "deepinv",
        only=only,
        on_stage=on_stage,
    )
    page = markdown(report)
    click.echo(page, nl=False)
    for kind, text in (("json", json.dumps(report, indent=1) + "\n"), ("md", page)):
        if kind in targets:
            with atomic_write(targets[kind]) as file:
                file.write(text.encode())
