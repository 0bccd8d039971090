"""PSNR and LPIPS of DPS, DMPS and the hybrid over seven tasks: the tables of docs/results.md, and their step sizes.

python tests/bench/quality.py tune   --engine celeba.plan --images tune-100.tar --lpips lpips_alex.onnx
python tests/bench/quality.py report --engine celeba.plan --images report-20 --lpips lpips_alex.onnx -o docs/results.md
"""

import io
import itertools
import json
import platform
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnxruntime
from PIL import Image

from frugal_rt import Restorer, __version__, operators
from frugal_rt.engines.files import atomic_write
from frugal_rt.engines.machine import cores, processor
from frugal_rt.runtime.metrics import psnr
from frugal_rt.runtime.noise import Use, normal
from frugal_rt.runtime.switch import METHODS
from frugal_rt.runtime.tasks import border_mask, box_mask

Shape = tuple[int, int, int]
TASKS: dict[str, tuple[str, Callable[[Shape], operators.Operator], float]] = {
    "sr16": ("super-resolution x16", lambda s: operators.SuperResolution(s, 16), 0.01),
    "sr4": ("super-resolution x4", lambda s: operators.SuperResolution(s, 4), 0.01),
    "box": ("inpainting, 24x24 hole", lambda s: operators.Inpaint(s, box_mask(s, 24, 24)), 0.01),
    "outpaint": ("outpainting, 40x40 kept", lambda s: operators.Inpaint(s, border_mask(s, 40, 40)), 0.01),
    "colorize": ("colourise (Rec. 601)", lambda s: operators.Colorize(s), 0.01),
    "gaussian": ("Gaussian deblur, std 2 px", lambda s: operators.Deblur.gaussian(s, 2.0), 0.01),
    "denoise": ("denoise", operators.Denoise, 0.25),
}


def load_images(path: Path) -> np.ndarray:
    """Every JPEG of a folder or a tar, sorted by name: (N, 3, H, W) float32 on [-1, 1]."""
    if path.is_dir():
        files = {file.name: file.read_bytes() for file in path.glob("*.jpg")}
    else:
        with tarfile.open(path) as tar:
            files = {m.name: tar.extractfile(m).read() for m in tar.getmembers() if m.name.endswith(".jpg")}
    pixels = [np.asarray(Image.open(io.BytesIO(files[name])).convert("RGB")) for name in sorted(files)]
    return (np.stack(pixels).transpose(0, 3, 1, 2) / 127.5 - 1).astype(np.float32)


class Lpips:
    """LPIPS by the ONNX file: `image`, `reference` (N, 3, H, W) on [-1, 1] -> (N,)."""

    def __init__(self, path: Path):
        self._session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def __call__(self, image: np.ndarray, reference: np.ndarray) -> np.ndarray:
        return self._session.run(None, {"image": image, "reference": reference})[0]


def measure(operator: operators.Operator, images: np.ndarray, sigma: float, seed: int) -> np.ndarray:
    """y = A x + sigma n, the noise keyed by (seed, index of the image)."""
    noise = [normal(operator.measurement_shape, seed, i, Use.MEASUREMENT) for i in range(len(images))]
    return operator.observed(operator.A(images) + np.float32(sigma) * np.stack(noise))


def evaluate(
    restorer: Restorer, lpips: Lpips, task: str, images: np.ndarray, seed: int, **settings: Any
) -> dict[str, Any]:
    """One batch restored: per-image figures, and the wall time of an image in this batch."""
    _, build, sigma = TASKS[task]
    operator = build(restorer.image_shape)
    y = measure(operator, images, sigma, seed)
    started = time.perf_counter()
    result = restorer.restore(y, operator, sigma=sigma, seed=seed, **settings)
    return {
        "task": task,
        "seed": seed,
        "psnr": psnr(result.image, images).tolist(),
        "lpips": lpips(result.image, images).tolist(),
        "k": list(result.k),
        "seconds": (time.perf_counter() - started) / len(images),
        "forwards": float(np.mean(result.forwards)),
        "pullbacks": float(np.mean(result.pullbacks)),
        "zeta": result.settings["zeta"],
        "lambda": result.settings["lambda"],
        "steps": result.settings["steps"],
    }


def summary(rows: list[dict[str, Any]], figure: str) -> tuple[float, float]:
    """Mean and standard error over images, each image first averaged over the seeds."""
    images = np.mean([row[figure] for row in rows], axis=0)
    return float(images.mean()), float(images.std(ddof=1) / np.sqrt(len(images)))


def machine() -> str:
    """What the figures were made on and with."""
    tools = f"frugal-rt {__version__}, onnxruntime {onnxruntime.__version__}, Python {platform.python_version()}"
    return f"{cores()} cores of {processor()}, {tools}"


COMMON = (
    click.option("--engine", type=click.Path(exists=True, path_type=Path), required=True),
    click.option("--images", type=click.Path(exists=True, path_type=Path), required=True),
    click.option("--lpips", type=click.Path(exists=True, path_type=Path), required=True),
    click.option("--tasks", default=",".join(TASKS), help="comma-separated"),
    click.option("--steps", default=100),
    click.option("--count", default=20, help="how many of the images"),
    click.option("--backend", default="auto", show_default=True),
    click.option("-o", "--output", type=click.Path(path_type=Path), help="Markdown; the rows go beside it as .json"),
)


def common(command: Callable[..., None]) -> Callable[..., None]:
    for option in reversed(COMMON):
        command = option(command)
    return command


@click.group(help=__doc__)
def main() -> None: ...


@main.command()
@common
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
    restorer, distance, clean = Restorer.load(engine, backend), Lpips(lpips), load_images(images)[:count]
    lines = [
        f"{method.upper()}, T = {steps}, the first {count} of {images.name}, seed 0; {machine()}",
        "",
        "| task | zeta | lambda | PSNR | LPIPS | k | s an image |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    click.echo("\n".join(lines))
    for task in tasks.split(","):
        for zeta, lam in itertools.product(zetas.split(","), lambdas.split(",")):
            values = {"zeta": None if zeta == "own" else float(zeta), "lam": None if lam == "own" else float(lam)}
            row = evaluate(restorer, distance, task, clean, 0, steps=steps, switch=switch or METHODS[method], **values)
            lines.append(
                f"| {task} | {zeta} | {lam} | {np.mean(row['psnr']):.2f} | {np.mean(row['lpips']):.4f} "
                f"| {np.mean(row['k']):.0f} | {row['seconds']:.2f} |"
            )
            click.echo(lines[-1])
    if output is not None:
        output.write_text("\n".join(lines) + "\n")


@main.command()
@common
@click.option("--seeds", default=3)
@click.option("--methods", default=",".join(METHODS), help="comma-separated")
@click.option("--zeta", default="", help="Constants for DPS, and so the hybrid: sr16=9,box=3; else their own step.")
@click.option("--lambda", "lam", type=float, help="A constant for DMPS.")
def report(
    engine: Path,
    images: Path,
    lpips: Path,
    tasks: str,
    steps: int,
    count: int,
    backend: str,
    output: Path | None,
    seeds: int,
    methods: str,
    zeta: str,
    lam: float | None,
) -> None:
    """The table of every task by every method; rows that the same run left in OUTPUT's .json are kept."""
    restorer, distance, clean = Restorer.load(engine, backend), Lpips(lpips), load_images(images)[:count]
    output = output or Path("results.md")
    zetas = dict(pair.split("=") for pair in zeta.split(",") if pair)
    store = output.with_suffix(".json")
    run = {
        "images": images.name,
        "count": len(clean),
        "steps": steps,
        "zeta": zeta,
        "lambda": lam,
        "backend": restorer.engine.name,
        "weights_sha256": restorer.plan.manifest["members"]["weights.safetensors"]["sha256"],
        "version": __version__,
    }
    kept = json.loads(store.read_text()) if store.exists() else {"run": run, "rows": []}
    if kept["run"] != run:
        raise click.ClickException(f"{store} is of another run; move it away, or name another output")
    rows: list[dict[str, Any]] = kept["rows"]
    for task, seed, method in itertools.product(tasks.split(","), range(seeds), methods.split(",")):
        if any((row["task"], row["seed"], row["method"]) == (task, seed, method) for row in rows):
            continue
        constant = float(zetas[task]) if task in zetas else None
        row = evaluate(
            restorer, distance, task, clean, seed, steps=steps, switch=METHODS[method], zeta=constant, lam=lam
        )
        rows.append({"method": method, **row})
        click.echo(f"{task} {method} seed {seed}: {np.mean(row['psnr']):.2f} dB, LPIPS {np.mean(row['lpips']):.4f}")
        with atomic_write(store) as file:
            file.write(json.dumps({"run": run, "rows": rows}).encode())
    with atomic_write(output) as file:
        file.write("\n".join([*table(rows, run), ""]).encode())


@main.command()
@click.argument("first", type=click.Path(exists=True, path_type=Path))
@click.argument("second", type=click.Path(exists=True, path_type=Path))
def compare(first: Path, second: Path) -> None:
    """Two reports' .json, SECOND minus FIRST: the same images, seeds and tasks by another backend or prior."""
    reports = [json.loads(path.read_text()) for path in (first, second)]
    click.echo("| task | method | PSNR, dB | LPIPS |\n| --- | --- | --- | --- |")
    gaps: dict[str, list[float]] = {"psnr": [], "lpips": []}
    for task, method in itertools.product(TASKS, METHODS):
        both = [[row for row in r["rows"] if (row["task"], row["method"]) == (task, method)] for r in reports]
        if not all(both):
            continue
        for figure, values in gaps.items():
            a, b = (np.mean([row[figure] for row in rows]) for rows in both)
            values.append(float(b - a))
        click.echo(f"| {TASKS[task][0]} | {method} | {gaps['psnr'][-1]:+.2f} | {gaps['lpips'][-1]:+.4f} |")
    click.echo(f"| mean | | {np.mean(gaps['psnr']):+.2f} | {np.mean(gaps['lpips']):+.4f} |")


def table(rows: list[dict[str, Any]], run: dict[str, Any]) -> Iterator[str]:
    """The report as Markdown lines."""
    methods = [method for method in METHODS if any(row["method"] == method for row in rows)]
    zeta = f" --zeta {run['zeta']}" if run["zeta"] else ""
    yield "# DPS, DMPS and the hybrid on seven tasks"
    yield ""
    yield "    python tests/bench/quality.py report --engine celeba.plan --images ../shared/data/celeba64/report-20 \\"
    yield "        --lpips ../shared/data/metrics/lpips_alex.onnx -o docs/results.md" + zeta
    yield ""
    seeds = len({row["seed"] for row in rows})
    own = f"zeta {run['zeta']} and else its own step" if run["zeta"] else "its own step"
    drawn = f"{seeds} seed{'s' * (seeds > 1)}"
    yield f"Images: {run['images']}, {run['count']}; {drawn}; T = {run['steps']}; DPS with {own},"
    yield "and the hybrid with the same (docs/method.md, docs/zeta.md);"
    yield "noise 0.01 on [-1, 1], denoise 0.25. The figures of every image are in results.json."
    yield f"Made on {machine()}, {run['backend']}; an image's seconds are those of a batch of {run['count']}, shared."
    yield "Mean +- standard error over images, each averaged over its seeds. k: DMPS steps at the switch."
    yield ""
    yield "| task | method | PSNR, dB | LPIPS | k | forwards | gradients | s an image |"
    yield "| --- | --- | --- | --- | --- | --- | --- | --- |"
    for task in [name for name in TASKS if any(row["task"] == name for row in rows)]:
        for method in methods:
            mine = [row for row in rows if (row["task"], row["method"]) == (task, method)]
            k, forwards, pullbacks, seconds = (
                np.mean([row[f] for row in mine]) for f in ("k", "forwards", "pullbacks", "seconds")
            )
            (psnr_mean, psnr_se), (lpips_mean, lpips_se) = summary(mine, "psnr"), summary(mine, "lpips")
            yield (
                f"| {TASKS[task][0] if method == methods[0] else ''} | {method} | {psnr_mean:.2f} +- {psnr_se:.2f} "
                f"| {lpips_mean:.4f} +- {lpips_se:.4f} | {k:.0f} | {forwards:.0f} | {pullbacks:.0f} | {seconds:.2f} |"
            )
    if not {"dps", "hybrid"} <= {*methods}:
        return
    yield ""
    yield "Hybrid minus DPS, paired by image:"
    yield ""
    yield "| task | PSNR, dB | LPIPS | time |"
    yield "| --- | --- | --- | --- |"
    for task in [name for name in TASKS if any(row["task"] == name for row in rows)]:
        cells = []
        for figure, digits in (("psnr", 2), ("lpips", 4)):
            hybrid, dps = (
                np.mean([row[figure] for row in rows if (row["task"], row["method"]) == (task, method)], axis=0)
                for method in ("hybrid", "dps")
            )
            gap = hybrid - dps
            cells.append(f"{gap.mean():+.{digits}f} +- {gap.std(ddof=1) / np.sqrt(len(gap)):.{digits}f}")
        seconds = {
            method: np.mean([row["seconds"] for row in rows if (row["task"], row["method"]) == (task, method)])
            for method in ("hybrid", "dps")
        }
        yield f"| {TASKS[task][0]} | {cells[0]} | {cells[1]} | x{seconds['hybrid'] / seconds['dps']:.2f} |"


if __name__ == "__main__":
    main()
