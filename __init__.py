"""frugal-rt: zero-shot diffusion image restoration, exported and compiled.

    from frugal_rt import Restorer, operators

    restorer = Restorer.load("celeba.plan")
    result = restorer.restore(y, operators.SuperResolution((3, 64, 64), 4), sigma=0.01)

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
        FrugalError,
        InputError,
        MissingExtra,
        Plan,
        PlanError,
        WorkerError,
    )
    from .export import export_plan
    from .runtime import operators
    from .runtime.pool import Pool
    from .runtime.restorer import Restorer
    from .runtime.result import Result
    from .runtime.sampling.loop import StepEvent

__all__ = [
    "BackendError",
    "BusyError",
    "DeadlineError",
    "DivergedError",
    "ExportError",
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
]


_HOMES = {
    "Restorer": ".runtime.restorer",
    "Result": ".runtime.result",
    "StepEvent": ".runtime.sampling.loop",
    "Pool": ".runtime.pool",
    "export_plan": ".export",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name == "operators":
        return importlib.import_module(".runtime.operators", __name__)
    return getattr(importlib.import_module(_HOMES.get(name, ".engines"), __name__), name)
