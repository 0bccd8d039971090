"""Trial of a backend on this machine: python tests/gpu/gpu_trial.py PLAN BACKEND BATCHES

What is not installed says so at once. For the rest TensorRT engines are built, one gradient is taken and one picture is
restored, by captured steps where the backend captures: in a process of its own, as what crashes or hangs there does so
alone. FRUGAL_RT_TRIAL_SECONDS bounds it.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np

from frugal_rt import Restorer, operators
from frugal_rt.engines import ON_CPU, FrugalError, doctor, open_engine, parse_backend
from frugal_rt.engines.embedded import open_plan
from frugal_rt.engines.tensorrt import build, library
from frugal_rt.runtime.evaluation.bench import backends

BACKENDS = [name for name in backends(compiled=False) if name not in ON_CPU]
"""Backends of a GPU, in each precision that they compute in."""
COMPILED = "torch-compile:bf16"
"""The backend that compiles; its trial fills torch's cache for later processes."""
SECONDS = float(os.environ.get("FRUGAL_RT_TRIAL_SECONDS", "60"))
"""The most seconds of a backend to build and to answer."""
COMPILING = 5
"""Factor of that time for COMPILED."""


@cache
def not_here() -> dict[str, str]:
    """Return why backends cannot run, by name, of those that `frugal-rt doctor` finds missing."""
    return {one.backend: f"{one.detail}; {one.remedy}" for one in doctor.findings() if not one.usable}


def why_not(
    plan: Path | str, backend: str, batches: Sequence[int] = build.BATCHES, seconds: float = SECONDS
) -> str | None:
    """Return None where `backend` runs `plan`, a file or an embedded prior's name, its engines built for `batches`; or
    the reason, such as that `seconds` were not enough."""
    name, _ = parse_backend(backend)
    if name in not_here():
        return not_here()[name]
    limit = seconds * (COMPILING if backend == COMPILED else 1)
    command = [sys.executable, __file__, str(plan), backend, ",".join(map(str, batches))]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit)
    except subprocess.TimeoutExpired:
        return f"it was not done within {limit:g} s; FRUGAL_RT_TRIAL_SECONDS allows more"
    if done.returncode < 0:
        return f"it crashed with {signal.Signals(-done.returncode).name}: {done.stderr[-500:]}"
    return done.stderr[-500:].strip() or f"it ended with {done.returncode}" if done.returncode else None


def main(path: str, backend: str, batches: str) -> None:
    plan, sizes = open_plan(path), [int(size) for size in batches.split(",")]
    name, precision = parse_backend(backend)
    if name in library.FLAVOURS:
        build.build(plan, name, precision=precision, batches=sizes)
    engine = open_engine(plan, backend)
    for rows in sizes if backend == COMPILED else []:
        engine.predict(engine.asarray(np.zeros((rows, *plan.image_shape))), np.full(rows, 5))
    x, t = engine.asarray(np.zeros((1, *plan.image_shape))), np.array([5])
    (out, _), pull = engine.pullback(x, t)
    gradient = pull(out)
    if not np.isfinite(np.asarray(gradient.cpu() if hasattr(gradient, "cpu") else gradient)).all():
        sys.exit(f"{engine.name} answers what is no number")
    operator = operators.Denoise(plan.image_shape)
    restorer = Restorer(plan, engine)
    for _ in range(2):
        restorer.restore(np.zeros(plan.image_shape), operator, sigma=0.1, steps=20, switch=10)
    print(f"{engine.name}: steps are {'' if engine.can_capture else 'not '}captured")


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except FrugalError as error:
        sys.exit(str(error))
