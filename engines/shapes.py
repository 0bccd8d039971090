"""Shapes of the inputs and outputs of graphs, as written in a manifest: ["batch", 64, "height/2", "width/2"].

A size is a number, "batch", or "height" or "width" divided by a whole number. Only plans for images of any size name
sides.
"""

import re
from collections.abc import Sequence
from typing import Any

_SIDE = re.compile(r"(height|width)(?:/([1-9]\d{0,3}))?")
MOST_SIZES, LARGEST_SIZE = 8, 1 << 24


def is_shape(value: Any, sides: bool) -> bool:
    """Return whether parsed JSON is a shape; sides of the image are allowed where `sides` is true."""
    if not isinstance(value, list) or value[:1] != ["batch"] or len(value) > MOST_SIZES:
        return False
    named = [n for n in value[1:] if isinstance(n, str)]
    numbers = [n for n in value[1:] if type(n) is int and 0 < n <= LARGEST_SIZE]
    return len(named) + len(numbers) == len(value) - 1 and all(sides and _SIDE.fullmatch(n) for n in named)


def sized(shape: Sequence[Any], rows: int, height: int, width: int) -> tuple[int, ...]:
    """Return the sizes that a shape stands for in a call of `rows` images of `height` x `width`."""
    names = {"batch": rows, "height": height, "width": width}

    def number(n: int | str) -> int:
        if isinstance(n, int):
            return n
        name, _, by = n.partition("/")
        return names[name] // int(by or 1)

    return tuple(map(number, shape))
