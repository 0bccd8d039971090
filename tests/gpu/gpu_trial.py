"""Whether a backend runs here: python tests/gpu/gpu_trial.py PLAN BACKEND BATCHES

Its TensorRT engines are built, it takes one gradient and restores one picture, by recorded steps where it records: in a
process of its own, as what crashes or hangs there does so alone.
"""

import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from frugal_rt import Plan, Restorer, operators
from frugal_rt.engines import ON_CPU, FrugalError, open_engine, parse_backend
from frugal_rt.engines.tensorrt import build, library
from frugal_rt.runtime.evaluation.bench import backends

BACKENDS = [name for name in backends(compiled=False) if name not in ON_CPU]
"""Those of a GPU, in each precision that they compute in."""
LONGEST = 240
"""Seconds that a backend may take to build and to answer."""


def why_not(plan: Path, backend: str, batches: Sequence[int] = build.BATCHES) -> str | None:
    """None where it runs, its engines built for `batches`; or the reason."""
    command = [sys.executable, __file__, str(plan), backend, ",".join(map(str, batches))]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LONGEST)
    except subprocess.TimeoutExpired:
        return f"it was not done within {LONGEST} s"
    if done.returncode < 0:
        return f"it crashed with {signal.Signals(-done.returncode).name}: {done.stderr[-500:]}"
    return done.stderr[-500:].strip() or f"it ended with {done.returncode}" if done.returncode else None


def main(path: str, backend: str, batches: str) -> None:
    plan = Plan.open(path)
    name, precision = parse_backend(backend)
    if name in library.FLAVOURS:
        build.build(plan, name, precision=precision, batches=[int(size) for size in batches.split(",")])
    engine = open_engine(plan, backend)
    x, t = engine.asarray(np.zeros((1, *plan.image_shape))), np.array([5])
    (out, _), pull = engine.pullback(x, t)
    gradient = pull(out)
    if not np.isfinite(np.asarray(gradient.cpu() if hasattr(gradient, "cpu") else gradient)).all():
        sys.exit(f"{engine.name} answers what is no number")
    operator = operators.Denoise(plan.image_shape)
    restorer = Restorer(plan, engine)
    for _ in range(2):
        restorer.restore(np.zeros(plan.image_shape), operator, sigma=0.1, steps=20, switch=10)
    print(f"{engine.name}: steps are {'' if engine.records else 'not '}recorded")


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except FrugalError as error:
        sys.exit(str(error))
