"""The tasks of an evaluation."""

import numpy as np
import pytest

from frugal_rt.runtime.evaluation.suite import TASKS


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
