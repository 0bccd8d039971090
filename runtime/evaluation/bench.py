"""Times of forward calls, steps and restorations, by every backend and by torch as others run it.

The same code drives every contender. Contenders alternate within each round, so that a ratio compares times of the same
minutes. The report is plain data: every sample of every round, and the machine. `bench_report` reads it.
"""

import datetime
import math
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, TypeVar

import numpy as np

from ...engines import (
    BACKENDS,
    ON_CPU,
    PRECISIONS,
    Array,
    BackendError,
    Engine,
    InputError,
    MissingExtra,
    OnHost,
    Plan,
    Prediction,
    Pull,
    open_engine,
    parse_backend,
)
from ...engines.array_api import array_namespace
from ...engines.flops import network_flops
from ...engines.machine import cores, gpu, peak_flops, processor, torch_threads, versions
from ...engines.plan import WEIGHTS
from ...engines.torch.baselines import BASELINES, COMPILED
from ..restorer import Restorer
from ..sampling.advance import advance
from ..sampling.choices import Method
from ..sampling.guidance import Guidance, stride_of
from ..sampling.restoration import start_noise
from ..sampling.schedule import Schedule
from .bench_report import figures
from .deepinv import DeepInvDPS
from .demo import SHOWN, SIGMA, Measured, measure

SAMPLE_SECONDS = 0.5
"""Seconds that the consecutive calls of a sample fill at least; the sample is their mean."""
TORCH = "torch channels_last"
"""Label of the torch backend. It is the reference of ratios only where nothing else runs."""


class Sample(NamedTuple):
    """A measurement of a contender."""

    seconds: float
    """Duration of one forward call, one step or one restoration, for the whole batch."""
    network: float | None
    """Seconds of it spent in the engine's calls, where that is known."""
    host: float | None = None
    """Seconds of it that the host was busy, without waiting, where a device computes."""


T = TypeVar("T")
Cell = Callable[[bool], Sample]
"""Takes a sample. Called with True it only makes the few first calls that warm everything up."""


@dataclass(frozen=True)
class BenchRow:
    """A row of the report: what is timed, and a Cell for each contender."""

    kind: str
    """forward, dps step, dmps step, dps, dmps, hybrid or frugal."""
    name: str
    batch: int
    forwards: int
    """Network evaluations and gradients of one image in one sample."""
    gradients: int
    cells: dict[str, Cell]


class Timed(OnHost):
    """An engine that sums the seconds of its calls, until their results are computed."""

    def __init__(self, engine: Engine):
        self._engine = engine
        self.seconds = 0.0
        self.prepare = engine.prepare

    @property
    def name(self) -> str:
        return self._engine.name

    def asarray(self, x: Any) -> Array:
        return self._engine.asarray(x)

    def upload(self, array: np.ndarray) -> Callable[[], Array]:
        return self._engine.upload(array)

    def predict(self, x: Array, t: Array) -> Prediction:
        return self._add(lambda: self._engine.predict(x, t), lambda prediction: prediction.out)

    def pullback(self, x: Array, t: Array) -> tuple[Prediction, Pull]:
        prediction, pull = self._add(lambda: self._engine.pullback(x, t), lambda answer: answer[0].out)
        return prediction, lambda cotangent: self._add(lambda: pull(cotangent), lambda gradient: gradient)

    def _add(self, call: Callable[[], T], result: Callable[[T], Array]) -> T:
        started = time.perf_counter()
        answer = call()
        float(result(answer)[0, 0, 0, 0])  # synchronises with the device
        self.seconds += time.perf_counter() - started
        return answer


def bench(
    plan: Plan,
    *,
    steps: int = 100,
    batches: Sequence[int] = (1, 4, 16),
    rounds: int = 7,
    restorations: bool = True,
    compiled: bool = True,
    deepinv: bool = False,
    only: Sequence[str] = (),
    on_stage: Callable[[str], object] = lambda stage: None,
) -> dict[str, Any]:
    """Measure every row `rounds` times; return the report as plain data, in seconds and FLOP/s.

    Rows: forward calls, DPS steps and DMPS steps at each of `batches`; with `restorations`, whole restorations of an
    image by DPS and DMPS, and by the hybrid and frugal with a switch at k = steps / 2. `compiled` adds torch.compile,
    `deepinv` that library's DPS. `only` names the backends to measure beside torch as others run it, by default all.
    `on_stage` is called with a phrase for each stage. Contenders that cannot run here are left out, with the reason in
    the report.

    Raises InputError for settings that do not fit, MissingExtra if nothing runs here, BackendError without deepinv.
    """
    Schedule.respaced(plan.manifest["schedule"], steps)
    prior, image = plan.manifest["prior"], plan.manifest["image"]
    if image["channels"] != 3:
        raise InputError(f"the benchmark restores a colour portrait; the images of {prior['name']} are grey")
    other = DeepInvDPS(plan) if deepinv else None
    engines, left_out, reference = open_contenders(plan, compiled, only, on_stage)
    measured = measure(Restorer(plan, engines[reference]), SHOWN[0], seed=0)
    rows = [row for batch in batches for row in _step_rows(plan, engines, measured, steps, batch)]
    if restorations:
        rows += _restoration_rows(plan, engines, measured, steps)
    if other is not None and restorations:
        next(row for row in rows if row.kind == "dps").cells["deepinv"] = partial(_other, other, measured, steps)
    taken, first = _measure(rows, rounds, reference, left_out, on_stage)
    report = {
        "machine": {
            "processor": processor(),
            "cores": cores(),
            "gpu": gpu(),
            "system": f"{platform.system()} {platform.machine()}",
            "torch_threads": torch_threads(),
        },
        "versions": {**versions(), **({} if other is None else {"deepinv": other.version})},
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "prior": {
            "name": prior["name"],
            "shape": list(plan.image_shape),
            "weights_sha256": plan.manifest["members"][WEIGHTS]["sha256"],
        },
        "settings": {"rounds": rounds, "steps": steps, "batches": list(batches), "measurement": SHOWN[0]},
        "contenders": {
            **{label: engine.name for label, engine in engines.items()},
            **({} if other is None else {"deepinv": other.name}),
        },
        "left_out": left_out,
        "reference": reference,
        "peak_flops": taken.peaks,
        "network_flops": network_flops(plan.manifest),
        "rows": [_as_data(row, taken.samples[i], first[i]) for i, row in enumerate(rows)],
    }
    return {**report, "figures": figures(report)}


PREFERRED = (
    *(f"ours: {name}:{precision}" for name in ("tensorrt", "tensorrt-rtx") for precision in PRECISIONS),
    "ours: cuda",
    "ours: cpu",
    TORCH,
)
"""Labels in the order in which `auto` would take them, a GPU's first. The first that runs is the reference of
ratios."""


def open_contenders(
    plan: Plan, compiled: bool, only: Sequence[str], on_stage: Callable[[str], object]
) -> tuple[dict[str, Engine], dict[str, str], str]:
    """Open every engine that runs here; return them by label, the reasons of the others, and the reference's label.

    Raises InputError where `only` names no backend, MissingExtra if nothing runs here.
    """
    for name in only:
        parse_backend(name)
    openers: dict[str, Callable[[], Engine]] = {
        TORCH if name in ("torch", "torch:fp32") else f"ours: {name}": partial(open_engine, plan, name)
        for name in only or backends(compiled)
    }
    openers |= {label: partial(opener, plan) for label, opener in BASELINES.items()}
    engines: dict[str, Engine] = {}
    left_out: dict[str, str] = {}
    for label, opener in openers.items():
        if label == COMPILED and not compiled:
            left_out[label] = "not asked for (--no-compile)"
            continue
        on_stage(f"opening {label}")
        try:
            engines[label] = opener()
        except BackendError as error:
            left_out[label] = str(error)
    if not engines:
        raise MissingExtra("Benchmarking", "onnxruntime (or torch)", "cpu")
    preferred = [name for name in PREFERRED if name in engines] or [*engines]
    return engines, left_out, next((name for name in preferred if "(cuda" in engines[name].name), preferred[0])


def backends(compiled: bool) -> list[str]:
    """Return the backends to compare; with a GPU, each in all its precisions."""
    found = ["torch-compile:bf16"] * (compiled and gpu() is not None)
    for name in BACKENDS:
        if name in ("auto", "torch-compile"):  # which is among BASELINES
            continue
        if gpu() is not None and name not in ("cuda", *ON_CPU):
            found += [f"{name}:{precision}" for precision in PRECISIONS]
        else:
            found.append(name)
    return found


class _Taken(NamedTuple):
    peaks: dict[str, list[float]]
    samples: list[dict[str, list[Sample]]]


def _measure(
    rows: Sequence[BenchRow], rounds: int, reference: str, left_out: dict[str, str], on_stage: Callable[[str], object]
) -> tuple[_Taken, list[dict[str, float]]]:
    """Run every cell once to warm up, then all cells in each round; return the samples and the first calls' seconds.

    A contender that fails in its first call is left out of every row, with its reason; the reference's error is raised.
    """
    first: list[dict[str, float]] = []
    for row in rows:
        on_stage(f"first calls: {row.name}, batch {row.batch}")
        first.append({})
        for label, cell in list(row.cells.items()):
            started = time.perf_counter()
            try:
                cell(True)
            except BackendError as error:
                if label == reference:
                    raise
                left_out[label] = str(error)
                for one in rows:
                    one.cells.pop(label, None)
            else:
                first[-1][label] = time.perf_counter() - started
    taken = _Taken({}, [{label: [] for label in row.cells} for row in rows])
    for number in range(rounds):
        on_stage(f"round {number + 1} of {rounds}: peak")
        for name, value in peak_flops().items():
            taken.peaks.setdefault(name, []).append(value)
        for row, samples in zip(rows, taken.samples, strict=True):
            on_stage(f"round {number + 1} of {rounds}: {row.name}, batch {row.batch}")
            for label, cell in row.cells.items():
                samples[label].append(cell(False))
    return taken, first


def _as_data(row: BenchRow, samples: dict[str, list[Sample]], first: dict[str, float]) -> dict[str, Any]:
    return {
        "kind": row.kind,
        "name": row.name,
        "batch": row.batch,
        "forwards": row.forwards,
        "gradients": row.gradients,
        "contenders": {
            label: {
                "seconds": [sample.seconds for sample in taken],
                "network_seconds": [sample.network for sample in taken],
                "host_seconds": [sample.host for sample in taken],
                "first_seconds": first[label],
            }
            for label, taken in samples.items()
        },
    }


def _step_rows(plan: Plan, engines: dict[str, Engine], measured: Measured, steps: int, batch: int) -> list[BenchRow]:
    """Return the rows of forward calls, DPS steps and DMPS steps at a batch size."""

    def cells(sample: Callable[..., Sample], *arguments: Any) -> dict[str, Cell]:
        return {label: partial(sample, plan, engine, *arguments, batch) for label, engine in engines.items()}

    return [
        BenchRow("forward", "forward", batch, 1, 0, cells(_forward)),
        BenchRow("dps step", "DPS step", batch, 1, 1, cells(_steps, measured, steps, "dps")),
        BenchRow("dmps step", "DMPS step", batch, 1, 0, cells(_steps, measured, steps, "dmps")),
    ]


def _restoration_rows(plan: Plan, engines: dict[str, Engine], measured: Measured, steps: int) -> list[BenchRow]:
    """Return the rows of whole restorations of an image: the poster's three methods and ours."""
    half = steps // 2

    def row(kind: Method, name: str, k: int | None, gradients: int) -> BenchRow:
        cells: dict[str, Cell] = {
            label: partial(_restoration, plan, engine, measured, steps, kind, k) for label, engine in engines.items()
        }
        return BenchRow(kind, f"{name}, {steps} steps", 1, steps, gradients, cells)

    return [
        row("dps", "DPS", None, steps),
        row("dmps", "DMPS", None, 0),
        row("hybrid", f"hybrid at k = {half}", half, steps - half),
        row("frugal", f"frugal at k = {half}", half, math.ceil((steps - half) / stride_of(steps))),
    ]


def _forward(plan: Plan, engine: Engine, batch: int, brief: bool) -> Sample:
    timed = _timed(engine)
    x = engine.asarray(np.stack([start_noise(plan.image_shape, 0, i) for i in range(batch)]))
    middle = np.full(batch, plan.manifest["schedule"]["num_train_timesteps"] // 2)
    t = array_namespace(x).asarray(middle, device=x.device)  # uploaded once, not at every call
    engine.prepare(gradients=False, batch=batch)

    def forward() -> Array:
        out = timed.predict(x, t).out
        timed.throttle()
        return out

    return _paced(forward, timed, 1 if brief else None)


def _steps(
    plan: Plan, engine: Engine, measured: Measured, steps: int, method: Method, batch: int, brief: bool
) -> Sample:
    """Time consecutive steps, from pure noise on."""
    timed = _timed(engine)
    y = np.repeat(measured.y[None], batch, axis=0)
    rows = Restorer(plan, engine)._begin(y, measured.operator, Guidance(sigma=SIGMA, steps=steps, method=method))
    engine.prepare(gradients=method == "dps", batch=batch)

    def step() -> Array:
        advance(rows, timed)
        return rows[0].x[None, ...]

    return _paced(step, timed, 1 if brief else steps - 1)  # without the last step, which copies results to the host


def _timed(engine: Engine) -> Engine:
    """Return the engine with its calls timed, unless it captures steps and makes no calls."""
    return engine if engine.can_capture else Timed(engine)


def _paced(call: Callable[[], Array], engine: Engine, most: int | None) -> Sample:
    """Time consecutive calls for SAMPLE_SECONDS, at least one and at most `most`; return their mean."""
    timed = engine if isinstance(engine, Timed) else None
    before, calls, started = timed.seconds if timed else 0.0, 0, time.perf_counter()
    while True:
        last = call()
        calls += 1
        now, waited = time.perf_counter(), engine.throttled_seconds
        if calls == 1:
            since, waited_before = now, waited  # leave out the first call, which uploads what the others use
        if now - started >= SAMPLE_SECONDS or calls == most:
            break
    float(last[0, 0, 0, 0])  # synchronises with the device
    elapsed = time.perf_counter() - started
    if timed:
        return Sample(elapsed / calls, (timed.seconds - before) / calls)
    busy = now - since - (waited - waited_before)
    return Sample(elapsed / calls, None, busy / (calls - 1) if calls > 1 else None)


def _restoration(
    plan: Plan, engine: Engine, measured: Measured, steps: int, method: Method, k: int | None, brief: bool
) -> Sample:
    timed = _timed(engine)
    if brief and not engine.can_capture:  # captured graphs depend on the number of steps
        steps, k = 2, None if k is None else 1
    started = time.perf_counter()
    Restorer(plan, timed).restore(measured.y, measured.operator, sigma=SIGMA, steps=steps, method=method, switch=k)
    return Sample(time.perf_counter() - started, timed.seconds if isinstance(timed, Timed) else None)


def _other(other: DeepInvDPS, measured: Measured, steps: int, brief: bool) -> Sample:
    started = time.perf_counter()
    other.restore(measured.y, measured.operator, 2 if brief else steps)
    return Sample(time.perf_counter() - started, None)
