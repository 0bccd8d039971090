"""Plans, and the backends that run them. Backends are imported when one is opened, not before."""

import functools
from collections.abc import Callable

from .base import Array, Engine, Prediction, Pull
from .errors import (
    BackendError,
    DivergedError,
    ExportError,
    FrugalError,
    InputError,
    MissingExtra,
    PlanError,
)
from .plan import Plan

__all__ = [
    "BACKENDS",
    "Array",
    "BackendError",
    "DivergedError",
    "Engine",
    "ExportError",
    "FrugalError",
    "InputError",
    "MissingExtra",
    "Plan",
    "PlanError",
    "Prediction",
    "Pull",
    "open_engine",
]


class PairedEngine:
    """Forward calls by one engine, pullbacks by another, which is opened when one is needed."""

    def __init__(self, forward: Engine, open_backward: Callable[[], Engine]):
        self._forward = forward
        self._backward = functools.cache(open_backward)
        self.asarray = forward.asarray
        self.predict = forward.predict

    @property
    def name(self) -> str:
        return f"{self._forward.name}, gradients by torch"

    def prepare(self, gradients: bool) -> None:
        if gradients:
            self._backward()

    def pullback(self, x: Array, t: Array) -> tuple[Prediction, Pull]:
        return self._backward().pullback(x, t)


def _torch(plan: Plan, device: str) -> Engine:
    from .torch import TorchEngine

    return TorchEngine(plan, device)


def _gradient(plan: Plan, device: str) -> Engine:
    from .network import import_torch

    import_torch("DPS's gradient (--method dmps has none)")
    return _torch(plan, device)


def _paired(plan: Plan, device: str) -> Engine:
    from .onnxruntime import OnnxRuntimeEngine

    return PairedEngine(OnnxRuntimeEngine(plan, device), lambda: _gradient(plan, device))


def _auto(plan: Plan) -> Engine:
    """CUDA where onnxruntime has it, else the CPU; torch alone where onnxruntime is missing altogether."""
    from .probe import cuda_is_usable

    if cuda_is_usable():
        return _paired(plan, "cuda")
    try:
        return _paired(plan, "cpu")
    except MissingExtra:
        try:
            return _torch(plan, _torch_device())
        except MissingExtra:
            raise MissingExtra("Running a plan", "onnxruntime (or torch)", "cpu") from None


BACKENDS: dict[str, Callable[[Plan], Engine]] = {
    "auto": _auto,
    "cpu": lambda plan: _paired(plan, "cpu"),
    "cuda": lambda plan: _paired(plan, "cuda"),
    "torch": lambda plan: _torch(plan, _torch_device()),
}


def _torch_device() -> str:
    from .network import import_torch

    return "cuda" if import_torch("The torch backend").cuda.is_available() else "cpu"


def open_engine(plan: Plan, backend: str = "auto") -> Engine:
    """An engine that runs `plan`. `backend` is one of BACKENDS.

    Raises InputError for an unknown backend, MissingExtra or BackendError where it cannot run here, PlanError where
    the plan is damaged.
    """
    if backend not in BACKENDS:
        raise InputError(f"there is no backend {backend!r}; choose one of {', '.join(BACKENDS)}")
    return BACKENDS[backend](plan)
