"""Sizes of traced tensors: numbers, the batch, and sides of the image that are free when the graph is made."""

from collections.abc import Sequence
from dataclasses import dataclass

from ..engines import ExportError

BATCH = None
"""The number of rows, which no graph knows."""


@dataclass(frozen=True)
class Side:
    """The image's "height" or "width", divided by a whole number. Where the sides are free, graphs know no more."""

    of: str
    by: int = 1

    def __str__(self) -> str:
        return self.of if self.by == 1 else f"{self.of}/{self.by}"


Size = int | Side | None
Shape = tuple[Size, ...]


def is_free(shape: Shape) -> bool:
    """Whether a side of the image is unknown."""
    return any(isinstance(n, Side) for n in shape)


def is_twice(n: Size, half: Size) -> bool:
    """Whether `n` is twice `half`."""
    if isinstance(n, Side) and isinstance(half, Side):
        return n.of == half.of and half.by == 2 * n.by
    return isinstance(n, int) and isinstance(half, int) and n == 2 * half


def known(n: Size) -> int:
    """`n`, or 0 for the batch. Raises ExportError for a side that is free."""
    if isinstance(n, Side):
        raise ExportError(
            "the network reshapes its images in a way that frugal-rt can export for a fixed size only; say --size"
        )
    return n or 0


def written(shape: Sequence[Size]) -> list[int | str]:
    """A shape as the manifest and ONNX have it, such as ["batch", 64, "height/2", "width/2"]."""
    return ["batch" if n is BATCH else str(n) if isinstance(n, Side) else n for n in shape]
