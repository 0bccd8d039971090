"""Measure a GPU against the targets: python tests/gpu/figures.py -o DIR [--plan celebahq-256.plan] [--images faces]

Times of calls and steps at 256x256 and 64x64 by every backend (frugal-rt bench), the hybrid of 100 steps and k = 50 at
256x256, the share of the bf16 matrix rate at batch 16, what fp16 and bf16 change in PSNR on pictures, and a photograph
of a megapixel. Backends are tried first, each in a process of its own. All that is found is written at once: parts may
be run one after the other. Plans are taken from the folder FRUGAL_RT_PLANS, else made in DIR; FRUGAL_RT_TRIAL_SECONDS
bounds a trial.
"""

import gc
import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import click
import numpy as np
import torch
from gpu_trial import BACKENDS, COMPILED, why_not
from plans import LARGE as LARGE_PLAN
from plans import plan_file

from frugal_rt import Plan, Restorer
from frugal_rt.engines import NEED_GPU, nvidia, open_engine, parse_backend
from frugal_rt.engines.flops import network_flops
from frugal_rt.engines.machine import peak_flops
from frugal_rt.runtime.evaluation.bench import bench
from frugal_rt.runtime.evaluation.bench_report import markdown
from frugal_rt.runtime.evaluation.demo import SHOWN
from frugal_rt.runtime.evaluation.demo import measure as portrait
from frugal_rt.runtime.evaluation.picture_set import read_pictures
from frugal_rt.runtime.evaluation.suite import TASKS, measure
from frugal_rt.runtime.operators import Denoise
from frugal_rt.runtime.sampling.psnr import psnr

PARTS = ("256", "hybrid", "forward", "64", "psnr", "photo")
LARGE = 16
"""Rows of the forward call whose share of the matrix rate is measured."""
SIDE = 1024
"""Side of the photograph, in pixels."""
Keep = Callable[[str, object], None]


def usable(path: Path, names: list[str], batches: tuple[int, ...], keep: Keep, name: str) -> list[str]:
    """Return the backends of `names` that run here, their engines built and their networks compiled; keep why others do
    not."""
    runs, failed = [], {}
    for one in names:
        why = why_not(path, one, batches)
        if why is None:
            runs.append(one)
        else:
            failed[one] = why
        keep(f"not run at {name}", failed)
    return runs


def over(plan: Plan, names: list[str], work: Callable[[Restorer], object], keep: Keep, part: str) -> dict[str, object]:
    """Return the result of `work` with each backend, or the reason why it failed."""
    found: dict[str, object] = {}
    for name in names:
        try:
            found[name] = work(Restorer(plan, open_engine(plan, name)))
        except Exception as error:  # noqa: BLE001 (one backend's failure is a finding, and the others go on)
            found[name] = repr(error)
        keep(part, found)
        gc.collect()
        torch.cuda.empty_cache()
    return found


def hybrid(restorer: Restorer) -> float:
    """Seconds of a restoration of 100 steps, k = 50, one image; the median of 5 after the first."""
    made = portrait(restorer, SHOWN[0], seed=0)
    taken = [
        sum(restorer.restore(made.y, made.operator, method="hybrid", steps=100, switch=50).seconds.values())
        for _ in range(6)
    ]
    return float(np.median(taken[1:]))


def photograph(restorer: Restorer) -> float:
    """Seconds of a restoration of SIDE x SIDE pixels by 20 DMPS steps; the median of 5 after the first."""
    whole = restorer.at(SIDE, SIDE)
    y, operator = np.zeros(whole.image_shape, np.float32), Denoise(whole.image_shape)
    settings = {"sigma": 0.1, "steps": 20, "method": "closed-form"}
    taken = [sum(whole.restore(y, operator, **settings).seconds.values()) for _ in range(6)]
    return float(np.median(taken[1:]))


def forward(restorer: Restorer, rate: float) -> dict[str, float]:
    """Seconds of a forward call of LARGE rows, the mean of 20 after 3, and its share of `rate`, the bf16 matrix rate in
    FLOP/s."""
    work = network_flops(restorer.plan.manifest)
    assert work is not None
    x = restorer.engine.asarray(np.random.default_rng(0).standard_normal((LARGE, *restorer.image_shape)))
    t = torch.full((LARGE,), 500, device=x.device)
    restorer.engine.prepare(gradients=False, batch=LARGE)
    for calls in (3, 20):
        torch.cuda.synchronize()
        started = time.perf_counter()
        for _ in range(calls):
            restorer.engine.predict(x, t)
        torch.cuda.synchronize()
        seconds = (time.perf_counter() - started) / calls
    return {"seconds": seconds, "TFLOP/s of bf16": rate / 1e12, "share": LARGE * work["forward"] / seconds / rate}


def decibels(images: Path, count: int) -> Callable[[Restorer], dict[str, float]]:
    """The PSNR of each task in dB, the mean over `count` pictures."""

    def of(restorer: Restorer) -> dict[str, float]:
        clean, found = read_pictures(images, restorer.image_shape, count).images, {}
        for name, task in TASKS.items():
            operator = task.operator(restorer.image_shape)
            y = measure(operator, clean, task.sigma, seed=0)
            result = restorer.restore(y, operator, sigma=task.sigma, steps=100, switch=50, batch=len(clean))
            found[name] = float(psnr(result.image, clean).mean())
        return found

    return of


def changes(found: dict[str, object]) -> dict[str, object]:
    """Return each backend's difference from torch's fp32 on this GPU, of the figures of `decibels`."""
    base = found["torch:fp32"]
    assert isinstance(base, dict), base
    return {
        name: {task: value - base[task] for task, value in one.items()}
        for name, one in found.items()
        if isinstance(one, dict)
    }


@click.command(help=__doc__)
@click.option("--engine", type=click.Path(exists=True, path_type=Path), help="The plan at 64x64; by default celeba's.")
@click.option("--plan", "large", type=click.Path(exists=True, path_type=Path), help="The plan at 256x256.")
@click.option("--backend", "names", multiple=True, help="One to measure; repeat it. By default all of a GPU.")
@click.option("--images", type=click.Path(exists=True, path_type=Path))
@click.option("--count", default=20)
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True)
@click.option("--parts", default=",".join(PARTS), show_default=True)
@click.option("--rounds", default=3)
def main(
    engine: Path | None,
    large: Path | None,
    names: tuple[str, ...],
    images: Path | None,
    count: int,
    output: Path,
    parts: str,
    rounds: int,
) -> None:
    wanted = set(parts.split(","))
    if not wanted <= {*PARTS}:
        raise click.UsageError(f"parts are {', '.join(PARTS)}")
    if nvidia.trouble() and all(parse_backend(name)[0] in NEED_GPU for name in names):  # as where none is named
        raise click.ClickException(f"this needs a CUDA machine: {nvidia.trouble()}")
    output.mkdir(parents=True, exist_ok=True)
    kept = output / "figures.json"
    report: dict[str, object] = json.loads(kept.read_text()) if kept.is_file() else {}
    report["device"] = next((one._asdict() for one in nvidia.devices()), None)
    asked = [*names] or [*BACKENDS, COMPILED]

    def keep(name: str, found: object) -> None:
        report[name] = found
        kept.write_text(json.dumps(report, indent=1))
        click.echo(f"{name}: {json.dumps(found, indent=1)}")

    def timed(plan: Plan, name: str, batches: tuple[int, ...], names: list[str]) -> None:
        how = {"rounds": rounds, "restorations": False, "compiled": False, "only": names}
        try:
            found = bench(plan, batches=batches, **how, on_stage=click.echo)
        except Exception as error:  # noqa: BLE001 (the other parts go on)
            keep(f"bench at {name}", repr(error))
            return
        (output / f"bench-{name}.md").write_text(markdown(found))
        (output / f"bench-{name}.json").write_text(json.dumps(found, indent=1))

    if wanted & {"256", "hybrid", "forward"}:
        path = large or plan_file(LARGE_PLAN, output)
        plan, runs = Plan.open(path), usable(path, asked, (1, LARGE), keep, "256")
        if "256" in wanted:
            timed(plan, "256", (1,), runs)
        if "hybrid" in wanted:
            over(plan, runs, hybrid, keep, "hybrid")
        if "forward" in wanted:
            over(plan, runs, partial(forward, rate=peak_flops()["torch, bf16 (cuda)"]), keep, "forward")
    if "photo" in wanted:
        path = plan_file("photo", output)
        over(Plan.open(path), usable(path, asked, (1,), keep, "photo"), photograph, keep, "photo")
    if wanted & {"64", "psnr"}:
        path = engine or plan_file("celeba", output)
        plan, runs = Plan.open(path), usable(path, asked, (1, 4, 16), keep, "64")
        if "64" in wanted:
            timed(plan, "64", (1, 4, 16), runs)
        if "psnr" in wanted and images is not None:
            found = over(plan, runs, decibels(images, count), keep, "psnr")
            if "torch:fp32" in found:
                keep("psnr against torch:fp32", changes(found))


if __name__ == "__main__":
    main()
