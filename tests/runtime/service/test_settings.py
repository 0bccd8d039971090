"""The settings in a picture that was served, read by the command line's --params."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from frugal_rt.cli import main
from frugal_rt.runtime.pictures.images import SETTINGS_KEY

from .asking import png, restore


@pytest.mark.parametrize(
    ("parameters", "shape"),
    [
        ({"task": "inpaint", "hole": [6, 4], "seed": 4, "method": "dps"}, (16, 16)),
        ({"scale": 2, "sigma": 0.05, "switch": 3, "every": 2, "filter": "bicubic"}, (8, 8)),
        (
            {"fit": "crop", "preset": "fast", "method": "hybrid", "guidance": "official", "lambda": 1.5, "steps": None},
            (20, 24),
        ),
        ({"task": "denoise", "noise": 30, "aim": "fidelity", "steps": None}, (16, 16)),
        ({"tile": True, "kernel": "gaussian:1", "border": "circular"}, (20, 24)),
    ],
)
def test_the_command_repeats_what_was_served_from_its_picture(
    client, tiny_plan, tmp_path, monkeypatch, parameters, shape
):
    monkeypatch.chdir(tmp_path)
    Path("y.png").write_bytes(png(shape))
    served = restore(client, Path("y.png").read_bytes(), **{"steps": 5, **parameters})
    assert served.status_code == 200, served.text
    Path("served.png").write_bytes(served.content)
    asked = ("restore", "--params", "served.png", "-e", str(tiny_plan), "--backend", "cpu", "y.png", "-o", "again.png")
    result = CliRunner().invoke(main, asked, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    pictures = [Image.open(name) for name in ("served.png", "again.png")]
    np.testing.assert_array_equal(*map(np.asarray, pictures))
    said, again = (json.loads(picture.text[SETTINGS_KEY]) for picture in pictures)
    assert said["params"]["sha256"] == {name: again["params"]["sha256"][name] for name in ("weights", "images")}
    for settings in (said, again):
        del settings["params"]
    assert said == again


def test_the_command_asks_for_the_mask_that_was_sent(client, tiny_plan, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.fromarray(np.uint8(255 * np.eye(16))).save("mask.png")
    Path("y.png").write_bytes(png())
    served = restore(client, png(), mask=Path("mask.png").read_bytes(), steps=4, kernel="gaussian:1")
    Path("served.png").write_bytes(served.content)
    asked = ("restore", "--params", "served.png", "-e", str(tiny_plan), "--backend", "cpu", "y.png", "-o", "again.png")
    refused = CliRunner().invoke(main, asked, catch_exceptions=False)
    assert refused.exit_code == 1
    assert "served.png was made with a mask that it does not name; give it: --mask FILE" in refused.stderr
    assert CliRunner().invoke(main, (*asked, "--mask", "mask.png"), catch_exceptions=False).exit_code == 0
    np.testing.assert_array_equal(np.asarray(Image.open("served.png")), np.asarray(Image.open("again.png")))
