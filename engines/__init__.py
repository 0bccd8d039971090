"""Plans, and the backends that run them. Importing this package imports no framework."""

from .array_api import Array
from .backends import BACKENDS, NEED_GPU, ON_CPU, gpu_backend, open_engine, parse_backend
from .base import PRECISIONS, Engine, OnHost, Prediction, Pull
from .embedded import open_plan
from .errors import (
    BackendError,
    BusyError,
    DeadlineError,
    DivergedError,
    ExportError,
    FileError,
    FrugalError,
    InputError,
    KindError,
    MissingExtra,
    MissingFile,
    MissingPlan,
    PlanError,
    UnreadableError,
    UnreadablePlan,
    WorkerError,
)
from .plan import Plan

__all__ = [
    "BACKENDS",
    "NEED_GPU",
    "ON_CPU",
    "PRECISIONS",
    "Array",
    "BackendError",
    "BusyError",
    "DeadlineError",
    "DivergedError",
    "Engine",
    "ExportError",
    "FileError",
    "FrugalError",
    "InputError",
    "KindError",
    "MissingExtra",
    "MissingFile",
    "MissingPlan",
    "OnHost",
    "Plan",
    "PlanError",
    "Prediction",
    "Pull",
    "UnreadableError",
    "UnreadablePlan",
    "WorkerError",
    "gpu_backend",
    "open_engine",
    "open_plan",
    "parse_backend",
]
