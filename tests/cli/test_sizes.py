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
    asked = ("restore", "-e", "tiny.plan", "--steps", "4")
    Image.open("clean.png").resize((40, 24)).save("large.png")
    assert "denoise" in frugal(*asked, "large.png", "--noise", "10").output
    assert Image.open("large.restored.png").size == (40, 24)
    frugal("degrade", "large.png", "--task", "sr", "--scale", "2", "-o", "small.png")
    assert frugal(*asked, "small.png", "--scale", "2").exit_code == 0
    assert Image.open("small.restored.png").size == (40, 24)
    refuses("needs its factor: --scale", *asked, "small.png", "--task", "sr", "-o", "x.png")
    assert frugal(*asked, "small.png", "--noise", "10", "-o", "x.png").exit_code == 0  # larger, and smaller
    assert Image.open("x.png").size == (20, 12)
    refuses("sense with this prior starts from a .npy array", *asked, "small.png", "--keep-fraction", "0.5", "--force")
    refuses("leave --fit out", *asked, "small.png", "--fit", "crop", "--tile", status=2)


@pytest.mark.parametrize("how", ["crop", "resize"])
def test_fit(here, how):
    Image.new("RGB", (30, 20), "red").save("large.png")
    said = frugal(*RESTORE, "large.png", "--fit", how, "--hole", "4x4")
    assert said.exit_code == 0
    assert "from 30x20 to 16x16, which leaves 42.7% of its pixels" in said.output
    assert Image.open("large.restored.png").size == (16, 16)


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
    monkeypatch.setattr(Restorer, "_fastest_batch", lambda self, rows: 1)
    result = frugal(*RESTORE, "large.png", "--noise", "10")
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


@pytest.mark.parametrize("size", [(1, 1), (3, 50), (17, 5), (16, 16), (41, 23)])
def test_a_prior_of_any_size_takes_a_picture_at_its_own(here, local_plan, size):
    picture = np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    Image.fromarray(picture).save("mine.png")
    said = frugal("restore", "-e", str(local_plan), "--steps", "3", "--sigma", "0.2", "mine.png")
    assert said.exit_code == 0, said.output
    assert Image.open("mine.restored.png").size == size


def test_a_prior_of_any_size_is_told_what_a_size_would_say(here, local_plan):
    """A picture of half the prior's side is no sign of lost resolution, as its images may have that side too."""
    asked = ("restore", "-e", str(local_plan), "--steps", "3", "--sigma", "0.1")
    Image.open("clean.png").resize((8, 8)).save("half.png")
    assert "denoise" in frugal(*asked, "half.png").output
    assert frugal(*asked, "half.png", "--scale", "3", "--force").exit_code == 0
    assert Image.open("half.restored.png").size == (24, 24)
    refuses("needs its factor: --scale", *asked, "half.png", "--task", "sr", "-o", "x.png")
    refuses("takes a picture at its own size; leave --fit out", *asked, "half.png", "--fit", "crop", "-o", "x.png")


def test_pictures_of_many_sizes_are_each_restored_as_alone(here, local_plan):
    asked = ("restore", "-e", str(local_plan), "--steps", "3", "--sigma", "0.2")
    Path("all").mkdir()
    for i, size in enumerate([(16, 12), (20, 20), (16, 12), (9, 30)]):
        picture = np.random.default_rng(i).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
        Image.fromarray(picture).save(f"all/{i}.png")
    assert frugal(*asked, "all", "-o", "out").exit_code == 0
    for i in range(4):
        assert frugal(*asked, f"all/{i}.png", "-o", "alone.png", "--force").exit_code == 0
        np.testing.assert_array_equal(np.asarray(Image.open(f"out/{i}.png")), np.asarray(Image.open("alone.png")))


def test_a_picture_too_large_is_refused_before_anything_is_made(here, local_plan):
    Image.new("RGB", (5000, 1000)).save("wide.png")
    refuses(
        "the image would be 80000x16000; up to 64 megapixels",
        "restore",
        "-e",
        str(local_plan),
        "wide.png",
        "--scale",
        "16",
        "-o",
        "x.png",
    )
