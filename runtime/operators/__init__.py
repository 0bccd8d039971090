"""Degradations, by the kind of their basis. See base.py for what an operator is."""

from .base import Custom, Linear, Operator, Shape
from .pixelwise import GREY_WEIGHTS, Colorize, Denoise, Inpaint, Masked, SuperResolution
from .separable import Bicubic, Deblur, Separable

__all__ = [
    "GREY_WEIGHTS",
    "Bicubic",
    "Colorize",
    "Custom",
    "Deblur",
    "Denoise",
    "Inpaint",
    "Linear",
    "Masked",
    "Operator",
    "Separable",
    "Shape",
    "SuperResolution",
]
