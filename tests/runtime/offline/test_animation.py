"""The steps of a restoration as pictures and as an animation."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageSequence

from ...commands import frugal

RESTORE = ("restore", "-e", "tiny.plan", "--steps", "4")


@pytest.fixture
def here(three_pictures) -> Path:
    return three_pictures


def pixels(path: str) -> np.ndarray:
    return np.asarray(Image.open(path))


def test_the_trajectory_is_written_as_pictures_and_as_an_animation(here):
    asked = (*RESTORE, "photos/a.png", "-o", "a.png", "--save-steps", "steps", "--video", "a.gif")
    assert frugal(*asked).exit_code == 0
    assert sorted(path.name for path in Path("steps").iterdir()) == [f"step-{left:04d}.png" for left in range(4)]
    with Image.open("a.gif") as animation:
        shown = [(frame.info["duration"], frame.convert("RGB")) for frame in ImageSequence.Iterator(animation)]
    assert sum(duration for duration, _ in shown) == 5500  # a last frame that is the one before is one with it
    frames = [frame for _, frame in shown]
    assert np.abs(np.asarray(frames[-1])[::16, ::16].astype(int) - pixels("a.png")).mean() < 4
    assert frames[0].size == (256, 256)
    refused = frugal(*RESTORE, "photos/a.png", "-o", "new.png", "--save-steps", "steps")
    assert refused.exit_code == 1
    assert "steps holds files already" in refused.stderr
