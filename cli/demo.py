"""frugal-rt demo"""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import click
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from ..engines import InputError
from ..engines.files import make_folder
from ..runtime.evaluation import demo
from ..runtime.pictures.images import write_png
from ..runtime.restorer import Restorer
from ..runtime.sampling.choices import Aim
from . import options, talk
from .progress import stages

Shown = tuple[str, str | Path, tuple[str, ...], Aim | None]
"""A description of the picture, the plan, the tasks, and the aim (None: the default)."""


@click.command()
@click.option(
    "-e", "--engine", metavar="PLAN", type=options.PATH, help="Show the face by this plan alone, not by both priors."
)
@click.option("--steps", "steps_", type=int, help="Sampling steps T, in place of each task's own.")
@options.seed
@options.backend
@click.option("-o", "--output", metavar="FOLDER", type=options.PATH, default=Path("demo"), show_default=True)
@options.as_json
@talk.quiet
@talk.verbose
def command(engine: Path | None, steps_: int | None, seed: int, backend: str, output: Path, as_json: bool) -> None:
    """Damage a photograph and a face, restore them, and show each beside a plain method for its damage.

    After each restoration it rewrites FOLDER/sheet.png, and prints the PSNR against the undamaged picture and the time
    taken.
    """
    if output.is_file():
        raise InputError(f"{output} is a file; name a folder for the pictures with -o")
    target, rows = output / "sheet.png", []
    photograph: Shown = "a photograph", "photo", demo.PHOTOGRAPH, "detail"
    shows: list[Shown] = [photograph, ("a face", "celeba", demo.FACE, None)]
    for of, plan, tasks, aim in shows if engine is None else [("a face", engine, demo.FACE, None)]:
        with stages() as on_stage:
            on_stage("reading the plan")
            restorer = Restorer.load(plan, backend)
            picture = demo.photograph() if tasks is demo.PHOTOGRAPH else None
        with restorer:
            for row in demo.run(restorer, of, tasks, picture, steps_, seed, aim):
                rows.append(row)
                make_folder(output)
                write_png(target, demo.sheet(rows))
                talk.note(
                    f"{row.picture}: {row.task}, {row.psnr:.1f} dB; {row.method} {row.plain_psnr:.1f} dB: {target}"
                )
    if as_json:
        click.echo(json.dumps({"output": str(target), "rows": [_said(row) for row in rows]}))
        return
    if talk.is_quiet():
        click.echo(str(target))
        return
    table = Table(box=SIMPLE)
    for heading in ("damage", "plain method", "prior", "time"):
        table.add_column(heading, justify="right" if heading == "time" else "left", no_wrap=True)
    for row in rows:
        result = row.result
        table.add_row(
            row.task,
            f"{row.method} {row.plain_psnr:.1f} dB",
            f"{result.settings['prior']} {row.psnr:.1f} dB",
            f"{sum(result.seconds.values()):.1f} s",
        )
    Console().print(table)
    click.echo(f"pictures: {target}")
    program = sys.argv[0]
    found = shutil.which("frugal-rt")
    named = "frugal-rt" if found is not None and Path(program).resolve() == Path(found).resolve() else program
    click.echo(f"your own picture: {named} restore PICTURE")


def _said(row: demo.DemoRow) -> dict[str, Any]:
    """Return a row as --json prints it."""
    plain = {"method": row.method, "psnr": row.plain_psnr}
    return {"picture": row.picture, "task": row.task, "psnr": row.psnr, "plain": plain, **row.result.figures}
