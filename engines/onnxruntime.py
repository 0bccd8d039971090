"""The plan's graphs in onnxruntime, on the CPU or a CUDA device. The weights stay where the plan maps them."""

import functools
from pathlib import Path
from typing import Any

import numpy as np

from . import cache
from .base import Array, Prediction, Pull
from .errors import BackendError, MissingExtra, PlanError
from .machine import cores
from .plan import WEIGHTS, Plan
from .timesteps import Embeddings

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


def import_onnxruntime(device: str = "cpu") -> Any:
    """The onnxruntime module with the provider `device` needs. Raises MissingExtra."""
    extra, module = ("cpu", "onnxruntime") if device == "cpu" else ("gpu", "onnxruntime-gpu")
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingExtra(f"The {device} backend", module, extra) from error
    if PROVIDERS[device] not in onnxruntime.get_available_providers():
        raise MissingExtra(f"The {device} backend", module, extra)
    return onnxruntime


class OnnxRuntimeEngine:
    """Forward calls and pullbacks by the plan's compiled graphs; needs no torch. State lives in numpy arrays.

    A pullback runs the forward graph once, keeps the activations it hands over on the device, and feeds them with
    the cotangent to the pullback graph. What the network makes of a timestep is computed once and kept.
    """

    def __init__(self, plan: Plan, device: str = "cpu"):
        self._ort = import_onnxruntime(device)
        self._plan = plan
        self._device = device
        self._embedding = self._session("embedding", "cpu")
        self._forward = self._session("forward", device)
        self._outputs = [output.name for output in self._forward.get_outputs()]
        self._answers = [name for name in ("out", "variance") if name in self._outputs]
        self._embed = Embeddings(lambda t: self._run(self._embedding, {"t": t}, ["embedding"])["embedding"].numpy())

    @property
    def name(self) -> str:
        return f"onnxruntime ({self._device})"

    def prepare(self, gradients: bool) -> None:
        if gradients:
            _ = self._pullback

    def asarray(self, x: Any) -> Array:
        return np.ascontiguousarray(x, dtype=np.float32)

    def predict(self, x: Array, t: Array) -> Prediction:
        values = self._run(self._forward, {"x": self.asarray(x), "embedding": self._embed(t)}, self._answers)
        return self._prediction(values)

    def pullback(self, x: Array, t: Array) -> tuple[Prediction, Pull]:
        session = self._pullback
        embedding = self._embed(t)
        kept = self._run(self._forward, {"x": self.asarray(x), "embedding": embedding}, self._outputs)

        def pull(cotangent: Array) -> Array:
            available = {**kept, "embedding": embedding, "v": self.asarray(cotangent)}
            inputs = {value.name: available[value.name] for value in session.get_inputs()}
            return self._run(session, inputs, ["gradient"])["gradient"].numpy()

        return self._prediction(kept), pull

    @functools.cached_property
    def _weights(self) -> dict[str, Any]:
        """The plan's weights where they are mapped. Sessions keep pointing into them: they live as long as this."""
        return {name: self._ort.OrtValue.ortvalue_from_numpy(a) for name, a in self._plan.tensors().items()}

    @functools.cached_property
    def _pullback(self) -> Any:
        return self._session("pullback", self._device)

    def _prediction(self, values: dict[str, Any]) -> Prediction:
        return Prediction(*(values[name].numpy() if name in values else None for name in ("out", "variance")))

    def _run(self, session: Any, inputs: dict[str, Any], outputs: list[str]) -> dict[str, Any]:
        """One call: inputs as numpy arrays or values of an earlier call; outputs stay on the session's device."""
        try:
            binding = session.io_binding()
            for name, value in inputs.items():
                if isinstance(value, np.ndarray):
                    binding.bind_cpu_input(name, value)
                else:
                    binding.bind_ortvalue_input(name, value)
            device = "cpu" if session is self._embedding else self._device
            for name in outputs:
                binding.bind_output(name, device)
            session.run_with_iobinding(binding)
            return dict(zip(outputs, binding.get_outputs(), strict=True))
        except Exception as error:  # onnxruntime's errors share no base but Exception
            raise BackendError(f"onnxruntime failed in a call: {error}") from error

    def _session(self, graph: str, device: str) -> Any:
        """A session of one of the plan's graphs; on the CPU the optimised graph is kept for the next process."""
        entry, members = self._plan.manifest["graphs"][graph], self._plan.manifest["members"]
        hashes = members[entry["member"]]["sha256"], members[WEIGHTS]["sha256"]
        name = cache.key(self._ort.__version__, *hashes)
        session = None
        if device == "cpu":
            optimised = cache.find(name)
            if optimised is None:

                def write(path: Path) -> None:
                    nonlocal session
                    session = self._open(entry, device, optimized_model_filepath=str(path))

                cache.keep(name, write)
            else:
                level = self._ort.GraphOptimizationLevel.ORT_DISABLE_ALL
                session = self._open(entry, device, optimised, graph_optimization_level=level)
        if session is None:
            session = self._open(entry, device)
        session.disable_fallback()
        running = session.get_providers()[0]
        if running != PROVIDERS[device]:
            raise BackendError(f"onnxruntime fell back from {device} to {running}; run: frugal-rt doctor")
        return session

    def _open(self, entry: dict[str, Any], device: str, model: bytes | None = None, **settings: Any) -> Any:
        options = self._ort.SessionOptions()
        options.intra_op_num_threads = cores()
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # Threads spin within a call and rest between calls: the threads of one session would starve the other's.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        for setting, value in settings.items():
            setattr(options, setting, value)
        weights = (
            {name: value for name, value in self._weights.items() if name in entry["weights"]} if not model else {}
        )
        options.add_external_initializers(list(weights), list(weights.values()))
        graph = model or bytes(self._plan.member(entry["member"]))
        try:
            return self._ort.InferenceSession(graph, options, providers=[PROVIDERS[device]])
        except Exception as error:  # as above
            if device != "cpu":
                raise BackendError(
                    f"onnxruntime cannot run on {device} here: {error}; run: frugal-rt doctor"
                ) from error
            raise PlanError(f"{self._plan.source}: onnxruntime cannot load {entry['member']}: {error}") from error
