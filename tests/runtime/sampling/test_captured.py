"""Captured steps against steps made one by one. A GPU captures CUDA graphs; here what was captured is called again."""

import gc
import weakref
from typing import ClassVar

import numpy as np
import pytest
import torch

from frugal_rt import operators
from frugal_rt.engines import DivergedError, OnHost, Prediction
from frugal_rt.runtime.restorer import Restorer
from frugal_rt.runtime.sampling import advance as advancing
from frugal_rt.runtime.sampling import captured
from frugal_rt.runtime.sampling.advance import advance
from frugal_rt.runtime.sampling.guidance import Guidance

SHAPE = (3, 8, 8)


@pytest.fixture(autouse=True)
def always_worth_it(monkeypatch):
    monkeypatch.setattr(captured, "WORTH", 0)


class Plan:
    image_shape, stride, attends = SHAPE, None, False
    manifest: ClassVar = {
        "schedule": {"num_train_timesteps": 1000},
        "prior": {"name": "toy"},
        "members": {"weights.safetensors": {"sha256": ""}},
    }


class Toy(OnHost):
    """A smooth network in torch, whose answer depends on t, and its gradient."""

    name = "toy"

    def asarray(self, x):
        return torch.as_tensor(x, dtype=torch.float32)

    def prepare(self, gradients, batch=1): ...

    def predict(self, x, t):
        return Prediction(torch.tanh(x) * self._scale(t), None)

    def pullback(self, x, t):
        return self.predict(x, t), lambda v: v * (1 - torch.tanh(x) ** 2) * self._scale(t)

    def _scale(self, t):
        return (0.9 + torch.as_tensor(t) / 1e4).to(torch.float32)[:, None, None, None]


class Recorder(Toy):
    """The same with captures: work is run a few times, as a CUDA graph's is, and then called again at each replay."""

    can_capture = True

    def __init__(self):
        self.captured, self.replays = 0, 0

    def capture(self, work):
        self.captured += 1
        for _ in range(3):
            work()

        def replay():
            self.replays += 1
            work()

        return replay


class Alone(Recorder):
    """An engine whose captures hold no code, as CUDA graphs do not, and whose arrays do not refer to it."""

    upload = staticmethod(lambda array: lambda: torch.from_numpy(array))

    def capture(self, work):
        for _ in range(3):
            work()
        return lambda: None


def hole():
    missing = np.zeros(SHAPE[1:], bool)
    missing[2:6, 2:6] = True
    return operators.Inpaint(SHAPE, missing)


def measurement(operator, count):
    random = np.random.default_rng(3)
    clean = np.tanh(random.standard_normal((count, *SHAPE)))
    return np.asarray(operator.A(clean), np.float32)


SETTINGS = [
    {"switch": 4},
    {"switch": "auto"},
    {"method": "dps"},
    {"method": "closed-form"},
    {"method": "dmps", "lam": 0.7},
    {"method": "dps", "zeta": 0.4},
]


def test_replays_of_a_denoising_from_the_picture_are_steps_and_draw_nothing(monkeypatch):
    operator, engine, drawn = operators.Denoise(SHAPE), Recorder(), []
    monkeypatch.setattr(captured.Loaded, "_take_blocks", lambda self, due: drawn.append(due))
    y = measurement(operator, 3)
    plain = Restorer(Plan(), Toy()).restore(y, operator, sigma=0.3, batch=3)
    replayed = Restorer(Plan(), engine).restore(y, operator, sigma=0.3, batch=3)
    assert (engine.captured, engine.replays, drawn) == (1, 8, [])
    np.testing.assert_allclose(replayed.image, plain.image, rtol=0, atol=1e-6)
    assert np.ptp(plain.image) > 0.1


@pytest.mark.parametrize("make", [hole, lambda: operators.SuperResolution(SHAPE, 2), lambda: operators.Denoise(SHAPE)])
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("batch", [1, 2, 3])
def test_replays_are_steps(make, settings, batch):
    operator = make()
    y = measurement(operator, 3)
    plain = Restorer(Plan(), Toy()).restore(y, operator, steps=12, batch=batch, **settings)
    engine = Recorder()
    replayed = Restorer(Plan(), engine).restore(y, operator, steps=12, batch=batch, **settings)
    assert engine.replays >= plain.forwards[0] >= 9  # few trained steps lie below little noise
    np.testing.assert_array_equal(replayed.image, plain.image)
    assert (replayed.k, replayed.trace, replayed.gradients) == (plain.k, plain.trace, plain.gradients)


def test_a_recording_serves_again_and_is_told_of_new_measurements():
    operator = hole()
    y = measurement(operator, 2)
    engine = Recorder()
    ours, plain = Restorer(Plan(), engine), Restorer(Plan(), Toy())
    for one, seed, sigma in ((y[0], 1, 0.01), (y[1], 2, 0.2)):
        again = [
            each.restore(one, operator, sigma=sigma, steps=6, method="closed-form", seed=seed) for each in (ours, plain)
        ]
        np.testing.assert_array_equal(*(result.image for result in again))
    assert engine.captured == 1
    ours.restore(y[0], operator, steps=8, method="closed-form")
    ours.restore(y[0], hole(), steps=8, method="closed-form")
    assert engine.captured == 3  # another number of steps, another operator


def test_the_moves_of_one_set_of_rows_share_their_arrays():
    """The hybrid takes turns between two moves, and loads its rows once."""
    engine, operator = Recorder(), hole()
    restorer = Restorer(Plan(), engine)
    y = measurement(operator, 2)
    loads = []
    real = captured.Loaded.load
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(captured.Loaded, "load", lambda self, rows: (loads.append(len(rows)), real(self, rows)))
        restorer.restore(y, operator, steps=50, switch=25, batch=2)
        assert len(loads) <= engine.captured  # at the start, and once more for each move that is captured
        loads.clear()
        restorer.restore(y, operator, steps=50, switch=25, batch=2)
    assert loads == [2]
    assert engine.captured == 2


def test_noise_is_drawn_once(monkeypatch):
    """Also where rows are loaded at the last step of a block."""
    engine, operator, drawn = Recorder(), hole(), []
    real = captured.Restoration.noises

    def noises(row, draws, step, *rest):
        drawn.append(step)
        return real(row, draws, step, *rest)

    monkeypatch.setattr(captured.Restoration, "noises", noises)
    Restorer(Plan(), engine).restore(
        measurement(operator, 1)[0], operator, steps=2 * captured.BLOCK, method="closed-form"
    )
    assert sorted(drawn) == [0, captured.BLOCK]


@pytest.mark.parametrize(("worth", "captures"), [(7, 0), (6, 1)])
def test_few_steps_are_not_worth_it(monkeypatch, worth, captures):
    monkeypatch.setattr(captured, "WORTH", worth)
    engine, operator = Recorder(), hole()
    Restorer(Plan(), engine).restore(measurement(operator, 1)[0], operator, steps=6, method="closed-form")
    assert engine.captured == captures


def test_what_failed_once_is_not_tried_again(monkeypatch):
    engine, tried, operator = Recorder(), [], hole()
    monkeypatch.setattr(engine, "capture", tried.append)
    Restorer(Plan(), engine).restore(measurement(operator, 1)[0], operator, steps=20, switch=10)
    assert len(tried) == 2  # two moves


def test_rows_leave_with_what_is_theirs():
    """Two groups of one size take turns on one capture; then one row goes on alone."""
    operator = operators.Denoise(SHAPE)
    y = measurement(operator, 4)
    engine = Recorder()
    ours, plain = (
        Restorer(Plan(), one)._begin(y, operator, Guidance(steps=9, method="closed-form")) for one in (engine, Toy())
    )
    for groups in ([(0, 1), (2, 3)], [(0, 1), (2, 3)], [(0, 2), (1,), (3,)], [(3, 1), (0, 2)]):
        for rows, with_ in ((ours, engine), (plain, Toy())):
            for group in groups:
                advance([rows[i] for i in group], with_)
        for a, b in zip(ours, plain, strict=True):
            torch.testing.assert_close(a.x, b.x, rtol=0, atol=0)
            torch.testing.assert_close(a.x0hat, b.x0hat, rtol=0, atol=0)
    assert engine.captured == 2  # for two rows, and for one


def test_what_cannot_be_recorded_is_stepped():
    engine = Recorder()
    missing = np.eye(8, dtype=bool)
    iterative = operators.Partial(operators.Circular(SHAPE, np.ones((3, 3))), missing=missing)
    y = iterative.observed(measurement(iterative, 1)[0])
    got, want = (Restorer(Plan(), one).restore(y, iterative, steps=5, switch=2) for one in (engine, Toy()))
    np.testing.assert_array_equal(got.image, want.image)
    assert engine.captured == 0


def test_an_engine_that_cannot_record_after_all_is_stepped(monkeypatch):
    engine = Recorder()
    monkeypatch.setattr(engine, "capture", lambda work: None)
    operator = hole()
    y = measurement(operator, 1)[0]
    got, want = (Restorer(Plan(), one).restore(y, operator, steps=5, switch=2) for one in (engine, Toy()))
    np.testing.assert_array_equal(got.image, want.image)


def test_an_engine_goes_with_what_was_recorded_of_it():
    engine, operator = Alone(), hole()
    Restorer(Plan(), engine).restore(measurement(operator, 1)[0], operator, steps=20, switch=10)
    last = weakref.ref(engine)
    del engine
    gc.collect()
    assert last() is None


def test_what_was_recorded_goes_at_once():
    """With the GPU's memory, and not when garbage is collected: a row that is held does not hold what holds it."""
    engine, operator = Alone(), hole()
    rows = Restorer(Plan(), engine)._begin(measurement(operator, 2), operator, Guidance(steps=20, method="closed-form"))
    advance(rows, engine)
    (last,) = map(weakref.ref, captured._kept(engine).values())
    gc.disable()
    try:
        captured._kept(engine).clear()
        assert last() is None
    finally:
        gc.enable()
    advance(rows, Toy())  # the rows go on with what they have


def test_no_more_recordings_are_kept_than_said():
    engine = Recorder()
    restorer = Restorer(Plan(), engine)
    for _ in range(captured.KEPT + 3):
        operator = hole()
        restorer.restore(measurement(operator, 1)[0], operator, steps=3, method="closed-form")
    assert len(captured._kept(engine)) == captured.KEPT


def test_on_a_device_nothing_is_asked_but_by_the_switch(monkeypatch):
    """As if the arrays were a GPU's: transfers happen where the switch asks, and at the end."""
    asked = []
    settle = advancing.settle

    def watch(rows):
        asked.append(rows[0].step + 1)
        settle(rows)

    monkeypatch.setattr(advancing, "settle", watch)
    monkeypatch.setattr(advancing, "_on_host", lambda array: False)
    operator = hole()
    y = measurement(operator, 2)
    steps = 20
    for how, expected in (({"switch": 5}, [0]), ({"method": "closed-form"}, [0])):
        asked.clear()
        rows = Restorer(Plan(), Toy())._begin(y, operator, Guidance(steps=steps, **how))
        while rows[0].step >= 0:
            advance(rows, Toy())
        assert asked == expected
    rows = Restorer(Plan(), Toy())._begin(y, operator, Guidance(steps=steps, switch="auto"))
    asked.clear()
    while any(row.k is None for row in rows):
        advance(rows, Toy())
    rule = rows[0].switch
    assert asked == [left for left in range(rule.k_max, rule.k_min, -1) if left >= min(row.k for row in rows)]


def test_on_a_device_a_row_that_diverges_is_found_and_stops_no_other(monkeypatch):
    monkeypatch.setattr(advancing, "_on_host", lambda array: False)
    operator = operators.Denoise(SHAPE)
    rows = Restorer(Plan(), Toy())._begin(measurement(operator, 2), operator, Guidance(steps=20, switch="auto"))
    rows[1].x = rows[1].x * np.nan
    while not rows[1].diverged:
        advance(rows, Toy())
    with pytest.raises(DivergedError, match="left the finite numbers"):
        advance(rows, Toy())
    assert not rows[0].diverged
    before = rows[0].step
    advance(rows[:1], Toy())
    assert rows[0].step == before - 1
    with pytest.raises(DivergedError, match="left the finite numbers"):
        advance(rows[1:], Toy())


def test_on_a_device_a_row_that_diverges_late_is_no_result(monkeypatch):
    monkeypatch.setattr(advancing, "_on_host", lambda array: False)
    operator = operators.Denoise(SHAPE)
    restorer = Restorer(Plan(), Toy())
    rows = restorer._begin(measurement(operator, 1), operator, Guidance(steps=4, method="closed-form"))
    rows[0].x = rows[0].x * np.nan
    while rows[0].step >= 0:
        advance(rows, Toy())
    with pytest.raises(DivergedError, match="left the finite numbers"):
        restorer._gather(rows, {}, 1)
