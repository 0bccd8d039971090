"""TensorRT's two Python packages behind one door: which are here, their log, and their silent failures made errors.

Failures are None or False and a line in the log. Nothing may be made of a package but a builder of `tensorrt-rtx`
before the driver has answered: without one it takes the process down.
"""

import functools
import importlib
import logging
from collections import deque
from typing import Any, NamedTuple

from .. import extras, nvidia
from ..errors import BackendError, MissingExtra

logger = logging.getLogger(__name__)
LINES_KEPT = 3


class Flavour(NamedTuple):
    """One of the packages."""

    name: str
    """The distribution that `extra` brings, and the name of the backend."""
    module: str
    extra: str
    """The extra of frugal-rt that brings it."""
    blind: bool
    """Whether it builds on a machine without a GPU, for the compute capability that it is told."""


FLAVOURS = {
    "tensorrt": Flavour("tensorrt", "tensorrt", "gpu", False),
    "tensorrt-rtx": Flavour("tensorrt-rtx", "tensorrt_rtx", "rtx", True),
}
"""Flavours of TensorRT by name; the first is preferred where both are installed."""


def installed() -> list[str]:
    """Return the names of the flavours whose modules are here: tensorrt-cu13 or tensorrt-rtx-cu13 alone brings one."""
    return [name for name, flavour in FLAVOURS.items() if extras.installed(flavour.module)]


class TensorRT:
    """A flavour, imported. `trt` is the module and `version` exact, as engines are tied to it."""

    def __init__(self, flavour: Flavour):
        try:
            self.trt = importlib.import_module(flavour.module)
        except ImportError as error:
            raise MissingExtra(f"The {flavour.name} backend", flavour.name, flavour.extra) from error
        self.flavour = flavour
        self.name = flavour.name
        self.version: str = self.trt.__version__
        self.errors: deque[str] = deque(maxlen=LINES_KEPT)
        self.log = _make_log(self.trt, self.errors)

    def need(self, result: Any, what: str) -> Any:
        """`result`, or a BackendError that TensorRT could not do `what`, with its log's last errors, where that is None
        or False."""
        if result is None or result is False:
            said = " ".join("; ".join(self.errors).split()) or "it did not say why"
            self.errors.clear()
            raise BackendError(f"{self.name} {self.version} could not {what}: {said}")
        return result

    @functools.cached_property
    def builder(self) -> Any:
        """The one builder of this process. Raises BackendError."""
        if not self.flavour.blind:
            self.need_device()
        return self.need(self.trt.Builder(self.log), "make a builder")

    @functools.cached_property
    def runtime(self) -> Any:
        """The one runtime of this process, which outlives its engines. Raises BackendError."""
        self.need_device()
        runtime = self.need(self.trt.Runtime(self.log), "make a runtime")
        runtime.engine_host_code_allowed = False
        return runtime

    def need_device(self) -> nvidia.Device:
        """The GPU it runs on. Raises BackendError where there is none."""
        missing = nvidia.trouble()
        if missing:
            raise BackendError(
                f"{self.name} needs an NVIDIA GPU: {missing}; use --backend cpu, or run: frugal-rt doctor"
            )
        return nvidia.devices()[0]


@functools.cache
def load(name: str) -> TensorRT:
    """The flavour of that name, imported once: TensorRT wants one log for all. Raises MissingExtra."""
    return TensorRT(FLAVOURS[name])


def _make_log(trt: Any, errors: deque[str]) -> Any:
    levels = {
        trt.ILogger.INTERNAL_ERROR: logging.DEBUG,
        trt.ILogger.ERROR: logging.DEBUG,  # raised by `need`
        trt.ILogger.WARNING: logging.INFO,
        trt.ILogger.INFO: logging.DEBUG,
        trt.ILogger.VERBOSE: logging.NOTSET,
    }

    class Log(trt.ILogger):
        def __init__(self) -> None:
            super().__init__()

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR):
                errors.append(message)
            if levels[severity]:
                logger.log(levels[severity], "%s", message)

    return Log()
