"""Restorer: what callers may rely on."""

import inspect
import math
import multiprocessing
from dataclasses import fields

import numpy as np
import pytest

from frugal_rt import BackendError, DivergedError, InputError, Restorer, operators
from frugal_rt.engines import Prediction
from frugal_rt.runtime.sampling.advance import advance
from frugal_rt.runtime.sampling.guidance import OFFICIAL_LAMBDA, OFFICIAL_ZETA, PRESETS, Guidance, stride_of
from frugal_rt.runtime.sampling.loop import halved, run
from frugal_rt.runtime.sampling.restoration import Move
from frugal_rt.runtime.sampling.switch import EARLIEST, LATEST, Switch

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
    assert len(restorer.start(measurement(operator)[0], operator, Guidance(preset=preset, steps=13))[0].schedule) == 13


@pytest.mark.parametrize(("steps", "every"), [(50, None), (100, None), (20, None), (50, 3)])
@pytest.mark.parametrize("threshold", [-np.inf, 8.0, 10.0, np.inf])
def test_the_trace_explains_the_switch(restorer, operator, monkeypatch, steps, every, threshold):
    monkeypatch.setattr("frugal_rt.runtime.sampling.switch.THRESHOLD", threshold)
    result = restorer.restore(measurement(operator), operator, steps=steps, every=every)
    rule, stride = Switch.parse("auto", steps), every or stride_of(steps)
    assert rule.threshold == threshold
    for k, trace in zip(result.k, result.trace, strict=True):
        assert len(trace) == math.ceil(steps / stride) - 1
        compared = range(steps - 1 - stride, -1, -stride)  # steps left once the estimate of each entry is made

        def settled(left, trace=trace, compared=compared):
            return next(
                (value for at, value in reversed(list(zip(compared, trace, strict=True))) if at >= left), -np.inf
            )

        assert next(left for left in range(steps, 0, -1) if rule.due(left, settled(left))) == k
        assert math.ceil(LATEST * steps) <= k <= EARLIEST * steps


def test_what_is_started_and_advanced_is_what_restore_gives(restorer, operator, finish):
    y = measurement(operator, 3)
    how = {"sigma": 0.05, "steps": 20, "every": 3, "seed": 5, "sample": 2}
    result = restorer.restore(y, operator, **how)
    rows = restorer.start(y, operator, Guidance(**how))
    assert [(row.step, row.k, row.pullbacks) for row in rows] == [(19, None, 0)] * 3
    finish(rows, restorer.engine)
    assert np.array_equal(np.clip([row.x for row in rows], -1, 1), result.image)
    assert tuple(row.k for row in rows) == result.k
    assert tuple(row.pullbacks for row in rows) == result.pullbacks
    assert tuple(tuple(row.trace) for row in rows) == result.trace
    asked = {name: one.default for name, one in inspect.signature(restorer.restore).parameters.items()}
    assert asked.keys() - {field.name for field in fields(Guidance)} == {"y", "operator", "batch", "on_step"}
    assert all(asked[field.name] == field.default for field in fields(Guidance))


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


@pytest.mark.parametrize(
    "how",
    [{"switch": "never"}, {"switch": "always"}, {"switch": 4}, {"every": 3}, {"switch": 4, "guidance": "official"}],
)
def test_settings_repeat_the_result(restorer, operator, how):
    """All of them, by value."""
    first = restorer.restore(measurement(operator, 2), operator, steps=12, sigma=0.03, seed=4, sample=1, **how)
    named = {"lam" if name == "lambda" else name: value for name, value in first.settings.items()}
    again = {name: named[name] for name in inspect.signature(restorer.restore).parameters if name in named}
    again.pop("operator")
    assert set(again) == {"sigma", "steps", "switch", "every", "zeta", "lam", "seed", "sample", "batch"}
    second = restorer.restore(measurement(operator, 2), operator, **again)
    assert np.array_equal(first.image, second.image)
    assert first.settings == second.settings


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


def test_rows_of_different_operators_moves_and_lengths_share_calls(restorer, finish):
    """What a service needs: a mixed batch gives each row what it gets alone."""
    mask = np.eye(16, dtype=bool)
    mixed = [
        (operators.SuperResolution(SHAPE, 2), {"steps": 12, "switch": "always"}),
        (operators.Colorize(SHAPE), {"steps": 9, "switch": "always"}),
        (operators.SuperResolution(SHAPE, 4), {"steps": 12, "switch": 5, "sigma": 0.3}),
        (operators.Inpaint(SHAPE, mask), {"steps": 15, "every": 3}),
        (operators.Deblur.gaussian(SHAPE, 1.0), {"steps": 12, "every": 5, "switch": 2, "sigma": 0}),
        (operators.Denoise(SHAPE), {"steps": 9, "switch": "never", "sigma": 0.2}),
        (operators.SuperResolution(SHAPE, 2), {"steps": 7, "switch": 3, "guidance": "official"}),
        (operators.Custom(SHAPE, SHAPE, np.tanh, lambda x, r: (1 - np.tanh(x) ** 2) * r), {"steps": 12, "zeta": 0.5}),
        (operators.Colorize(SHAPE), {"steps": 15, "lam": 0.7, "switch": "always"}),
    ]

    def rows():
        return [
            restorer.start(measurement(operator, 1)[0], operator, Guidance(seed=1, sample=i, **how))[0]
            for i, (operator, how) in enumerate(mixed)
        ]

    together, alone = rows(), rows()
    assert {row.move for row in together} == set(Move)
    finish(together, restorer.engine)
    for row in alone:
        finish([row], restorer.engine)
    assert all(np.array_equal(a.x, b.x) for a, b in zip(together, alone, strict=True))
    assert [(a.k, a.pullbacks, a.trace) for a in together] == [(b.k, b.pullbacks, b.trace) for b in alone]


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
    assert [bool(np.isfinite(event.settled[0])) for event in events] == [False] * 2 + [True] * 4  # compared: 5, 3, 1

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


EVERY = "every is for the hybrid with a step size of its own; leave it out, or zeta and guidance"


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
        (np.zeros((3, 8, 8)), {"preset": "best"}, "no preset 'best'; choose one of quality, balanced, fast"),
        (np.zeros((3, 8, 8)), {"guidance": "ours"}, "no guidance 'ours'; choose one of own, official"),
        (np.zeros((3, 8, 8)), {"every": 1}, r"every must be a whole number above 1 \(.*switch='never'\); got 1"),
        (np.zeros((3, 8, 8)), {"every": 2.5}, "every must be a whole number above 1"),
        (np.zeros((3, 8, 8)), {"every": 4, "zeta": 0.5}, EVERY),
        (np.zeros((3, 8, 8)), {"every": 4, "guidance": "official"}, EVERY),
        (np.zeros((3, 8, 8)), {"every": 4, "switch": "never"}, EVERY),
        (np.zeros((3, 8, 8)), {"every": 4, "switch": "always"}, EVERY),
        (np.zeros((3, 8, 8)), {"every": 4, "switch": 50}, EVERY),
    ],
)
def test_what_does_not_fit_is_refused_in_a_sentence(restorer, operator, counted, y, settings, sentence):
    with pytest.raises(InputError, match=sentence) as caught:
        restorer.restore(y, operator, **settings)
    assert "\n" not in str(caught.value)
    assert not any(counted.values())


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


@pytest.mark.parametrize("switch", ["auto", "never"])
def test_a_gradient_now_and_then_for_a_degradation_that_is_not_linear_is_refused(restorer, switch):
    custom = operators.Custom(SHAPE, SHAPE, np.tanh, lambda x, r: r)
    with pytest.raises(InputError, match=EVERY):
        restorer.restore(np.zeros(SHAPE), custom, steps=10, every=4, switch=switch)
    with pytest.raises(InputError, match=EVERY):
        Guidance(steps=10, every=4, switch=switch).settle(custom)
    assert Guidance(steps=10, switch=switch).settle(custom) == (10, Switch(0, 0), None, None, None, 2)


def test_a_step_that_failed_can_be_made_again(restorer, operator, monkeypatch):
    """A network call that fails leaves the rows as they were: what follows is what would have been."""
    y = measurement(operator, 2)
    real, calls = restorer.engine.predict, []

    def interrupted(x, t):
        calls.append(t)
        if len(calls) == 4:
            raise BackendError("the device went away")
        return real(x, t)

    how = {"steps": 8, "switch": "always", "seed": 3}
    whole, retried = (restorer.start(y, operator, Guidance(**how)) for _ in range(2))
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
        target=lambda: restorer.start(y, operator, Guidance(steps=3, switch="always"))[0].noise(restorer.engine.ahead)
    )
    child.start()
    child.join(30)
    alive = child.is_alive()
    child.kill()
    assert not alive
    assert child.exitcode == 0


@pytest.mark.parametrize(
    ("rows", "batch", "sizes"),
    [(0, 4, []), (3, 1, [1, 1, 1]), (8, 4, [4, 4]), (23, 16, [16, 4, 2, 1]), (2, 3, [1, 1]), (7, 3, [3, 3, 1])],
)
def test_what_a_batch_leaves_goes_in_halves_of_it(rows, batch, sizes):
    pieces = list(halved(range(rows), batch))
    assert [len(piece) for piece in pieces] == sizes
    assert [row for piece in pieces for row in piece] == list(range(rows))


def test_rows_that_switch_at_their_own_steps_make_calls_of_few_sizes(restorer, operator, monkeypatch):
    sizes = []
    for name in ("predict", "pullback"):
        call = getattr(restorer.engine, name)
        monkeypatch.setattr(restorer.engine, name, lambda x, t, call=call: (sizes.append(len(x)), call(x, t))[1])
    switches = (2, 4, 6, 8, 9, 10, 11)
    y = measurement(operator, 1)
    rows = [row for k in switches for row in restorer.start(y, operator, Guidance(steps=20, switch=k))]
    run(rows, restorer.engine, batch=4)
    assert set(sizes) == {1, 2, 4}
