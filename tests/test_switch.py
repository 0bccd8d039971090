import math

import pytest

from frugal_rt import InputError
from frugal_rt.runtime.switch import THRESHOLD, Switch


def first(switch: Switch, steps: int, settled) -> int | None:
    """k of the first step at which the switch is due, `settled(left)` being the PSNR known by then."""
    return next((left for left in range(steps, 0, -1) if switch.due(left, settled(left))), None)


@pytest.mark.parametrize(
    ("value", "k"), [("never", None), (0, None), ("0", None), ("always", 100), (50, 50), ("50", 50), (1, 1)]
)
def test_fixed_switches(value, k):
    switch = Switch.parse(value, 100)
    for settled in (-math.inf, 0, 100):
        assert first(switch, 100, lambda left, settled=settled: settled) == k


def test_auto_switches_when_the_estimate_settles():
    switch = Switch.parse("auto", 100)
    assert first(switch, 100, lambda left: THRESHOLD if left <= 61 else 10) == 61


def test_auto_is_bounded_both_ways():
    switch = Switch.parse("auto", 100)
    early, late = first(switch, 100, lambda left: 99), first(switch, 100, lambda left: 0)
    assert early == switch.k_max < 100
    assert late == switch.k_min > 0


def test_the_threshold_moves_with_the_length_of_a_step():
    assert (
        Switch.parse("auto", 20).threshold < Switch.parse("auto", 100).threshold < Switch.parse("auto", 1000).threshold
    )


@pytest.mark.parametrize("value", ["sometimes", -1, 101, "1.5", ""])
def test_nonsense_is_refused(value):
    with pytest.raises(InputError, match=r"switch must be auto, never, always or a number of steps 0\.\.100"):
        Switch.parse(value, 100)
