"""Optional packages: which are installed, and the errors that name the command for the others."""

import importlib.metadata
import importlib.util
from typing import Any

from .errors import MissingExtra

EXPORT_MODULES = ("torch", "diffusers", "onnx", "onnxruntime")
"""Modules that exporting imports."""


def installed(module: str) -> bool:
    """Return whether a top-level module is installed, by any distribution, without importing it."""
    return importlib.util.find_spec(module) is not None


def version(distribution: str) -> str | None:
    """Return the installed version of a distribution, or None. A module may come from another distribution."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def missing_export() -> str | None:
    """Return the first of EXPORT_MODULES that is not installed, or None."""
    return next((name for name in EXPORT_MODULES if not installed(name)), None)


def require_export() -> None:
    """Raise MissingExtra naming the first of EXPORT_MODULES that is not installed."""
    if name := missing_export():
        raise MissingExtra("Exporting", name, "cpu,export")


def import_torch(what: str) -> Any:
    """Import torch, or raise MissingExtra with a message that `what` needs it."""
    try:
        import torch
    except ImportError as error:
        raise MissingExtra(what, "torch", "torch") from error
    return torch
