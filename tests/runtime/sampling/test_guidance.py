"""Step sizes, presets and how often a gradient is taken."""

import math

import numpy as np
import pytest

from frugal_rt import InputError, operators
from frugal_rt.runtime.sampling.guidance import METHODS, OFFICIAL_LAMBDA, OFFICIAL_ZETA, PRESETS, Guidance, stride_of
from frugal_rt.runtime.sampling.switch import Switch

from ..measurements import SHAPE, measurement


def test_frugal_at_k_25_makes_13_pullbacks_and_50_forwards_in_all(restorer, operator, counted):
    result = restorer.restore(measurement(operator)[0], operator, steps=50, switch=25)
    assert counted == {"predict": 37, "pullback": 13, "pulled": 13}
    assert (result.forwards, result.gradients, result.k) == ((50,), (13,), (25,))
    assert result.settings["every"] == 2


@pytest.mark.parametrize(
    ("method", "how", "pullbacks"),
    [
        ("dps", {}, 10),
        ("dmps", {}, 0),
        ("closed-form", {}, 0),
        ("frugal", {"switch": 3}, 4),  # steps 9, 7, 5, 3
        ("frugal", {"switch": 4, "every": 2}, 3),
        ("frugal", {"switch": 1, "every": 4}, 3),
        ("frugal", {"switch": 1, "every": 9}, 1),
        ("frugal", {"switch": 9}, 1),
        ("hybrid", {"switch": 3}, 7),
        ("hybrid", {"switch": 3, "zeta": 0.5}, 7),
        ("hybrid", {"switch": 3, "guidance": "official"}, 7),
    ],
)
def test_every_method_costs_what_it_says(restorer, operator, counted, method, how, pullbacks):
    result = restorer.restore(measurement(operator, 2), operator, steps=10, method=method, batch=2, **how)
    assert counted == {"predict": 2 * (10 - pullbacks), "pullback": 2 * pullbacks, "pulled": 2 * pullbacks}
    assert result.gradients == (pullbacks,) * 2
    assert result.forwards == (10,) * 2
    assert (result.seconds["gradient"] > 0) == (pullbacks > 0)
    assert (result.seconds["forward"] > 0) == (method != "dps")


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("every", [None, 2, 7])
def test_a_preset_names_the_steps_and_every_so_manieth_before_the_switch_takes_a_gradient(
    restorer, operator, counted, preset, every
):
    result = restorer.restore(measurement(operator)[0], operator, preset=preset, every=every)
    steps, stride = PRESETS[preset], every or stride_of(PRESETS[preset])
    assert (result.settings["steps"], result.settings["every"], result.forwards) == (steps, stride, (steps,))
    assert result.gradients == (math.ceil((steps - result.k[0]) / stride),)
    assert counted == {
        "predict": steps - result.gradients[0],
        "pullback": result.gradients[0],
        "pulled": result.gradients[0],
    }
    assert len(restorer._begin(measurement(operator)[0], operator, Guidance(preset=preset, steps=13))[0].schedule) == 13


@pytest.mark.parametrize("how", [{"method": "dps"}, {"method": "hybrid", "switch": 4}, {"method": "dmps"}])
@pytest.mark.parametrize("name", ["sr", "inpaint", "colorize"])
def test_official_guidance_is_the_papers_constants_by_value(restorer, name, how):
    operator = {
        "sr": operators.SuperResolution(SHAPE, 2),
        "inpaint": operators.Inpaint(SHAPE, np.eye(16, dtype=bool)),
        "colorize": operators.Colorize(SHAPE),
    }[name]
    y, zeta = measurement(operator, 2), {"sr": 0.3, "inpaint": 0.5, "colorize": 1.0}[name]
    assert OFFICIAL_ZETA.get(name, 1.0) == zeta
    values = {"zeta": zeta, "lam": OFFICIAL_LAMBDA}
    values = {one: value for one, value in values.items() if one in METHODS[how["method"]]}
    official = restorer.restore(y, operator, steps=10, guidance="official", **how)
    by_value = restorer.restore(y, operator, steps=10, **values, **how)
    assert np.array_equal(official.image, by_value.image)
    assert official.settings == by_value.settings
    assert [official.settings[one] for one in ("zeta", "lambda", "every")] == [
        values.get("zeta"),
        values.get("lam"),
        None,
    ]
    own = restorer.restore(y, operator, steps=10, **how)
    assert (own.settings["zeta"], own.settings["lambda"]) == (None, None)
    assert np.abs(official.image - own.image).max() > 1e-3
    small = dict.fromkeys(values, 0.1)
    part = restorer.restore(y, operator, steps=10, guidance="official", **small, **how)
    assert {one: part.settings["lambda" if one == "lam" else one] for one in small} == small


@pytest.mark.parametrize("method", METHODS)
def test_a_method_leaves_what_it_does_not_have_unsaid(restorer, operator, method):
    settings = restorer.restore(measurement(operator, 1), operator, steps=10, method=method).settings
    assert (settings["method"], settings["steps"], settings["aim"]) == (method, 10, None)
    assert (settings["switch"] is not None) == (method in ("frugal", "hybrid"))
    assert (settings["every"] is not None) == (method == "frugal")


def test_the_poster_s_hybrid_switches_at_its_own_20_db(operator):
    assert Guidance(sigma=0.01, method="hybrid", steps=50).settle(operator).switch.threshold == 20
    assert Guidance(sigma=0.01, method="frugal", steps=50).settle(operator).switch.threshold == 28


def test_a_degradation_that_is_not_linear_is_left_to_dps():
    custom = operators.Custom(SHAPE, SHAPE, np.tanh, lambda x, r: r)
    settled = Guidance(steps=10).settle(custom)
    assert settled == Guidance(steps=10, method="dps").settle(custom)
    assert settled[:6] == ("dps", 10, None, 2.0, 0.02, Switch(0, 0))
    assert settled[6:] == (None, None, None, 2, None, 0.0, False)
    with pytest.raises(InputError, match="every is a setting of frugal, and the method is dps"):
        Guidance(steps=10, every=4).settle(custom)


def test_fidelity_takes_gradients_where_a_network_that_sees_all_can_tell_what_is_unseen(restorer, operator, counted):
    assert restorer.plan.attends
    result = restorer.restore(measurement(operator)[0], operator, aim="fidelity")
    steps = result.forwards[0]
    assert result.gradients == (steps,)
    assert counted["pullback"] == steps
    blur = operators.Deblur.gaussian(SHAPE, 1.0)
    assert restorer.restore(measurement(blur)[0], blur, aim="fidelity").gradients == (0,)
    wide = operators.SuperResolution((SHAPE[0], SHAPE[1], 2 * SHAPE[2]), 2)
    tiles = restorer.at(*wide.image_shape[1:])
    assert tiles.restore(measurement(wide)[0], wide, aim="fidelity").gradients == (0,)


def test_a_network_without_attention_takes_none_for_fidelity():
    asked, few = Guidance(sigma=0.01, aim="fidelity"), operators.SuperResolution(SHAPE, 8)
    plain, matched = (asked.settle(few, sees_all=sees) for sees in (False, True))
    assert (plain.matched, matched.matched) == (False, True)
    assert plain.steps == matched.steps
    assert matched.start > plain.start
