"""Optional packages: which are installed, and the errors that name what would bring the others."""

import importlib.metadata
import importlib.util
from typing import Any

from .errors import MissingExtra

EXPORT_MODULES = ("torch", "diffusers", "onnx", "onnxruntime")
"""Modules that exporting imports."""


def installed(module: str) -> bool:
    """Return whether a top-level module can be found here, whichever distribution brings it; it is not imported."""
    return importlib.util.find_spec(module) is not None


def version(distribution: str) -> str | None:
    """Return the version of a distribution, or None: what to print, as its module may come from another."""
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
    """Import torch, or raise MissingExtra saying that `what` needs it."""
    try:
        import torch
    except ImportError as error:
        raise MissingExtra(what, "torch", "torch") from error
    return torch
