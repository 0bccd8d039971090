"""`frugal-rt degrade`: restore understands what it writes."""

import json

import numpy as np
import pytest
from PIL import Image

from frugal_rt.runtime.pictures.images import SETTINGS_KEY, read_photo

from ..commands import frugal, refuses, runs

RESTORE = ("restore", "-e", "tiny.plan", "--steps", "4")


@pytest.mark.parametrize(
    ("damage", "written", "task"),
    [
        (["--task", "sr", "--scale", "4"], "y.png", "sr (4x4 is 1/4 of 16x16"),
        (["--task", "sr", "--scale", "4", "--random", "0.3"], "y.png", "sr (4x4 is 1/4 of 16x16 a side; 44%"),
        (["--task", "inpaint", "--hole", "6x6"], "y.png", "inpaint (14% of the pixels are missing"),
        (["--task", "inpaint", "--random", "0.4"], "y.npy", "inpaint ("),
        (["--task", "outpaint", "--keep", "10x10"], "y.png", "inpaint (61%"),
        (["--task", "denoise", "--sigma", "51/255"], "y.png", "denoise (nothing is missing"),
    ],
)
def test_what_degrade_writes_restore_understands(here, damage, written, task):
    assert frugal("degrade", "clean.png", *damage, "-o", written).exit_code == 0
    result = frugal(*RESTORE, written)
    assert result.exit_code == 0, result.output
    assert task in result.output
    restored = Image.open("y.restored.png")
    assert (restored.size, restored.mode) == ((16, 16), "RGB")
    settings = json.loads(restored.text["frugal-rt"])
    assert settings["steps"] == 4
    assert settings["seed"] == 0
    assert {"sigma", "switch", "k", "task", "backend", "prior"} <= settings.keys()


@pytest.mark.parametrize(
    ("task", "damage", "operator"),
    [
        ("deblur", ["--kernel", "gaussian:1.2"], {"name": "deblur", "border": "mirror"}),
        ("deblur", ["--kernel", "motion:5,30"], {"name": "deblur", "kernel": "5x3", "border": "valid"}),
        ("deblur", ["--kernel", "kernel.png", "--border", "circular"], {"kernel": "4x3", "border": "circular"}),
        ("deblur", ["--kernel", "motion:5,30", "--border", "valid"], {"kernel": "5x3", "border": "valid"}),
        ("deblur", ["--kernel", "kernel.npy"], {"kernel": "4x3", "border": "valid"}),
        ("colorize", ["--grey", "mean"], {"name": "colorize", "weights": "mean"}),
        ("matrix", ["--matrix", "A.npy"], {"name": "matrix", "rows": 20, "columns": 256}),
        ("sense", ["--keep-fraction", "0.25"], {"name": "sense", "fraction": 0.25, "seed": 0}),
        ("sr", ["--scale", "4", "--kernel", "gaussian:1.5"], {"name": "sr", "scale": 4, "kernel": "13x13"}),
        ("sr", ["--scale", "4", "--filter", "bicubic"], {"name": "sr", "scale": 4, "filter": "bicubic"}),
    ],
)
def test_a_damage_is_named_the_same_in_both(here, task, damage, operator):
    levels = np.random.default_rng(1).integers(0, 256, (3, 4), dtype=np.uint8)
    Image.fromarray(levels).save("kernel.png")
    np.save("kernel.npy", levels / 7.0)
    np.save("A.npy", 5 * np.random.default_rng(2).normal(size=(20, 256)))
    assert frugal("degrade", "clean.png", "--task", task, *damage, "-o", "y.npy").exit_code == 0
    result = frugal(*RESTORE, "y.npy", *damage)
    assert result.exit_code == 0, result.output
    assert f"y.npy: {task} (" in result.output
    settings = json.loads(Image.open("y.restored.png").text[SETTINGS_KEY])["operator"]
    assert operator.items() <= settings.items()


@pytest.mark.parametrize(
    ("damage", "task"),
    [
        (["--kernel", "gaussian:1.2"], "deblur"),
        (["--kernel", "gaussian:1.2", "--scale", "4"], "sr"),
        (["--hole", "6x6"], "inpaint"),
        (["--keep", "10x10"], "outpaint"),
        (["--mask", "mask.png"], "inpaint"),
        (["--kernel", "gaussian:1", "--mask", "mask.png"], "deblur"),
        (["--random", "0.3"], "inpaint"),
        (["--noise", "25"], "denoise"),
        (["--keep-fraction", "0.25"], "sense"),
    ],
)
def test_an_option_that_implies_a_task_is_enough(here, damage, task):
    Image.fromarray(np.eye(16, dtype=bool)).save("mask.png")
    runs("degrade", "clean.png", *damage, "-o", "implied.npy")
    runs("degrade", "clean.png", "--task", task, *damage, "-o", "asked.npy")
    np.testing.assert_array_equal(np.load("implied.npy"), np.load("asked.npy"))


def test_without_any_the_task_is_asked_for(here):
    refuses("say what to do to the picture: --task denoise|", "degrade", "clean.png", "-o", "y.png")
    refuses("a measurement of sense is not a picture", "degrade", "clean.png", "--keep-fraction", "0.25", "-o", "y.png")


def test_a_jpeg_is_degraded_and_restored_from_its_own_coefficients(here):
    assert (
        "y.jpg: jpeg, 16x16" in runs("degrade", "clean.png", "--task", "jpeg", "--quality", "20", "-o", "y.jpg").output
    )
    result = runs("restore", "-e", "tiny.plan", "y.jpg", "--task", "jpeg")
    assert "jpeg (as asked; its tables have steps of" in result.output
    settings = json.loads(Image.open("y.restored.png").text["frugal-rt"])
    assert (settings["task"], settings["aim"], settings["operator"]["name"]) == ("jpeg", "fidelity", "jpeg")
    assert settings["operator"]["sampling"] == ["2x2", "1x1", "1x1"]
    tables = Image.open("y.jpg").quantization
    Image.open("y.restored.png").save("again.jpg", qtables=tables, subsampling=2)
    given, again = (read_photo(name).jpeg.file.blocks for name in ("y.jpg", "again.jpg"))
    assert all(np.array_equal(one, other) for one, other in zip(given, again, strict=True))
    # What is damaged in it too is filled in by the same call, which its result repeats.
    Image.fromarray(np.eye(16, dtype=bool)).save("mask.png")
    result = runs("restore", "-e", "tiny.plan", "y.jpg", "--task", "jpeg", "--mask", "mask.png", "-o", "whole.png")
    assert "; 6% of the pixels are missing)" in result.output
    settings = json.loads(Image.open("whole.png").text["frugal-rt"])
    assert (settings["task"], settings["aim"], settings["operator"]["missing"]) == ("jpeg", "fidelity", 16)
    runs("restore", "--params", "whole.png", "-o", "same.png")
    np.testing.assert_array_equal(np.asarray(Image.open("same.png")), np.asarray(Image.open("whole.png")))
    lossy = ("degrade", "clean.png", "--task", "jpeg", "--quality", "20", "-o", "z.jpg")
    refuses("none can be lost by --mask", *lossy, "--mask", "mask.png")
    refuses("must end in .jpg", "degrade", "clean.png", "--task", "jpeg", "--quality", "20", "-o", "y.png")
    refuses("this picture is none", "restore", "-e", "tiny.plan", "clean.png", "--task", "jpeg", "-o", "z.png")
    refuses(
        "--quality does not go",
        "degrade",
        "clean.png",
        "--task",
        "denoise",
        "--noise",
        "3",
        "--quality",
        "9",
        "-o",
        "y.png",
    )
