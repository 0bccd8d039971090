"""The first minute on a GPU: python tests/gpu/lease/smoke.py PLAN OUT.json BACKEND... [--seconds S]

Each backend against float32 torch on the CPU: an answer and a gradient of three rows, that of a small cotangent, a
restoration by captured steps and one step by step, the time of a step. A part that fails keeps its reason, and the
next one goes on; the exit status says whether all passed.
"""

import json
import platform
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch

from frugal_rt import Restorer, operators
from frugal_rt.engines import Engine, doctor, nvidia, open_engine
from frugal_rt.engines.embedded import open_plan
from frugal_rt.engines.machine import versions
from frugal_rt.engines.torch.engine import TorchEngine
from frugal_rt.runtime.sampling import captured
from frugal_rt.runtime.sampling.advance import advance
from frugal_rt.runtime.sampling.guidance import METHODS, Guidance

SMALL = np.float32(1e-5)
"""Magnitude of DPS's cotangents; half precision ends at 6e-8."""
T = np.array([5, 400, 990])


def machine() -> dict[str, Any]:
    """Return versions, devices and the doctor's findings."""
    return {
        "system": platform.platform(),
        "versions": versions(),
        "cuda, cudnn": [torch.version.cuda, torch.backends.cudnn.version()],
        "devices": [one._asdict() for one in nvidia.devices()],
        "doctor": {one.backend: one.detail for one in doctor.findings()},
    }


def on_host(array: Any) -> np.ndarray:
    return np.asarray(array.cpu() if isinstance(array, torch.Tensor) else array, np.float64)


def distance(got: Any, want: Any) -> float:
    """Root mean square of the error over that of `want`."""
    error = on_host(got) - on_host(want)
    if not np.isfinite(error).all():
        raise ValueError("the answer is not finite")
    return float(np.sqrt((error**2).mean() / (on_host(want) ** 2).mean()))


def parity(engine: Engine, reference: Engine, x: np.ndarray, v: np.ndarray) -> dict[str, float]:
    """Return the distances of a prediction, a pullback's answer, its gradient, and that of a small cotangent."""
    (want, _), want_pull = reference.pullback(x, T)
    gradient, given = want_pull(v), engine.asarray(x)
    (out, _), pull = engine.pullback(given, T)
    found = {"predict": distance(engine.predict(given, T).out, want), "forward": distance(out, want)}
    found["gradient"] = distance(pull(engine.asarray(v)), gradient)
    _, again = engine.pullback(given, T)
    return found | {"small gradient": distance(again(engine.asarray(SMALL * v)), SMALL * gradient)}


def restored(restorer: Restorer, y: np.ndarray, method: str) -> dict[str, Any]:
    """Return how far two captured restorations and one step by step lie apart, of 24 steps. Raises ValueError where
    captures failed."""

    def image() -> np.ndarray:
        operator = operators.SuperResolution(restorer.image_shape, 4)
        return restorer.restore(y, operator, sigma=0.05, steps=24, method=method, seed=1).image

    captures = restorer.engine.can_capture
    first, again = image(), image()
    if captures and not restorer.engine.can_capture:
        raise ValueError("steps could not be captured: the log says why")
    worth, captured.WORTH = captured.WORTH, 10**6
    try:
        stepped = image()
    finally:
        captured.WORTH = worth
    apart = {"again": np.abs(first - again).max(), "step by step": np.abs(first - stepped).mean()}
    return {"captures": captures, **{name: float(one) for name, one in apart.items()}}


def step_time(restorer: Restorer, y: np.ndarray, method: str, steps: int) -> dict[str, float]:
    """Return milliseconds of a step of one row, and those that the host spends on it."""
    engine = restorer.engine
    operator = operators.SuperResolution(restorer.image_shape, 4)
    rows = restorer._begin(y, operator, Guidance(sigma=0.05, steps=100, method=method))
    engine.prepare(method == "dps", 1)
    for _ in range(5):
        advance(rows, engine)
    wait = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
    wait()
    began, waited = time.perf_counter(), engine.throttled_seconds
    for _ in range(steps):
        advance(rows, engine)
    host = time.perf_counter() - began - (engine.throttled_seconds - waited)
    wait()
    return {"ms": 1e3 * (time.perf_counter() - began) / steps, "host ms": 1e3 * host / steps}


class Report:
    """Parts by name, written to `out` as they are found, and begun within `seconds`."""

    def __init__(self, out: Path, seconds: float):
        self.found: dict[str, Any] = {}
        self.failed: list[str] = []
        self._out, self._end = out, time.monotonic() + seconds

    def part(self, name: str, work: Callable[[], Any]) -> Any:
        try:
            if time.monotonic() > self._end:
                raise TimeoutError("the time is up")
            self.found[name] = work()
        except Exception as error:  # noqa: BLE001 (a failure is a finding, and the other parts go on)
            traceback.print_exc()
            self.failed.append(name)
            self.found[name] = {"failed": repr(error)}
            return None
        finally:
            self._out.write_text(json.dumps(self.found, indent=1, default=str))
            click.echo(f"{name}: {json.dumps(self.found.get(name), default=str)}")
        return self.found[name]


@click.command(help=__doc__)
@click.argument("path", metavar="PLAN")
@click.argument("out", type=click.Path(path_type=Path))
@click.argument("backends", nargs=-1, required=True)
@click.option("--seconds", default=90.0, show_default=True, help="No part begins later.")
@click.option("--steps", default=60, show_default=True, help="Steps that are timed, at most 80.")
def main(path: str, out: Path, backends: tuple[str, ...], seconds: float, steps: int) -> None:
    report = Report(out, seconds)
    report.part("machine", machine)
    plan, random = open_plan(path), np.random.default_rng(0)
    shape = plan.image_shape
    x, v = random.standard_normal((2, len(T), *shape), dtype=np.float32)
    y = 0.3 * random.standard_normal((shape[0], shape[1] // 4, shape[2] // 4)).astype(np.float32)
    for name in backends:
        opened: list[Engine] = []
        report.part(f"{name}: opens", lambda name=name, opened=opened: opened.append(open_engine(plan, name)))
        for engine in opened:
            restorer = Restorer(plan, engine)
            report.part(f"{name}: parity", lambda e=engine: parity(e, TorchEngine(plan), x, v))
            for method in METHODS:
                report.part(f"{name}: restores, {method}", lambda r=restorer, m=method: restored(r, y, m))
            for method in ("dmps", "dps"):
                report.part(f"{name}: a step, {method}", lambda r=restorer, m=method: step_time(r, y, m, steps))
            engine.close()
    click.echo(f"FAILED: {', '.join(report.failed)}" if report.failed else "ALL PARTS PASSED")
    raise SystemExit(bool(report.failed))


if __name__ == "__main__":
    main()
