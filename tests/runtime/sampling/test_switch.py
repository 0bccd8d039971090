"""The switch: when it is due, and what it saw."""

import math

import numpy as np
import pytest

from frugal_rt import InputError
from frugal_rt.runtime.sampling.guidance import GRADIENTS, stride_of
from frugal_rt.runtime.sampling.switch import EARLIEST, LATEST, THRESHOLD, Switch

from ..measurements import measurement


def first(switch: Switch, steps: int, settled) -> int | None:
    """k of the first step at which the switch is due, `settled(left)` being the PSNR known by then."""
    return next((left for left in range(steps, 0, -1) if switch.due(left, settled(left))), None)


@pytest.mark.parametrize(("value", "k"), [(0, None), ("0", None), (100, 100), (50, 50), ("50", 50), (1, 1)])
def test_fixed_switches(value, k):
    switch = Switch.parse(value, 100)
    for settled in (-math.inf, 0, 100):
        assert first(switch, 100, lambda left, settled=settled: settled) == k


def test_auto_switches_when_the_estimate_settles():
    switch = Switch.parse("auto", 100)
    assert first(switch, 100, lambda left: THRESHOLD if left <= 41 else 27.9) == 41


@pytest.mark.parametrize("steps", [2, 3, 10, 20, 50, 100, 999])
def test_auto_is_bounded_both_ways(steps):
    switch = Switch.parse("auto", steps)
    early, late = first(switch, steps, lambda left: 99), first(switch, steps, lambda left: -math.inf)
    assert early == switch.k_max == int(EARLIEST * steps)
    assert late == switch.k_min > 0
    assert LATEST * steps <= late < LATEST * steps + 1


def test_one_threshold_does_for_any_number_of_steps_as_the_estimates_compared_stay_as_far_apart():
    assert {Switch.parse("auto", steps).threshold for steps in (20, 100, 1000)} == {THRESHOLD}
    for steps in (50, 100, 300, 1000):
        assert steps / stride_of(steps) == pytest.approx(GRADIENTS, rel=0.02)
    assert stride_of(20) == 2


@pytest.mark.parametrize("value", ["sometimes", -1, 101, "1.5", "", [1], {}])
def test_nonsense_is_refused(value):
    with pytest.raises(InputError, match=r"switch must be auto or a number of steps 0\.\.100"):
        Switch.parse(value, 100)


@pytest.mark.parametrize(("steps", "every"), [(50, None), (60, None), (20, None), (50, 3)])
@pytest.mark.parametrize("threshold", [-np.inf, 8.0, 10.0, np.inf])
def test_the_trace_explains_the_switch(restorer, operator, monkeypatch, steps, every, threshold):
    monkeypatch.setattr("frugal_rt.runtime.sampling.switch.THRESHOLD", threshold)
    result = restorer.restore(measurement(operator), operator, steps=steps, every=every)
    rule, stride = Switch.parse("auto", steps), every or stride_of(steps)
    assert rule.threshold == threshold
    for k, trace in zip(result.k, result.trace, strict=True):
        made = result.forwards[0]
        assert steps - 4 < made <= steps
        assert len(trace) == math.ceil(made / stride) - 1
        compared = range(made - 1 - stride, -1, -stride)  # steps left once the estimate of each entry is made

        def settled(left, trace=trace, compared=compared):
            return next(
                (value for at, value in reversed(list(zip(compared, trace, strict=True))) if at >= left), -np.inf
            )

        assert next(left for left in range(made, 0, -1) if rule.due(left, settled(left))) == k
        assert math.ceil(LATEST * steps) <= k <= EARLIEST * steps
