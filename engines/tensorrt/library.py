"""TensorRT's two Python packages: which are installed, their log, and errors for their silent failures.

TensorRT reports a failure by returning None or False, and by a line in its log. Without a driver, making any of its
objects but a builder of `tensorrt-rtx` ends the process, so the driver is asked first.
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
    """One of TensorRT's two Python packages."""

    name: str
    """The distribution that `extra` installs, and the name of the backend."""
    module: str
    extra: str
    """The extra of frugal-rt that installs it."""
    blind: bool
    """Whether it builds on a machine without a GPU, for a given compute capability."""


FLAVOURS = {
    "tensorrt": Flavour("tensorrt", "tensorrt", "gpu", False),
    "tensorrt-rtx": Flavour("tensorrt-rtx", "tensorrt_rtx", "rtx", True),
}
"""Flavours of TensorRT by name; the first is preferred where both are installed."""


def installed() -> list[str]:
    """Return the names of the flavours whose modules are installed. Distributions such as tensorrt-cu13 count too."""
    return [name for name, flavour in FLAVOURS.items() if extras.installed(flavour.module)]


class TensorRT:
    """An imported flavour. `trt` is the module, `version` its full version, as engines run with no other."""

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
        """Return `result`. Where it is None or False, raise BackendError: TensorRT could not do `what`, and the last
        errors of its log."""
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
        """Return the GPU to run on. Raises BackendError where there is none."""
        missing = nvidia.trouble()
        if missing:
            raise BackendError(
                f"{self.name} needs an NVIDIA GPU: {missing}; use --backend cpu, or run: frugal-rt doctor"
            )
        return nvidia.devices()[0]


@functools.cache
def load(name: str) -> TensorRT:
    """Import the flavour of that name, once: TensorRT has one log for a process. Raises MissingExtra."""
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
