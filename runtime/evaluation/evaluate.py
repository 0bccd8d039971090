"""Evaluation of every task by every method over a set of pictures: figures of each image."""

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
"""A row of figures: task, method, seed and image, then the figures."""
Key = tuple[str, str, int]
"""Name of a group of rows: task, method, seed."""
Distance = Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Group:
    """The result of a task by a method with a seed: a row for every image, and the restored images."""

    key: Key
    rows: list[Row]
    images: np.ndarray
    """(N, C, H, W) on [-1, 1]; with samples, their mean."""


@dataclass(frozen=True)
class Evaluation:
    """The pictures, tasks, methods and seeds of an evaluation; `groups` runs it group by group."""

    pictures: PictureSet
    contenders: Sequence[Contender]
    tasks: Sequence[str]
    """Names of suite.KNOWN."""
    seeds: int = 1
    """The number of seeds, 0 .. seeds - 1."""
    sigma: float | None = None
    """The noise of every task, on the [-1, 1] scale; None: each task's own."""
    samples: int | None = None
    """Restorations of each image, of which the mean is evaluated; None: a single one."""
    lpips: Distance | None = None

    @property
    def shape(self) -> Shape:
        channels, height, width = self.pictures.images.shape[1:]
        return channels, height, width

    @cached_property
    def operators(self) -> dict[str, Operator]:
        """The operators of the tasks, by name. Raises InputError where one does not take pictures of this size."""
        return {task: KNOWN[task].operator(self.shape) for task in self.tasks}

    def due(self, finished: Container[Key]) -> list[tuple[str, int, Contender]]:
        """Return the groups that are not `finished`, in order: each task by the contenders that take it."""
        return [
            (task, seed, contender)
            for task, seed, contender in product(self.tasks, range(self.seeds), self.contenders)
            if contender.takes(self.operators[task], self._noise(task)) and (task, contender.name, seed) not in finished
        ]

    def events(self, finished: Container[Key]) -> int:
        """Return how often `groups` will call `on_step`."""
        count = len(self.pictures.images)
        each = (one.events(count, self.operators[task], self._noise(task)) for task, _, one in self.due(finished))
        return sum(each) * (self.samples or 1)

    def _noise(self, task: str) -> float:
        """Return the deviation of a task's noise."""
        return KNOWN[task].noise(self.sigma)

    def groups(
        self,
        finished: Container[Key] = (),
        on_step: OnStep = lambda event: None,
        on_note: Callable[[str], object] = lambda sentence: None,
    ) -> Iterator[Group]:
        """Run and yield every group that is not `finished`. A refused group is left out; `on_note` gets the reason.

        Figures: psnr in dB, ssim, lpips (None without an LPIPS file), k, forwards, gradients, and seconds, an image's
        share of its batch's; with samples also coverage1, coverage2 and correlation. Raises InputError, MissingExtra,
        DivergedError.
        """
        ssim = load_ssim()
        clean = self.pictures.images
        for task, seed, contender in self.due(finished):
            operator, sigma = self.operators[task], self._noise(task)
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
