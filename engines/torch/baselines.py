"""Torch as others run it, to compare with in `frugal-rt bench`. Opened like BACKENDS, and never taken by `auto`."""

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
    """Return the C++ compiler that torch.compile would call; None where there is none."""
    return shutil.which(os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++"))


def _eager(plan: Plan) -> Engine:
    """Open an engine like the papers' scripts: contiguous memory, trainable parameters, nothing compiled."""
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
