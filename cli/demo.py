"""frugal-rt demo"""

import json
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from ..engines import InputError
from ..engines.files import make_folder
from ..export import export_plan, find_prior
from ..runtime.evaluation import demo
from ..runtime.pictures.images import write_png
from ..runtime.restorer import Restorer
from ..runtime.sampling.switch import METHODS
from . import options, talk
from .progress import stages, steps


@click.command()
@click.option(
    "-e", "--engine", metavar="PLAN", type=options.PATH, help="Default: FOLDER/celeba.plan, exported if need be."
)
@options.steps
@options.seed
@options.backend
@click.option("-o", "--output", metavar="FOLDER", type=options.PATH, default=Path("demo"), show_default=True)
@options.as_json
@talk.quiet
@talk.verbose
def command(engine: Path | None, steps_: int, seed: int, backend: str, output: Path, as_json: bool) -> None:
    """Restore a packaged portrait: three tasks by DPS, DMPS and the hybrid.

    Writes FOLDER/sheet.png, replacing an earlier one, and prints what each cost and gave: network calls, gradients
    through the network, and k, the DMPS steps left at the switch.
    """
    if output.is_file():
        raise InputError(f"{output} is a file; name a folder for the pictures with -o")
    plan = engine or output / "celeba.plan"
    with stages() as on_stage:
        if engine is None and not plan.exists():
            make_folder(output)
            export_plan(find_prior("celeba"), plan, on_stage)
        on_stage("reading the plan")
        restorer = Restorer.load(plan, backend)
    with steps("demo", steps_ * len(demo.SHOWN) * len(METHODS)) as watch:
        rows, sheet = demo.run(restorer, steps_, seed, lambda task, method, event: watch.on_step(event))
    make_folder(output)
    write_png(output / "sheet.png", sheet)
    if as_json:
        click.echo(json.dumps({"output": str(output / "sheet.png"), "rows": [_said(row) for row in rows]}))
        return
    if talk.is_quiet():
        click.echo(str(output / "sheet.png"))
        return
    table = Table(title=f"{restorer.engine.name}, T = {steps_}, seed {seed}")
    for heading in ("task", "method", "PSNR", "time", "calls", "gradients", "k"):
        table.add_column(heading, justify="left" if heading in ("task", "method") else "right", no_wrap=True)
    for row in rows:
        result = row.result
        figures = (result.forwards[0], result.pullbacks[0], result.k[0])
        seconds = sum(result.seconds.values())
        table.add_row(row.task, row.method, f"{row.psnr:.2f} dB", f"{seconds:.2f} s", *map(str, figures))
    Console().print(table)
    click.echo(f"pictures: {output / 'sheet.png'}")


def _said(row: demo.Row) -> dict[str, Any]:
    """A row for scripts."""
    return {"task": row.task, "method": row.method, "psnr": row.psnr, **row.result.figures}
