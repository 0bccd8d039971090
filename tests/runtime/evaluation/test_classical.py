"""Plain methods as contenders."""

import sys
import types

import numpy as np
import pytest

from frugal_rt.runtime.evaluation.classical import PLAIN, PlainMethod, plain_methods
from frugal_rt.runtime.evaluation.suite import EVERYDAY, measure, seen
from frugal_rt.runtime.operators import Colorize
from frugal_rt.runtime.sampling.psnr import psnr

SHAPE = (3, 64, 64)


@pytest.fixture
def clean() -> np.ndarray:
    rows, columns = np.mgrid[:64, :64] / 32 - 1
    image = np.stack([rows, np.sign(np.sin(6 * columns)), np.cos(5 * rows * columns)]) * 0.8
    return np.stack([image, image[::-1]]).astype(np.float32)


@pytest.mark.parametrize("task", EVERYDAY)
def test_every_everyday_damage_has_a_method_that_helps(clean, task, monkeypatch):
    """Or leaves a JPEG as it is decoded; what was measured, enlarged by whole pixels and 0 where it is missing."""
    monkeypatch.setitem(sys.modules, "bm3d", types.SimpleNamespace(bm3d_rgb=lambda z, sigma: 0 * z))
    operator, sigma = EVERYDAY[task].operator(SHAPE), EVERYDAY[task].sigma
    y = measure(operator, clean, sigma, 0)
    before = np.clip([seen(operator, one) for one in y], -1, 1)
    before = before.repeat(64 // before.shape[2], 2).repeat(64 // before.shape[3], 3)
    fit = [PlainMethod(name) for name in PLAIN if PlainMethod(name).takes(operator, sigma)]
    assert fit
    events, gains = [], {}
    for method in fit:
        outcome = method.restore(y, operator, sigma, 0, 0, events.append)
        assert outcome.images.shape == clean.shape
        assert np.abs(outcome.images).max() <= 1
        assert (outcome.forwards, outcome.gradients, outcome.k) == ([0, 0], [0, 0], [None, None])
        gains[method.name] = (psnr(outcome.images, clean) - psnr(before, clean)).mean()
    assert len(events) == sum(method.events(2, operator, sigma) for method in fit) == 2 * len(fit)
    gains.pop("BM3D", None)
    assert min(gains.values()) == 0 if operator.name == "jpeg" else min(gains.values()) > 0.5


def test_nothing_takes_what_it_is_not_for():
    grey = Colorize(SHAPE, "rec601")
    assert not any(PlainMethod(name).takes(grey, 0.1) for name in PLAIN)


def test_bm3d_is_left_out_with_a_sentence_where_it_is_missing(monkeypatch):
    notes = []
    monkeypatch.setitem(sys.modules, "bm3d", types.SimpleNamespace())
    assert [one.name for one in plain_methods(notes.append)] == list(PLAIN)
    assert notes == []
    monkeypatch.setitem(sys.modules, "bm3d", None)
    assert [one.name for one in plain_methods(notes.append)] == [name for name in PLAIN if name != "BM3D"]
    (note,) = notes
    assert note.startswith("BM3D is left out: ")
    assert "pip install 'frugal-rt[bm3d]'" in note
