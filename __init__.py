"""frugal-rt: zero-shot diffusion image restoration, exported and compiled.

Pictures, as `frugal-rt restore` restores them:

    >>> from frugal_rt import Restorer
    >>> restorer = Restorer.load("photo")
    >>> restorer("photo.jpg", noise=25).image.save("restored.png")

Measurements y = A x + sigma n, arrays or tensors on [-1, 1]:

    >>> from frugal_rt import operators, read
    >>> x = read("photo.jpg", size=(64, 64))
    >>> operator = operators.SuperResolution(x.shape, 2)
    >>> restorer.at(64, 64).restore(operator.A(x), operator, aim="detail").image.shape
    (3, 64, 64)

Names are imported when first used, so that `import frugal_rt` stays quick and brings in no framework.
"""

import importlib
from typing import TYPE_CHECKING, Any

from .engines.version import __version__ as __version__

if TYPE_CHECKING:
    from .engines import (
        BackendError,
        BusyError,
        DeadlineError,
        DivergedError,
        ExportError,
        FileError,
        FrugalError,
        InputError,
        MissingExtra,
        Plan,
        PlanError,
        WorkerError,
    )
    from .export import export_plan
    from .runtime import operators
    from .runtime.pictures.arrays import PORTRAIT, psnr, read, to_pil, write
    from .runtime.pool import Pool
    from .runtime.restorer import Restorer
    from .runtime.result import Result
    from .runtime.sampling.loop import StepEvent

__all__ = [
    "PORTRAIT",
    "BackendError",
    "BusyError",
    "DeadlineError",
    "DivergedError",
    "ExportError",
    "FileError",
    "FrugalError",
    "InputError",
    "MissingExtra",
    "Plan",
    "PlanError",
    "Pool",
    "Restorer",
    "Result",
    "StepEvent",
    "WorkerError",
    "export_plan",
    "operators",
    "psnr",
    "read",
    "to_pil",
    "write",
]


_HOMES = {
    "Restorer": ".runtime.restorer",
    "Result": ".runtime.result",
    "StepEvent": ".runtime.sampling.loop",
    "Pool": ".runtime.pool",
    "export_plan": ".export",
    **dict.fromkeys(("PORTRAIT", "psnr", "read", "to_pil", "write"), ".runtime.pictures.arrays"),
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name == "operators":
        return importlib.import_module(".runtime.operators", __name__)
    return getattr(importlib.import_module(_HOMES.get(name, ".engines"), __name__), name)
