"""The tasks of an evaluation."""

import numpy as np
import pytest

from frugal_rt.runtime.evaluation.suite import EVERYDAY, KNOWN, TASKS, choose, lettering, measure, scratches, seen
from frugal_rt.runtime.pictures.damage import Damage
from frugal_rt.runtime.pictures.decoding import Photo, decode_photo
from frugal_rt.runtime.pictures.simulate import compress


def test_tasks_scale_with_the_prior():
    at_64 = {name: task.operator((3, 64, 64)) for name, task in TASKS.items()}
    assert at_64["box"].settings["missing"] == 24 * 24
    assert at_64["outpaint"].settings["missing"] == 64 * 64 - 40 * 40
    assert (at_64["sr4"].scale, at_64["sr16"].scale) == (4, 16)
    assert at_64["colorize"].weights == "rec601"
    taps = at_64["gaussian"].taps
    positions = np.arange(len(taps)) - len(taps) // 2
    assert np.sqrt((taps * positions**2).sum()) == pytest.approx(2, abs=0.01)
    assert [name for name, task in TASKS.items() if task.sigma != 0.01] == ["denoise"]
    assert TASKS["box"].operator((3, 256, 256)).settings["missing"] == 96 * 96
    assert TASKS["gaussian"].title((3, 256, 256)) == "Gaussian deblur, std 8 px"


@pytest.mark.parametrize("shape", [(3, 64, 64), (3, 256, 256), (3, 300, 451), (3, 1024, 1024)])
def test_text_covers_about_a_sixth(shape):
    mask = lettering(shape)
    assert mask.shape == shape[1:]
    assert mask.mean() == pytest.approx(1 / 6, abs=0.02)


def test_scratches_cross_the_image_and_leave_most_of_it():
    mask = scratches((3, 100, 200))
    assert mask.shape == (100, 200)
    assert 0.05 < mask.mean() < 0.5


def test_everyday_damages_are_what_their_titles_say():
    shape = (3, 64, 64)
    at_64 = {name: task.operator(shape) for name, task in EVERYDAY.items()}
    assert at_64["missing70"].settings["missing"] == pytest.approx(0.7 * 64 * 64, rel=0.02)
    assert (at_64["sr2"].scale, at_64["sr4"].scale) == (2, 4)
    noises = {name: 127.5 * EVERYDAY[name].sigma for name in ("denoise10", "denoise25", "denoise50", "blur", "motion")}
    assert list(noises.values()) == pytest.approx([10, 25, 50, 2, 2])
    assert KNOWN.keys() == TASKS.keys() | EVERYDAY.keys()
    assert EVERYDAY["text"].noise(0.3) == 0.3
    assert EVERYDAY["jpeg10"].noise(0.3) == EVERYDAY["jpeg10"].noise(None) == EVERYDAY["jpeg10"].sigma


def test_a_jpeg_is_measured_as_libjpeg_would():
    rows, columns = np.mgrid[:48, :48] / 24 - 1
    clean = np.stack([rows, columns, np.sin(9 * rows * columns)]).astype(np.float32)
    operator = EVERYDAY["jpeg10"].operator(clean.shape)
    (y,) = measure(operator, clean[None], 0.3, 0)
    photo = decode_photo(compress(Photo(clean), Damage(task="jpeg", quality=10)), "y.jpg")
    file = photo.jpeg.file.measurement(operator)
    assert np.abs(y - file).max() < 1.01
    assert (np.abs(y - file) > 0.5).mean() < 0.01
    assert np.abs(np.clip(seen(operator, y), -1, 1) - photo.pixels).mean() < 0.02
    assert seen(TASKS["denoise"].operator(clean.shape), clean) is clean


def test_all_is_what_the_caller_says():
    assert choose("all", ["a", "b", "c"], "letter", ["c"]) == ["c"]
    assert choose("all", ["a", "b"], "letter") == ["a", "b"]
    assert choose("b, a", ["a", "b", "c"], "letter", ["c"]) == ["a", "b"]
