"""Three tasks on a packaged portrait by DPS, DMPS and the hybrid."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from PIL import Image

from ..operators import Operator, Shape
from ..pictures.damage import Damage
from ..pictures.decoding import Photo
from ..pictures.images import PORTRAIT, fit_photo, read_photo, to_picture
from ..pictures.simulate import simulate
from ..restorer import Restorer, Result
from ..sampling.loop import StepEvent
from ..sampling.psnr import psnr
from ..sampling.switch import METHODS
from .contact_sheet import contact_sheet

SIGMA = 0.01
SHOWN = ("super-resolution x4", "box inpainting", "colourise")


class Measured(NamedTuple):
    """A task made ready: the clean image (C, H, W), the measurement, what is missing of it, and the operator."""

    clean: np.ndarray
    y: np.ndarray
    missing: np.ndarray | None
    operator: Operator


@dataclass(frozen=True)
class Row:
    """One restoration of the demo."""

    task: str
    method: str
    result: Result
    psnr: float
    """dB against the clean portrait."""


def damage(task: str, shape: Shape) -> Damage:
    """What a task does to an image of `shape`: the hole is 3/8 of a side, 24x24 of 64x64."""
    return {
        "super-resolution x4": Damage(task="sr", scale=4, sigma=SIGMA),
        "box inpainting": Damage(task="inpaint", hole=(3 * shape[2] // 8, 3 * shape[1] // 8), sigma=SIGMA),
        "colourise": Damage(task="colorize", sigma=SIGMA),
    }[task]


def measure(restorer: Restorer, task: str, seed: int) -> Measured:
    """The portrait at the prior's size, damaged."""
    _, height, width = restorer.image_shape
    portrait = read_photo(PORTRAIT)
    if portrait.size != (width, height):
        portrait = fit_photo(portrait, (width, height), "resize")
    y, missing, operator = simulate(Photo(portrait.pixels), damage(task, restorer.image_shape), seed)
    return Measured(portrait.pixels, y, missing, operator)


def run(
    restorer: Restorer,
    steps: int = 100,
    seed: int = 0,
    on_step: Callable[[str, str, StepEvent], object] = lambda task, method, event: None,
) -> tuple[list[Row], Image.Image]:
    """Every task by every method, and the labelled contact sheet. `on_step` hears task, method and the step."""
    rows: list[Row] = []
    sheet = []
    for task in SHOWN:
        clean, y, missing, operator = measure(restorer, task, seed)
        cells = [(to_picture(clean), "clean"), (to_picture(y, missing), "measurement")]
        for method, switch in METHODS.items():
            result = restorer.restore(
                y,
                operator,
                sigma=SIGMA,
                steps=steps,
                switch=switch,
                seed=seed,
                on_step=lambda event, task=task, method=method: on_step(task, method, event),  # type: ignore[misc]
            )
            row = Row(task, method, result, float(psnr(result.image[None], clean[None])[0]))
            rows.append(row)
            cells.append(
                (to_picture(result.image), f"{method}  {row.psnr:.1f} dB  {sum(result.seconds.values()):.1f} s")
            )
        sheet.append((task, cells))
    return rows, contact_sheet(sheet)
