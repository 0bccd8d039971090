"""Step sizes over a grid, for choosing them; two evaluations set against each other; and one against the targets.

python tests/studies/quality.py tune    --engine celeba.plan --images tune-100.tar --lpips lpips_alex.onnx
python tests/studies/quality.py compare float32.json bfloat16.json
python tests/studies/quality.py targets results --fewer results-50 --others results-deepinv
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
from frugal_rt.engines.machine import cores, processor
from frugal_rt.engines.onnxruntime.lpips import Lpips
from frugal_rt.runtime.evaluation.contender import our_methods
from frugal_rt.runtime.evaluation.evaluate import Evaluation, Row
from frugal_rt.runtime.evaluation.picture_set import read_pictures
from frugal_rt.runtime.evaluation.report import paired, results
from frugal_rt.runtime.evaluation.store import RUN, Store
from frugal_rt.runtime.evaluation.suite import TASKS
from frugal_rt.runtime.sampling.guidance import METHODS

FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)


def machine() -> str:
    """Name the machine and the versions that the figures were made with."""
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
            settings: dict[str, Any] = {"steps": steps}
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


@main.command()
@click.argument("report", type=FOLDER)
@click.option("--fewer", type=FOLDER, help="`frugal` on some of the same images with half the steps.")
@click.option("--others", type=FOLDER, help="Some images by frugal and by deepinv's methods.")
def targets(report: Path, fewer: Path | None, others: Path | None) -> None:
    """Folders of `frugal-rt eval -o` against the targets: the three methods, T = 100."""
    rows = _rows(report)
    means, gaps = _means(rows), paired(rows, "frugal", "dps")
    click.echo("frugal minus DPS, paired by image, +- standard error; met: no worse than DPS by more than 1 of them.\n")
    click.echo("| task | PSNR, dB | LPIPS | met | time / DPS | by its calls | time / calls |")
    click.echo("| --- | --- | --- | --- | --- | --- | --- |")
    times = []
    for task, gap in gaps.items():
        met = gap["psnr"].mean >= -gap["psnr"].se and gap["lpips"].mean <= gap["lpips"].se
        dps, plain, ours = (means[task, name]["seconds"] for name in ("dps", "closed-form", "frugal"))
        gradients = [means[task, name]["gradients"] for name in ("frugal", "dps")]
        times.append((ours / dps, (plain + (dps - plain) * gradients[0] / gradients[1]) / dps))
        cells = [gap["psnr"].text(2, "+"), gap["lpips"].text(4, "+"), "yes" if met else "no"]
        click.echo(f"| {task} | {' | '.join(cells)} | {_times(*times[-1])} |")
    overall = _overall(gaps)
    better = "yes" if overall[0] > 0 > overall[1] else "no"
    click.echo(f"| mean | {overall[0]:+.2f} | {overall[1]:+.4f} | {better} | {_times(*np.mean(times, axis=0))} |")
    gains = [paired(rows, name, "closed-form")["box"]["psnr"].text(2, "+") for name in ("frugal", "dps")]
    click.echo(f"\nOver the closed form on the box: frugal {gains[0]} dB, DPS {gains[1]} dB.")
    if fewer is not None:
        _fewer(rows, _rows(fewer))
    if others is not None:
        _others(_rows(others))


def _fewer(rows: list[Row], half: list[Row]) -> None:
    click.echo("\nfrugal with half the steps minus that with all, the same images, +- standard error.\n")
    click.echo("| task | PSNR, dB | LPIPS | images |\n| --- | --- | --- | --- |")
    images = {row["image"] for row in half}
    ours = [row for row in rows if row["method"] == "frugal" and row["image"] in images]
    both = [*({**row, "method": "half"} for row in half), *ours]
    gaps = paired(both, "half", "frugal")
    for task, gap in gaps.items():
        click.echo(f"| {task} | {gap['psnr'].text(2, '+')} | {gap['lpips'].text(4, '+')} | {len(images)} |")
    overall = _overall(gaps)
    click.echo(f"| mean | {overall[0]:+.2f} | {overall[1]:+.4f} | |")


def _others(rows: list[Row]) -> None:
    """`frugal` beside the best of deepinv's by LPIPS."""
    click.echo(
        "\n| task | frugal: dB, LPIPS, s | best of deepinv: dB, LPIPS, s | LPIPS, paired | better, in less time |"
    )
    click.echo("| --- | --- | --- | --- | --- |")
    means = _means(rows)
    for task in dict.fromkeys(task for task, _ in means):
        names = [name for one, name in means if one == task and name.startswith("deepinv")]
        best = min(names, key=lambda name: means[task, name]["lpips"])
        figures = {name: [means[task, name][one] for one in ("psnr", "lpips", "seconds")] for name in ("frugal", best)}
        cells = [f"{psnr:.2f}, {lpips:.4f}, {seconds:.2f}" for psnr, lpips, seconds in figures.values()]
        gap = paired(rows, "frugal", best)[task]["lpips"].text(4, "+")
        met = all(ours < theirs for ours, theirs in list(zip(*figures.values(), strict=True))[1:])
        click.echo(f"| {task} | {cells[0]} | {best.split()[1]}: {cells[1]} | {gap} | {'yes' if met else 'no'} |")


def _rows(folder: Path) -> list[Row]:
    return Store(folder, json.loads((folder / RUN).read_text())).rows


def _means(rows: list[Row]) -> dict[tuple[str, str], dict[str, Any]]:
    """By task and method."""
    return {(row["task"], row["method"]): row for row in results(rows, {})["rows"]}


def _overall(gaps: dict[str, dict[str, Any]]) -> list[float]:
    """PSNR and LPIPS over all tasks."""
    return [float(np.mean([gap[figure].mean for gap in gaps.values()])) for figure in ("psnr", "lpips")]


def _times(measured: float, predicted: float) -> str:
    return f"{measured:.3f} | {predicted:.3f} | {measured / predicted:.3f}"


def _cells(values: Any, figures: dict[str, str]) -> str:
    return " | ".join("" if np.isnan(v) else format(v, form) for v, form in zip(values, figures.values(), strict=True))


if __name__ == "__main__":
    main()
