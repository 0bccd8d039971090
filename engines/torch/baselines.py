"""Torch as others run it, for `frugal-rt bench` to compare with. Opened like BACKENDS, and never chosen by `auto`."""

import os
import shutil
import sys
from collections.abc import Callable

from ..base import Engine
from ..errors import BackendError
from ..extras import import_torch
from ..plan import Plan

EAGER = "torch eager"
COMPILED = "torch.compile"


def _device() -> str:
    return "cuda" if import_torch("Comparing with torch").cuda.is_available() else "cpu"


def compiler() -> str | None:
    """The C++ compiler that torch.compile would call; None where it is not there."""
    return shutil.which(os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++"))


def _eager(plan: Plan) -> Engine:
    """As the papers' scripts run a UNet: contiguous, its parameters as they were loaded, nothing compiled."""
    device = _device()
    from .engine import TorchEngine

    return TorchEngine(plan, device, channels_last=False, frozen=False)


def _compiled(plan: Plan) -> Engine:
    device = _device()
    if compiler() is None:
        raise BackendError("torch.compile needs a C++ compiler, which is not here; install g++, or name one in $CXX")
    from .engine import TorchEngine

    return TorchEngine(plan, device, compiled=True)


BASELINES: dict[str, Callable[[Plan], Engine]] = {EAGER: _eager, COMPILED: _compiled}
"""Openers of the baselines, by name. They raise MissingExtra or BackendError where a baseline cannot run."""
