"""`frugal-rt restore` of noisy and clean pictures: aims, --noise, and pictures in which nothing wrong is found."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from frugal_rt.runtime.pictures.images import SETTINGS_KEY

from ..commands import frugal, refuses

DENOISE = ("restore", "-e", "tiny.plan", "--force")


def pixels(name):
    return np.asarray(Image.open(name))


@pytest.fixture
def smooth(here):
    """Pictures of 16x16: `noisy.png`, and `smooth.png` and `.jpg`, which have almost no noise."""
    ramp = np.linspace(40, 200, 16)
    levels = np.stack([ramp[:, None] + 0 * ramp, ramp + 0 * ramp[:, None], 240 - ramp[:, None] + 0 * ramp], axis=-1)
    Image.fromarray(np.uint8(levels)).save("smooth.png", pnginfo=None)
    Image.fromarray(np.uint8(levels)).save("smooth.jpg", quality=95)
    noisy = levels + 25 * np.random.default_rng(1).standard_normal(levels.shape)
    Image.fromarray(np.uint8(np.clip(noisy, 0, 255))).save("noisy.png")
    return here


def test_denoising_aims_at_detail_and_repeats_by_its_picture(smooth):
    said = frugal(*DENOISE, "noisy.png", "--noise", "25", "-o", "detail.png").output
    assert "8 network calls and 0 gradients, aim detail" in said
    assert (
        "1 network call and 0 gradients, aim fidelity"
        in frugal(*DENOISE, "noisy.png", "--noise", "25", "--aim", "fidelity", "-o", "fidelity.png").output
    )
    for name in ("detail", "fidelity"):
        settings = json.loads(Image.open(f"{name}.png").text[SETTINGS_KEY])
        assert (settings["aim"], settings["sigma"], settings["steps"]) == (name, 50 / 255, None)
        frugal("restore", "--params", f"{name}.png", "-o", "again.png", "--force")
        assert np.array_equal(pixels("again.png"), pixels(f"{name}.png"))
    assert not np.array_equal(pixels("detail.png"), pixels("fidelity.png"))
    said = json.loads(frugal(*DENOISE, "noisy.png", "--noise", "25", "--json", "-o", "j.png").stdout)
    assert (said["restored"][0]["aim"], said["restored"][0]["unchanged"]) == ("detail", False)


def test_samples_and_the_options_of_a_method_leave_denoising_to_it(smooth):
    assert "4 network calls" in frugal(*DENOISE, "noisy.png", "--noise", "25", "--steps", "4").output
    said = frugal(*DENOISE, "noisy.png", "--noise", "25", "--samples", "2", "--steps", "4", "-o", "s.png").output
    assert "4 network calls" in said
    assert not np.array_equal(pixels("s.sample-1.png"), pixels("s.sample-2.png"))
    refuses(
        "--samples draws from noise, and --aim starts elsewhere",
        *DENOISE,
        "noisy.png",
        "--aim",
        "detail",
        "--samples",
        "2",
        status=2,
    )
    refuses("an aim says how to restore, and so does steps", *DENOISE, "noisy.png", "--aim", "detail", "--steps", "4")
    said = frugal(*DENOISE, "noisy.png", "--aim", "detail", "--hole", "4x4", "-o", "filled.png")
    assert "8 network calls and 8 gradients, aim fidelity" in said.output  # so thin a hole has no detail to make up
    said = frugal(*DENOISE, "noisy.png", "--aim", "detail", "--hole", "12x12", "-o", "made-up.png")
    assert "12 network calls and 0 gradients" in said.output
    said = frugal(*DENOISE, "noisy.png", "--aim", "fidelity", "--hole", "4x4", "-o", "near.png")
    assert "8 network calls and 8 gradients, aim fidelity" in said.output
    refuses("--trace shows the switch", *DENOISE, "noisy.png", "--noise", "25", "--trace", "t.csv")
    assert not Path("t.csv").exists()


def test_noise_in_grey_levels_is_the_same_as_sigma(smooth):
    frugal(*DENOISE, "noisy.png", "--noise", "25", "-o", "levels.png")
    frugal(*DENOISE, "noisy.png", "--sigma", "50/255", "-o", "sigma.png")
    assert np.array_equal(pixels("levels.png"), pixels("sigma.png"))
    frugal("degrade", "clean.png", "--task", "denoise", "--noise", "25", "-o", "a.npy")
    frugal("degrade", "clean.png", "--task", "denoise", "--sigma", "50/255", "-o", "b.npy")
    np.testing.assert_array_equal(np.load("a.npy"), np.load("b.npy"))
    refuses("--noise and --sigma say the same", *DENOISE, "noisy.png", "--noise", "25", "--sigma", "0.2")
    for text in ("-1", "256", "nan", "much"):
        refuses("noise is in grey levels of 255, such as 25; got", *DENOISE, "noisy.png", "--noise", text)


def test_a_clean_picture_alone_is_left_alone_and_writes_nothing(smooth):
    before = set(Path().iterdir())
    refuses(
        "smooth.png: nothing is missing from the picture, and its noise from pixel to pixel is 0.0 grey levels of 255, "
        "below 2: nothing was found wrong; larger spots, as phones leave them, are not looked for; say what was done "
        "to it, such as --noise 5, or where it goes as it is: -o",
        *DENOISE,
        "smooth.png",
    )
    assert set(Path().iterdir()) == before


@pytest.mark.parametrize("asked", [("--noise", "5"), ("--sigma", "0.02"), ("--task", "denoise"), ("--hole", "4x4")])
def test_whoever_says_what_was_done_to_it_has_it_restored(smooth, asked):
    assert "network call" in frugal(*DENOISE, "smooth.png", *asked, "-o", "x.png").output


def test_a_clean_picture_goes_through_where_it_was_said_where(smooth):
    said = frugal(*DENOISE, "smooth.png", "-o", "out.png").output
    assert said.startswith("out.png: left as it was; nothing is missing")
    assert Path("out.png").read_bytes() == Path("smooth.png").read_bytes()
    frugal(*DENOISE, "smooth.jpg", "-o", "out.png")
    assert np.array_equal(pixels("out.png"), pixels("smooth.jpg"))
    said = json.loads(frugal(*DENOISE, "smooth.png", "--json", "-o", "out.png").stdout)["restored"]
    assert [(one["unchanged"], one["outputs"], one["task"]) for one in said] == [(True, ["out.png"], "denoise")]


def test_of_a_folder_the_clean_ones_go_through(smooth):
    result = frugal(*DENOISE, "noisy.png", "smooth.png", "-o", "out")
    assert "1 restored, 1 left alone, 0 failed, 0 were there" in result.output
    assert Path("out/smooth.png").read_bytes() == Path("smooth.png").read_bytes()
    assert SETTINGS_KEY in Image.open("out/noisy.png").text


def test_a_slow_run_by_auto_says_what_would_be_faster(smooth, monkeypatch):
    """The command hands over which engine ran, and for how long; tests/engines/test_fastest.py has the rest."""
    told = []
    monkeypatch.setattr("frugal_rt.cli.restore.recommendation", lambda *run: told.append(run) or "try another")
    frugal(*DENOISE, "noisy.png", "--noise", "25", "--backend", "cpu", "-o", "x.png")
    assert not told
    assert "try another" in frugal(*DENOISE, "noisy.png", "smooth.png", "-o", "out").output
    ((ran_by, seconds),) = told
    assert "(cpu" in ran_by
    assert seconds > 0
