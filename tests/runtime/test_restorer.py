"""Restorer: what callers may rely on."""

import inspect
import warnings
from dataclasses import fields

import numpy as np
import pytest
import torch

from frugal_rt import BackendError, InputError, Plan, PlanError, Restorer, operators
from frugal_rt.engines import Prediction, open_engine
from frugal_rt.runtime.pictures.damage import Damage
from frugal_rt.runtime.pictures.decoding import Photo
from frugal_rt.runtime.pictures.measurement import prepare
from frugal_rt.runtime.sampling.guidance import METHODS, Guidance

from .measurements import SHAPE, measurement

CLOSED = r"^this engine has been closed; load the plan again$"


def test_what_is_started_and_advanced_is_what_restore_gives(restorer, operator, finish):
    y = measurement(operator, 3)
    how = {"sigma": 0.05, "steps": 20, "every": 3, "seed": 5, "sample": 2}
    result = restorer.restore(y, operator, **how)
    rows = restorer._begin(y, operator, Guidance(**how))
    assert [(row.step, row.k, row.gradients) for row in rows] == [(19, None, 0)] * 3
    finish(rows, restorer.engine)
    assert np.array_equal(np.clip([row.x for row in rows], -1, 1), result.image)
    assert tuple(row.k for row in rows) == result.k
    assert tuple(row.gradients for row in rows) == result.gradients
    assert tuple(tuple(row.trace) for row in rows) == result.trace
    asked = {name: one.default for name, one in inspect.signature(restorer.restore).parameters.items()}
    assert asked.keys() - {field.name for field in fields(Guidance)} == {"y", "operator", "batch", "on_step", "range"}
    assert all(asked[field.name] == field.default for field in fields(Guidance))


@pytest.mark.parametrize(
    "how",
    [
        {"method": "dps"},
        {"method": "closed-form"},
        {"switch": 4},
        {"every": 3},
        {"method": "hybrid", "switch": 4, "guidance": "official"},
        {"method": "dmps"},
    ],
)
def test_settings_repeat_the_result(restorer, operator, how):
    """All of them, by value."""
    first = restorer.restore(measurement(operator, 2), operator, steps=12, sigma=0.03, seed=4, sample=1, **how)
    named = {"lam" if name == "lambda" else name: value for name, value in first.settings.items()}
    again = {name: named[name] for name in inspect.signature(restorer.restore).parameters if name in named}
    again.pop("operator")
    assert set(again) == {
        "sigma",
        "aim",
        "method",
        "steps",
        "switch",
        "every",
        "zeta",
        "lam",
        "seed",
        "sample",
        "batch",
    }
    second = restorer.restore(measurement(operator, 2), operator, **again)
    assert np.array_equal(first.image, second.image)
    assert first.settings == second.settings


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "operator", [operators.SuperResolution(SHAPE, 2), operators.Deblur.gaussian(SHAPE, 1.0), operators.Colorize(SHAPE)]
)
def test_a_row_s_result_does_not_depend_on_its_batch(restorer, operator, method):
    y = measurement(operator, 5)
    together = restorer.restore(y, operator, steps=12, method=method, seed=7)
    for i in (0, 3):
        alone = restorer.restore(y[i], operator, steps=12, method=method, seed=7, sample=i)
        assert np.array_equal(alone.image, together.image[i])
        assert alone.image.shape == SHAPE


def test_one_seed_one_result(restorer, operator):
    y = measurement(operator, 1)
    first, again, other = (restorer.restore(y, operator, steps=8, seed=s).image for s in (3, 3, 4))
    assert np.array_equal(first, again)
    assert np.abs(first - other).max() > 1e-2


def test_backends_agree(tiny_plan, operator):
    y = measurement(operator, 2)
    images = [
        Restorer.load(tiny_plan, backend).restore(y, operator, steps=10, switch=5, seed=2).image
        for backend in ("cpu", "torch")
    ]
    np.testing.assert_allclose(*images, atol=1e-3)


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


EVERY = "every is a setting of frugal, and the method is "


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
        (np.zeros((3, 8, 8)), {"zeta": -1, "method": "hybrid"}, "zeta must be a finite number"),
        (np.zeros((3, 8, 8)), {"lam": np.inf, "method": "dmps"}, "lambda must be a finite number"),
        (
            np.zeros((3, 8, 8)),
            {"method": "ddrm"},
            "no method 'ddrm'; choose one of frugal, hybrid, dps, dmps, closed-f",
        ),
        (np.zeros((3, 8, 8)), {"switch": "never"}, "switch 'never' is now a method: dps"),
        (np.zeros((3, 8, 8)), {"switch": "always"}, "switch 'always' is now a method: closed-form"),
        (np.zeros((3, 8, 8)), {"zeta": 1}, "zeta is a setting of hybrid and dps, and the method is frugal"),
        (np.zeros((3, 8, 8)), {"lam": 1, "method": "dps"}, "lambda is a setting of hybrid and dmps, and the method is"),
        (np.zeros((3, 8, 8)), {"guidance": "official"}, "guidance is a setting of hybrid and dps and dmps, and the"),
        (np.zeros((3, 8, 8)), {"switch": 4, "method": "dmps"}, "switch is a setting of frugal and hybrid, and the met"),
        (np.zeros((3, 8, 8)), {"seed": -1}, "seed must be"),
        (np.zeros((2, 3, 8, 8)), {"sample": 2**64 - 1}, "sample must be"),
        (np.zeros((3, 8, 8)), {"switch": "2.5"}, "switch must be"),
        (np.zeros((3, 8, 8)), {"switch": np.inf}, "switch must be"),
        (np.zeros((3, 8, 8)), {"preset": "best"}, "no preset 'best'; choose one of quality, balanced, fast"),
        (np.zeros((3, 8, 8)), {"guidance": "ours", "method": "dps"}, "no guidance 'ours'; choose one of own, official"),
        (np.zeros((3, 8, 8)), {"every": 1}, r"every must be a whole number above 1 \(.*method dps\); got 1"),
        (np.zeros((3, 8, 8)), {"every": 2.5}, "every must be a whole number above 1"),
        (np.zeros((3, 8, 8)), {"every": 4, "method": "hybrid"}, EVERY),
        (np.zeros((3, 8, 8)), {"every": 4, "method": "dps"}, EVERY),
        (np.zeros((3, 8, 8)), {"every": 4, "method": "closed-form"}, EVERY),
    ],
)
def test_what_does_not_fit_is_refused_in_a_sentence(restorer, operator, counted, y, settings, sentence):
    with pytest.raises(InputError, match=sentence) as caught:
        restorer.restore(y, operator, **settings)
    assert "\n" not in str(caught.value)
    assert not any(counted.values())


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"steps": "50"}, "steps is a whole number; got '50'"),
        ({"steps": 10.5}, "steps is a whole number"),
        ({"seed": 1.5}, "seed is a whole number"),
        ({"sample": "a"}, "sample is a whole number"),
        ({"batch": "2"}, "batch is a whole number"),
        ({"zeta": "a"}, "zeta is a number"),
        ({"every": []}, "every is a number"),
        ({"sigma": "0.1"}, "sigma is a number"),
        ({"preset": []}, "preset is a word"),
        ({"aim": 3}, "aim is a word"),
    ],
)
def test_a_setting_of_another_type_is_a_type_error(restorer, operator, counted, settings, sentence):
    with pytest.raises(TypeError, match=sentence) as caught:
        restorer.restore(np.zeros((3, 8, 8)), operator, **settings)
    assert isinstance(caught.value, InputError)
    assert not any(counted.values())
    assert restorer.restore(np.zeros((3, 8, 8)), operator, steps=np.int64(4), seed=np.uint8(3), sigma=np.float32(0.1))


def test_a_word_is_no_operator(restorer):
    with pytest.raises(TypeError, match=r"the operator is one of frugal_rt\.operators, and no str"):
        restorer.restore(np.zeros(SHAPE), "denoise")


def test_an_operator_of_another_size_is_refused(restorer):
    with pytest.raises(InputError, match=r"the operator is for images of \(3, 64, 64\)"):
        restorer.restore(np.zeros((3, 64, 64)), operators.Denoise((3, 64, 64)))


def test_sigma_left_out_is_by_the_rule_of_the_command_line(restorer, operator):
    """Estimated to denoise, of a batch as a mean variance, and 0.01 otherwise: as `measure` settles it."""
    smooth = np.linspace(-0.8, 0.8, 16 * 16, dtype=np.float32).reshape(16, 16) * np.float32([[[1]], [[0.9]], [[0.8]]])
    y = smooth + 0.1 * np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32)
    denoise = operators.Denoise(SHAPE)
    asked = prepare(Photo(y), SHAPE, Damage(task="denoise")).sigma
    assert 0.05 < asked < 0.2
    alone = restorer.restore(y, denoise)
    assert alone.settings["sigma"] == asked
    assert np.array_equal(alone.image, restorer.restore(y, denoise, sigma=asked).image)
    both = restorer.restore(np.stack([y, smooth]), denoise).settings["sigma"]
    clean = prepare(Photo(smooth), SHAPE, Damage(task="denoise")).sigma
    assert both == pytest.approx(((asked**2 + clean**2) / 2) ** 0.5)
    small = measurement(operator, 1)
    assert prepare(Photo(small[0]), SHAPE, Damage(task="sr", scale=2)).sigma == 0.01
    assert restorer.restore(small, operator, steps=4).settings["sigma"] == 0.01


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
    assert (result.k, result.gradients) == ((0, 0), (20, 20))
    np.testing.assert_allclose(result.image, restorer.restore(y, by_torch, steps=20, seed=1).image, atol=1e-2)
    unguided = restorer.restore(y, custom, steps=20, seed=1, zeta=0.0)
    near, far = (np.square(saturate(one.image) - y).mean() for one in (result, unguided))
    assert near < 0.8 * far


@pytest.mark.parametrize("method", ["frugal", "hybrid", "dmps", "closed-form"])
def test_what_needs_a_linear_operator_is_refused_with_another(restorer, method):
    custom = operators.Custom(SHAPE, SHAPE, np.tanh, lambda x, r: r, name="tone mapping")
    with pytest.raises(
        InputError, match=rf"tone mapping is not a linear operator, which {method} needs; the method dps"
    ):
        restorer.restore(np.zeros(SHAPE), custom, steps=10, method=method)


def test_the_batch_is_the_one_that_was_fastest(tiny_plan, monkeypatch):
    restorer = Restorer.load(tiny_plan)
    now = [0.0]

    def slow(x, t):
        now[0] += {1: 1.0, 2: 1.5, 4: 2.0, 8: 5.0}[len(x)]  # an image: 1, 0.75, 0.5, 0.625
        return Prediction(x, None)

    monkeypatch.setattr(restorer.engine, "predict", slow)
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    assert [restorer._fastest_batch(rows) for rows in (1, 3, 16)] == [1, 2, 4]


def test_a_restorer_closes_what_it_opened(tiny_plan):
    y = np.zeros(SHAPE, np.float32)
    with Restorer.load(tiny_plan, "cpu") as restorer:
        restorer.restore(y, operators.Denoise(SHAPE), sigma=0.2, steps=2)
    restorer.close()
    with pytest.raises(BackendError, match=CLOSED):
        restorer.restore(y, operators.Denoise(SHAPE), sigma=0.2, steps=2)
    with pytest.raises(PlanError, match=r"^tiny\.plan has been closed; open it again$"):
        restorer.plan.tensors()
    assert restorer.plan.manifest["prior"]["name"] == "tiny"


def test_a_restorer_leaves_the_plan_that_it_was_given(tiny_plan):
    plan = Plan.open(tiny_plan)
    with Restorer(plan, open_engine(plan, "cpu")) as restorer:
        pass
    with pytest.raises(BackendError, match=CLOSED):
        restorer.engine.prepare(gradients=True)
    assert plan.tensors()


def test_an_error_within_closes_too(tiny_plan):
    with pytest.raises(KeyError), Restorer.load(tiny_plan, "cpu") as restorer:
        raise KeyError
    with pytest.raises(PlanError, match="has been closed"):
        restorer.plan.member("forward.onnx")


@pytest.mark.parametrize("first", [0, 1])
def test_a_restorer_of_tiles_shares_its_end(tiny_plan, first):
    restorers = [Restorer.load(tiny_plan, "cpu")]
    restorers.append(restorers[0].at(24, 24))
    restorers[first].close()
    for restorer in restorers:
        shape = restorer.image_shape
        with pytest.raises(BackendError, match=CLOSED):
            restorer.restore(np.zeros(shape), operators.Denoise(shape), sigma=0.2, steps=2)
        with pytest.raises(PlanError, match="has been closed"):
            restorer.plan.tensors()
        restorer.close()


@pytest.mark.parametrize(
    "operator",
    [
        operators.Denoise(SHAPE),
        operators.SuperResolution(SHAPE, 2),
        operators.Bicubic(SHAPE, 2),
        operators.Deblur.gaussian(SHAPE, 1.0),
        operators.Circular(SHAPE, np.ones((3, 3))),
        operators.Colorize(SHAPE),
        operators.Inpaint(SHAPE, np.eye(16, dtype=bool)),
    ],
    ids=lambda operator: type(operator).__name__,
)
def test_pictures_of_another_scale_are_refused(restorer, operator):
    y = measurement(operator, 2)
    levels = (y + 1) * 127.5
    for other in (levels, levels[0]):
        with pytest.raises(InputError, match=r"not on the \[-1, 1\] scale.* values reach 25\d"):
            restorer._begin(other, operator, Guidance(sigma=0.1, steps=4))
    with pytest.raises(InputError, match=r"of integers \(uint8\), not on the \[-1, 1\] scale; give y / 127.5 - 1"):
        restorer.restore(levels.astype(np.uint8), operator, steps=4)
    with pytest.raises(InputError, match=r"complex \(complex64\)"):
        restorer.restore(y.astype(np.complex64), operator, steps=4)
    noisy = y + 0.5 * np.random.default_rng(0).standard_normal(y.shape).astype(np.float32)
    assert np.isfinite(restorer.restore(noisy, operator, sigma=0.5, steps=4).image).all()


def test_a_picture_of_the_largest_values_an_operator_makes_is_taken(restorer):
    sharpening = np.array([[0, -1, 0], [-1, 5, -1], [0, -1, 0]])
    for operator in (operators.Bicubic(SHAPE, 2), operators.Mirrored(SHAPE, sharpening)):
        x = np.where(np.indices(SHAPE)[2] % 8 < 4, 1, -1).astype(np.float32)[None]
        y = operator.A(x)
        assert np.abs(y).max() > 1
        assert len(restorer._begin(y, operator, Guidance(sigma=0.0, steps=4))) == 1


@pytest.mark.parametrize("make", [torch.from_numpy, lambda y: torch.from_numpy(y).requires_grad_(), np.ndarray.tolist])
def test_a_measurement_is_an_array_a_tensor_or_a_sequence(restorer, operator, make):
    y = measurement(operator, 1)[0]
    expected = restorer.restore(y, operator, steps=4).image
    np.testing.assert_array_equal(restorer.restore(make(y), operator, steps=4).image, expected)
    with pytest.raises(TypeError, match="the measurement is a str, and no array of numbers"):
        restorer.restore("photo.jpg", operator)


@pytest.mark.parametrize(
    "operator",
    [
        operators.Denoise(SHAPE),
        operators.SuperResolution(SHAPE, 2),
        operators.Colorize(SHAPE, "mean"),
        operators.Inpaint(SHAPE, np.eye(16, dtype=bool)),
        operators.Mirrored(SHAPE, np.array([[0, -1, 0], [-1, 5, -1], [0, -1, 0]])),
        operators.WalshHadamard(SHAPE, 0.5),
        operators.Matrix(SHAPE, np.random.default_rng(4).normal(size=(20, 256)) / 16),
    ],
    ids=lambda operator: type(operator).__name__,
)
@pytest.mark.parametrize("range", [(0, 1), (0, 255)])
def test_images_may_be_on_another_range(restorer, operator, range):
    """Measurements of images on it, noise on its scale, and the result on it, by any linear operator."""
    low, high = range
    x = np.random.default_rng(0).uniform(-1, 1, (2, *SHAPE)).astype(np.float32)
    given = operator.A((x + 1) / 2 * (high - low) + low)
    expected = restorer.restore(operator.A(x), operator, sigma=0.1, steps=6, method="closed-form").image
    found = restorer.restore(
        given, operator, sigma=0.05 * (high - low), steps=6, method="closed-form", range=range
    ).image
    np.testing.assert_allclose((found - low) / (high - low) * 2 - 1, expected, atol=5e-4)


def test_a_range_is_refused_of_what_is_not_linear(restorer):
    custom = operators.Custom(SHAPE, SHAPE, np.tanh, lambda x, r: r, name="tone mapping")
    with pytest.raises(InputError, match="range is for linear operators, and tone mapping is none"):
        restorer.restore(np.zeros(SHAPE), custom, range=(0, 1))


def test_a_picture_on_0_to_1_is_warned_of_at_the_caller_s_line(restorer, operator):
    y = (measurement(operator, 1) + 1) / 2
    with pytest.warns(
        UserWarning, match=r"the measurement: all values lie in \[0, 1\].* give range=\(0, 1\)"
    ) as caught:
        restorer.restore(y, operator, steps=4)
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        restorer.restore(y, operator, steps=4, range=(0, 1))
        restorer.restore(measurement(operator, 1), operator, steps=4)
        restorer.restore(np.zeros((3, 8, 8)), operator, steps=4)
        restorer.restore(np.ones((3, 1, 128)), operators.WalshHadamard(SHAPE, 0.5), steps=4)


def test_what_is_no_picture_may_hold_any_real_numbers(restorer):
    operator = operators.WalshHadamard(SHAPE, 0.5)
    assert len(restorer._begin(100 * measurement(operator, 1), operator, Guidance(steps=4))) == 1


def test_a_custom_operator_of_another_shape_than_it_declares_is_refused(restorer):
    y = measurement(operators.Denoise(SHAPE), 1)
    grey = operators.Custom(SHAPE, SHAPE, lambda x: x[:, :1], lambda x, r: r)
    with pytest.raises(InputError, match=r"custom: apply gave \(1, 1, 16, 16\) where \(1, 3, 16, 16\) was declared"):
        restorer.restore(y, grey, sigma=0.1, steps=4)
    flat = operators.Custom(SHAPE, SHAPE, lambda x: x, lambda x, r: r.sum((2, 3)), name="flat")
    with pytest.raises(InputError, match=r"flat: vjp gave \(1, 3\) where \(1, 3, 16, 16\) was declared"):
        restorer.restore(y, flat, sigma=0.1, steps=4)


def test_a_soft_mask_is_refused_and_one_of_numbers_taken():
    soft = np.zeros(SHAPE[1:])
    soft[4:8, 4:8] = 1
    assert operators.Inpaint(SHAPE, soft).missing.sum() == 16
    soft[0, 0] = 0.02
    with pytest.raises(InputError, match=r"mask > 0\.5"):
        operators.Inpaint(SHAPE, soft)


def test_an_earlier_name_is_told_where_it_is_used(restorer, operator):
    result = restorer.restore(measurement(operator)[0], operator, steps=3)
    with pytest.raises(AttributeError, match="no 'pullbacks'; it is called gradients"):
        result.pullbacks  # noqa: B018
    with pytest.raises(AttributeError, match=r"operators.Resolvable is called operators.Linear"):
        operators.Resolvable  # noqa: B018
    with pytest.raises(
        TypeError, match=r"Bayer has a spectrum, so it is an operators.Decomposable, once called Linear"
    ):
        type("Bayer", (operators.Linear,), {"spectrum": lambda self, like: like})
