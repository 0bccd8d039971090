"""The scheduler: what shares a call, in what order, and that nobody's image depends on it."""

import threading

import numpy as np
import pytest

from frugal_rt import DivergedError, InputError, Restorer, operators
from frugal_rt.engines import OnHost
from frugal_rt.engines.errors import Stopped
from frugal_rt.engines.stopping import check, current
from frugal_rt.runtime.operators import Custom, Denoise
from frugal_rt.runtime.pool.costs import Costs
from frugal_rt.runtime.pool.scheduler import PATIENCE, QUANTUM, Scheduler
from frugal_rt.runtime.sampling.guidance import Guidance

SHAPE = (3, 16, 16)
ROOMY = Costs({1: 1.0, 2: 1.0, 4: 1.0, 8: 1.0}, {1: 2.0, 2: 2.0, 4: 2.0, 8: 2.0})
ALONE = Costs({1: 1.0}, {1: 2.0})


@pytest.fixture(scope="module")
def restorer(tiny_plan):
    return Restorer.load(tiny_plan, "cpu")


@pytest.fixture(scope="module")
def tasks():
    hole = np.zeros(SHAPE[1:], bool)
    hole[4:10, 4:10] = True
    return [
        (operators.SuperResolution(SHAPE, 2), {"sigma": 0.05, "steps": 9}),
        (operators.Inpaint(SHAPE, hole), {"sigma": 0.01, "steps": 12, "switch": 5}),
        (operators.Deblur.gaussian(SHAPE, 1.0), {"sigma": 0.1, "steps": 7, "method": "closed-form"}),
        (operators.Denoise(SHAPE), {"sigma": 0.3, "steps": 8, "method": "dps", "seed": 5}),
        (
            operators.Colorize(SHAPE),
            {"sigma": 0.02, "steps": 10, "method": "hybrid", "guidance": "official", "sample": 3},
        ),
    ]


def measurement(operator, rows=1):
    return np.random.default_rng(1).uniform(-1, 1, (rows, *operator.measurement_shape)).astype(np.float32)


def add(scheduler, key, restorer, operator, rows=1, priority=0, **settings):
    scheduler.add(key, restorer, restorer._begin(measurement(operator, rows), operator, Guidance(**settings)), priority)


def drain(scheduler):
    calls = []
    while len(scheduler):
        calls.append(scheduler.step())
    return calls


@pytest.mark.parametrize("costs", [ROOMY, ALONE])
def test_an_image_is_what_it_is_alone_bit_for_bit_whoever_shares_its_calls(restorer, tasks, costs):
    scheduler, finished = Scheduler(costs), {}
    for key, (operator, settings) in enumerate(tasks):
        add(scheduler, key, restorer, operator, rows=1 + key % 2, **settings)
        finished |= scheduler.step().finished  # each joins while others are on their way
    for call in drain(scheduler):
        finished |= call.finished
    for key, (operator, settings) in enumerate(tasks):
        alone = restorer.restore(measurement(operator, 1 + key % 2), operator, batch=1, **settings)
        np.testing.assert_array_equal(finished[key].image, alone.image)
        assert (finished[key].k, finished[key].trace) == (alone.k, alone.trace)
        assert finished[key].gradients == alone.gradients
        assert {**finished[key].settings, "batch": 1} == alone.settings


def test_requests_of_other_steps_and_operators_share_a_call_and_a_new_one_joins_the_next(restorer, tasks):
    scheduler = Scheduler(ROOMY)
    add(scheduler, 0, restorer, tasks[0][0], method="closed-form", steps=9)
    add(scheduler, 1, restorer, tasks[1][0], method="closed-form", steps=40)
    assert [moved.key for moved in scheduler.step().moved] == [0, 1]
    add(scheduler, 2, restorer, tasks[2][0], method="closed-form", steps=5)
    add(scheduler, 3, restorer, tasks[3][0], method="closed-form", steps=5)
    call = scheduler.step()
    assert {moved.key for moved in call.moved} == {0, 1, 2, 3}
    assert {moved.key: (moved.left, moved.steps) for moved in call.moved} == {
        0: (7, 9),
        1: (38, 40),
        2: (4, 5),
        3: (4, 5),
    }
    calls = drain(scheduler)
    assert [key for call in calls for key in call.finished] == [2, 3, 0, 1]
    assert calls[-1].rows == 1  # the others left at once


def test_what_needs_a_gradient_and_what_does_not_go_in_calls_of_their_own(restorer, tasks):
    scheduler = Scheduler(ROOMY)
    for key in range(4):
        add(scheduler, key, restorer, tasks[0][0], steps=6, method="closed-form" if key % 2 else "dps")
    calls = drain(scheduler)
    assert {(call.pulls, call.rows, call.phase) for call in calls} == {(True, 2, "gradient"), (False, 2, "forward")}
    assert len(calls) == 12


def test_rows_out_of_step_fall_into_step_so_that_calls_are_full(restorer, tasks):
    scheduler, settings = Scheduler(ROOMY), {"steps": 40, "switch": 1, "every": 2}
    add(scheduler, 0, restorer, tasks[0][0], **settings)
    scheduler.step()  # a step with a gradient: this row's next has none, the other's has
    add(scheduler, 1, restorer, tasks[0][0], **settings)
    calls = drain(scheduler)
    assert sum(call.rows == 2 for call in calls) >= 37
    assert max(call.rows for call in calls) == 2


def test_a_call_has_a_size_that_was_measured_and_no_more_rows_than_pay(restorer, tasks):
    scheduler = Scheduler(Costs({1: 1.0, 2: 1.5, 4: 2.0}, {1: 1.0}))
    add(scheduler, 0, restorer, tasks[0][0], rows=7, method="closed-form", steps=4)
    assert [(call.rows, call.room) for call in drain(scheduler)][:4] == [(4, 4)] * 4
    add(scheduler, 2, restorer, tasks[0][0], rows=3, method="closed-form", steps=4)
    assert [call.rows for call in drain(scheduler)][:2] == [2, 2]
    add(scheduler, 1, restorer, tasks[0][0], rows=3, method="dps", steps=4)
    assert {call.rows for call in drain(scheduler)} == {1}


def test_first_come_is_first_served_where_sharing_gains_nothing(restorer, tasks):
    scheduler = Scheduler(ALONE)
    for key in range(3):
        add(scheduler, key, restorer, tasks[0][0], method="closed-form", steps=5)
    assert [key for call in drain(scheduler) for key in call.finished] == [0, 1, 2]


def test_a_higher_priority_goes_first(restorer, tasks):
    scheduler = Scheduler(ALONE)
    for key, priority in enumerate((0, 0, 2, 1)):
        add(scheduler, key, restorer, tasks[0][0], method="closed-form", steps=3, priority=priority)
    assert [key for call in drain(scheduler) for key in call.finished] == [2, 3, 0, 1]


def test_a_long_restoration_and_one_of_many_rows_let_short_ones_by(restorer, tasks):
    scheduler = Scheduler(ALONE)
    add(scheduler, 0, restorer, tasks[0][0], method="closed-form", steps=5 * QUANTUM)
    add(scheduler, 1, restorer, tasks[0][0], rows=4, method="closed-form", steps=4)
    add(scheduler, 2, restorer, tasks[0][0], method="closed-form", steps=4)
    assert [key for call in drain(scheduler) for key in call.finished] == [2, 1, 0]


def test_a_row_of_a_kind_of_its_own_is_not_passed_over_for_ever(restorer, tasks):
    scheduler = Scheduler(ROOMY)
    add(scheduler, 0, restorer, tasks[0][0], method="dps", steps=8)
    add(scheduler, 1, restorer, tasks[0][0], rows=4, method="closed-form", steps=200)
    calls = drain(scheduler)
    mine = [i for i, call in enumerate(calls) if call.pulls]
    assert len(mine) == 8
    assert max(np.diff([-1, *mine])) <= PATIENCE + 1


def test_cancelling_takes_effect_at_the_next_call(restorer, tasks):
    scheduler = Scheduler(ROOMY)
    for key in range(2):
        add(scheduler, key, restorer, tasks[key][0], rows=2, method="closed-form", steps=6)
    scheduler.step()
    scheduler.cancel(0)
    scheduler.cancel(17)
    assert len(scheduler) == 2
    assert {moved.key for call in drain(scheduler) for moved in call.moved} == {1}


def test_a_row_that_fails_takes_no_other_with_it(restorer, tasks):
    def broken(x):
        raise RuntimeError("a bug in the caller's operator")

    raising = Custom(SHAPE, SHAPE, broken, lambda x, r: r)
    diverging = Custom(SHAPE, SHAPE, lambda x: x * np.float32(np.nan), lambda x, r: r)
    operator = tasks[0][0]
    scheduler, finished, failed = Scheduler(ROOMY), {}, {}
    for key, one in enumerate((operator, raising, diverging, operator)):
        add(scheduler, key, restorer, one, method="dps", steps=5)
    for call in drain(scheduler):
        finished |= call.finished
        failed |= call.failed
    assert set(finished) == {0, 3}
    alone = restorer.restore(measurement(operator), operator, method="dps", steps=5, batch=1)
    np.testing.assert_array_equal(finished[0].image, alone.image)
    assert isinstance(failed[1], InputError)
    assert "a bug in the caller's operator" in str(failed[1])
    assert isinstance(failed[2], DivergedError)


def test_images_in_tiles_are_restored_beside_others(restorer, tasks):
    large = restorer.at(24, 20)
    operator = operators.Denoise((3, 24, 20))
    scheduler, finished = Scheduler(ROOMY), {}
    add(scheduler, 0, large, operator, steps=4, sigma=0.2)
    add(scheduler, 1, restorer, tasks[0][0], steps=4)
    for call in drain(scheduler):
        finished |= call.finished
    alone = large.restore(measurement(operator), operator, steps=4, sigma=0.2)
    np.testing.assert_array_equal(finished[0].image, alone.image)
    assert finished[1].image.shape == (1, *SHAPE)


class Endless(OnHost):
    """An engine whose calls end when they are stopped, and tell when they have begun."""

    name = "endless"

    def __init__(self, inner):
        self._inner, self.began, self.calls = inner, threading.Event(), 0

    def asarray(self, x):
        return self._inner.asarray(x)

    def prepare(self, gradients, batch=1): ...

    def predict(self, x, t):
        self.calls += 1
        ended = threading.Event()
        with current().ending(ended.set):
            self.began.set()
            ended.wait(60)
        check()
        return self._inner.predict(x, t)


def test_a_call_that_all_have_given_up_is_ended_and_one_that_somebody_waits_for_is_not(tiny_plan):
    restorer = Restorer.load(tiny_plan, "cpu")
    restorer.engine = engine = Endless(restorer.engine)
    scheduler = Scheduler(Costs({1: 1.0, 2: 1.5}, {1: 1.0}))
    for key in (1, 2):
        y = np.zeros(restorer.image_shape, np.float32)
        rows = restorer._begin(y, Denoise(restorer.image_shape), Guidance(sigma=0.5, steps=5, method="closed-form"))
        scheduler.add(key, restorer, rows)

    def give_up() -> None:
        engine.began.wait(60)
        scheduler.give_up(1)
        first.append(scheduler._stop.asked)
        scheduler.give_up(2)

    first: list[bool] = []
    thread = threading.Thread(target=give_up)
    thread.start()
    call = scheduler.step()
    thread.join()
    assert first == [False]
    assert {key: type(why) for key, why in call.failed.items()} == {1: Stopped, 2: Stopped}
    assert (len(scheduler), engine.calls) == (0, 1)
    for key in (1, 2):
        scheduler.cancel(key)
    assert scheduler._given_up == set()


class Own(Denoise):
    """An operator that gives its request up after some applications; `applied` counts them."""

    def __init__(self, give_up, after):
        super().__init__(SHAPE)
        self.applied, self._give_up, self._after = 0, give_up, after

    def A(self, x):
        self.applied += 1
        if self.applied == self._after:
            self._give_up()
        return x


class Iterated(Own):
    """Its part of a step does not end by itself."""

    def AT(self, y):
        while True:
            self.A(y)


class Finishing(Own):
    """The end of its restoration does not end by itself."""

    def finished(self, x, y):
        while True:
            self.A(x)


@pytest.mark.parametrize(("kind", "settings"), [(Iterated, {"method": "dps"}), (Finishing, {"aim": "detail"})])
def test_work_of_an_operator_ends_before_its_next_application(restorer, kind, settings):
    """Within a step, and behind the last one."""
    scheduler = Scheduler(ALONE)
    operator = kind(lambda: scheduler.give_up(3), 20)
    add(scheduler, 3, restorer, operator, sigma=0.3, **settings)
    failed = {}
    while len(scheduler):
        failed |= scheduler.step().failed
    assert {key: type(why) for key, why in failed.items()} == {3: Stopped}
    assert operator.applied == 20


def test_a_request_given_up_before_its_call_makes_none(tiny_plan):
    restorer = Restorer.load(tiny_plan, "cpu")
    scheduler = Scheduler(Costs({1: 1.0}, {1: 1.0}))
    y = np.zeros(restorer.image_shape, np.float32)
    asked = Guidance(sigma=0.5, steps=5, method="closed-form")
    scheduler.add(7, restorer, restorer._begin(y, Denoise(restorer.image_shape), asked))
    scheduler.give_up(7)
    assert isinstance(scheduler.step().failed[7], Stopped)
    assert len(scheduler) == 0
