"""The reach of a network without attention: how far an output pixel depends on input pixels.

Tiles that overlap by the reach give the answer of the whole image, except for the statistics of normalisation layers.
"""

import numpy as np

from ..engines import ExportError
from .sizes import Side, known
from .trace import Trace, Value

LOCAL = {"add", "cast", "cat", "group_norm", "mean_pool", "mul", "pixel_unshuffle", "silu", "slice"}
"""Operations whose result at a place depends on their inputs at that place alone. Where they join elements into larger
squares, a square has the largest margins of its parts."""


def reach_of(traced: Trace) -> int:
    """Return the reach: the pixels, along an axis, from one of the first output to the farthest one it depends on.

    The mean and variance of group norms, which depend on every pixel, are left out. Raises ExportError for an operation
    that is not local.
    """
    margins = {traced.x: np.zeros(4, int)}
    for value in traced.values:
        read = [margins[one] for one in value.inputs if one in margins]
        if read:
            margins[value] = _through(value, np.max(read, axis=0))
    return int(margins[traced.outputs[0]].max())


def _through(value: Value, margins: np.ndarray) -> np.ndarray:
    """Return the margins of an operation's result, given those of its inputs.

    An element of a value corresponds to a square of pixels of x. Its margins are the numbers of pixels above, left of,
    below and right of the square that it depends on.
    """
    source, settings = value.inputs[0], value.settings
    if value.op in LOCAL:
        return margins
    square = _square(source)
    if value.op in ("upsample", "upsample_conv", "pixel_shuffle"):  # a part of an element, at any place in it
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
    """Return the side of an element in pixels. Raises ExportError for a value that is no image."""
    side = value.shape[2] if len(value.shape) == 4 else None
    if not isinstance(side, Side):
        raise ExportError("the network gives its images another form, and they must be of a fixed size; say --size")
    return side.by
