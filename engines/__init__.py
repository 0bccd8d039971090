"""Plans, and the backends that run them. Backends are imported when one is opened, not before."""

from collections.abc import Callable

from .base import Array, Engine, Prediction, Pull
from .errors import (
    BackendError,
    BusyError,
    DeadlineError,
    DivergedError,
    ExportError,
    FrugalError,
    InputError,
    MissingExtra,
    PlanError,
    WorkerError,
)
from .plan import Plan

__all__ = [
    "BACKENDS",
    "Array",
    "BackendError",
    "BusyError",
    "DeadlineError",
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
    "WorkerError",
    "gpu_backend",
    "open_engine",
]


def _torch(plan: Plan, device: str) -> Engine:
    from .torch import TorchEngine

    return TorchEngine(plan, device)


def _onnxruntime(plan: Plan, device: str) -> Engine:
    from .onnxruntime import OnnxRuntimeEngine

    return OnnxRuntimeEngine(plan, device)


def _openvino(plan: Plan) -> Engine:
    from .openvino import OpenVinoEngine

    return OpenVinoEngine(plan)


def _auto(plan: Plan) -> Engine:
    """CUDA where onnxruntime has it, else the CPU; torch where onnxruntime is missing altogether."""
    from .probe import cuda_is_usable

    if cuda_is_usable():
        return _onnxruntime(plan, "cuda")
    try:
        return _onnxruntime(plan, "cpu")
    except MissingExtra:
        try:
            return _torch(plan, _torch_device())
        except MissingExtra:
            raise MissingExtra("Running a plan", "onnxruntime (or torch)", "cpu") from None


BACKENDS: dict[str, Callable[[Plan], Engine]] = {
    "auto": _auto,
    "cpu": lambda plan: _onnxruntime(plan, "cpu"),
    "cuda": lambda plan: _onnxruntime(plan, "cuda"),
    "openvino": _openvino,
    "torch": lambda plan: _torch(plan, _torch_device()),
}


def _torch_device() -> str:
    from .network import import_torch

    return "cuda" if import_torch("The torch backend").cuda.is_available() else "cpu"


def gpu_backend(backend: str) -> str:
    """What `backend` means where nothing but an NVIDIA GPU will do: "cuda" or "torch".

    Raises InputError for one that computes on the CPU, MissingExtra or BackendError where it finds no GPU here.
    """
    from .onnxruntime import import_onnxruntime
    from .probe import cuda_is_usable, version

    if backend in ("cpu", "openvino"):
        raise InputError(f"the backend {backend} computes on the CPU; GPUs take cuda, torch or auto")
    if backend == "auto":
        backend = "torch" if not cuda_is_usable() and version("torch") else "cuda"
    if backend == "cuda":
        import_onnxruntime("cuda")
    elif _torch_device() != "cuda":
        raise BackendError("torch sees no CUDA device here; run: frugal-rt doctor")
    return backend


def open_engine(plan: Plan, backend: str = "auto") -> Engine:
    """An engine that runs `plan`. `backend` is one of BACKENDS.

    Raises InputError for an unknown backend, MissingExtra or BackendError where it cannot run here, PlanError where
    the plan is damaged.
    """
    if backend not in BACKENDS:
        raise InputError(f"there is no backend {backend!r}; choose one of {', '.join(BACKENDS)}")
    return BACKENDS[backend](plan)
