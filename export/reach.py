"""Reach of a network without attention: tiles that overlap by it answer as the whole image does, but for norms."""

import numpy as np

from ..engines import ExportError
from .sizes import Side, known
from .trace import Trace, Value

LOCAL = {"add", "cast", "cat", "group_norm", "mean_pool", "mul", "pixel_unshuffle", "silu", "slice"}
"""Operations whose elements depend on their own place alone; a larger square has the margins of its parts."""


def reach_of(traced: Trace) -> int:
    """Return the pixels from one of the first output to the farthest one that it depends on, along either axis.

    The mean and variance of a group norm, which depend on every pixel, are left out. Raises ExportError for an
    operation that is not local.
    """
    margins = {traced.x: np.zeros(4, int)}
    for value in traced.values:
        read = [margins[one] for one in value.inputs if one in margins]
        if read:
            margins[value] = _through(value, np.max(read, axis=0))
    return int(margins[traced.outputs[0]].max())


def _through(value: Value, margins: np.ndarray) -> np.ndarray:
    """Return the margins of an operation's result, from those of its inputs.

    An element of a value is a square of pixels. Its margins are the pixels above, left, below and right of the square
    that it depends on.
    """
    source, settings = value.inputs[0], value.settings
    if value.op in LOCAL:
        return margins
    square = _square(source)
    if value.op in ("upsample", "upsample_conv", "pixel_shuffle"):  # a part of an element, at any of its ends
        part = _square(value)
        margins, square = margins + square - part, part
    if value.op in ("conv", "upsample_conv"):
        kernel, stride = known(value.inputs[1].shape[2]), settings.get("stride", 1)
        top, left, *_ = settings.get("pads", [1, 1, 1, 1])
        taken = [top, left, kernel - stride - top, kernel - stride - left]
        return np.asarray(margins + square * np.array(taken))
    if value.op == "pad":
        top, left, *_ = settings["pads"]
        return np.asarray(margins + square * np.array([top, left, -top, -left]))
    if value.op in ("upsample", "pixel_shuffle"):
        return margins
    raise ExportError(f"the operation {value.op} looks at whole images, which must be of a fixed size; say --size")


def _square(value: Value) -> int:
    """The side in pixels of an element. Raises ExportError for what is no picture."""
    side = value.shape[2] if len(value.shape) == 4 else None
    if not isinstance(side, Side):
        raise ExportError("the network gives its images another form, and they must be of a fixed size; say --size")
    return side.by
