"""Pictures and animations of a restoration's estimate x0hat after every step."""

from pathlib import Path

import numpy as np
from PIL import Image

from ...engines import InputError
from ...engines.files import atomic_write, make_folder
from ..pictures.images import to_picture, write_png
from ..sampling.loop import StepEvent

SUFFIXES = (".gif", ".webp", ".png")
"""Suffixes of animations; a .png is an APNG."""
SHORTEST = 256
"""Least pixels of a frame's shorter side; smaller frames are enlarged by a whole factor."""
SECONDS, HOLD = 4.0, 1.5
"""Seconds of an animation, and those that its last frame stays."""
MOST = 100
"""The most frames of an animation."""


def check_folder(folder: Path, force: bool) -> Path:
    """Return the folder for the pictures of steps, made if needed. Raises InputError where it holds files already."""
    make_folder(folder)
    if any(folder.iterdir()) and not force:
        raise InputError(f"{folder} holds files already; name another folder, or --force to add to it")
    return folder


class Recorder:
    """Callback for `on_step` that writes or keeps the first row's estimates. FOLDER/step-0049.png has 49 steps left."""

    def __init__(self, folder: Path | None = None, keep: bool = False):
        self._folder, self._keep = folder, keep
        self._frames: list[Image.Image] = []

    def __call__(self, event: StepEvent) -> None:
        picture = to_picture(event.x0hat[0])
        if self._folder is not None:
            write_png(self._folder / f"step-{event.step:04d}.png", picture)
        if self._keep:
            self._frames.append(picture)

    def write(self, path: Path, last: Image.Image) -> None:
        """Write the kept frames, at most MOST, and the result as an animation of SECONDS. Raises FrugalError."""
        chosen = np.unique(np.linspace(0, len(self._frames) - 1, min(MOST, len(self._frames))).round().astype(int))
        frames = [_enlarged(picture) for picture in [*(self._frames[i] for i in chosen), last]]
        durations = [round(1000 * SECONDS / len(chosen))] * len(chosen) + [round(1000 * HOLD)]
        kind = path.suffix[1:].upper()
        how = {"lossless": True} if kind == "WEBP" else {}
        with atomic_write(path) as file:
            frames[0].save(file, kind, save_all=True, append_images=frames[1:], duration=durations, loop=0, **how)


def _enlarged(picture: Image.Image) -> Image.Image:
    times = -(-SHORTEST // min(picture.size))
    return picture.resize((picture.width * times, picture.height * times), Image.Resampling.NEAREST)
