"""Every task by every method over a set of pictures: the figures of each image."""

from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any

import numpy as np

from ..operators import Operator, Shape
from ..sampling.psnr import psnr
from .calibration import coverage, draw
from .contender import Contender, OnStep, Refused
from .picture_set import PictureSet
from .ssim import load_ssim
from .suite import KNOWN, measure

Row = dict[str, Any]
"""One image of one group: task, method, seed, image, then the figures."""
Key = tuple[str, str, int]
"""Name of a group of rows: task, method, seed."""
Distance = Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Group:
    """One task by one method with one seed: a row for every image, and what was restored."""

    key: Key
    rows: list[Row]
    images: np.ndarray
    """(N, C, H, W) on [-1, 1]; with samples, their mean."""


@dataclass(frozen=True)
class Evaluation:
    """An evaluation's pictures, methods and seeds. `groups` runs one task by one method with one seed at a time."""

    pictures: PictureSet
    contenders: Sequence[Contender]
    tasks: Sequence[str]
    """Names of suite.KNOWN."""
    seeds: int = 1
    """Seeds 0 .. seeds - 1."""
    sigma: float | None = None
    """The noise of every task; None leaves each its own."""
    samples: int | None = None
    """Restorations of every image, their mean in the place of one."""
    lpips: Distance | None = None

    @property
    def shape(self) -> Shape:
        channels, height, width = self.pictures.images.shape[1:]
        return channels, height, width

    @cached_property
    def operators(self) -> dict[str, Operator]:
        """The operators of the tasks, by name. Raises InputError for pictures of a size that one does not take."""
        return {task: KNOWN[task].operator(self.shape) for task in self.tasks}

    def due(self, finished: Container[Key]) -> list[tuple[str, int, Contender]]:
        """The groups that are not `finished`, in their order: each task by the contenders that take it."""
        return [
            (task, seed, contender)
            for task, seed, contender in product(self.tasks, range(self.seeds), self.contenders)
            if contender.takes(self.operators[task]) and (task, contender.name, seed) not in finished
        ]

    def events(self, finished: Container[Key]) -> int:
        """How often `groups` will call `on_step`."""
        images, due = len(self.pictures.images), self.due(finished)
        return sum(contender.events(images, self.operators[task]) for task, _, contender in due) * (self.samples or 1)

    def groups(
        self,
        finished: Container[Key] = (),
        on_step: OnStep = lambda event: None,
        on_note: Callable[[str], object] = lambda sentence: None,
    ) -> Iterator[Group]:
        """Every group that is not `finished`; what a contender refuses is left out and said to `on_note`.

        Figures: psnr in dB, ssim and lpips (None without a distance); k, forwards, gradients and seconds, an image's
        share of its batch; with samples also coverage1, coverage2 and correlation. Raises InputError, MissingExtra,
        DivergedError.
        """
        ssim = load_ssim()
        clean = self.pictures.images
        for task, seed, contender in self.due(finished):
            operator, sigma = self.operators[task], KNOWN[task].noise(self.sigma)
            asked = measure(operator, clean, sigma, seed), operator, sigma, seed
            more: dict[str, np.ndarray] = {}
            try:
                if self.samples is None:
                    outcome = contender.restore(*asked, 0, on_step)
                else:
                    outcome, deviation = draw(contender, *asked, self.samples, on_step)
                    more = coverage(clean, outcome.images, deviation, self.samples)
            except Refused as refusal:
                on_note(f"{task} by {contender.name} is left out: {refusal}")
                continue
            count = len(clean)
            columns: dict[str, Sequence[Any]] = {
                "image": self.pictures.names,
                "psnr": psnr(outcome.images, clean).tolist(),
                "ssim": ssim(outcome.images, clean).tolist(),
                "lpips": [None] * count if self.lpips is None else self.lpips(outcome.images, clean).tolist(),
                "k": outcome.k,
                "forwards": outcome.forwards,
                "gradients": outcome.gradients,
                "seconds": [outcome.seconds / count] * count,
                **{name: values.tolist() for name, values in more.items()},
            }
            key = task, contender.name, seed
            rows = [
                {"task": task, "method": contender.name, "seed": seed, **dict(zip(columns, values, strict=True))}
                for values in zip(*columns.values(), strict=True)
            ]
            yield Group(key, rows, outcome.images)
