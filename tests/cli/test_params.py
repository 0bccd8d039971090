"""Options of a restoration are used again, from a file and from a picture."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from frugal_rt.engines import padded
from frugal_rt.runtime.pictures.images import SETTINGS_KEY
from frugal_rt.runtime.sampling.guidance import SAMPLER

from ..commands import frugal, refuses

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


def test_a_picture_is_repeated_in_the_same_way_or_refused(here, local_plan, monkeypatch):
    """Backend, tiles and the sampler's version decide pixels; another machine may have others."""
    picture = np.random.default_rng(0).integers(0, 256, (40, 470, 3), dtype=np.uint8)
    Image.fromarray(picture).save("wide.png")
    with monkeypatch.context() as patch:
        patch.setattr(padded, "SHARE", 0.0)  # a machine of little memory
        assert frugal("restore", "-e", str(local_plan), "wide.png", "--sigma", "0.2", "-o", "first.png").exit_code == 0
    settings = json.loads(Image.open("first.png").info["frugal-rt"])
    assert settings["tile"] == [40, 384]
    again = frugal("restore", "--params", "first.png", "-e", str(local_plan), "-o", "again.png")
    assert again.exit_code == 0, again.output
    np.testing.assert_array_equal(np.asarray(Image.open("again.png")), np.asarray(Image.open("first.png")))
    monkeypatch.setattr(padded, "is_tile", lambda *settled: False)
    refuses("cannot be run in tiles of 384x40 here", "restore", "--params", "first.png", "-e", str(local_plan))
    for name, value, sentence in (
        ("backend", "TensorRT 10", "was restored by TensorRT 10, and here it would be by onnxruntime"),
        ("tile", None, "was restored whole, and here it would be in tiles of"),
        ("sampler", 0, "by version 0 of the sampler"),
        ("tile", [8], "tiles of an invalid size"),
    ):
        info = PngImagePlugin.PngInfo()
        info.add_text("frugal-rt", json.dumps({**settings, name: value}))
        Image.open("first.png").save("other.png", pnginfo=info)
        with monkeypatch.context() as patch:
            patch.setattr(padded, "SHARE", 0.0)
            patch.setattr(padded, "is_tile", lambda *settled: True)
            asked = ("restore", "--params", "other.png", "-e", str(local_plan), "-o", "never.png")
            refuses(sentence, *asked)
            assert not Path("never.png").exists()
            if name != "tile":
                assert frugal(*asked, "--backend", "cpu").exit_code == 0  # other pixels, as asked
                Path("never.png").unlink()


def test_what_the_command_line_says_takes_the_place_of_an_alternative_in_the_file(here):
    """Noise in grey levels for sigma, an aim for the sampler's settings, and the other way round."""
    Image.new("RGB", (16, 16), "teal").save("flat.png")
    asked = ("restore", "-e", "tiny.plan", "flat.png")
    assert frugal(*asked, "--sigma", "0.2", "--steps", "4", "-o", "first.png").exit_code == 0
    assert (
        frugal("restore", "--params", "first.png", "--noise", "51", "--aim", "fidelity", "-o", "x.png").exit_code == 0
    )
    settings = json.loads(Image.open("x.png").info[SETTINGS_KEY])
    assert (settings["sigma"], settings["aim"], settings["steps"]) == (pytest.approx(0.4), "fidelity", None)
    again = frugal("restore", "--params", "x.png", "--steps", "3", "--sigma", "0.1", "-o", "y.png")
    assert again.exit_code == 0, again.output
    settings = json.loads(Image.open("y.png").info[SETTINGS_KEY])
    assert (settings["sigma"], settings["aim"], settings["steps"]) == (0.1, None, 3)
    refuses("leave one of them out", *asked, "--noise", "5", "--sigma", "0.1")
    refuses("leave one of them out", *asked, "--sigma", "0.1", "--aim", "detail", "--steps", "4")


@pytest.mark.parametrize(
    ("before", "now"),
    [
        ({"method": "hybrid"}, "frugal"),
        ({"method": "dmps"}, "closed-form"),
        ({"method": "dmps", "lam": 1.5}, "dmps"),
        ({"method": "hybrid", "zeta": 0.5}, "hybrid"),
        ({"guidance": "official"}, "hybrid"),
        ({"method": "dps"}, "dps"),
    ],
)
def test_options_of_the_sampler_s_first_version_keep_their_meaning(here, before, now):
    Image.new("RGB", (16, 16), "grey").save("flat.png")
    options = {"engine": "tiny.plan", "sigma": "0.2", "steps_": 4, **before}
    Path("old.json").write_text(json.dumps({"frugal_rt": "0.1.0", "options": options}))
    asked = ("restore", "flat.png", "--params", "old.json", "-o", "x.png", "--save-params", "new.json")
    assert frugal(*asked).exit_code == 0
    assert json.loads(Image.open("x.png").info["frugal-rt"])["method"] == now
    kept = json.loads(Path("new.json").read_text())
    assert kept["sampler"] == SAMPLER
    assert kept["options"]["method"] == now
