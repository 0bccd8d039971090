"""What a GPU makes of the targets: python tests/gpu/figures.py --engine celeba.plan -o DIR [--images faces]

Times of calls and steps at 64x64 and 256x256 by every backend (frugal-rt bench), the hybrid of 100 steps and k = 50 at
256x256, and what fp16 and bf16 change in PSNR on pictures. One file a part, so that what is done is kept.
"""

import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np

from frugal_rt import Plan, Restorer
from frugal_rt.engines import ON_CPU, PRECISIONS, BackendError, cuda, open_engine, tensorrt_build, tensorrt_module
from frugal_rt.export import build_plan
from frugal_rt.export.random_prior import random_prior
from frugal_rt.runtime.bench import backends, bench
from frugal_rt.runtime.bench_report import markdown
from frugal_rt.runtime.demo import TASKS as DEMO
from frugal_rt.runtime.demo import measure as portrait
from frugal_rt.runtime.metrics import psnr
from frugal_rt.runtime.picture_set import read_pictures
from frugal_rt.runtime.suite import TASKS, measure


def build_all(plan: Plan, batches: tuple[int, ...]) -> dict[str, str]:
    """Every engine that this machine can have; why it has not the others."""
    failed = {}
    for flavour in tensorrt_module.FLAVOURS:
        for precision in PRECISIONS:
            try:
                tensorrt_build.build(plan, flavour, precision=precision, batches=batches)
            except (BackendError, ValueError) as error:
                failed[f"{flavour}:{precision}"] = str(error)
    return failed


def over_backends(plan: Plan, work: Callable[[Restorer], object]) -> dict[str, object]:
    """What `work` gives with each backend, or why it does not run."""
    found: dict[str, object] = {}
    for name in [name for name in backends(compiled=False) if name not in ON_CPU]:
        try:
            found[name] = work(Restorer(plan, open_engine(plan, name)))
        except (BackendError, ValueError) as error:
            found[name] = str(error)
    return found


def hybrid(plan: Plan) -> dict[str, object]:
    """Seconds of a restoration of 100 steps, k = 50, one image; the median of 5 after the first."""

    def seconds(restorer: Restorer) -> float:
        made = portrait(restorer, DEMO[0], seed=0)
        taken = [sum(restorer.restore(made.y, made.operator, steps=100, switch=50).seconds.values()) for _ in range(6)]
        return float(np.median(taken[1:]))

    return over_backends(plan, seconds)


def changes(plan: Plan, images: Path, count: int) -> dict[str, object]:
    """By task, PSNR minus that of torch's fp32 on this GPU, in dB, the mean over `count` pictures."""
    clean = read_pictures(images, plan.image_shape, count).images

    def decibels(restorer: Restorer) -> dict[str, float]:
        found = {}
        for name, task in TASKS.items():
            operator = task.operator(plan.image_shape)
            y = measure(operator, clean, task.sigma, seed=0)
            result = restorer.restore(y, operator, sigma=task.sigma, steps=100, switch=50, batch=len(clean))
            found[name] = float(psnr(result.image, clean).mean())
        return found

    found = over_backends(plan, decibels)
    base = found["torch:fp32"]
    assert isinstance(base, dict), base
    return {
        name: {task: value - base[task] for task, value in one.items()} if isinstance(one, dict) else one
        for name, one in found.items()
    }


@click.command(help=__doc__)
@click.option("--engine", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--images", type=click.Path(exists=True, path_type=Path))
@click.option("--count", default=20)
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True)
@click.option("--parts", default="64,256,hybrid,psnr")
@click.option("--rounds", default=3)
def main(engine: Path, images: Path | None, count: int, output: Path, parts: str, rounds: int) -> None:
    if cuda.trouble():
        raise click.ClickException(f"this needs a CUDA machine: {cuda.trouble()}")
    output.mkdir(parents=True, exist_ok=True)
    wanted, small = parts.split(","), Plan.open(engine)
    kept = output / "figures.json"
    report: dict[str, object] = json.loads(kept.read_text()) if kept.is_file() else {}
    report["device"] = cuda.devices()[0]._asdict()

    def keep(name: str, found: object) -> None:
        report[name] = found
        kept.write_text(json.dumps(report, indent=1))
        click.echo(f"{name}: {json.dumps(found, indent=1)}")

    def timed(plan: Plan, name: str, batches: tuple[int, ...]) -> None:
        found = bench(plan, batches=batches, rounds=rounds, restorations=False, compiled=False, on_stage=click.echo)
        (output / f"bench-{name}.md").write_text(markdown(found))
        (output / f"bench-{name}.json").write_text(json.dumps(found, indent=1))

    if {"64", "psnr"} & {*wanted}:
        keep("not built at 64", build_all(small, (1, 4, 16)))
    if "64" in wanted:
        timed(small, "64", (1, 4, 16))
    if "psnr" in wanted and images is not None:
        keep("psnr", changes(small, images, count))
    if {"256", "hybrid"} & {*wanted}:
        with tempfile.TemporaryDirectory() as folder:
            large = build_plan(random_prior("celebahq-256", Path(folder)))
        keep("not built at 256", build_all(large, (1, 16)))
        if "hybrid" in wanted:
            keep("hybrid", hybrid(large))
        if "256" in wanted:
            timed(large, "256", (1, 16))


if __name__ == "__main__":
    main()
