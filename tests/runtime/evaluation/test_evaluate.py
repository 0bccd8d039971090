"""An evaluation's figures against hand computations, and methods that it leaves out."""

import csv
import io
import itertools
import json
from pathlib import Path

import numpy as np
import pytest

from frugal_rt import Restorer, operators
from frugal_rt.runtime.evaluation.contender import our_methods
from frugal_rt.runtime.evaluation.evaluate import Evaluation
from frugal_rt.runtime.evaluation.picture_set import PictureSet, read_pictures
from frugal_rt.runtime.evaluation.ssim import load_ssim
from frugal_rt.runtime.evaluation.suite import TASKS, measure
from frugal_rt.runtime.sampling.psnr import psnr

from ...commands import runs
from .blur import Blur

SHAPE = (3, 16, 16)
QUICK = ("eval", "-e", "tiny.plan", "--images", "faces", "--steps", "3")


def test_a_figure_is_that_of_restoring_by_hand(here):
    runs(*QUICK, "--tasks", "sr4", "--methods", "dps", "--seeds", "2", "--zeta", "0.5", "-o", "out")
    rows = list(csv.DictReader(io.StringIO(Path("out/rows.csv").read_text())))
    images = read_pictures("faces", SHAPE).images
    operator, restorer, ssim = TASKS["sr4"].operator(SHAPE), Restorer.load("tiny.plan"), load_ssim()
    for seed in (0, 1):
        y = measure(operator, images, 0.01, seed)
        result = restorer.restore(y, operator, sigma=0.01, steps=3, method="dps", zeta=0.5, seed=seed)
        mine = [row for row in rows if row["seed"] == str(seed)]
        assert [row["image"] for row in mine] == ["a.jpg", "b.png", "c.webp"]
        assert [float(row["psnr"]) for row in mine] == psnr(result.image, images).tolist()
        assert [float(row["ssim"]) for row in mine] == ssim(result.image, images).tolist()
    report = json.loads(Path("out/results.json").read_text())
    by_image = np.array([float(row["psnr"]) for row in rows]).reshape(2, 3).mean(axis=0)
    assert report["rows"][0]["psnr"] == pytest.approx(by_image.mean())
    assert report["rows"][0]["psnr_se"] == pytest.approx(by_image.std(ddof=1) / np.sqrt(3))


def hole() -> operators.Inpaint:
    missing = np.zeros(SHAPE[1:], bool)
    missing[2:14, 2:14] = True
    return operators.Inpaint(SHAPE, missing)


def thin() -> operators.Inpaint:
    missing = np.zeros(SHAPE[1:], bool)
    missing[8, 2:6] = True
    return operators.Inpaint(SHAPE, missing)


@pytest.mark.parametrize(
    ("make", "same"),
    [
        (thin, {"fidelity"}),
        (hole, {"fast"}),
        (lambda: operators.SuperResolution(SHAPE, 2), {"fast"}),
        (lambda: operators.Denoise(SHAPE), {"balanced", "fast"}),
    ],
)
def test_a_name_that_means_an_earlier_one_is_left_out(tiny_plan, make, same):
    """Its images are the same; denoising has no presets."""
    restorer, operator, sigma = Restorer.load(tiny_plan), make(), 0.05
    methods = our_methods(restorer, ["detail", "fidelity", "balanced", "fast"], {})
    assert {one.name for one in methods if not one.takes(operator, sigma)} == same
    y = measure(operator, np.random.default_rng(0).uniform(-1, 1, (1, *SHAPE)).astype(np.float32), sigma, 0)
    images = {one.name: one.restore(y, operator, sigma, 0, 0, lambda event: None).images for one in methods}
    if not isinstance(operator, operators.Denoise):
        np.testing.assert_array_equal(images["detail"], images[next(iter(same))])
    others = [images[name] for name in images if name not in same]
    assert not any(np.array_equal(*pair) for pair in itertools.combinations(others, 2))


@pytest.mark.parametrize("plan", ["tiny_plan", "local_plan"])
@pytest.mark.parametrize("make", [lambda: operators.Denoise(SHAPE), hole, lambda: operators.SuperResolution(SHAPE, 2)])
def test_as_many_events_are_counted_as_come(request, plan, make):
    """A prior of one size makes one call for the fidelity of noise, and one of any size four."""
    restorer, operator, sigma = Restorer.load(request.getfixturevalue(plan)), make(), 0.2
    y = measure(operator, np.random.default_rng(0).uniform(-1, 1, (2, *SHAPE)).astype(np.float32), sigma, 0)
    for method in our_methods(restorer, ["frugal", "dps", "detail", "fidelity"], {"steps": 6}):
        events = []
        method.restore(y, operator, sigma, 0, 0, events.append)
        assert len(events) == method.events(2, operator, sigma)


def test_a_refusal_leaves_that_row_out_and_says_so():
    images = np.zeros((2, *SHAPE), np.float32)
    notes = []
    evaluation = Evaluation(PictureSet(("a", "b"), images), [Blur(images, refuse=("sr",))], ["sr4", "denoise"])
    groups = list(evaluation.groups(on_note=notes.append))
    assert [group.key for group in groups] == [("denoise", "blur", 0)]
    assert notes == ["sr4 by blur is left out: not with me"]
    assert groups[0].rows[1]["image"] == "b"
    assert groups[0].rows[1]["seconds"] == 3.0
    assert groups[0].rows[1]["psnr"] == pytest.approx(10 * np.log10(4 / 0.01), abs=0.3)
