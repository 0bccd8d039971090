"""The plan's graphs in onnxruntime, on the CPU or a CUDA device. The weights stay where the plan maps them."""

import functools
import os
from typing import Any

import numpy as np

from .base import Array, Prediction, Pull
from .errors import BackendError, MissingExtra, PlanError
from .plan import Plan

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
        # Sessions keep pointing into these values, so they live as long as the engine does.
        self._weights = {name: self._ort.OrtValue.ortvalue_from_numpy(a) for name, a in plan.tensors().items()}
        self._embedding = self._session("embedding", "cpu")
        self._forward = self._session("forward", device)
        self._outputs = [output.name for output in self._forward.get_outputs()]
        self._answers = [name for name in ("out", "variance") if name in self._outputs]
        self._embedded: dict[int, np.ndarray] = {}

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
    def _pullback(self) -> Any:
        return self._session("pullback", self._device)

    def _prediction(self, values: dict[str, Any]) -> Prediction:
        return Prediction(*(values[name].numpy() if name in values else None for name in ("out", "variance")))

    def _embed(self, t: Array) -> np.ndarray:
        """The network's view of each timestep, (B, K), from those computed before where there are."""
        steps = [int(one) for one in t]
        new = sorted(set(steps) - self._embedded.keys())
        if new:
            rows = self._run(self._embedding, {"t": np.asarray(new, np.int64)}, ["embedding"])["embedding"].numpy()
            self._embedded.update(zip(new, rows, strict=True))
        return np.stack([self._embedded[one] for one in steps])

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
        entry = self._plan.manifest["graphs"][graph]
        options = self._ort.SessionOptions()
        options.intra_op_num_threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # Threads spin within a call and rest between calls: the threads of one session would starve the other's.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        weights = {name: value for name, value in self._weights.items() if name in entry["weights"]}
        options.add_external_initializers(list(weights), list(weights.values()))
        model = bytes(self._plan.member(entry["member"]))
        try:
            session = self._ort.InferenceSession(model, options, providers=[PROVIDERS[device]])
        except Exception as error:  # as above
            if device != "cpu":
                raise BackendError(
                    f"onnxruntime cannot run on {device} here: {error}; run: frugal-rt doctor"
                ) from error
            raise PlanError(f"{self._plan.source}: onnxruntime cannot load {entry['member']}: {error}") from error
        session.disable_fallback()
        running = session.get_providers()[0]
        if running != PROVIDERS[device]:
            raise BackendError(f"onnxruntime fell back from {device} to {running}; run: frugal-rt doctor")
        return session
