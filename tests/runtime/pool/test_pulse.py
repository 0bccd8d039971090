"""The pulse of a worker: what counts as a hang, by beats and no clock."""

import math

import pytest

from frugal_rt.runtime.pool.messages import Pong
from frugal_rt.runtime.pool.pulse import BEAT, CALL, LONGEST, PREPARATION, SILENCE, Pulse
from frugal_rt.runtime.pool.scheduler import Underway


def beats(pulse: Pulse, count: int) -> int:
    """Beats without an answer; how many pings were sent."""
    return sum(pulse.beat() for _ in range(count))


@pytest.fixture
def pulse() -> Pulse:
    pulse = Pulse(math.inf)
    pulse.ready()
    return pulse


def test_one_ping_is_on_its_way_at_a_time_and_silence_is_counted_from_it(pulse):
    assert beats(pulse, SILENCE) == 1
    assert pulse.missed == SILENCE - 1
    assert pulse.silent() is None
    pulse.beat()
    hang = pulse.silent()
    assert f"did not answer for {SILENCE * BEAT:.0f} s" in hang.why
    assert hang.keys is None  # it may be any request's doing


def test_an_answer_ends_the_silence(pulse):
    beats(pulse, SILENCE)
    assert pulse.heard(Pong(None, ()), ()) is None
    assert beats(pulse, SILENCE) == 1
    assert pulse.silent() is None


def test_a_start_may_take_as_long_as_it_is_given():
    endless, bounded = Pulse(math.inf), Pulse(3)
    beats(endless, 10_000)
    beats(bounded, 3)
    assert endless.silent() is None
    assert bounded.silent() is None
    bounded.beat()
    assert bounded.silent() is not None
    bounded.ready()
    assert bounded.silent() is None
    assert bounded.missed == 0


@pytest.mark.parametrize("seconds", [0.01, 60.0])
def test_a_call_hangs_far_beyond_what_it_was_measured_to_take_and_never_at_once(pulse, seconds):
    allowed = math.floor(max(CALL, LONGEST * seconds / BEAT))
    first, second = Underway(1, (7, 8), seconds), Underway(2, (8,), seconds)
    assert not any(pulse.heard(Pong(first, ()), ()) for _ in range(1 + allowed))
    assert not any(pulse.heard(Pong(second, ()), ()) for _ in range(1 + allowed))  # another call has its own time
    hang = pulse.heard(Pong(second, ()), ())
    assert hang.keys == {8}
    assert f"a network call of {seconds:.3g} s was not done" in hang.why


def test_calls_that_end_are_none(pulse):
    assert not any(pulse.heard(Pong(Underway(number, (1,), 0.1), ()), ()) for number in range(10 * CALL))
    assert not any(pulse.heard(Pong(None, ()), ()) for _ in range(10 * CALL))


def test_a_preparation_hangs_when_nobody_waits_for_it_any_more(pulse):
    assert not any(pulse.heard(Pong(None, (3, 4)), {3, 4}) for _ in range(1000))
    assert not any(pulse.heard(Pong(None, (3, 4)), {3}) for _ in range(PREPARATION))
    hang = pulse.heard(Pong(None, (3, 4)), {3})
    assert hang.keys == {4}
    assert "still prepared" in hang.why


def test_preparations_that_end_are_none(pulse):
    for key in range(100):
        assert not any(pulse.heard(Pong(None, (key,)), ()) for _ in range(PREPARATION))


@pytest.mark.parametrize("share", [0.0, 0.5, 0.999])
def test_a_preparation_given_up_at_any_time_between_two_answers_is_ended_within_two_seconds_of_it(pulse, share):
    """An answer comes at each beat; the request is given up `share` of a beat after one."""
    assert pulse.heard(Pong(None, (4,)), {4}) is None
    answers = next(count for count in range(1, 100) if pulse.heard(Pong(None, (4,)), ()))
    assert 1 < (answers - share) * BEAT < 1.75
