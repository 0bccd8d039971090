"""Restorer: what callers may rely on."""

import multiprocessing

import numpy as np
import pytest

from frugal_rt import BackendError, DivergedError, InputError, Restorer, operators
from frugal_rt.engines import Prediction
from frugal_rt.runtime.restoration import Phase, Restoration, advance, start_noise
from frugal_rt.runtime.schedule import Schedule
from frugal_rt.runtime.switch import Switch

SHAPE = (3, 16, 16)


@pytest.fixture(scope="module")
def restorer(tiny_plan):
    return Restorer.load(tiny_plan)


@pytest.fixture
def operator():
    return operators.SuperResolution(SHAPE, 2)


def measurement(operator, rows=5):
    return np.random.default_rng(0).uniform(-1, 1, (rows, *operator.measurement_shape)).astype(np.float32)


@pytest.fixture
def counted(restorer, monkeypatch):
    """Counts of the rows that go through each kind of network call."""
    counts = {"predict": 0, "pullback": 0, "pulled": 0}
    predict, pullback = restorer.engine.predict, restorer.engine.pullback

    def counting_predict(x, t):
        counts["predict"] += len(x)
        return predict(x, t)

    def counting_pullback(x, t):
        counts["pullback"] += len(x)
        prediction, pull = pullback(x, t)

        def counting_pull(v):
            counts["pulled"] += len(v)
            return pull(v)

        return prediction, counting_pull

    monkeypatch.setattr(restorer.engine, "predict", counting_predict)
    monkeypatch.setattr(restorer.engine, "pullback", counting_pullback)
    return counts


def test_the_hybrid_at_k_50_makes_50_pullbacks_and_100_forwards_in_all(restorer, operator, counted):
    result = restorer.restore(measurement(operator)[0], operator, steps=100, switch=50)
    assert counted == {"predict": 50, "pullback": 50, "pulled": 50}
    assert (result.forwards, result.pullbacks, result.k) == ((100,), (50,), (50,))


@pytest.mark.parametrize(("switch", "pullbacks"), [("never", 10), ("always", 0), (3, 7)])
def test_every_switch_costs_what_it_says(restorer, operator, counted, switch, pullbacks):
    result = restorer.restore(measurement(operator, 2), operator, steps=10, switch=switch, batch=2)
    assert counted == {"predict": 2 * (10 - pullbacks), "pullback": 2 * pullbacks, "pulled": 2 * pullbacks}
    assert result.pullbacks == (pullbacks,) * 2
    assert result.forwards == (10,) * 2
    assert (result.seconds["dps"] > 0) == (pullbacks > 0)
    assert (result.seconds["dmps"] > 0) == (pullbacks < 10)


def test_the_trace_explains_the_switch(restorer, operator):
    result = restorer.restore(measurement(operator), operator, steps=50, switch="auto")
    rule = Switch.parse("auto", 50)
    for k, trace in zip(result.k, result.trace, strict=True):
        assert len(trace) == 49
        settled = [-np.inf, -np.inf, *trace]  # the pair of estimates i and i + 1 is known when 48 - i steps are left
        assert next(left for left in range(50, 0, -1) if rule.due(left, settled[50 - left])) == k


@pytest.mark.parametrize("switch", ["always", 5, "never"])
@pytest.mark.parametrize(
    "operator", [operators.SuperResolution(SHAPE, 2), operators.Deblur.gaussian(SHAPE, 1.0), operators.Colorize(SHAPE)]
)
def test_a_row_s_result_does_not_depend_on_its_batch(restorer, operator, switch):
    y = measurement(operator, 5)
    together = restorer.restore(y, operator, steps=12, switch=switch, seed=7)
    for i in (0, 3):
        alone = restorer.restore(y[i], operator, steps=12, switch=switch, seed=7, sample=i)
        assert np.array_equal(alone.image, together.image[i])
        assert alone.image.shape == SHAPE


def test_one_seed_one_result(restorer, operator):
    y = measurement(operator, 1)
    first, again, other = (restorer.restore(y, operator, steps=8, seed=s).image for s in (3, 3, 4))
    assert np.array_equal(first, again)
    assert np.abs(first - other).max() > 1e-2


def test_a_dps_row_is_its_own_norm_s_not_the_batch_s(restorer, operator):
    """DPS's official code sums the norm over the batch, so that a large batch guides too little."""
    y = np.repeat(measurement(operator, 1), 6, axis=0)
    batch = restorer.restore(y, operator, steps=10, switch="never", zeta=2.0, seed=1)
    alone = restorer.restore(y[0], operator, steps=10, switch="never", zeta=2.0, seed=1)
    assert np.array_equal(batch.image[0], alone.image)


def test_backends_agree(tiny_plan, operator):
    y = measurement(operator, 2)
    images = [
        Restorer.load(tiny_plan, backend).restore(y, operator, steps=10, switch=5, seed=2).image
        for backend in ("cpu", "torch")
    ]
    np.testing.assert_allclose(*images, atol=1e-3)


def test_rows_of_different_operators_steps_and_lengths_share_calls(restorer):
    """What a service needs: a mixed batch gives each row what it gets alone."""
    mixed = [
        (operators.SuperResolution(SHAPE, 2), 12),
        (operators.Colorize(SHAPE), 9),
        (operators.SuperResolution(SHAPE, 4), 12),
    ]
    schedules = {steps: Schedule.respaced({}, steps) for steps in (9, 12)}

    def rows():
        return [
            Restoration(
                operator=operator,
                y=measurement(operator, 1)[0],
                sigma=0.05,
                schedule=schedules[steps],
                switch=Switch.parse("always", steps),
                zeta=None,
                lam=None,
                seed=1,
                sample=i,
                x=start_noise(SHAPE, 1, i),
            )
            for i, (operator, steps) in enumerate(mixed)
        ]

    together, alone = rows(), rows()
    while live := [row for row in together if row.phase is not Phase.DONE]:
        advance(live, restorer.engine)
    for row in alone:
        while row.phase is not Phase.DONE:
            advance([row], restorer.engine)
    assert all(np.array_equal(a.x, b.x) for a, b in zip(together, alone, strict=True))


def test_missing_pixels_may_hold_anything(restorer):
    missing = np.zeros(SHAPE[1:], bool)
    missing[4:9, 4:9] = True
    operator = operators.Inpaint(SHAPE, missing)
    y = np.random.default_rng(0).uniform(-1, 1, SHAPE).astype(np.float32)
    images = [
        restorer.restore(np.where(missing, filler, y), operator, steps=6, switch=3).image for filler in (0, np.nan, 9)
    ]
    assert np.array_equal(images[0], images[1])
    assert np.array_equal(images[0], images[2])


def test_on_step_sees_every_step_and_may_stop_between_them(restorer, operator, counted):
    events = []
    y = measurement(operator, 2)
    restorer.restore(y, operator, steps=6, switch=2, on_step=events.append)
    assert [event.step for event in events] == [5, 4, 3, 2, 1, 0]
    assert [event.phases[0] for event in events] == ["dps"] * 4 + ["dmps"] * 2
    assert all(event.x0hat.shape == (2, *SHAPE) and np.abs(event.x0hat).max() <= 1 for event in events)
    assert not np.isfinite(events[0].settled[0])
    assert np.isfinite(events[1].settled[0])

    class Enough(Exception):
        pass

    def stop(event):
        if event.step == 3:
            raise Enough

    before = counted["predict"] + counted["pullback"]
    with pytest.raises(Enough):
        restorer.restore(y, operator, steps=6, switch=2, on_step=stop)
    assert counted["predict"] + counted["pullback"] - before == 2 * 3


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("switch", ["never", "always"])
def test_a_network_that_gives_nan_is_an_error(restorer, operator, monkeypatch, bad, switch):
    def broken(x, t):
        return Prediction(np.full_like(x, bad), None)

    monkeypatch.setattr(restorer.engine, "predict", broken)
    monkeypatch.setattr(restorer.engine, "pullback", lambda x, t: (broken(x, t), lambda v: v))
    with pytest.raises(DivergedError, match="left the finite numbers at step 9"):
        restorer.restore(measurement(operator, 1), operator, steps=10, switch=switch)


def test_a_constant_image_is_an_error(restorer, operator, monkeypatch):
    monkeypatch.setattr(restorer.engine, "predict", lambda x, t: Prediction(np.full_like(x, -1e3), None))
    with pytest.raises(DivergedError, match="constant image"):
        restorer.restore(measurement(operator, 1), operator, steps=10, switch="always", lam=0.0)


@pytest.mark.parametrize(
    ("y", "settings", "sentence"),
    [
        (np.zeros((3, 16, 16)), {}, r"sr measurements of this prior are \(3, 8, 8\)"),
        (np.zeros((0, 3, 8, 8)), {}, "sr measurements"),
        (np.full((3, 8, 8), np.nan), {}, "NaN or infinity"),
        (np.zeros((3, 8, 8)), {"sigma": 3}, r"sigma is on the \[-1, 1\] scale"),
        (np.zeros((3, 8, 8)), {"sigma": -0.1}, "sigma is on"),
        (np.zeros((3, 8, 8)), {"steps": 1}, r"steps must lie in 2\.\.1000"),
        (np.zeros((3, 8, 8)), {"switch": "soon"}, "switch must be"),
        (np.zeros((3, 8, 8)), {"zeta": -1}, "zeta must be a finite number"),
        (np.zeros((3, 8, 8)), {"lam": np.inf}, "lambda must be a finite number"),
        (np.zeros((3, 8, 8)), {"seed": -1}, "seed must be"),
        (np.zeros((2, 3, 8, 8)), {"sample": 2**64 - 1}, "sample must be"),
        (np.zeros((3, 8, 8)), {"switch": None}, "switch must be"),
        (np.zeros((3, 8, 8)), {"switch": np.inf}, "switch must be"),
    ],
)
def test_what_does_not_fit_is_refused(restorer, operator, y, settings, sentence):
    with pytest.raises(InputError, match=sentence):
        restorer.restore(y, operator, **settings)


def test_an_operator_of_another_size_is_refused(restorer):
    with pytest.raises(InputError, match=r"the operator is for images of \(3, 64, 64\)"):
        restorer.restore(np.zeros((3, 64, 64)), operators.Denoise((3, 64, 64)))


def test_sigma_zero_works(restorer, operator):
    assert np.isfinite(restorer.restore(measurement(operator, 1), operator, sigma=0, steps=10, switch=5).image).all()


def test_a_degradation_that_is_not_linear_is_guided_by_dps_to_the_end(restorer):
    """A callable with its own derivative and a torch function of the same give the same; guidance brings A(x) to y."""

    def saturate(x):
        return np.tanh(1.5 * x)

    custom = operators.Custom(SHAPE, SHAPE, saturate, lambda x, r: 1.5 * (1 - np.tanh(1.5 * x) ** 2) * r)
    by_torch = operators.Custom.from_torch(SHAPE, SHAPE, lambda x: (1.5 * x).tanh())
    y = saturate(np.random.default_rng(0).uniform(-1, 1, (2, *SHAPE))).astype(np.float32)
    result = restorer.restore(y, custom, steps=20, seed=1)
    assert (result.k, result.pullbacks) == ((0, 0), (20, 20))
    np.testing.assert_allclose(result.image, restorer.restore(y, by_torch, steps=20, seed=1).image, atol=1e-2)
    unguided = restorer.restore(y, custom, steps=20, seed=1, zeta=0.0)
    near, far = (np.square(saturate(one.image) - y).mean() for one in (result, unguided))
    assert near < 0.8 * far


@pytest.mark.parametrize("switch", ["always", 5])
def test_dmps_for_a_degradation_that_is_not_linear_is_refused(restorer, switch):
    custom = operators.Custom(SHAPE, SHAPE, np.tanh, lambda x, r: r, name="tone mapping")
    with pytest.raises(InputError, match=r"tone mapping is not a linear operator, so DMPS cannot run; use DPS"):
        restorer.restore(np.zeros(SHAPE), custom, steps=10, switch=switch)


def test_a_step_that_failed_can_be_made_again(restorer, operator, monkeypatch):
    """A network call that fails leaves the rows as they were: what follows is what would have been."""
    y = measurement(operator, 2)
    real, calls = restorer.engine.predict, []

    def interrupted(x, t):
        calls.append(t)
        if len(calls) == 4:
            raise BackendError("the device went away")
        return real(x, t)

    def rows():
        schedule = Schedule.respaced(restorer.plan.manifest["schedule"], 8)
        return [
            Restoration(operator, one, 0.01, schedule, Switch(8, 8), None, None, 3, i, start_noise(SHAPE, 3, i))
            for i, one in enumerate(y)
        ]

    whole, retried = rows(), rows()
    for _ in range(8):
        advance(whole, restorer.engine)
    monkeypatch.setattr(restorer.engine, "predict", interrupted)
    while retried[0].step >= 0:
        try:
            advance(retried, restorer.engine)
        except BackendError:
            assert len(calls) == 4
    assert len(calls) == 9
    assert all(np.array_equal(a.x, b.x) for a, b in zip(whole, retried, strict=True))


def test_a_batch_is_cut_into_calls_of_the_size_asked_for(restorer, operator, monkeypatch):
    sizes = []
    real = restorer.engine.predict
    monkeypatch.setattr(restorer.engine, "predict", lambda x, t: sizes.append(len(x)) or real(x, t))
    y = measurement(operator, 5)
    cut = restorer.restore(y, operator, steps=3, switch="always", batch=2)
    assert sizes == [2, 2, 1] * 3
    assert cut.settings["batch"] == 2
    assert np.array_equal(cut.image, restorer.restore(y, operator, steps=3, switch="always", batch=5).image)
    with pytest.raises(InputError, match="batch must be at least 1; got 0"):
        restorer.restore(y, operator, batch=0)


def test_the_batch_is_the_one_that_was_fastest(tiny_plan, monkeypatch):
    restorer = Restorer.load(tiny_plan)
    now = [0.0]

    def slow(x, t):
        now[0] += {1: 1.0, 2: 1.5, 4: 2.0, 8: 5.0}[len(x)]  # an image: 1, 0.75, 0.5, 0.625
        return Prediction(x, None)

    monkeypatch.setattr(restorer.engine, "predict", slow)
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    assert [restorer.fastest_batch(rows) for rows in (1, 3, 16)] == [1, 2, 4]


def test_a_process_forked_after_a_restoration_can_restore(restorer, operator):
    """Threads do not outlive a fork; the noise of a step must not wait for one that is gone."""
    y = measurement(operator, 1)[0]
    restorer.restore(y, operator, steps=3, switch="always")
    child = multiprocessing.get_context("fork").Process(
        target=lambda: Restoration(
            operator, y, 0.01, Schedule.respaced({}, 3), Switch(3, 3), None, None, 0, 0, start_noise(SHAPE, 0, 0)
        ).noise()
    )
    child.start()
    child.join(30)
    alive = child.is_alive()
    child.kill()
    assert not alive
    assert child.exitcode == 0
