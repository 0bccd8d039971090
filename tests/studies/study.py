"""Grids of settings over the tasks of `frugal-rt eval`: the figures of docs/switch, frontier, steps and poster.

python tests/studies/study.py switch   --engine celeba.plan --images report-20 --lpips lpips_alex.onnx -o FOLDER
python tests/studies/study.py frontier --engine celeba.plan --images tune-100.tar --lpips lpips_alex.onnx -o FOLDER
python tests/studies/study.py steps    --engine celeba.plan --images tune-100.tar --lpips lpips_alex.onnx -o FOLDER
python tests/studies/study.py zeta     --engine celeba.plan --images tune-100.tar --lpips lpips_alex.onnx -o FOLDER
python tests/studies/study.py poster   --engine celeba.plan --images report-20 --ood ood --lpips lpips_alex.onnx -o DIR

Each keeps its rows in FOLDER, goes on where it was stopped, and writes FOLDER/NAME.md and the figures it names.
"""

import platform
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial, wraps
from pathlib import Path
from typing import Any
from unittest.mock import patch

import click
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter
from PIL import Image

from frugal_rt import Restorer, __version__
from frugal_rt.engines.machine import cores, processor
from frugal_rt.engines.onnxruntime.lpips import Lpips
from frugal_rt.engines.plan import WEIGHTS
from frugal_rt.runtime.evaluation.contact_sheet import contact_sheet
from frugal_rt.runtime.evaluation.contender import Contender, Method, Outcome
from frugal_rt.runtime.evaluation.evaluate import Evaluation, Row
from frugal_rt.runtime.evaluation.picture_set import read_pictures
from frugal_rt.runtime.evaluation.store import Store
from frugal_rt.runtime.evaluation.suite import TASKS, measure
from frugal_rt.runtime.pictures.images import PORTRAIT, read_photo, to_picture, write_png
from frugal_rt.runtime.sampling import schedule
from frugal_rt.runtime.sampling.guidance import METHODS, PRESETS
from frugal_rt.runtime.sampling.psnr import psnr

FIGURES = ("psnr", "lpips", "seconds")
LABELS = {"psnr": "PSNR, dB", "lpips": "LPIPS", "seconds": "seconds an image"}
COLOURS = {
    "frugal": "tab:green",
    "hybrid": "tab:red",
    "dps": "tab:orange",
    "dmps": "tab:blue",
    "closed-form": "tab:purple",
}


@dataclass(frozen=True)
class Renewed(Method):
    """Return the study with other constants of schedule.fresh_share, the closed form's share of new noise."""

    constants: tuple[tuple[str, float], ...] = ()

    def restore(self, *arguments: Any) -> Outcome:
        afresh = replace(self, restorer=Restorer(self.restorer.plan, self.restorer.engine))  # one keeps its schedules
        with patch.multiple(schedule, **dict(self.constants)):
            return Method.restore(afresh, *arguments)


@dataclass(frozen=True)
class Study:
    """Settings that every command is given."""

    restorer: Restorer
    images: Path
    count: int
    lpips: Lpips
    folder: Path
    seeds: int = 1

    def method(self, name: str, steps: int, called: str | None = None, **settings: Any) -> Method:
        return Method(self.restorer, called or name, {"steps": steps, "method": name, **settings})

    def rows(self, part: str, contenders: Sequence[Contender], tasks: Iterable[str], sigma: float | None) -> list[Row]:
        """A row for each task, image, seed and contender, kept in FOLDER/PART."""
        pictures = read_pictures(self.images, self.restorer.image_shape, self.count, "resize")
        distance = self.lpips.for_images(self.restorer.image_shape)
        evaluation = Evaluation(pictures, contenders, list(tasks), self.seeds, sigma=sigma, lpips=distance)
        run = {
            "weights_sha256": self.restorer.plan.manifest["members"][WEIGHTS]["sha256"],
            "backend": self.restorer.engine.name,
            "images": pictures.sha256,
            "sigma": sigma,
        }
        with Store.alone(self.folder / part, run) as store:
            for group in evaluation.groups(store.finished):
                store.add(group)
                click.echo("{} by {}: {:.2f} dB".format(*group.key[:2], mean(group.rows, "psnr")), err=True)
        names = {contender.name for contender in contenders}
        return [row for row in store.rows if row["method"] in names]

    def made(self) -> str:
        """Name the images and the machine that the figures were made with."""
        images = f"the first {self.count} of {self.images.name}"
        machine = f"{self.restorer.engine.name}, {cores()} cores of {processor()}, Python {platform.python_version()}"
        seeds = "seed 0" if self.seeds == 1 else f"seeds 0 to {self.seeds - 1}"
        return f"{images}, {seeds}; frugal-rt {__version__}, {machine}"

    def write(self, name: str, lines: Iterable[str]) -> None:
        text = "\n".join(lines) + "\n"
        click.echo(text)
        (self.folder / f"{name}.md").write_text(text)


def study(command: Callable[[Study], None]) -> Callable[..., None]:
    """A command of this script: its options, and a Study made of them."""

    @wraps(command)
    def run(
        engine: Path, backend: str, images: Path, count: int, seeds: int, lpips: Path, output: Path, **more: Any
    ) -> None:
        output.mkdir(parents=True, exist_ok=True)
        command(Study(Restorer.load(engine, backend), images, count, Lpips(lpips), output, seeds), **more)

    path = click.Path(exists=True, path_type=Path)
    for option in (
        click.option("-o", "--output", type=click.Path(path_type=Path), required=True),
        click.option("--lpips", type=path, required=True),
        click.option("--seeds", default=1, show_default=True, help="how many seeds, from 0 on"),
        click.option("--count", default=20, show_default=True, help="how many of the images"),
        click.option("--images", type=path, required=True),
        click.option("--backend", default="auto", show_default=True),
        click.option("--engine", type=path, required=True),
    ):
        run = option(run)
    return run


def mean(rows: Iterable[Row], figure: str) -> float:
    return float(np.mean([row[figure] for row in rows]))


def by(rows: Sequence[Row], **wanted: Any) -> list[Row]:
    """Return the rows with the given values."""
    return [row for row in rows if all(row[name] == value for name, value in wanted.items())]


def means(rows: Sequence[Row], **wanted: Any) -> dict[str, float]:
    found = by(rows, **wanted)
    return {name: mean(found, name) for name in (*FIGURES, "k", "forwards", "gradients")}


def spread(values: Sequence[float], digits: int) -> str:
    """Mean +- standard error."""
    return f"{np.mean(values):.{digits}f} +- {np.std(values, ddof=1) / len(values) ** 0.5:.{digits}f}"


def save(figure: Figure, path: Path) -> None:
    figure.savefig(path, dpi=100)


@click.group(help=__doc__)
def main() -> None: ...


@main.command()
@click.option("--steps", default=50, show_default=True, help="T")
@study
def switch(study: Study, steps: int) -> None:
    """PSNR, LPIPS and time against k, for every task, and where the rule lands."""
    ks = sorted({max(1, round(share * steps)) for share in (0.02, 0.08, 0.3, 0.5)})
    fixed = {k: study.method("frugal", steps, f"k = {k}", switch=k) for k in ks}
    fixed[steps] = study.method("closed-form", steps, f"k = {steps}")
    rows = study.rows("switch", [*fixed.values(), study.method("frugal", steps, "auto")], TASKS, None)
    figure = Figure(figsize=(16, 6.5), layout="constrained")
    grid = figure.subplots(len(FIGURES), len(TASKS), sharex=True)
    for column, task in enumerate(TASKS):
        lines = [means(rows, task=task, method=fixed[k].name) for k in fixed]
        auto = means(rows, task=task, method="auto")
        for axes, name in zip(grid[:, column], FIGURES, strict=True):
            axes.plot(list(fixed), [line[name] for line in lines], marker="o", markersize=3, color=COLOURS["frugal"])
            axes.plot(auto["k"], auto[name], marker="*", markersize=12, color="tab:red", linestyle="none")
            axes.set_ylabel(LABELS[name] if column == 0 else "")
            axes.margins(y=0.2)
        grid[0, column].set_title(task)
        grid[-1, column].set_xlabel("k")
        grid[-1, column].set_ylim(0)
    save(figure, study.folder / "switch.png")
    study.write("switch", _switch_page(study, steps, rows, fixed))


def _switch_page(study: Study, steps: int, rows: Sequence[Row], fixed: Mapping[int, Method]) -> Iterator[str]:
    yield f"Hybrid, T = {steps}, {study.made()}. PSNR in dB / LPIPS at each k; k = {steps} is DMPS."
    yield ""
    yield f"| task | {' | '.join(str(k) for k in fixed)} | auto | auto's k | auto - best fixed, dB |"
    yield "| --- |" + " --- |" * (len(fixed) + 3)
    losses, columns = [], [*fixed.values(), "auto"]
    names = [getattr(column, "name", column) for column in columns]
    for task in TASKS:
        lines = {name: means(rows, task=task, method=name) for name in names}
        ks = [row["k"] for row in by(rows, task=task, method="auto")]
        losses.append(lines["auto"]["psnr"] - max(lines[name]["psnr"] for name in names[:-1]))
        cells = [f"{lines[name]['psnr']:.2f} / {lines[name]['lpips']:.4f}" for name in names]
        yield f"| {task} | {' | '.join(cells)} | {np.mean(ks):.1f} ({min(ks)}..{max(ks)}) | {losses[-1]:+.2f} |"
    lines = {name: means(rows, method=name) for name in names}
    best = max(lines[name]["psnr"] for name in names[:-1])
    cells = [f"{lines[name]['psnr']:.2f} / {lines[name]['lpips']:.4f}" for name in names]
    yield f"| mean | {' | '.join(cells)} | {lines['auto']['k']:.1f} | {lines['auto']['psnr'] - best:+.2f} |"
    for title, figure, digits in (("gradients", "gradients", 1), ("s an image", "seconds", 2)):
        yield f"| {title} | {' | '.join(format(lines[name][figure], f'.{digits}f') for name in names)} | | |"


@main.command()
@study
def frontier(study: Study) -> None:
    """PSNR and LPIPS against seconds: T = 10..100 by each method, and what was tried beside."""
    counts = (10, 20, 50, 100)
    curves = {name: [study.method(name, steps, f"{name}, T = {steps}") for steps in counts] for name in METHODS}
    tried = _tried(study)
    rows = study.rows("frontier", [*(one for curve in curves.values() for one in curve), *tried], TASKS, None)
    figure = Figure(figsize=(12, 5.2), layout="constrained")
    for axes, name in zip(figure.subplots(1, 2), ("psnr", "lpips"), strict=True):
        for label, curve in curves.items():
            points = [means(rows, method=one.name) for one in curve]
            seconds = [point["seconds"] for point in points]
            axes.plot(seconds, [point[name] for point in points], marker="o", color=COLOURS[label], label=label)
            for steps, point in zip(counts, points, strict=True):
                axes.annotate(str(steps), (point["seconds"], point[name]), textcoords="offset points", xytext=(4, 4))
                if label == "frugal" and steps in PRESETS.values():
                    axes.plot(point["seconds"], point[name], marker="o", markersize=12, mfc="none", color="black")
        for one in tried:
            point = means(rows, method=one.name)
            axes.plot(point["seconds"], point[name], marker="x", color="grey")
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel(LABELS["seconds"])
        axes.set_ylabel(f"{LABELS[name]}, mean of {len(TASKS)} tasks")
        where = "lower right" if name == "psnr" else "upper right"
        axes.legend(loc=where, fontsize="small", title="numbers: T; rings: presets; x: tried")
    save(figure, study.folder / "frontier.png")
    lines = [f"Means over the seven tasks, {study.made()}.", ""]
    lines += [
        "| method | PSNR, dB | LPIPS | forwards | gradients | s an image |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for one in [*(one for curve in curves.values() for one in curve), *tried]:
        point = means(rows, method=one.name)
        calls = f"{point['forwards']:.0f} | {point['gradients']:.1f} | {point['seconds']:.2f}"
        lines.append(f"| {one.name} | {point['psnr']:.2f} | {point['lpips']:.4f} | {calls} |")
    study.write("frontier", lines)


def _tried(study: Study) -> list[Method]:
    """Variants of `frugal` of 50 steps."""
    plain = study.method("frugal", 50)
    made: list[Method] = [
        study.method("frugal", 50, f"frugal, T = 50, a gradient every {m} steps", every=m) for m in (3, 5, 10)
    ]
    for name, constants in {
        "eta at most 0.7": {"MOST_FRESH": 0.7},
        "eta up to 1": {"MOST_FRESH": 1.0},
        "noise renewed as fast as by ancestral steps": {"EARLY_RATE": 1.0, "LATE_RATE": 1.0},
        "noise never renewed (DDIM)": {"MOST_FRESH": 0.0},
    }.items():
        made.append(Renewed(study.restorer, f"frugal, T = 50, {name}", plain.settings, tuple(constants.items())))
    return made


@main.command()
@click.option("--most", default=1000, show_default=True, help="the largest T")
@study
def steps(study: Study, most: int) -> None:
    """One default for every T and sigma: four tasks, one for each kind of operator."""
    tasks, sigmas = ("box", "sr4", "colorize", "gaussian"), (0.01, 0.5)
    counts = [steps for steps in (20, 50, 100, 300, 1000) if steps <= most]
    methods = [study.method("frugal", t, f"frugal, T = {t}") for t in counts]
    methods += [study.method("dps", t, f"dps, T = {t}") for t in counts]
    lines = [f"PSNR in dB / LPIPS, {study.made()}.", ""]
    lines += [f"| task | sigma | method | {' | '.join(f'T = {t}' for t in counts)} |"]
    lines += ["| --- | --- | --- |" + " --- |" * len(counts)]
    rows = {sigma: study.rows(f"steps-{sigma:g}", methods, tasks, sigma) for sigma in sigmas}
    for task in tasks:
        for sigma in sigmas:
            for name in ("frugal", "dps"):
                cells = []
                for t in counts:
                    mine = by(rows[sigma], task=task, method=f"{name}, T = {t}")
                    cells.append(f"{mean(mine, 'psnr'):.2f} / {mean(mine, 'lpips'):.3f}" if mine else "")
                lines.append(f"| {task} | {sigma:g} | {name} | {' | '.join(cells)} |")
    study.write("steps", lines)


@main.command()
@click.option("--task", default="sr16", show_default=True)
@click.option("--steps", default=100, show_default=True, help="T")
@study
def zeta(study: Study, task: str, steps: int) -> None:
    """DPS and the poster's hybrid by zeta, and DMPS; all with the papers' steps, lambda as in the official code."""
    official: dict[str, Any] = {"guidance": "official"}
    dmps = study.method("dmps", steps, "dmps", **official)
    ks = [round(share * steps) for share in (0.25, 0.5, 0.75)]
    scanned = {
        z: [
            study.method("dps", steps, f"dps, zeta {z:g}", zeta=z, **official),
            *[study.method("hybrid", steps, f"hybrid, zeta {z:g}, {k}", zeta=z, switch=k, **official) for k in ks],
        ]
        for z in (0.3, 1.0, 2.0, 4.0, 6.0, 9.0, 14.0)
    }
    rows = study.rows("zeta", [dmps, *(one for pair in scanned.values() for one in pair)], [task], 0.01)
    lines = [f"{TASKS[task].title(study.restorer.image_shape)}, T = {steps}, sigma 0.01, {study.made()}.", ""]
    lines += [f"| zeta | dps | {' | '.join(f'hybrid, k = {k}' for k in ks)} |", "| ---: |" + " ---: |" * (1 + len(ks))]
    for z, contenders in scanned.items():
        points = [means(by(rows, method=one.name)) for one in contenders]
        lines.append(f"| {z:g} | {' | '.join('{psnr:.2f} / {lpips:.4f}'.format(**point) for point in points)} |")
    lines += ["", "DMPS, lambda 1.75: {psnr:.2f} / {lpips:.4f}.".format(**means(by(rows, method=dmps.name)))]
    study.write("zeta", lines)


FAIR_ZETA = 9.0
"""The zeta of DPS that is best for super-resolution x16 at T = 100, by the command `zeta`."""
POSTER = {
    "dps": ("19.37", "0.25", "17.72"),
    "hybrid": ("19.97", "0.24", "13.42"),
    "dmps": ("15.63", "0.41", "9.19"),
}
"""Its Table 1: PSNR, LPIPS, seconds."""


@main.command()
@click.option("--ood", type=click.Path(exists=True, path_type=Path), required=True, help="out-of-distribution pictures")
@study
def poster(study: Study, ood: Path) -> None:
    """The poster's Table 1 and its three figures, in numbers, each by our own step sizes and by the official ones."""
    strangers = replace(study, images=ood, count=len(list(ood.iterdir())))
    parts = [
        ("Table 1: super-resolution x16, T = 100, k = 50", study, "sr16", 100),
        ("Figure 1: super-resolution x16, T = 300, k = 150", study, "sr16", 300),
        ("Figure 2: inpainting, 24x24 hole, T = 100, k = 50", study, "box", 100),
        ("Figure 3: inpainting out of distribution, T = 100, k = 50", strangers, "box", 100),
    ]
    lines: list[str] = []
    for number, (title, of, task, count) in enumerate(parts):
        half = partial(of.method, "hybrid", count, switch=count // 2)
        contenders = {
            ("dps", "own"): of.method("dps", count, f"dps, T = {count}"),
            ("dmps", "own"): of.method("dmps", count, f"dmps, T = {count}"),
            ("hybrid", "own"): half(f"hybrid, T = {count}"),
            ("hybrid, auto k", "own"): of.method("hybrid", count, f"hybrid auto, T = {count}"),
            ("closed-form", "own"): of.method("closed-form", count, f"closed form, T = {count}"),
            ("frugal", "own"): of.method("frugal", count, f"frugal, T = {count}"),
            ("dps", "official"): of.method("dps", count, f"dps official, T = {count}", guidance="official"),
            ("dmps", "official"): of.method("dmps", count, f"dmps official, T = {count}", guidance="official"),
            ("hybrid", "official"): half(f"hybrid official, T = {count}", guidance="official"),
        }
        if number == 0:
            fair: dict[str, Any] = {"guidance": "official", "zeta": FAIR_ZETA}
            contenders["dps", f"zeta {FAIR_ZETA:g}"] = of.method("dps", count, "dps fair", **fair)
            contenders["hybrid", f"zeta {FAIR_ZETA:g}"] = half("hybrid fair", **fair)
        if number in (1, 2):  # to save time
            contenders = {key: one for key, one in contenders.items() if key[1] == "own"}
        rows = of.rows(f"poster-{number}", list(contenders.values()), [task], 0.01)
        lines += [f"## {title}", "", f"sigma 0.01, {of.made()}.", ""]
        lines += ["| method | steps | PSNR, dB | LPIPS | forwards | gradients | s an image | poster: dB, LPIPS, s |"]
        lines += ["| --- |" + " --- |" * 7]
        for (name, guidance), contender in contenders.items():
            mine = by(rows, method=contender.name)
            point = means(mine)
            values = [spread([row[figure] for row in mine], digits) for figure, digits in (("psnr", 2), ("lpips", 4))]
            calls = f"{point['forwards']:.0f} | {point['gradients']:.1f} | {point['seconds']:.2f}"
            theirs = ", ".join(POSTER.get(name, ())) if number == 0 else ""
            lines.append(f"| {name} | {guidance} | {' | '.join(values)} | {calls} | {theirs} |")
        lines += [""]
    study.write("poster", lines[:-1])
    write_png(study.folder / "poster.png", _portraits(study.restorer))


def _portraits(restorer: Restorer) -> Image.Image:
    """The poster's figures 1 and 2 on the packaged portrait, which is in the public domain."""
    clean = read_photo(PORTRAIT).pixels
    lines = []
    for task, steps in (("sr16", 300), ("box", 100)):
        operator = TASKS[task].operator(restorer.image_shape)
        y = measure(operator, clean[None], 0.01, 0)[0]
        cells = [(to_picture(clean), "clean"), (to_picture(y, getattr(operator, "missing", None)), "measurement")]
        for method in METHODS:
            k = steps // 2 if method == "hybrid" else None
            image = restorer.restore(y, operator, steps=steps, method=method, switch=k).image
            cells.append((to_picture(image), f"{method}  {psnr(image[None], clean[None])[0]:.1f} dB"))
        lines.append((f"{TASKS[task].title(restorer.image_shape)}, T = {steps}", cells))
    return contact_sheet(lines)


if __name__ == "__main__":
    main()
