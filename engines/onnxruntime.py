"""Forward calls through onnxruntime, on the CPU or a CUDA device. The weights stay where the plan maps them."""

import os
from typing import Any

import numpy as np

from .base import Array, Prediction, Pull
from .errors import BackendError, MissingExtra, PlanError
from .plan import Plan

_NO_GRADIENT = "this plan holds no gradient graph: onnxruntime serves DMPS only; DPS needs --backend torch"
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
    """The plan's forward graph in an onnxruntime session. State lives in numpy arrays; there is no pullback."""

    def __init__(self, plan: Plan, device: str = "cpu"):
        ort = import_onnxruntime(device)
        self._device = device
        options = ort.SessionOptions()
        options.intra_op_num_threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # The session keeps pointing into these values, so they live as long as it does.
        self._weights = {name: ort.OrtValue.ortvalue_from_numpy(array) for name, array in plan.tensors().items()}
        options.add_external_initializers(list(self._weights), list(self._weights.values()))
        graph = plan.manifest["graphs"]["forward"]
        try:
            self._session = ort.InferenceSession(
                bytes(plan.member(graph["member"])), options, providers=[PROVIDERS[device]]
            )
        except Exception as error:  # onnxruntime's errors share no base but Exception
            if device != "cpu":
                raise BackendError(
                    f"onnxruntime cannot run on {device} here: {error}; run: frugal-rt doctor"
                ) from error
            raise PlanError(f"{plan.source}: onnxruntime cannot load {graph['member']}: {error}") from error
        self._session.disable_fallback()
        running = self._session.get_providers()[0]
        if running != PROVIDERS[device]:
            raise BackendError(f"onnxruntime fell back from {device} to {running}; run: frugal-rt doctor")

    @property
    def name(self) -> str:
        return f"onnxruntime ({self._device})"

    def prepare(self, gradients: bool) -> None:
        if gradients:
            raise BackendError(_NO_GRADIENT)

    def asarray(self, x: Any) -> Array:
        return np.ascontiguousarray(x, dtype=np.float32)

    def predict(self, x: Array, t: Array) -> Prediction:
        try:
            outputs = self._session.run(None, {"x": self.asarray(x), "t": np.asarray(t, dtype=np.int64)})
        except Exception as error:  # as above
            raise BackendError(f"onnxruntime failed in a forward call: {error}") from error
        return Prediction(outputs[0], outputs[1] if len(outputs) > 1 else None)

    def pullback(self, x: Array, t: Array) -> tuple[Prediction, Pull]:
        raise BackendError(_NO_GRADIENT)
