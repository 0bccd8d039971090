"""Report of an evaluation's rows: means, standard errors and paired differences, as data, Markdown and pictures."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from ..operators import Inpaint, Shape
from ..pictures.damage import SIGMA
from ..pictures.images import to_picture
from ..sampling.guidance import METHODS
from .calibration import EXPECTED
from .classical import PLAIN
from .contact_sheet import contact_sheet
from .contender import OURS
from .evaluate import Row
from .picture_set import PictureSet
from .suite import KNOWN, TASKS, measure, seen

FIGURES = {"psnr": 2, "ssim": 4, "lpips": 4}
"""Figures of quality, and their digits in a table."""
SPREAD = (*(f"coverage{n}" for n in EXPECTED), "correlation")
COST = ("k", "forwards", "gradients", "seconds")


class Estimate(NamedTuple):
    """A mean over images and its standard error; None where it is not defined."""

    mean: float | None
    se: float | None

    def text(self, digits: int, sign: str = "") -> str:
        if self.mean is None:
            return ""
        return f"{self.mean:{sign}.{digits}f}" + (f" +- {self.se:.{digits}f}" if self.se is not None else "")


def estimate(values: np.ndarray) -> Estimate:
    """Return the mean and standard error of a value for each image; None where not finite, or of a single image."""
    with np.errstate(invalid="ignore"):
        mean = float(values.mean())
        se = float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else np.nan
    return Estimate(*(float(one) if np.isfinite(one) else None for one in (mean, se)))


def results(rows: Sequence[Row], run: Mapping[str, Any]) -> dict[str, Any]:
    """Return {"rows": one for each task and method, "run": run}, in JSON's types.

    A row's figures are means over images, of which each is first averaged over its seeds. Standard errors are psnr_se
    and so on. lpips is null where it was not measured, k where the method has no switch. `calls` and `forwards` count
    forward calls an image; gradients are counted separately. Coverage and correlation are given for samples.
    """
    found = []
    for task, method in _pairs(rows):
        mine = [row for row in rows if (row["task"], row["method"]) == (task, method)]
        row: dict[str, Any] = {"task": task, "method": method}
        for figure in (*FIGURES, *(name for name in SPREAD if name in mine[0])):
            row[figure], row[f"{figure}_se"] = estimate(_by_image(mine, figure))
        row |= {name: estimate(_by_image(mine, name)).mean for name in COST}
        images, seeds = ({one[name] for one in mine} for name in ("image", "seed"))
        found.append({**row, "calls": row["forwards"], "images": len(images), "seeds": len(seeds)})
    return {"rows": found, "run": dict(run)}


def paired(rows: Sequence[Row], first: str, second: str) -> dict[str, dict[str, Any]]:
    """Return `first` minus `second` for each task of both methods: an Estimate by figure, and the ratio of times.

    An image's difference is the mean over the seeds that both have; the standard error is of these differences.
    """
    found: dict[str, dict[str, Any]] = {}
    for task in dict(_pairs(rows)):
        sides = [
            {(row["image"], row["seed"]): row for row in rows if (row["task"], row["method"]) == (task, method)}
            for method in (first, second)
        ]
        common = [key for key in sides[0] if key in sides[1]]
        if not common:
            continue
        ours, theirs = ([side[key] for key in common] for side in sides)
        gaps = {figure: estimate(_by_image(ours, figure) - _by_image(theirs, figure)) for figure in FIGURES}
        seconds = [float(np.mean([row["seconds"] for row in side])) for side in (ours, theirs)]
        found[task] = {**gaps, "time": seconds[0] / seconds[1] if seconds[1] else None}
    return found


def markdown(rows: Sequence[Row], run: Mapping[str, Any], shape: Shape) -> str:
    """Return the tables, after a header with the settings."""
    parts = (
        _header(rows, run),
        [""],
        _table(rows, run, shape),
        _spread(rows, run, shape),
        _paired(rows, shape),
        _beside(rows, run, shape),
    )
    return "\n".join(line for part in parts for line in part) + "\n"


def sheet(
    rows: Sequence[Row],
    pictures: PictureSet,
    restored: Callable[[str, str], Sequence[Image.Image] | None],
    sigma: float | None,
) -> Image.Image:
    """Draw the first images for each task: clean, measurement, and restored by each method with seed 0.

    `restored(task, method)` returns the restored pictures of the first images, or None.
    """
    channels, height, width = pictures.images.shape[1:]
    shape = (channels, height, width)
    score = {(row["task"], row["method"], row["image"]): row["psnr"] for row in rows if row["seed"] == 0}
    lines = []
    for task in dict(_pairs(rows)):
        found = {method: restored(task, method) for one, method in _pairs(rows) if one == task}
        columns = {method: made for method, made in found.items() if made}
        count = min(len(pictures.names), *map(len, columns.values()), *([] if columns else [1]))
        operator = KNOWN[task].operator(shape)
        clean = pictures.images[:count]
        y = measure(operator, clean, KNOWN[task].noise(sigma), 0)
        missing = operator.missing if isinstance(operator, Inpaint) else None
        for i, name in enumerate(pictures.names[:count]):
            cells = [(to_picture(clean[i]), "clean"), (to_picture(seen(operator, y[i]), missing), "measurement")]
            cells += [
                (made[i], f"{method}  {score[task, method, name]:.1f} dB")
                for method, made in columns.items()
                if (task, method, name) in score
            ]
            lines.append((f"{KNOWN[task].title(shape)}: {name}", cells))
    return contact_sheet(lines, tile=160)


def _pairs(rows: Sequence[Row]) -> list[tuple[str, str]]:
    """Return every (task, method) of the rows: tasks in the suite's order, our methods first."""
    methods = [*OURS, *sorted({row["method"] for row in rows} - {*OURS})]
    there = {(row["task"], row["method"]) for row in rows}
    return [(task, method) for task in KNOWN for method in methods if (task, method) in there]


def _by_image(rows: Sequence[Row], figure: str) -> np.ndarray:
    """Return the mean over seeds for each image, in the order of names; NaN where it was not measured."""
    names = sorted({row["image"] for row in rows})
    values: dict[str, list[float]] = {name: [] for name in names}
    for row in rows:
        values[row["image"]].append(np.nan if row[figure] is None else row[figure])
    return np.array([np.mean(values[name]) for name in names])


def _header(rows: Sequence[Row], run: Mapping[str, Any]) -> Iterator[str]:
    images, settings = run["images"], dict(run["settings"])
    steps = f", T = {settings.pop('steps')}"
    chosen = steps * bool({row["method"] for row in rows} & {*METHODS})
    chosen += "".join(f", {name} {value}" for name, value in settings.items())
    noise = f"noise {SIGMA if run['sigma'] is None else run['sigma']:g} on [-1, 1]"
    if run["sigma"] is None:
        tasks = {row["task"] for row in rows}
        noise += ", denoise 0.25" * ("denoise" in tasks) + " where a task names none" * (not tasks <= {*TASKS})
    count = f"{images['count']} image{'s' * (images['count'] > 1)}"
    yield f"# {run['prior']}: {count}{chosen}; {noise}"
    yield ""
    made = run.get("made_with", {})
    if made:
        tools = ", ".join(f"{name} {version}" for name, version in made["versions"].items())
        yield f"{run['backend']} on {made['cores']} cores of {made['processor']}; {tools}."
    several = f" Of the mean of {run['samples']} samples; calls and seconds are those of all." if run["samples"] else ""
    yield (
        "Mean +- standard error over images, each averaged over its seeds. k: steps left at the switch. Seconds are an "
        f"image's share of its batch.{several}"
    )


def _table(rows: Sequence[Row], run: Mapping[str, Any], shape: Shape) -> Iterator[str]:
    yield "| task | method | PSNR, dB | SSIM | LPIPS | k | forwards | gradients | s an image |"
    yield "| --- | --- | --- | --- | --- | --- | --- | --- | --- |"
    for row, title in _titled(results(rows, run)["rows"], shape):
        figures = [Estimate(row[name], row[f"{name}_se"]).text(digits) for name, digits in FIGURES.items()]
        cost = [
            "" if row[name] is None else f"{row[name]:.{digits}f}"
            for name, digits in zip(COST, (0, 0, 0, 2), strict=True)
        ]
        yield f"| {' | '.join([title, row['method'], *figures, *cost])} |"


def _spread(rows: Sequence[Row], run: Mapping[str, Any], shape: Shape) -> Iterator[str]:
    found = [row for row in results(rows, run)["rows"] if SPREAD[0] in row]
    if not found:
        return
    yield ""
    yield "Truth within so many deviations of the samples' mean, and how the deviation goes with the error:"
    yield ""
    expected = " | ".join(f"within {n} (Gaussian: {share})" for n, share in EXPECTED.items())
    yield f"| task | method | {expected} | correlation |"
    yield "| --- | --- | --- | --- | --- |"
    for row, title in _titled(found, shape):
        figures = [Estimate(row[name], row[f"{name}_se"]).text(3) for name in SPREAD]
        yield f"| {' | '.join([title, row['method'], *figures])} |"


def _paired(rows: Sequence[Row], shape: Shape) -> Iterator[str]:
    gaps = paired(rows, "frugal", "dps")
    if not gaps:
        return
    yield ""
    yield "frugal minus dps, paired by image:"
    yield ""
    yield "| task | PSNR, dB | SSIM | LPIPS | time |"
    yield "| --- | --- | --- | --- | --- |"
    for task, gap in gaps.items():
        figures = [gap[name].text(digits, "+") for name, digits in FIGURES.items()]
        time = "" if gap["time"] is None else f"x{gap['time']:.2f}"
        yield f"| {' | '.join([KNOWN[task].title(shape), *figures, time])} |"


def _beside(rows: Sequence[Row], run: Mapping[str, Any], shape: Shape) -> Iterator[str]:
    """Yield the table of each of our methods beside the plain method with the highest PSNR, by task."""
    found = {(row["task"], row["method"]): row for row in results(rows, run)["rows"]}
    ours = [method for method in OURS if method in {name for _, name in found}]
    lines = []
    for task in dict.fromkeys(task for task, _ in found):
        mine = [found[task, method] for method in ours if (task, method) in found]
        plain = [found[task, method] for method in PLAIN if (task, method) in found]
        if not mine or not plain:
            continue
        best = max(plain, key=lambda row: row["psnr"])
        nearest = max(mine, key=lambda row: row["psnr"])
        gap = paired(rows, nearest["method"], best["method"])[task]["psnr"].text(2, "+")
        measured = [row["lpips"] for row in mine if row["lpips"] is not None]
        ratio = f"{min(measured) / best['lpips']:.2f}" if measured and best["lpips"] else ""
        cells = [_figures(found[task, method]) if (task, method) in found else "" for method in ours]
        title = KNOWN[task].title(shape)
        lines.append(f"| {' | '.join([title, best['method'], _figures(best), *cells, gap, ratio])} |")
    if lines:
        yield ""
        yield (
            "The plain method of the highest PSNR beside ours: PSNR in dB / SSIM / LPIPS (seconds an image). Last: our "
            "highest PSNR minus its, paired by image, and our lowest LPIPS divided by its."
        )
        yield ""
        yield f"| task | plain method | | {' | '.join(ours)} | dB | LPIPS |"
        yield f"| --- | --- | {'---: | ' * len(ours)}---: | ---: | ---: |"
        yield from lines


def _figures(row: Mapping[str, Any]) -> str:
    figures = [
        f"{row[name]:.{digits}f}" for name, digits in (("psnr", 2), ("ssim", 3), ("lpips", 4)) if row[name] is not None
    ]
    return f"{' / '.join(figures)} ({row['seconds']:.2f})"


def _titled(rows: Sequence[Mapping[str, Any]], shape: Shape) -> Iterator[tuple[Mapping[str, Any], str]]:
    """Yield rows with their task's title; the title is empty after the task's first row."""
    last = None
    for row in rows:
        yield row, KNOWN[row["task"]].title(shape) if row["task"] != last else ""
        last = row["task"]
