"""Building a plan's engines with TensorRT, for this machine's GPU or, with tensorrt-rtx, for another one."""

import hashlib
import logging
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .. import nvidia
from ..base import ANSWERS, PRECISIONS
from ..errors import BackendError, InputError
from ..files import atomic_write
from ..plan import Plan
from ..shapes import sized
from . import library
from .library import TensorRT
from .store import ENGINES, Built, Here, Record, building, built, keep, plan_hash, system

logger = logging.getLogger(__name__)
BATCHES = (1, 4, 16)
LONGEST, GRAIN = 1024, 64
"""For images of any size, in pixels: the longest side of a single image, and the multiple that sides are rounded to. A
profile takes as much memory as its largest call."""
LEVEL = 3

OnProgress = Callable[[str, int, int], bool]
"""Callback with the name of the engine being built, its steps done and all its steps. False stops the build."""


def build(
    plan: Plan,
    flavour: str | None = None,
    *,
    precision: str | None = None,
    batches: Sequence[int] = BATCHES,
    level: int = LEVEL,
    capability: str | None = None,
    force: bool = False,
    on_progress: OnProgress = lambda what, done, of: True,
) -> Built:
    """Return the plan's engines from the user's cache; build those that are missing.

    flavour: one of library.FLAVOURS, by default the first that is installed. precision: "fp16", "bf16" or "fp32", by
    default the first of these that the plan holds. batches: rows of the calls that profiles are tuned for. level:
    TensorRT's optimisation level, 0 (builds fast) to 5 (runs fast). capability: the compute capability of another GPU,
    such as 8.9, for tensorrt-rtx. force: build again where the cache holds the engines.

    Raises InputError for arguments that do not fit, MissingExtra, BackendError with TensorRT's message, FrugalError
    where the cache cannot be written, KeyboardInterrupt where `on_progress` stops the build.
    """
    flavour = flavour or next(iter(library.installed()), "tensorrt")
    if flavour not in library.FLAVOURS:
        raise InputError(f"there is no TensorRT flavour {flavour!r}; choose {' or '.join(library.FLAVOURS)}")
    sizes = tuple(sorted(set(batches)))
    if not sizes or sizes[0] < 1 or not 0 <= level <= 5:
        raise InputError("batches are whole numbers from 1, and the level is one of 0..5")
    precision = choose_precision(plan, precision)
    rt = library.load(flavour)
    here = _target(rt, capability)
    with building() as root:
        sides = () if plan.stride is None else tuple(longest_side(rows) for rows in sizes)
        there = next((one for one in built(plan) if _is(one, here, precision, sizes, sides)), None)
        if there is not None and not force:
            return there
        timings = root / f"timings-{hashlib.sha256(repr(here).encode()).hexdigest()[:16]}"
        engines = {
            name: _build(rt, plan, name, precision, sizes, level, capability, timings, on_progress) for name in ENGINES
        }
        files = {
            name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in engines.items()
        }
        return keep(Record(plan_hash(plan), here, precision, sizes, level, files, sides), engines, root)


def longest_side(rows: int) -> int:
    """Return the longest side of images in a call of `rows`; the most pixels of a call do not depend on the rows."""
    return max(GRAIN, int(LONGEST / math.sqrt(rows)) // GRAIN * GRAIN)


def can_build() -> bool:
    """Return whether this machine has a GPU, and a TensorRT that builds for it."""
    return bool(library.installed()) and nvidia.trouble() is None


def choose_precision(plan: Plan, precision: str | None) -> str:
    """Return `precision`, or the first of PRECISIONS that the plan holds. Raises InputError for one that it lacks."""
    mixed = plan.manifest.get("mixed", {})
    if precision is None:
        return next((one for one in PRECISIONS if "graphs" in mixed.get(one, {})), "fp32")
    if precision not in PRECISIONS:
        raise InputError(f"there is no precision {precision!r}; choose one of {', '.join(PRECISIONS)}")
    if precision != "fp32" and "graphs" not in mixed.get(precision, {}):
        refused = mixed.get(precision, {}).get("refused")
        why = f", as its export found: {refused}" if refused else "; export it again: frugal-rt export --force"
        raise InputError(f"{plan.source} holds no {precision} graphs{why}")
    return precision


def _is(one: Built, here: Here, precision: str, batches: tuple[int, ...], sides: tuple[int, ...]) -> bool:
    record = one.record
    found = record.here, record.precision, record.batches, record.sides
    return one.own and found == (here, precision, batches, sides)


def _target(rt: TensorRT, capability: str | None) -> Here:
    if capability is None:
        if rt.flavour.blind and nvidia.trouble():
            raise BackendError(
                f"there is no GPU here to build for ({nvidia.trouble()}); name another's compute capability, one of "
                f"{', '.join(_capabilities(rt))}: --capability 8.9"
            )
        return Here.of(rt.name, rt.version, rt.need_device())
    if not rt.flavour.blind:
        raise InputError(f"{rt.name} builds for the GPU of this machine alone; --flavour tensorrt-rtx for another's")
    if capability not in _capabilities(rt):
        raise InputError(
            f"{rt.name} {rt.version} does not know the compute capability {capability}; it builds for "
            f"{', '.join(_capabilities(rt))}"
        )
    return Here(rt.name, rt.version, capability, "", system())


def _capabilities(rt: TensorRT) -> dict[str, Any]:
    """Return TensorRT-RTX's targets by compute capability: SM89 is 8.9, SM120 is 12.0."""
    named = {name[2:]: value for name, value in rt.trt.ComputeCapability.__members__.items() if name.startswith("SM")}
    return {f"{digits[:-1]}.{digits[-1]}": value for digits, value in named.items()}


def _build(
    rt: TensorRT,
    plan: Plan,
    name: str,
    precision: str,
    batches: tuple[int, ...],
    level: int,
    capability: str | None,
    timings: Path,
    on_progress: OnProgress,
) -> memoryview:
    """Build one of ENGINES. Raises BackendError."""
    trt = rt.trt
    graphs = plan.manifest["graphs"] if precision == "fp32" else plan.manifest["mixed"][precision]["graphs"]
    entry = graphs["pullback" if name == "pullback" else "forward"]
    network, alive = _parse(rt, plan, entry)
    if name == "predict":
        for output in [network.get_output(i) for i in range(network.num_outputs)]:
            if output.name not in ANSWERS:
                network.unmark_output(output)
    config = rt.need(rt.builder.create_builder_config(), "make a builder's settings")
    config.builder_optimization_level = level
    config.clear_flag(trt.BuilderFlag.TF32)  # fp32 in full precision; fp16 and bf16 are there for speed
    if rt.flavour.blind:
        config.num_compute_capabilities = 1
        target = trt.ComputeCapability.CURRENT if capability is None else _capabilities(rt)[capability]
        rt.need(config.set_compute_capability(target, 0), f"build for compute capability {capability or 'of this GPU'}")
    for profile in _profiles(rt, plan, entry, batches):
        rt.need(config.add_optimization_profile(profile) >= 0, "take a profile")
    if not rt.flavour.blind:  # tensorrt-rtx times nothing
        _remember(rt, config, timings)
    monitor = _monitor(trt, name, on_progress)
    config.progress_monitor = monitor
    engine = rt.builder.build_serialized_network(network, config)
    if engine is None and monitor.stopped:
        raise KeyboardInterrupt
    rt.need(engine, f"build the {name} engine")
    if not rt.flavour.blind:
        with atomic_write(timings) as file:
            file.write(memoryview(config.get_timing_cache().serialize()))
    del alive
    return memoryview(engine)


def _parse(rt: TensorRT, plan: Plan, entry: dict[str, Any]) -> tuple[Any, list[Any]]:
    """Parse a graph; return TensorRT's network and the objects that must outlive it: weights are not copied."""
    trt = rt.trt
    typed = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)  # the only kind since TensorRT 11
    network = rt.need(rt.builder.create_network(0 if typed is None else 1 << int(typed)), "make a network")
    parser = rt.need(trt.OnnxParser(network, rt.log), "make a parser")
    if not hasattr(parser, "load_initializer"):
        raise BackendError(f"{rt.name} {rt.version} is too old to take weights from memory; pip install -U {rt.name}")
    model, tensors = plan.graph(entry), plan.tensors()
    _parsed(rt, parser, parser.load_model_proto(model), entry)
    for name in entry["weights"]:
        data = np.ascontiguousarray(tensors[name])
        _parsed(rt, parser, parser.load_initializer(name, data.ctypes.data, data.nbytes), entry)
    _parsed(rt, parser, parser.parse_model_proto(), entry)
    return network, [parser, model, tensors]


def _parsed(rt: TensorRT, parser: Any, done: bool, entry: dict[str, Any]) -> None:
    if not done:
        said = [parser.get_error(i) for i in range(parser.num_errors)]
        if said:
            rt.errors.clear()
        rt.errors.extend(f"{one.node_operator()} {one.node_name()}: {one.desc()}" for one in said)
        rt.need(done, f"read {entry['member']}")


def _profiles(rt: TensorRT, plan: Plan, entry: dict[str, Any], batches: tuple[int, ...]) -> list[Any]:
    """Make an optimisation profile for each batch size, which also takes calls down to the next smaller batch size.

    For a plan of any size, sides go from one stride to `longest_side`, and the profile is tuned at half of that.
    """
    profiles = []
    for least, rows in zip((1, *(rows + 1 for rows in batches)), batches, strict=False):
        profile = rt.need(rt.builder.create_optimization_profile(), "make a profile")
        shortest, best, longest = plan.stride or 0, longest_side(rows) // 2, longest_side(rows)
        for name, shape in entry["inputs"].items():
            lowest, tuned, highest = (
                sized(shape, *call)
                for call in ((least, shortest, shortest), (rows, best, best), (rows, longest, longest))
            )
            profile.set_shape(name, lowest, tuned, highest)
        profiles.append(profile)
    return profiles


def _remember(rt: TensorRT, config: Any, timings: Path) -> None:
    """Give the build the timing cache of earlier builds on this GPU by this version."""
    known = timings.read_bytes() if timings.is_file() else b""
    made = config.create_timing_cache(known)
    if made is None or not config.set_timing_cache(made, False):
        logger.info("%s does not take the timings in %s, and times anew", rt.name, timings)
        rt.errors.clear()
        rt.need(
            config.set_timing_cache(rt.need(config.create_timing_cache(b""), "keep timings"), False), "keep timings"
        )


def _monitor(trt: Any, name: str, on_progress: OnProgress) -> Any:
    """Make a monitor that reports TensorRT's outermost phase; the inner ones change too fast to read."""

    class Monitor(trt.IProgressMonitor):
        def __init__(self) -> None:
            super().__init__()
            self.stopped = False
            self._outer, self._done, self._steps = "", 0, 1

        def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
            if parent is None:
                self._outer, self._done, self._steps = phase, 0, steps

        def phase_finish(self, phase: str) -> None:
            pass

        def step_complete(self, phase: str, step: int) -> bool:
            if not self.stopped:
                self._done = step + 1 if phase == self._outer else self._done
                self.stopped = not on_progress(name, self._done, self._steps)
            return not self.stopped

    return Monitor()
