"""Options of a restoration are used again, from a file and from a picture."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from frugal_rt.runtime.pictures.images import SETTINGS_KEY

from ..commands import frugal

RESTORE = ("restore", "-e", "tiny.plan", "--steps", "4")


@pytest.fixture
def here(three_pictures) -> Path:
    return three_pictures


def pixels(path: str) -> np.ndarray:
    return np.asarray(Image.open(path))


def test_options_are_used_again_from_a_file_and_from_a_picture(here):
    asked = ("--task", "sr", "--scale", "4", "--method", "dmps", "--seed", "7", "--sigma", "0.05")
    assert frugal(*RESTORE, "photos/c.jpg", *asked, "-o", "first.png", "--save-params", "p.json").exit_code == 0
    for params in ("p.json", "first.png"):
        if params == "first.png":  # which names no folder: its files are looked for beside it, then here
            Path("c.jpg").write_bytes(Path("photos/c.jpg").read_bytes())
        result = frugal("restore", "--params", params, "-o", "again.png", "--force")
        assert result.exit_code == 0, result.output
        np.testing.assert_array_equal(pixels("first.png"), pixels("again.png"))
    assert frugal("restore", "--params", "p.json", "--seed", "8", "-o", "other.png").exit_code == 0
    assert (pixels("first.png") != pixels("other.png")).any()
    assert "photos" not in Image.open("first.png").text[SETTINGS_KEY]


def test_options_used_again_check_the_files_they_name(here):
    mask = np.zeros((16, 16), np.uint8)
    mask[3:7, 3:9] = 255
    Image.fromarray(mask).save("mask.png")
    assert (
        frugal(*RESTORE, "photos/a.png", "--mask", "mask.png", "-o", "x.png", "--save-params", "p.json").exit_code == 0
    )
    Image.fromarray(255 - mask).save("mask.png")
    again = ("restore", "--params", "p.json", "-o", "y.png")
    refused = frugal(*again)
    assert refused.exit_code == 1
    assert "mask: the file is another one than p.json was made with" in refused.stderr
    assert frugal(*again, "--mask", "mask.png").exit_code == 0


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("{}", "holds no options"),
        ("hello", "holds no options of a restoration"),
        ('{"options": {"scal": 4}}', "restore has no option 'scal'; did you mean scale?"),
        (
            '{"options": {"engine": "tiny.plan", "images": ["photos/a.png"], "steps_": "many"}}',
            "is not a valid integer",
        ),
    ],
)
def test_wrong_options_in_a_file_are_one_sentence(here, content, sentence):
    Path("p.json").write_text(content)
    result = frugal("restore", "--params", "p.json")
    assert result.exit_code != 0
    assert sentence in result.stderr
    assert "does not say how it was restored" in frugal("restore", "--params", "photos/a.png").stderr
