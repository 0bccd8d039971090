"""The demo: a photograph and a face, damaged and restored, each beside a plain method for its damage."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from PIL import Image

from ...engines import MissingExtra
from ..operators import Operator, Shape
from ..pictures.damage import Damage, sigma_of
from ..pictures.decoding import Photo
from ..pictures.images import PORTRAIT, fit_photo, read_photo, to_picture
from ..pictures.simulate import simulate
from ..restorer import Restorer
from ..result import Result
from ..sampling.choices import Aim
from ..sampling.loop import StepEvent
from ..sampling.psnr import psnr
from . import plain
from .contact_sheet import contact_sheet
from .suite import scratches

SIGMA = 0.01
NOISE = sigma_of(25)
SHOWN = ("super-resolution x4", "box inpainting", "colourise")
"""Tasks on the portrait that benchmarks and studies share."""
PHOTOGRAPH = ("noise of 25 grey levels", "scratches", "super-resolution x2")
FACE = ("noise of 25 grey levels", "box inpainting", "super-resolution x4")
"""Tasks that the demo shows for each picture."""


class Measured(NamedTuple):
    """A measured task: the clean image (C, H, W), the measurement, its missing pixels, and the operator."""

    clean: np.ndarray
    y: np.ndarray
    missing: np.ndarray | None
    operator: Operator


@dataclass(frozen=True)
class DemoRow:
    """A restoration of the demo."""

    picture: str
    task: str
    result: Result
    psnr: float
    """PSNR in dB against the clean picture."""
    method: str
    """Name of the plain method."""
    plain_psnr: float
    cells: tuple[tuple[Image.Image, str], ...]
    """Pictures and captions, for the sheet."""


def damage(task: str, shape: Shape) -> Damage:
    """Return the damage of a task for an image of `shape`. A hole has 3/8 of a side: 24x24 in 64x64."""
    return {
        "noise of 25 grey levels": Damage(task="denoise", sigma=NOISE),
        "scratches": Damage(task="inpaint", mask=scratches(shape), sigma=SIGMA),
        "super-resolution x2": Damage(task="sr", scale=2, sigma=SIGMA),
        "super-resolution x4": Damage(task="sr", scale=4, sigma=SIGMA),
        "box inpainting": Damage(task="inpaint", hole=(3 * shape[2] // 8, 3 * shape[1] // 8), sigma=SIGMA),
        "colourise": Damage(task="colorize", sigma=SIGMA),
    }[task]


def measure(restorer: Restorer, task: str, seed: int, picture: Photo | None = None) -> Measured:
    """Damage a picture, by default the portrait at the prior's size."""
    if picture is None:
        _, height, width = restorer.image_shape
        portrait = read_photo(PORTRAIT)
        picture = portrait if portrait.size == (width, height) else fit_photo(portrait, (width, height), "resize")
    shape: Shape = (3, *picture.pixels.shape[1:])
    y, missing, operator = simulate(Photo(picture.pixels), damage(task, shape), seed)
    return Measured(picture.pixels, y, missing, operator)


def photograph() -> Photo:
    """Return 256x256 pixels of "Chelsea" (Stéfan van der Walt, CC0) from scikit-image. Raises MissingExtra."""
    try:
        from skimage.data import chelsea
    except ImportError as error:
        raise MissingExtra("The demo", "scikit-image", "eval") from error
    photograph: Callable[[], np.ndarray] = chelsea
    return Photo(np.asarray(np.moveaxis(photograph()[10:266, 100:356], -1, 0) / 127.5 - 1, np.float32))


def run(
    restorer: Restorer,
    of: str,
    tasks: tuple[str, ...],
    picture: Photo | None = None,
    steps: int | None = None,
    seed: int = 0,
    aim: Aim | None = None,
    on_step: Callable[[StepEvent], object] | None = None,
) -> Iterator[DemoRow]:
    """Restore a picture, by default the portrait, from each of `tasks`; yield a DemoRow after each.

    of: a description of the picture for the sheet. aim, steps, on_step: as in `Restorer.restore`; with steps the aim is
    not used. Raises MissingExtra.
    """
    for task in tasks:
        clean, y, missing, operator = measure(restorer, task, seed, picture)
        if operator.image_shape != restorer.image_shape:
            restorer = restorer.at(*operator.image_shape[1:])
        sigma = damage(task, operator.image_shape).sigma or 0.0
        asked = None if steps else aim
        result = restorer.restore(y, operator, sigma=sigma, aim=asked, steps=steps, seed=seed, on_step=on_step)
        name, other = _by_plain(y, missing, sigma, clean)
        gained, plain_psnr = (float(psnr(one[None], clean[None])[0]) for one in (result.image, other))
        prior = result.settings["prior"]
        cells = (
            (to_picture(clean), "before the damage"),
            (to_picture(y, missing), "what is left"),
            (to_picture(other), f"{name}  {plain_psnr:.1f} dB"),
            (to_picture(result.image), f"{prior}  {gained:.1f} dB  {sum(result.seconds.values()):.1f} s"),
        )
        yield DemoRow(of, task, result, gained, name, plain_psnr, cells)


def sheet(rows: list[DemoRow]) -> Image.Image:
    """Draw the rows as one labelled picture."""
    return contact_sheet([(f"{row.picture}: {row.task}", row.cells) for row in rows], tile=256)


def _by_plain(y: np.ndarray, missing: np.ndarray | None, sigma: float, clean: np.ndarray) -> tuple[str, np.ndarray]:
    """Restore by the plain method for a damage; return its name and the image."""
    if missing is not None:
        return "biharmonic", plain.biharmonic(y, missing)
    if y.shape != clean.shape:
        return "Lanczos", plain.lanczos(y, clean.shape[1] // y.shape[1])
    return "non-local means", plain.non_local_means(y, sigma)
