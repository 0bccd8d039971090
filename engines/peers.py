"""Torch as others run it, for `frugal-rt bench` to compare with. Opened like BACKENDS, and never chosen by `auto`."""

import os
import shutil
import sys
from collections.abc import Callable

from .base import Engine
from .errors import BackendError
from .network import import_torch
from .plan import Plan

EAGER = "torch eager"
COMPILED = "torch.compile"


def _device() -> str:
    return "cuda" if import_torch("Comparing with torch").cuda.is_available() else "cpu"


def _eager(plan: Plan) -> Engine:
    """As the papers' scripts run a UNet: contiguous, its parameters as they were loaded, nothing compiled."""
    device = _device()
    from .torch import TorchEngine

    return TorchEngine(plan, device, channels_last=False, frozen=False)


def _compiled(plan: Plan) -> Engine:
    device = _device()
    compiler = os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")
    if shutil.which(compiler) is None:
        raise BackendError(f"torch.compile needs a C++ compiler, and there is no {compiler} here")
    from .torch import TorchEngine

    return TorchEngine(plan, device, compiled=True)


PEERS: dict[str, Callable[[Plan], Engine]] = {EAGER: _eager, COMPILED: _compiled}
"""By the name a table gives them. They raise MissingExtra or BackendError where they cannot run."""
