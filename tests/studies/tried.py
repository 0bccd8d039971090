"""Measure again other ways that were tried to make steps faster: a table of docs/decisions/times.md.

python tests/studies/tried.py --engine celeba.plan
"""

import collections
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnxruntime

from frugal_rt.engines import Plan, open_engine
from frugal_rt.engines.machine import cores
from frugal_rt.engines.onnxruntime.engine import OnnxRuntimeEngine

ROUNDS = 30


def milliseconds(run: Callable[[], Any]) -> str:
    """Median (least) of ROUNDS calls after five for warmth."""
    times = []
    for _ in range(5 + ROUNDS):
        started = time.perf_counter()
        run()
        times.append(1e3 * (time.perf_counter() - started))
    return f"{np.median(times[5:]):.2f} ms (least {min(times[5:]):.2f})"


def session(folder: Path, graph: str, config: dict[str, str], threads: int, **settings: Any) -> Any:
    """A session on an extracted graph, with settings that the engine does not use."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = threads, 1, 3
    for key, value in config.items():
        options.add_session_config_entry(key, value)
    for key, value in settings.items():
        setattr(options, key, value)
    return onnxruntime.InferenceSession(str(folder / f"{graph}.onnx"), options, providers=["CPUExecutionProvider"])


def spinning(folder: Path, x: np.ndarray, embedding: np.ndarray) -> Iterator[str]:
    """How threads wait: a forward call, and forward then pullback by two sessions."""
    value = onnxruntime.OrtValue.ortvalue_from_numpy
    given = {"x": value(x), "embedding": value(embedding), "v": value(x)}
    for name, config in (
        ("threads spin between calls", {}),
        ("threads never spin", {"session.intra_op.allow_spinning": "0"}),
        ("threads spin within a call", {"session.force_spinning_stop": "1"}),
    ):
        forward, pullback = (session(folder, graph, config, cores()) for graph in ("forward", "pullback"))
        outputs = [one.name for one in forward.get_outputs()]
        feed = {one.name: given[one.name] for one in forward.get_inputs()}

        def step(forward=forward, pullback=pullback, outputs=outputs, feed=feed) -> None:
            known = given | dict(zip(outputs, forward.run_with_ort_values(outputs, feed), strict=True))
            pullback.run_with_ort_values(["gradient"], {one.name: known[one.name] for one in pullback.get_inputs()})

        def call(forward=forward, feed=feed) -> None:
            forward.run_with_ort_values(["out"], feed)

        yield f"{name}: forward {milliseconds(call)}, forward and pullback {milliseconds(step)}"


def profile(folder: Path, x: np.ndarray, embedding: np.ndarray) -> Iterator[str]:
    """Where one thread spends a forward call, by kind of node."""
    one = session(folder, "forward", {}, 1, enable_profiling=True, profile_file_prefix=str(folder / "profile"))
    for _ in range(ROUNDS):
        one.run(["out"], {"x": x, "embedding": embedding})
    kinds: collections.Counter[str] = collections.Counter()
    for event in json.loads(Path(one.end_profiling()).read_text()):
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            kinds[event["args"]["op_name"]] += event["dur"] / 1e3 / ROUNDS
    total = sum(kinds.values())
    yield f"one thread, forward: {total:.2f} ms in nodes"
    for kind, ms in kinds.most_common(12):
        yield f"  {kind}: {ms:.2f} ms, {ms / total:.0%}"


def cache(plan: Path) -> Iterator[str]:
    """Loading plan, engine and gradient, with no cache and with one that is warm."""
    with tempfile.TemporaryDirectory() as folder:
        for name, where in (("no cache", "off"), ("warm cache", folder)):
            os.environ["FRUGAL_RT_CACHE"] = where
            times = []
            for _ in range(6):
                started = time.perf_counter()
                open_engine(Plan.open(plan), "cpu").prepare(gradients=True)
                times.append(time.perf_counter() - started)
            size = sum(file.stat().st_size for file in Path(folder).iterdir()) / 1e6
            yield f"{name}: {np.median(times[1:]):.3f} s to load, {size:.0f} MB on disk"


def int8(folder: Path, plan: Plan, images: int = 50) -> Iterator[str]:
    """The forward graph quantised (QDQ, per channel, MinMax), calibrated on noise scaled as x_t is."""
    from onnxruntime.quantization import CalibrationDataReader, quantize_static

    engine, shape = OnnxRuntimeEngine(plan), plan.image_shape
    random = np.random.default_rng(0)
    steps = np.linspace(0, 999, images).astype(np.int64)
    feeds = [
        {"x": random.standard_normal((1, *shape), dtype=np.float32), "embedding": engine._embed(steps[i : i + 1])}
        for i in range(images)
    ]

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self._feeds = iter(feeds)

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self._feeds, None)

    kinds = ["Conv", "MatMul"]
    quantize_static(
        str(folder / "forward.onnx"), str(folder / "int8.onnx"), Reader(), per_channel=True, op_types_to_quantize=kinds
    )
    spin = {"session.force_spinning_stop": "1"}
    exact, rough = (session(folder, graph, spin, cores()) for graph in ("forward", "int8"))
    errors = []
    for feed in feeds[::7]:
        want, got = exact.run(["out"], feed)[0], rough.run(["out"], feed)[0]
        errors.append(float(np.sqrt(((got - want) ** 2).mean() / (want**2).mean())))
    yield f"float32 {milliseconds(lambda: exact.run(['out'], feeds[0]))}"
    off = f"relative error {min(errors):.0%} to {max(errors):.0%}"
    yield f"int8 {milliseconds(lambda: rough.run(['out'], feeds[0]))}, {off}"


@click.command(help=__doc__)
@click.option("--engine", type=click.Path(exists=True, path_type=Path), required=True)
def main(engine: Path) -> None:
    plan = Plan.open(engine)
    runner = OnnxRuntimeEngine(plan)
    shape = plan.image_shape
    x = np.random.default_rng(0).standard_normal((1, *shape), dtype=np.float32)
    embedding = runner._embed(np.array([500]))
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        plan.extract(folder)
        for heading, lines in {
            "profile": profile(folder, x, embedding),
            "threads": spinning(folder, x, embedding),
            "optimised graphs kept": cache(engine),
            "int8": int8(folder, plan),
        }.items():
            click.echo(heading)
            for line in lines:
                click.echo(f"  {line}")


if __name__ == "__main__":
    main()
