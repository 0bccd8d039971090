"""Plans for a machine where none shall be exported: python tests/gpu/plans.py strip|fill SOURCE TARGET

A plan of random weights travels without them, as a zip of its graphs, and is filled to the same bytes: the weights are
drawn again. Plans of the embedded priors are in the package. Ready plans lie in the folder FRUGAL_RT_PLANS.
"""

import os
import tempfile
from pathlib import Path

import click

from frugal_rt import Plan
from frugal_rt.engines.embedded import FOLDERS, embedded_plan, refilled
from frugal_rt.engines.files import atomic_write
from frugal_rt.export import build_plan
from frugal_rt.export.priors.random_prior import random_prior
from frugal_rt.export.ready import ready

LARGE = "celebahq-256"
"""The architecture at 256x256 that is measured."""


def plan_file(name: str, folder: Path) -> Path:
    """Return the file NAME.plan of FRUGAL_RT_PLANS; where it has none, of `folder`, made there if need be."""
    there = Path(os.environ.get("FRUGAL_RT_PLANS", folder)) / f"{name}.plan"
    if there.is_file():
        return there
    path = folder / f"{name}.plan"
    if not path.is_file():
        (embedded_plan(name) if name in FOLDERS else _exported(name)).save(path)
    return path


def _exported(name: str) -> Plan:
    with tempfile.TemporaryDirectory() as folder:
        return build_plan(random_prior(name, Path(folder)))


def strip(plan: Path, out: Path) -> None:
    """Write `plan` without its weights."""
    with atomic_write(out) as file:
        file.write(ready(Plan.open(plan)))


def fill(stripped: Path, out: Path, name: str = LARGE) -> None:
    """Write the plan of the random prior `name` that `strip` emptied. Raises PlanError where it is another's."""
    with tempfile.TemporaryDirectory() as folder:
        refilled(stripped, random_prior(name, Path(folder)).tensors(), name).save(out)


@click.command(help=__doc__)
@click.argument("verb", type=click.Choice(["strip", "fill"]))
@click.argument("source", type=click.Path(exists=True, path_type=Path))
@click.argument("target", type=click.Path(path_type=Path))
def main(verb: str, source: Path, target: Path) -> None:
    {"strip": strip, "fill": fill}[verb](source, target)
    click.echo(f"{target.name}: {target.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
