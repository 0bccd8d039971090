"""`frugal-rt restore` of pictures of another size than the prior's: in tiles, brought to size, padded."""

import os
import signal
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from frugal_rt.engines.tiled import Tiled
from frugal_rt.runtime.restorer import Restorer

from ..commands import frugal, refuses

RESTORE = ("restore", "-e", "tiny.plan", "--steps", "4")


def test_a_larger_picture_is_restored_at_its_own_size_in_tiles(here):
    asked = ("restore", "-e", "tiny.plan", "--steps", "4", "--tile")
    Image.open("clean.png").resize((40, 24)).save("large.png")
    assert "denoise" in frugal(*asked, "large.png").output
    assert Image.open("large.restored.png").size == (40, 24)
    frugal("degrade", "large.png", "--task", "sr", "--scale", "2", "-o", "small.png")
    assert frugal(*asked, "small.png", "--scale", "2").exit_code == 0
    assert Image.open("small.restored.png").size == (40, 24)
    refuses("needs its factor: --scale", *asked, "small.png", "--task", "sr", "-o", "x.png")
    refuses("an image of 20x12 is smaller than this prior's 16x16", *asked, "small.png", "-o", "x.png")
    refuses("how large the image is; leave --tile out", *asked, "small.png", "--keep-fraction", "0.5", "-o", "x.png")
    refuses("leave --fit out", *asked, "small.png", "--fit", "crop", status=2)
    refuses("--fit crop or --fit resize, --tile, or --align a face", *RESTORE, "large.png", "-o", "x.png")


@pytest.mark.parametrize("how", ["crop", "resize"])
def test_fit(here, how):
    Image.new("RGB", (30, 20), "red").save("large.png")
    assert frugal(*RESTORE, "large.png", "--fit", how, "--hole", "4x4").exit_code == 0


def test_ctrl_c_stops_between_tiles(here, monkeypatch):
    Image.new("RGB", (64, 64), "red").save("large.png")
    calls = []
    whole = Tiled._cut

    def cut(self, *arguments):
        calls.append(1)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return whole(self, *arguments)

    monkeypatch.setattr(Tiled, "_cut", cut)
    monkeypatch.setattr(Restorer, "fastest_batch", lambda self, rows: 1)
    result = frugal(*RESTORE, "large.png", "--tile")
    assert result.exit_code == 130
    assert "Stopped." in result.stderr
    assert len(calls) == 2
    assert not Path("large.restored.png").exists()


@pytest.mark.parametrize(
    ("shape", "options", "restored"),
    [
        ((11, 13, 3), ("--sigma", "0.1"), (13, 11)),
        ((11, 13), (), (13, 11)),
        ((11, 13, 3), ("--hole", "4x4"), (13, 11)),
        ((11, 13, 3), ("--kernel", "gaussian:1"), (13, 11)),
        ((3, 2, 3), ("--scale", "4"), (8, 12)),
        ((3, 2, 3), ("--scale", "4", "--filter", "bicubic"), (8, 12)),
        ((11, 40, 3), ("--tile", "--sigma", "0.1"), (40, 11)),
    ],
)
def test_a_smaller_picture_is_padded_restored_and_cut_back(here, shape, options, restored):
    Image.fromarray(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)).save("small.png")
    result = frugal(*RESTORE, "-e", "tiny.plan", "small.png", "--fit", "pad", *options)
    assert result.exit_code == 0, result.output
    assert Image.open("small.restored.png").size == restored
    if "--hole" in options:  # of the picture: its surroundings are not counted
        assert "11% of the pixels are missing" in result.output
