"""The plan's graphs in OpenVINO, in bfloat16: for CPUs that multiply it natively. Less exact, so never the default."""

import functools
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from .base import Array, Prediction, Pull
from .errors import BackendError, MissingExtra, PlanError
from .machine import cores
from .plan import WEIGHTS, Plan
from .timesteps import Embeddings

ANSWERS = {"out", "variance"}
GRAPHS_KEPT = 12
"""Compiled graphs kept, one for each graph and batch size: each holds the weights once more."""


def import_openvino() -> Any:
    """The openvino module, on a CPU that has bfloat16. Raises MissingExtra or BackendError."""
    try:
        import openvino
    except ImportError as error:
        raise MissingExtra("The openvino backend", "openvino", "openvino") from error
    if "BF16" not in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise BackendError("this CPU has no bfloat16 arithmetic, and without it --backend cpu is the faster one")
    return openvino


class OpenVinoEngine:
    """Forward calls and pullbacks with weights and activations in bfloat16. State lives in float32 numpy arrays.

    Graphs are compiled for each batch size when it is first met: a second or two each time.
    """

    def __init__(self, plan: Plan):
        self._ov = import_openvino()
        self._core = self._ov.Core()
        self._entries = plan.manifest["graphs"]
        with tempfile.TemporaryDirectory() as folder:  # OpenVINO takes external weights from files only
            plan_files = {entry["member"] for entry in plan.manifest["graphs"].values()} | {WEIGHTS}
            for member in plan_files:
                (Path(folder) / member).write_bytes(plan.member(member))
            try:
                self._models = {
                    graph: self._core.read_model(Path(folder) / entry["member"])
                    for graph, entry in plan.manifest["graphs"].items()
                }
            except RuntimeError as error:
                raise PlanError(f"{plan.source}: OpenVINO cannot load its graphs: {error}") from error
        self._compiled = functools.lru_cache(GRAPHS_KEPT)(self._compile)
        embedding = self._core.compile_model(self._models["embedding"], "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        self._embed = Embeddings(lambda t: embedding({"t": t})[0])

    @property
    def name(self) -> str:
        return "openvino (cpu, bfloat16)"

    def prepare(self, gradients: bool) -> None:
        for graph, outputs in [("forward", "answers"), *([("forward", "all"), ("pullback", "all")] * gradients)]:
            self._compiled(graph, outputs, 1)

    def asarray(self, x: Any) -> Array:
        return np.ascontiguousarray(x, dtype=np.float32)

    def predict(self, x: Array, t: Array) -> Prediction:
        return _prediction(self._run("forward", "answers", {"x": self.asarray(x), "embedding": self._embed(t)}))

    def pullback(self, x: Array, t: Array) -> tuple[Prediction, Pull]:
        embedding = self._embed(t)
        kept = self._run("forward", "all", {"x": self.asarray(x), "embedding": embedding})

        def pull(cotangent: Array) -> Array:
            values = {**kept, "embedding": embedding, "v": self.asarray(cotangent)}
            return self._run("pullback", "all", values)["gradient"].data

        return _prediction(kept), pull

    def _run(self, graph: str, outputs: str, values: dict[str, Any]) -> dict[str, Any]:
        """One call of a graph: its results by name. The request that owns their memory serves this call only."""
        compiled = self._compiled(graph, outputs, len(values["embedding"]))
        try:
            request = compiled.create_infer_request()
            request.infer({name: values[name] for name in self._entries[graph]["inputs"]}, share_inputs=True)
            # One port may go by several names, so the manifest's are asked for.
            wanted = ANSWERS if outputs == "answers" else self._entries[graph]["outputs"]
            return {name: request.get_tensor(name) for name in wanted if name in self._entries[graph]["outputs"]}
        except RuntimeError as error:
            raise BackendError(f"OpenVINO failed in a call: {error}") from error

    def _compile(self, graph: str, outputs: str, batch: int) -> Any:
        """A graph for one batch size, with "all" its outputs or the network's "answers" alone."""
        model = self._models[graph].clone()
        model.reshape(
            {port: [batch, *(size.get_length() for size in list(port.partial_shape)[1:])] for port in model.inputs}
        )
        if outputs == "answers":
            wanted = [result for result in model.get_results() if result.input_value(0).get_names() & ANSWERS]
            model = self._ov.Model(wanted, model.get_parameters(), graph)
        settings = {
            "INFERENCE_PRECISION_HINT": "bf16",
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": "1",
            "INFERENCE_NUM_THREADS": cores(),
        }
        try:
            return self._core.compile_model(model, "CPU", settings)
        except RuntimeError as error:
            raise BackendError(f"OpenVINO cannot compile the {graph} graph: {error}") from error


def _prediction(values: dict[str, Any]) -> Prediction:
    return Prediction(*(values[name].data if name in values else None for name in ("out", "variance")))
