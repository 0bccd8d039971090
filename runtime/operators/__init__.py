"""Operators of damages, grouped by the basis that diagonalises them. base.py defines an operator."""

from typing import Any

from .base import Custom, Decomposable, Linear, Operator, Shape
from .bicubic import Bicubic, BicubicBlocks, bicubic
from .circular import Circular, Tapered
from .dense import MaskedMatrix, Matrix, valid_blur
from .iterative import Iterative, Partial
from .jpeg import Coded, Jpeg
from .kernels import gaussian_kernel, motion_kernel, parse_kernel, uniform_kernel
from .masked_jpeg import MaskedJpeg
from .masks import Inpaint, Masked
from .mirrored import Deblur, Mirrored, is_mirrored
from .pixelwise import GREY_WEIGHTS, Colorize, Denoise, SuperResolution
from .sensing import WalshHadamard
from .separable import Separable

__all__ = [
    "GREY_WEIGHTS",
    "Bicubic",
    "BicubicBlocks",
    "Circular",
    "Coded",
    "Colorize",
    "Custom",
    "Deblur",
    "Decomposable",
    "Denoise",
    "Inpaint",
    "Iterative",
    "Jpeg",
    "Linear",
    "Masked",
    "MaskedJpeg",
    "MaskedMatrix",
    "Matrix",
    "Mirrored",
    "Operator",
    "Partial",
    "Separable",
    "Shape",
    "SuperResolution",
    "Tapered",
    "WalshHadamard",
    "bicubic",
    "gaussian_kernel",
    "is_mirrored",
    "motion_kernel",
    "parse_kernel",
    "uniform_kernel",
    "valid_blur",
]


def __getattr__(name: str) -> Any:
    """Raise AttributeError; for an earlier name, with its new one."""
    if name == "Resolvable":
        raise AttributeError("operators.Resolvable is called operators.Linear, and what was that is Decomposable")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
