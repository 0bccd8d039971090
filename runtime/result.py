"""The result of a restoration: the image, its settings and its costs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic

import numpy as np

from ..engines.version import __version__
from .pictures.calls import Call
from .sampling.loop import no_seconds

if TYPE_CHECKING:
    from typing_extensions import TypeVar  # every type checker has it

    Picture = TypeVar("Picture", default=np.ndarray)
else:
    from typing import TypeVar

    Picture = TypeVar("Picture")


@dataclass(frozen=True)
class Result(Generic[Picture]):
    """A restored batch, its settings and its costs. Arrays have a batch axis if the measurement had one.

    For `Restorer.__call__` rows are pictures. A picture with several restored faces has the figures of the first; an
    unchanged picture has zeros.
    """

    image: Picture
    """From `Restorer.restore` an array (B, C, H, W) or (C, H, W), float32 on [-1, 1] or the given range. From a call of
    a restorer, a picture of the given type."""
    k: tuple[int, ...]
    """For each row, the steps after the switch, which took no gradient: 0 with dps, T with dmps."""
    trace: tuple[tuple[float, ...], ...]
    """For each row, the PSNR in dB between estimates x0hat a fixed number of steps apart, which the switch compares."""
    compared: tuple[int, ...]
    """Steps left at each entry of a trace; the same for every row."""
    seconds: dict[str, float]
    """Wall time in seconds by phase: "gradient", "forward", and "flow" for the steps of an aim."""
    forwards: tuple[int, ...]
    """Forward calls of each row, including those of DPS steps."""
    gradients: tuple[int, ...]
    """Gradients through the network of each row."""
    settings: dict[str, Any]
    """Settings that repeat this result: aim, method, steps, switch, sigma, every, zeta, lambda, seed, sample, batch,
    operator, backend, tile, prior. With an aim, those of a method are None. For several pictures they are the first
    one's, with its task and fit."""
    because: tuple[str, ...] = ()
    """For each picture, a clause that says how its task and noise were determined."""
    unchanged: tuple[bool, ...] = ()
    """For each picture, whether nothing wrong was found, so that it is returned as it is."""
    notes: tuple[str, ...] = ()
    """Sentences about contents of files that were left out."""

    if not TYPE_CHECKING:  # a type checker would take every name to exist

        def __getattr__(self, name: str) -> Any:
            """Raise AttributeError; for an earlier name, with its new one."""
            called = "; it is called gradients" if name == "pullbacks" else ""
            raise AttributeError(f"a Result has no {name!r}{called}")

    @property
    def figures(self) -> dict[str, Any]:
        """Return the costs in JSON's types: k, forwards and gradients of each row, and the seconds of all."""
        return {
            "k": list(self.k),
            "forwards": list(self.forwards),
            "gradients": list(self.gradients),
            "seconds": sum(self.seconds.values()),
        }

    @classmethod
    def of_pictures(cls, call: Call, results: "Sequence[Result[np.ndarray]]") -> "Result[Any]":
        """Make the Result of a call of a restorer, from a Result for each of `Call.due`."""
        left, of_each = iter(results), []
        for one in call.ready:
            of_each.append([] if one.measurement.is_clean else [next(left) for _ in one.measurements])
        first, ready = [found[0] if found else None for found in of_each], call.ready[0]
        settings = next((one.settings for one in first if one is not None), {"sigma": ready.measurement.sigma})
        return cls(
            image=call.give([[one.image for one in found] for found in of_each]),
            k=tuple(0 if one is None else one.k[0] for one in first),
            trace=tuple(() if one is None else one.trace[0] for one in first),
            compared=next((one.compared for one in first if one is not None), ()),
            seconds={phase: sum(one.seconds[phase] for one in results) for phase in no_seconds()},
            forwards=tuple(0 if one is None else one.forwards[0] for one in first),
            gradients=tuple(0 if one is None else one.gradients[0] for one in first),
            settings={"frugal_rt": __version__, **settings, "task": ready.measurement.task, "fit": call.fit},
            because=tuple(one.measurement.because for one in call.ready),
            unchanged=tuple(one.measurement.is_clean for one in call.ready),
            notes=call.notes,
        )
