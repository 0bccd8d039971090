"""Degradations, by the kind of their basis. See base.py for what an operator is."""

from .base import Custom, Linear, Operator, Shape
from .pixelwise import GREY_WEIGHTS, Colorize, Denoise, Inpaint, SuperResolution
from .separable import Deblur, Separable

__all__ = [
    "GREY_WEIGHTS",
    "Colorize",
    "Custom",
    "Deblur",
    "Denoise",
    "Inpaint",
    "Linear",
    "Operator",
    "Separable",
    "Shape",
    "SuperResolution",
]
