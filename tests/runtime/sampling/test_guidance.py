"""Step sizes, presets and how often a gradient is taken."""

import math

import numpy as np
import pytest

from frugal_rt import InputError, operators
from frugal_rt.runtime.sampling.guidance import OFFICIAL_LAMBDA, OFFICIAL_ZETA, PRESETS, Guidance, stride_of
from frugal_rt.runtime.sampling.switch import Switch

from ..measurements import SHAPE, measurement


def test_the_hybrid_at_k_50_makes_13_pullbacks_and_100_forwards_in_all(restorer, operator, counted):
    result = restorer.restore(measurement(operator)[0], operator, steps=100, switch=50)
    assert counted == {"predict": 87, "pullback": 13, "pulled": 13}
    assert (result.forwards, result.pullbacks, result.k) == ((100,), (13,), (50,))
    assert result.settings["every"] == 4


@pytest.mark.parametrize(
    ("switch", "how", "pullbacks"),
    [
        ("never", {}, 10),
        ("always", {}, 0),
        (3, {}, 4),  # steps 9, 7, 5, 3
        (4, {"every": 2}, 3),
        (1, {"every": 4}, 3),
        (1, {"every": 9}, 1),
        (3, {"zeta": 0.5}, 7),
        (3, {"lam": 1.0}, 4),
        (3, {"guidance": "official"}, 7),
        (9, {}, 1),
    ],
)
def test_every_switch_costs_what_it_says(restorer, operator, counted, switch, how, pullbacks):
    result = restorer.restore(measurement(operator, 2), operator, steps=10, switch=switch, batch=2, **how)
    assert counted == {"predict": 2 * (10 - pullbacks), "pullback": 2 * pullbacks, "pulled": 2 * pullbacks}
    assert result.pullbacks == (pullbacks,) * 2
    assert result.forwards == (10,) * 2
    assert (result.seconds["dps"] > 0) == (switch != "always")
    assert (result.seconds["dmps"] > 0) == (switch != "never")


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("every", [None, 2, 7])
def test_a_preset_names_the_steps_and_every_so_manieth_before_the_switch_takes_a_gradient(
    restorer, operator, counted, preset, every
):
    result = restorer.restore(measurement(operator)[0], operator, preset=preset, every=every)
    steps, stride = PRESETS[preset], every or stride_of(PRESETS[preset])
    assert (result.settings["steps"], result.settings["every"], result.forwards) == (steps, stride, (steps,))
    assert result.pullbacks == (math.ceil((steps - result.k[0]) / stride),)
    assert counted == {
        "predict": steps - result.pullbacks[0],
        "pullback": result.pullbacks[0],
        "pulled": result.pullbacks[0],
    }
    assert len(restorer._begin(measurement(operator)[0], operator, Guidance(preset=preset, steps=13))[0].schedule) == 13


@pytest.mark.parametrize("switch", ["never", 4, "always"])
@pytest.mark.parametrize("name", ["sr", "inpaint", "colorize"])
def test_official_guidance_is_the_papers_constants_by_value(restorer, name, switch):
    operator = {
        "sr": operators.SuperResolution(SHAPE, 2),
        "inpaint": operators.Inpaint(SHAPE, np.eye(16, dtype=bool)),
        "colorize": operators.Colorize(SHAPE),
    }[name]
    y, zeta = measurement(operator, 2), {"sr": 0.3, "inpaint": 0.5, "colorize": 1.0}[name]
    assert OFFICIAL_ZETA.get(name, 1.0) == zeta
    official = restorer.restore(y, operator, steps=10, switch=switch, guidance="official")
    by_value = restorer.restore(y, operator, steps=10, switch=switch, zeta=zeta, lam=OFFICIAL_LAMBDA)
    assert np.array_equal(official.image, by_value.image)
    assert official.settings == by_value.settings
    assert (official.settings["zeta"], official.settings["lambda"], official.settings["every"]) == (zeta, 1.75, None)
    own = restorer.restore(y, operator, steps=10, switch=switch)
    assert (own.settings["zeta"], own.settings["lambda"]) == (None, None)
    assert np.abs(official.image - own.image).max() > 1e-3
    part = restorer.restore(y, operator, steps=10, switch=switch, guidance="official", zeta=0.1, lam=0.2)
    assert (part.settings["zeta"], part.settings["lambda"]) == (0.1, 0.2)


EVERY = "every is for the hybrid with a step size of its own; leave it out, or zeta and guidance"


@pytest.mark.parametrize("switch", ["auto", "never"])
def test_a_gradient_now_and_then_for_a_degradation_that_is_not_linear_is_refused(restorer, switch):
    custom = operators.Custom(SHAPE, SHAPE, np.tanh, lambda x, r: r)
    with pytest.raises(InputError, match=EVERY):
        restorer.restore(np.zeros(SHAPE), custom, steps=10, every=4, switch=switch)
    with pytest.raises(InputError, match=EVERY):
        Guidance(steps=10, every=4, switch=switch).settle(custom)
    assert Guidance(steps=10, switch=switch).settle(custom) == (10, Switch(0, 0), None, None, None, 2, None)
