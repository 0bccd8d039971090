"""The plan's graphs in OpenVINO, for CPUs with bfloat16 arithmetic: faster than float32, and less exact."""

import contextlib
import functools
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from . import stopping
from .array_api import Array
from .base import ANSWERS, OnHost, Prediction, Pull
from .embeddings import Embeddings
from .errors import BackendError, MissingExtra, PlanError, Stopped, one_line
from .machine import cores
from .memory import Free
from .plan import WEIGHTS, Plan

GRAPHS = ("embedding", "forward", "pullback")
GRAPHS_KEPT = 15
"""Compiled graphs kept: three for each batch size of 1, 2, 4, 8, 16. Each holds two to four further copies of the
weights."""
_first_types = threading.Lock()


def import_openvino() -> Any:
    """Import openvino. Raises MissingExtra, or BackendError on a CPU without bfloat16 arithmetic."""
    try:
        import openvino
    except ImportError as error:
        raise MissingExtra("The openvino backend", "openvino", "openvino") from error
    with _first_types:  # makes its table of numpy's types; threads that make it at the same time deadlock (2026.4.1)
        openvino.Type.f32.to_dtype()
    if "BF16" not in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise BackendError("this CPU has no bfloat16 arithmetic, and without it --backend cpu is the faster one")
    return openvino


class OpenVinoEngine(OnHost):
    """Forward calls and pullbacks with weights and activations in bfloat16. State lives in float32 numpy arrays.

    Graphs are compiled for each batch size at its first call, in a second or two. The graphs of a plan for images of
    any size are compiled once, for all rows and sides. Measured on photo, such a graph is 5% slower than one for a
    single size from 256x256 on, and 20% slower at 64x64; graphs for each size would take a second or two and 90 to 150
    MB each.
    """

    def __init__(self, plan: Plan):
        core = import_openvino().Core()
        self._entries = {graph: plan.manifest["graphs"][graph] for graph in GRAPHS}
        self._any_size = plan.stride is not None
        with tempfile.TemporaryDirectory() as folder:  # OpenVINO reads external weights from files only
            files = {graph: Path(folder) / f"{graph}.onnx" for graph in GRAPHS}  # our names, not the plan's
            for graph, entry in self._entries.items():
                files[graph].write_bytes(plan.graph(entry))
            (Path(folder) / WEIGHTS).write_bytes(plan.member(WEIGHTS))
            try:
                models = {graph: core.read_model(file) for graph, file in files.items()}
            except RuntimeError as error:
                raise PlanError(f"{plan.source}: OpenVINO cannot load its graphs: {one_line(error)}") from error
        handed_over = [name for name in self._entries["pullback"]["inputs"] if name.startswith("kept:")]
        # Neither refers to the engine: a reference cycle would hold its memory until the next garbage collection.
        self._compiled = functools.lru_cache(GRAPHS_KEPT)(functools.partial(_compile, core, models, handed_over))
        embedding = core.compile_model(models["embedding"], "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        self._embed = Embeddings(functools.partial(_embed, embedding))

    @property
    def name(self) -> str:
        return "openvino (cpu, bfloat16)"

    def prepare(self, gradients: bool, batch: int = 1) -> None:
        for graph, outputs in [("forward", "answers"), *([("forward", "all"), ("pullback", "all")] * gradients)]:
            self._compiled(graph, outputs, self._rows(batch))

    def asarray(self, x: Any) -> np.ndarray:
        self.need_open()
        return np.ascontiguousarray(x, dtype=np.float32)

    def predict(self, x: Array, t: Array) -> Prediction:
        with self._request("forward", "answers", x) as request:
            _infer(request, x=self.asarray(x), embedding=self._embed(t))
            return self._prediction(request)

    def pullback(self, x: Array, t: Array) -> tuple[Prediction, Pull]:
        embedding = self._embed(t)
        lent = contextlib.ExitStack()  # the pull reads the forward request's outputs, and then frees the request
        forward = lent.enter_context(self._request("forward", "all", x))
        _infer(forward, x=self.asarray(x), embedding=embedding)

        def pull(cotangent: Array) -> Array:
            known = {"embedding": embedding, "v": self.asarray(cotangent)}
            with lent, self._request("pullback", "all", x) as request:
                wanted = self._entries["pullback"]["inputs"]
                kept = {name: forward.get_tensor(name) for name in wanted if name not in known}
                _infer(request, **kept, **{name: known[name] for name in known if name in wanted})
                return _copied(request, "gradient")

        return self._prediction(forward), pull

    def _prediction(self, request: Any) -> Prediction:
        there = self._entries["forward"]["outputs"]
        return Prediction(_copied(request, "out"), _copied(request, "variance") if "variance" in there else None)

    def _rows(self, batch: int) -> int | None:
        """Return the number of rows that a graph is compiled for; None for any."""
        return None if self._any_size else batch

    @contextlib.contextmanager
    def _request(self, graph: str, outputs: str, x: Array) -> Iterator[Any]:
        """Yield an inference request for a call of `x`, for exclusive use: it owns the memory of its results."""
        compiled, free = self._compiled(graph, outputs, self._rows(len(x)))
        size = len(x), *x.shape[2:]
        request = free.take(size) or compiled.create_infer_request()
        yield request
        free.give(size, request, sum(tensor.get_byte_size() for tensor in request.output_tensors))


def _infer(request: Any, **values: Any) -> None:
    stop = stopping.current()
    try:
        if stop is None:
            request.infer(values, share_inputs=True)
            return
        stopping.check()
        request.start_async(values, share_inputs=True)  # a request can be cancelled only after its start
        try:
            with stop.ending(request.cancel):
                request.wait()
        except Stopped:  # asked for between the start and `ending`
            request.cancel()
            with contextlib.suppress(RuntimeError):
                request.wait()
            raise
        stopping.check()
    except RuntimeError as error:
        stopping.check()
        raise BackendError(f"OpenVINO failed in a call: {one_line(error)}") from error


def _embed(compiled: Any, t: np.ndarray) -> np.ndarray:
    request = compiled.create_infer_request()
    _infer(request, t=t)
    return _copied(request, "embedding")


def _copied(request: Any, name: str) -> np.ndarray:
    """Return a copy of a result: the request's next call overwrites its memory."""
    return np.array(request.get_tensor(name).data)


def _compile(
    core: Any, models: Mapping[str, Any], handed_over: Sequence[str], graph: str, outputs: str, rows: int | None
) -> tuple[Any, Free[Any]]:
    """Compile a graph for a number of rows, or for any rows and sides (None); return it and the pool of its requests.

    outputs: "all", or "answers" for the network's answers alone. Activations that the forward graph hands to the
    pullback graph stay in bfloat16.
    """
    import openvino as ov

    model = models[graph].clone()
    if rows is not None:
        model.reshape(
            {port: [rows, *(size.get_length() for size in list(port.partial_shape)[1:])] for port in model.inputs}
        )
    if outputs == "answers":
        wanted = [result for result in model.get_results() if result.input_value(0).get_names() & {*ANSWERS}]
        model = ov.Model(wanted, model.get_parameters(), graph)
    handed = ov.preprocess.PrePostProcessor(model)
    for name in handed_over if outputs == "all" else ():
        port = handed.input(name) if graph == "pullback" else handed.output(name)
        port.tensor().set_element_type(ov.Type.bf16)
    model = handed.build()
    settings = {
        "INFERENCE_PRECISION_HINT": "bf16",
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": "1",
        "INFERENCE_NUM_THREADS": cores(),
    }
    try:
        return core.compile_model(model, "CPU", settings), Free()
    except RuntimeError as error:
        raise BackendError(f"OpenVINO cannot compile the {graph} graph: {one_line(error)}") from error
