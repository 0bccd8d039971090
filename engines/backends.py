"""The backends that run plans, by name. A backend is imported when it is opened, not before."""

import contextlib
import logging
import os
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from . import nvidia
from .base import PRECISIONS, Engine
from .errors import (
    BackendError,
    InputError,
    MissingExtra,
)
from .fastest import open_fastest
from .plan import Plan

logger = logging.getLogger(__name__)
AUTO = "FRUGAL_RT_BACKEND"
"""The environment variable that names the backend which "auto" stands for."""


class Wanted(NamedTuple):
    """Requests about a backend beyond its name."""

    precision: str | None = None
    """One of PRECISIONS. None: TensorRT's engines as they were built, float32 in every other backend."""
    trust_engines: bool = False
    """Whether TensorRT engines in the plan may be loaded: native code that somebody else built."""

    @property
    def in_half(self) -> bool:
        return self.precision in ("fp16", "bf16")


def _torch(plan: Plan, wanted: Wanted, *, compiled: bool = False) -> Engine:
    from .torch.engine import TorchEngine

    return TorchEngine(plan, _torch_device(), wanted.precision or "fp32", compiled=compiled, falls_back=True)


def _cpu(plan: Plan, wanted: Wanted) -> Engine:
    from .onnxruntime.engine import OnnxRuntimeEngine

    _only("cpu", "fp32", wanted)
    return OnnxRuntimeEngine(plan, "cpu")


def _cuda(plan: Plan, wanted: Wanted) -> Engine:
    from .onnxruntime.cuda import open_cuda

    _only("cuda", "fp32", wanted)
    return open_cuda(plan)


def _openvino(plan: Plan, wanted: Wanted) -> Engine:
    from .openvino import OpenVinoEngine

    _only("openvino", "bf16", wanted)
    return OpenVinoEngine(plan)


def _tensorrt(plan: Plan, wanted: Wanted, flavour: str) -> Engine:
    from .tensorrt.engine import TensorRTEngine

    return TensorRTEngine(plan, flavour, wanted.precision, trust=wanted.trust_engines)


def _auto(plan: Plan, wanted: Wanted) -> Engine:
    """Open the backend that "auto" stands for.

    With a GPU: the backend of `_on_gpu`; the log says why it is not TensorRT. Without: the faster of onnxruntime and
    OpenVINO as measured on this CPU. Torch where onnxruntime is missing, or where another precision is asked for.
    """
    if nvidia.trouble() is None:
        name, why = _on_gpu(plan, wanted)
        if why:
            logger.warning("the backend is not TensorRT: %s", why)
        if name is not None:
            return BACKENDS[name](plan, wanted)
    try:
        if wanted.in_half:
            return _torch(plan, wanted)
        openers = {name: partial(BACKENDS[name], plan, wanted) for name in ON_CPU}
        return openers["cpu"]() if wanted.precision else open_fastest(plan, openers)
    except MissingExtra:
        try:
            return _torch(plan, wanted)
        except MissingExtra:
            raise MissingExtra("Running a plan", "onnxruntime (or torch)", "cpu") from None


def _on_gpu(plan: Plan, wanted: Wanted) -> tuple[str | None, str]:
    """Return the backend that computes on this machine's GPU (None if none does), and why it is not TensorRT.

    TensorRT comes first, where it has an engine for the plan; then onnxruntime, then torch.
    """
    from .onnxruntime.cuda import cuda_is_usable
    from .tensorrt.engine import usable

    flavour, why = usable(plan, wanted.precision, wanted.trust_engines)
    if flavour is not None:
        return flavour, ""
    if cuda_is_usable() and not wanted.in_half:
        return "cuda", why
    with contextlib.suppress(MissingExtra):
        if _torch_device() == "cuda":
            return "torch", why
    return None, why


BACKENDS: dict[str, Callable[[Plan, Wanted], Engine]] = {
    "auto": _auto,
    "cpu": _cpu,
    "cuda": _cuda,
    "openvino": _openvino,
    "tensorrt": lambda plan, wanted: _tensorrt(plan, wanted, "tensorrt"),
    "tensorrt-rtx": lambda plan, wanted: _tensorrt(plan, wanted, "tensorrt-rtx"),
    "torch": _torch,
    "torch-compile": lambda plan, wanted: _torch(plan, wanted, compiled=True),
}


ON_CPU = ("cpu", "openvino")
"""The BACKENDS that compute on the CPU."""
NEED_GPU = ("cuda", "tensorrt", "tensorrt-rtx")
"""The BACKENDS that compute on an NVIDIA GPU or not at all."""


def _only(backend: str, precision: str, wanted: Wanted) -> None:
    if wanted.precision not in (None, precision):
        raise InputError(f"the {backend} backend computes in {precision}; {wanted.precision} takes tensorrt or torch")


def _torch_device() -> str:
    from .extras import import_torch

    return "cuda" if import_torch("The torch backend").cuda.is_available() else "cpu"


def parse_backend(backend: str) -> tuple[str, str | None]:
    """Split "torch:bf16" into a name, one of BACKENDS, and a precision or None. Raises InputError."""
    name, colon, precision = backend.partition(":")
    if name not in BACKENDS:
        raise InputError(f"there is no backend {name!r}; choose one of {', '.join(BACKENDS)}")
    if colon and precision not in PRECISIONS:
        raise InputError(f"there is no precision {precision!r}; choose one of {', '.join(PRECISIONS)}: {name}:bf16")
    return name, precision or None


def gpu_backend(plan: Plan, backend: str, trust_engines: bool = False) -> str:
    """Return the backend on an NVIDIA GPU that `backend` stands for with this plan; never "auto".

    Raises InputError for a backend that computes on the CPU, MissingExtra or BackendError where there is no GPU.
    """
    from .extras import installed
    from .onnxruntime.sessions import import_onnxruntime

    name, precision = parse_backend(backend)
    if name in ON_CPU:
        raise InputError(f"the backend {name} computes on the CPU; GPUs take tensorrt, cuda, torch or auto")
    if name == "auto":
        found, _ = _on_gpu(plan, Wanted(precision, trust_engines))
        name = found or ("torch" if installed("torch") else "cuda")
    if name == "cuda":
        import_onnxruntime("cuda")
    elif name.startswith("torch") and _torch_device() != "cuda":
        raise BackendError("torch sees no CUDA device here; run: frugal-rt doctor")
    return f"{name}:{precision}" if precision else name


def open_engine(plan: Plan, backend: str = "auto", *, trust_engines: bool = False) -> Engine:
    """Open an engine that runs `plan`.

    backend: one of BACKENDS, with an optional precision (torch:bf16). Torch has every precision, TensorRT those that an
    engine was built in. Where $FRUGAL_RT_BACKEND is set, "auto" stands for the backend it names.
    trust_engines: whether TensorRT engines in the plan, native code that somebody else built, may be loaded.

    Raises InputError for an unknown backend, or a precision that it does not compute in; MissingExtra or BackendError
    where it cannot run here; PlanError where the plan is damaged.
    """
    name, precision = parse_backend(os.environ.get(AUTO) or backend if backend == "auto" else backend)
    return BACKENDS[name](plan, Wanted(precision, trust_engines))
