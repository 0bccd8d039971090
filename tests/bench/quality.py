"""Step sizes over a grid, for choosing them; and two evaluations set against each other.

python tests/bench/quality.py tune    --engine celeba.plan --images tune-100.tar --lpips lpips_alex.onnx
python tests/bench/quality.py compare float32.json bfloat16.json
"""

import itertools
import json
import platform
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnxruntime

from frugal_rt import Restorer, __version__
from frugal_rt.engines.lpips import Lpips
from frugal_rt.engines.machine import cores, processor
from frugal_rt.runtime.contender import our_methods
from frugal_rt.runtime.evaluate import Evaluation
from frugal_rt.runtime.picture_set import read_pictures
from frugal_rt.runtime.suite import TASKS
from frugal_rt.runtime.switch import METHODS


def machine() -> str:
    """What the figures were made on and with."""
    tools = f"frugal-rt {__version__}, onnxruntime {onnxruntime.__version__}, Python {platform.python_version()}"
    return f"{cores()} cores of {processor()}, {tools}"


@click.group(help=__doc__)
def main() -> None: ...


@main.command()
@click.option("--engine", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--images", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--lpips", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--tasks", default=",".join(TASKS), help="comma-separated")
@click.option("--steps", default=100)
@click.option("--count", default=20, help="how many of the images")
@click.option("--backend", default="auto", show_default=True)
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Markdown")
@click.option("--method", default="dps", type=click.Choice(list(METHODS)))
@click.option("--zetas", default="own", help="comma-separated; own is the sampler's own step")
@click.option("--lambdas", default="own")
@click.option("--switch", default=None)
def tune(
    engine: Path,
    images: Path,
    lpips: Path,
    tasks: str,
    steps: int,
    count: int,
    backend: str,
    output: Path | None,
    method: str,
    zetas: str,
    lambdas: str,
    switch: str | None,
) -> None:
    """PSNR and LPIPS of one method over a grid of step sizes. For choosing, so never on the report set."""
    restorer, distance = Restorer.load(engine, backend), Lpips(lpips)
    pictures = read_pictures(images, restorer.image_shape, count)
    lines = [
        f"{method.upper()}, T = {steps}, the first {count} of {images.name}, seed 0; {machine()}",
        "",
        "| task | zeta | lambda | PSNR | LPIPS | k | s an image |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    click.echo("\n".join(lines))
    for task in tasks.split(","):
        for zeta, lam in itertools.product(zetas.split(","), lambdas.split(",")):
            settings: dict[str, Any] = {"steps": steps, "switch": switch or METHODS[method]}
            settings |= {name: float(value) for name, value in (("zeta", zeta), ("lam", lam)) if value != "own"}
            contenders = our_methods(restorer, [method], settings)
            (group,) = Evaluation(pictures, contenders, [task], lpips=distance).groups()
            means = {name: np.mean([row[name] for row in group.rows]) for name in ("psnr", "lpips", "k", "seconds")}
            lines.append(
                f"| {task} | {zeta} | {lam} | {means['psnr']:.2f} | {means['lpips']:.4f} "
                f"| {means['k']:.0f} | {means['seconds']:.2f} |"
            )
            click.echo(lines[-1])
    if output is not None:
        output.write_text("\n".join(lines) + "\n")


@main.command()
@click.argument("first", type=click.Path(exists=True, path_type=Path))
@click.argument("second", type=click.Path(exists=True, path_type=Path))
def compare(first: Path, second: Path) -> None:
    """Two results of `frugal-rt eval --json`, SECOND minus FIRST: by another backend or prior."""
    reports = [json.loads(path.read_text())["rows"] for path in (first, second)]
    rows = [{(row["task"], row["method"]): row for row in report} for report in reports]
    figures = {"psnr": "+.2f", "ssim": "+.4f", "lpips": "+.4f"}
    click.echo("| task | method | PSNR, dB | SSIM | LPIPS |\n| --- | --- | --- | --- | --- |")
    gaps: list[list[float]] = []
    for key in [key for key in rows[0] if key in rows[1]]:
        pairs = [[side[key][figure] for side in rows] for figure in figures]
        gaps.append([np.nan if None in pair else pair[1] - pair[0] for pair in pairs])
        click.echo(f"| {' | '.join(key)} | {_cells(gaps[-1], figures)} |")
    click.echo(f"| mean | | {_cells(np.mean(gaps, axis=0), figures)} |")


def _cells(values: Any, figures: dict[str, str]) -> str:
    return " | ".join("" if np.isnan(v) else format(v, form) for v, form in zip(values, figures.values(), strict=True))


if __name__ == "__main__":
    main()
