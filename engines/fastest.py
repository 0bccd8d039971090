"""The backend that runs a plan fastest on this machine's CPU, measured once and kept in the cache.

The candidates are OpenVINO in bfloat16 and onnxruntime in float32. The CPU and the network decide which is faster.
"""

import contextlib
import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import numpy as np

from . import cache, machine
from .base import Engine
from .errors import BackendError, MissingExtra, PlanError
from .extras import installed, version
from .files import lock
from .plan import WEIGHTS, Plan

logger = logging.getLogger(__name__)
EXACT = 0.05
"""The largest relative root mean square difference between OpenVINO's answers and onnxruntime's that is accepted. The
embedded priors have 0.004 to 0.03, which changes results by less than 0.1 dB (docs/decisions/times.md)."""
WORTH = 0.9
"""OpenVINO is taken if it needs at most this share of onnxruntime's time; a smaller gain is not worth its rounding."""
SIDE = 128
"""Height and width of the image on which a plan for any size is measured."""
TRIALS = 3
SLOW = 15.0
"""Seconds of a run on a CPU from which on a faster backend is recommended."""
LOCK = "speed.lock"
TIMES = (0.03, 0.3, 0.8)
"""Timesteps at which answers are compared, as shares of T_train."""

Openers = Mapping[str, Callable[[], Engine]]


class Measured(NamedTuple):
    """Seconds of a call by each backend, and the difference between their answers."""

    cpu: float
    openvino: float
    apart: float
    """Root mean square of the difference, divided by that of onnxruntime's answer; the largest over TIMES."""

    @property
    def fastest(self) -> str:
        """Return the name of the backend to take."""
        return "openvino" if self.openvino <= WORTH * self.cpu and self.apart <= EXACT else "cpu"


def open_fastest(plan: Plan, openers: Openers) -> Engine:
    """Open the faster of the backends "cpu" and "openvino" for this plan, by `openers`; measure once.

    Without OpenVINO, bfloat16 or a cache for the result, "cpu" is taken unmeasured. Without a cache each start would
    measure again, and processes side by side might choose differently.
    """
    if not installed("openvino"):
        return openers["cpu"]()
    if (known := recall(plan)) is not None:
        return openers[known.fastest]()
    with _alone() as can_keep:
        if (known := recall(plan)) is not None:  # another process has measured it meanwhile
            return openers[known.fastest]()
        cpu = openers["cpu"]()
        if not can_keep:
            return cpu
        try:
            openvino = openers["openvino"]()
        except (BackendError, MissingExtra, PlanError) as error:
            logger.info("openvino is not measured: %s", error)
            return cpu
        found = measure(plan, cpu, openvino)
        cache.keep(_entry(plan), lambda path: path.write_text(json.dumps(found._asdict())))
    faster, slower = (openvino, cpu) if found.fastest == "openvino" else (cpu, openvino)
    slower.close()
    return faster


def recall(plan: Plan) -> Measured | None:
    """Return the stored measurement of a plan on this machine, or None."""
    data = cache.find(_entry(plan))
    return None if data is None else Measured(**json.loads(data))


def measure(plan: Plan, cpu: Engine, openvino: Engine) -> Measured:
    """Time forward calls by both engines, alternating, and compare their answers."""
    channels, height, width = plan.image_shape
    shape = (1, channels, height, width) if plan.stride is None else (1, channels, SIDE, SIDE)
    x = np.random.default_rng(0).standard_normal(shape, np.float32)
    last, apart = plan.manifest["schedule"].get("num_train_timesteps", 1000) - 1, []
    for share in TIMES:
        t = np.array([round(share * last)])
        ours, theirs = (np.asarray(engine.predict(x, t).out, np.float64) for engine in (cpu, openvino))
        apart.append(float(np.sqrt(np.mean((ours - theirs) ** 2) / np.mean(ours**2))))
    seconds: dict[Engine, list[float]] = {cpu: [], openvino: []}
    for _ in range(TRIALS):
        for engine, taken in seconds.items():
            started = time.perf_counter()
            engine.predict(x, t)
            taken.append(time.perf_counter() - started)
    return Measured(min(seconds[cpu]), min(seconds[openvino]), max(apart))


def recommendation(ran_by: str, seconds: float) -> str | None:
    """Return a sentence that recommends OpenVINO after the first slow run on this machine, else None.

    `ran_by` is the name of the engine that computed for `seconds`. The cache remembers that it was said; without a
    cache it never is, as it would be each time.
    """
    if seconds < SLOW or not ran_by.startswith("onnxruntime (cpu") or installed("openvino") or not machine.bfloat16():
        return None
    entry = cache.key("speed", "recommended")
    if cache.find(entry) is not None:
        return None
    cache.keep(entry, lambda path: path.write_text("OpenVINO"))
    if cache.find(entry) is None:
        return None
    return (
        "this CPU multiplies bfloat16, in which OpenVINO may take half the time: after pip install "
        "'frugal-rt[openvino]' both are measured, and the faster is taken"
    )


def _entry(plan: Plan) -> str:
    """Return the name of the cache entry, made from the weights, the libraries' versions and the number of cores."""
    tools = [f"{name} {version(name)}" for name in ("onnxruntime", "openvino")]
    return cache.key("speed", plan.manifest["members"][WEIGHTS]["sha256"], tools, str(machine.cores()))


@contextlib.contextmanager
def _alone() -> Iterator[bool]:
    """Hold a lock so that one process at a time measures; yield whether the result can be kept."""
    root = cache.folder()
    if root is None:
        yield False
        return
    try:
        root.mkdir(parents=True, exist_ok=True)
        (root / LOCK).touch(0o600)
        file = (root / LOCK).open("ab")
    except OSError:  # a read-only cache
        yield False
        return
    with file:
        lock(file, wait=True)
        yield True
