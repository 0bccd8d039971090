"""Restorations that start from a plain estimate: the estimate, and the steps from there against dense algebra."""

import numpy as np
import pytest

from frugal_rt import operators
from frugal_rt.engines.errors import Stopped
from frugal_rt.engines.stopping import stoppable
from frugal_rt.runtime.operators import Matrix
from frugal_rt.runtime.operators.base import SPREAD
from frugal_rt.runtime.pictures.images import read_photo
from frugal_rt.runtime.sampling.guidance import (
    CLOSE,
    HOLE_ERROR,
    HOLE_MOST,
    HOLE_NOISE,
    SPLITTING_ERROR,
    SPLITTING_MOST,
    SPLITTING_MOST_OF_HOLES,
    SPLITTING_NOISE,
    SPLITTING_STEPS,
    STEEP,
    UNIT_ERROR,
    UNSEEN_RATIO,
    Guidance,
)
from frugal_rt.runtime.sampling.noise import Use, normal
from frugal_rt.runtime.sampling.plain_estimate import (
    COLOUR,
    CONTRAST,
    DECAY,
    RIDGE,
    ROUNDS,
    SIDE,
    expected_error,
    expected_error_unseen,
    filled,
    plain_estimate,
    stand_in,
)
from frugal_rt.runtime.sampling.schedule import Schedule

from ..stops import Counting
from .test_denoising import gaussian  # noqa: F401 (a fixture)

SHAPE = (1, 4, 4)
RANDOM = np.random.default_rng(3)


@pytest.mark.parametrize("size", [(1, 1), (5, 9), (32, 48)])
def test_a_constant_is_filled_with_itself_and_known_pixels_stay(size):
    y = RANDOM.uniform(-1, 1, (3, *size)).astype(np.float32)
    missing = RANDOM.uniform(size=size) < 0.4
    missing[0, 0] = False
    np.testing.assert_array_equal(filled(y, missing)[:, ~missing], y[:, ~missing])
    np.testing.assert_allclose(filled(np.full_like(y, 0.3), missing), 0.3, atol=1e-5)
    assert not filled(y, np.ones(size, bool)).any()


def test_a_fill_ends_within_a_round_of_a_level():
    y, missing = RANDOM.uniform(-1, 1, (3, 64, 64)).astype(np.float32), RANDOM.uniform(size=(64, 64)) < 0.9
    whole = Counting()
    with stoppable(whole):
        expected = filled(y, missing)
    np.testing.assert_array_equal(expected, filled(y, missing))
    levels = 3  # with holes, at least
    assert whole.checks > levels * ROUNDS
    for free in range(0, whole.checks, 50):
        stop = Counting(free)
        with stoppable(stop), pytest.raises(Stopped):
            filled(y, missing)
        assert stop.checks == free + 1


def test_a_hole_in_a_ramp_is_filled_by_about_the_ramp():
    rows, columns = np.mgrid[:64, :64].astype(np.float32) / 32 - 1
    y, missing = np.stack([rows, columns, rows + columns]), np.zeros((64, 64), bool)
    missing[20:30, 10:50] = True
    assert np.abs(filled(np.where(missing, np.float32(9), y), missing) - y).max() < 0.25


def test_each_operator_has_its_estimate():
    image = np.stack([np.outer(np.hanning(16), np.hanning(16))] * 3).astype(np.float32)
    for operator, close in (
        (operators.Denoise((3, 16, 16)), 1e-6),
        (operators.SuperResolution((3, 16, 16), 2), 0.05),
        (operators.Inpaint((3, 16, 16), np.eye(16) > 0), 0.05),
        (operators.Deblur.gaussian((3, 16, 16), 0.7), 0.05),
    ):
        found = plain_estimate(operator, np.asarray(operator.A(image[None])[0], np.float32), 0.0)
        assert found.shape == image.shape
        assert np.abs(found - image).mean() < close, operator.name
    dense = RANDOM.standard_normal((5, 16)) / 4
    y = RANDOM.standard_normal((1, 1, 5)).astype(np.float32)
    operator = Matrix(SHAPE, dense)
    right = dense.T @ np.linalg.solve(RIDGE**2 * np.eye(5) + dense @ dense.T, y.reshape(5))
    np.testing.assert_allclose(plain_estimate(operator, y, 0.0).reshape(16), right, atol=1e-5)


@pytest.mark.parametrize("sigma", [0.0, 0.1])
def test_the_steps_for_fidelity_are_those_of_dense_algebra(gaussian, sigma):  # noqa: F811
    """x0hat + A^T (sigma^2 / (SPREAD s^2) + A A^T)^-1 (y - A x0hat) at each step, from the estimate without noise."""
    one = gaussian()
    operator = operators.SuperResolution(SHAPE, 2)
    A = np.asarray(operator.A(np.eye(16).reshape(16, *SHAPE))).reshape(16, -1).T
    y = np.asarray(operator.A(one.pictures(0)[0][:1])[0], np.float64)
    result = one.restorer.restore(y, operator, sigma=sigma, aim="fidelity", seed=4)
    start = result.settings["start"]
    schedule = Schedule.below({"prediction_type": "epsilon"}, start, SPLITTING_STEPS, STEEP)
    z = plain_estimate(operator, np.float32(y), sigma).astype(np.float64).reshape(16)
    for t, abar in zip(schedule.timesteps[::-1], schedule.abar[::-1], strict=True):
        variance = (1 - abar) / abar
        eps = one.engine.predict(abar**0.5 * z.reshape(1, *SHAPE), np.array([t])).out.reshape(16)
        x0hat = np.clip(z - variance**0.5 * eps, -1, 1)
        ridge = sigma**2 / (SPREAD * variance) * np.eye(len(A))
        z = x0hat + A.T @ np.linalg.pinv(ridge + A @ A.T) @ (y.reshape(-1) - A @ x0hat)
    np.testing.assert_allclose(result.image.reshape(16), np.clip(z, -1, 1), atol=1e-4)
    assert (result.forwards, result.gradients, result.k) == ((len(schedule),), (0,), (0,))
    assert result.settings["aim"] == "fidelity"


def test_what_stands_for_a_photograph_has_the_spectrum_and_the_colours_it_should():
    image = stand_in((3, SIDE, SIDE)).astype(np.float64)
    light, colour = image.mean(axis=0), image[0] - image[1]
    assert image.std() == pytest.approx(CONTRAST, rel=0.01)
    frequency = np.hypot(np.fft.fftfreq(SIDE)[:, None], np.fft.rfftfreq(SIDE))
    for plane in (light, colour):
        amplitude = np.abs(np.fft.rfft2(plane))
        band = (frequency > 4 / SIDE) & (frequency < 0.5)
        slope = np.polyfit(np.log(frequency[band]), np.log(amplitude[band]), 1)[0]
        assert slope == pytest.approx(-DECAY, abs=0.05)
    assert (colour.std() / light.std()) == pytest.approx(3**0.5 * COLOUR, rel=0.1)  # of turns of 120 degrees
    larger = stand_in((3, SIDE + 40, 3 * SIDE))
    np.testing.assert_array_equal(larger[:, :SIDE, SIDE : 2 * SIDE], stand_in((3, SIDE, SIDE)))
    assert stand_in((1, 20, 30)).shape == (1, 20, 30)


def test_the_error_expected_is_the_noise_where_there_is_nothing_else_and_grows_with_what_is_lost():
    shape = (3, 64, 64)
    assert expected_error(operators.Denoise(shape), 0.2) == pytest.approx(0.2, rel=0.02)
    errors = [expected_error(operators.SuperResolution(shape, scale), 0.01) for scale in (2, 4, 8, 16)]
    assert errors == sorted(errors)
    assert errors[0] < 0.6 * errors[-1]
    holes = []
    for side in (4, 16, 40):
        missing = np.zeros(shape[1:], bool)
        missing[8 : 8 + side, 8 : 8 + side] = True
        holes.append(expected_error(operators.Inpaint(shape, missing), 0.0))
    assert holes == sorted(holes)


def test_the_error_expected_of_photographs_is_about_the_one_they_have(data):
    """Over tune-20, by which the stand-in was chosen: within a quarter, of what is seen in part and of colour."""
    folder = data / "photos" / "tune-20"
    if not folder.is_dir():
        pytest.skip("needs the photographs of tune-20")
    pictures = [read_photo(path).colour().pixels for path in sorted(folder.iterdir())]
    shape, random = pictures[0].shape, np.random.default_rng(0)
    for operator in (
        operators.SuperResolution(shape, 2),
        operators.SuperResolution(shape, 4),
        operators.Inpaint(shape, random.random(shape[1:]) < 0.7),
        operators.Deblur.gaussian(shape, 2.0),
        operators.Colorize(shape, "rec601"),
    ):
        y = np.asarray(
            operator.A(np.stack(pictures)) + 0.01 * random.standard_normal((20, *operator.measurement_shape))
        )
        found = [plain_estimate(operator, operator.observed(np.float32(one)), 0.01) for one in y]
        error = np.mean([np.sqrt(np.mean((a - b) ** 2)) for a, b in zip(found, pictures, strict=True)])
        print(operator.name, error, expected_error(operator, 0.01))
        assert expected_error(operator, 0.01) == pytest.approx(error, rel=0.25)


def test_frugal_starts_from_the_estimate_and_its_noise_as_the_error_expected_says(restorer):
    operator = operators.SuperResolution(restorer.image_shape, 2)
    y = np.float32(RANDOM.uniform(-1, 1, operator.measurement_shape))
    asked = Guidance(sigma=0.01, seed=3)
    (row,) = restorer._begin(y, operator, asked)
    error = expected_error(operator, 0.01)
    expected = max((error / UNIT_ERROR) ** 4, UNSEEN_RATIO * ((error**2 - 0.01**2 / 4) / 0.75) ** 0.5)
    assert row.start == asked.start_with(operator) == pytest.approx(expected)
    noise = normal(restorer.image_shape, 3, 0, Use.START)
    np.testing.assert_allclose(
        row.x, (plain_estimate(operator, y, 0.01) + row.start * noise) / (1 + row.start**2) ** 0.5, rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize(
    ("how", "gradients"),
    [({}, True), ({"preset": "fast"}, False), ({"aim": "detail"}, False), ({"steps": 12}, True)],
)
def test_gradients_are_for_what_is_not_seen(restorer, how, gradients):
    """None are taken where as many values are measured as there are, unless they are asked for."""
    shape = restorer.image_shape
    seen, unseen = operators.Deblur.gaussian(shape, 1.0), operators.SuperResolution(shape, 2)
    for operator, takes in ((seen, False), (unseen, gradients)):
        y = np.float32(RANDOM.uniform(-1, 1, operator.measurement_shape))
        result = restorer.restore(y, operator, **how)
        assert (result.gradients[0] > 0) == takes
        assert (result.settings["method"], result.settings["aim"]) == ("frugal", None)
    assert restorer.restore(np.zeros(shape) + 0.2, seen, sigma=0.01, switch=2).gradients[0] > 0


@pytest.mark.parametrize("sigma", [0.01, 0.4])
def test_a_splitting_starts_at_the_noise_that_the_error_expected_says(sigma):
    shape, asked = (3, 64, 64), Guidance(sigma=sigma, aim="fidelity")
    blur, grey = operators.Deblur.gaussian(shape, 1.0), operators.Colorize(shape, "rec601")
    around = operators.valid_blur(shape, operators.motion_kernel(9, 30))
    assert around.unseen > 0
    for whole in (blur, around):
        assert asked.start_with(whole) == max(SPLITTING_NOISE, expected_error(whole, sigma))
    there = ((expected_error(grey, sigma) ** 2 - sigma**2 / 3) * 1.5) ** 0.5
    least = max(SPLITTING_NOISE, expected_error(grey, sigma))
    assert asked.start_with(grey) == pytest.approx(max(least, min(SPLITTING_MOST, (there / SPLITTING_ERROR) ** 4)))
    missing = np.zeros(shape[1:], bool)
    missing[10:50, 10:50] = True
    hole = operators.Inpaint(shape, missing)
    assert asked.start_with(hole) == max(SPLITTING_MOST_OF_HOLES, expected_error(hole, sigma))
    assert asked.noise_with(blur) == asked.noise_with(grey) == 0.0


def test_a_hole_in_a_large_picture_is_made_anew_as_in_a_small_one():
    """The noise at the start follows what is not known of the hole, and not how little of the picture it is."""
    starts = []
    for side in (64, 512):
        missing = np.zeros((side, side), bool)
        missing[20:44, 20:44] = True
        starts.append(Guidance(sigma=0.01).start_with(operators.Inpaint((3, side, side), missing)))
    assert starts[1] == pytest.approx(starts[0], rel=0.5)
    assert starts[1] > 1.0


@pytest.mark.parametrize("side", [2, 24])
def test_a_hole_takes_the_noise_that_its_own_error_says_and_no_detail_where_it_is_thin(side):
    shape, sigma = (3, 64, 64), 0.01
    missing = np.zeros(shape[1:], bool)
    missing[20 : 20 + side, 20 : 20 + side] = True
    operator = operators.Inpaint(shape, missing)
    y = operator.observed(
        stand_in(shape) + np.float32(sigma) * np.random.default_rng(1).standard_normal(shape, np.float32)
    )
    there = np.sqrt(np.mean((plain_estimate(operator, y, sigma) - stand_in(shape))[:, missing] ** 2))
    assert expected_error_unseen(operator, sigma) == pytest.approx(there)
    assert (there < CLOSE) == (side == 2)
    assert Guidance(sigma=sigma, preset="balanced").start_with(operator) == pytest.approx(
        max(HOLE_NOISE, min(HOLE_MOST, (there / HOLE_ERROR) ** 5))
    )
    assert Guidance(sigma=0.2, preset="balanced").start_with(operator) >= 0.6
    assert Guidance(aim="detail").aim_with(operator) == ("fidelity" if side == 2 else None)
    noisy = Guidance(aim="detail", sigma=0.2)  # what is around the hole is not known well either
    assert noisy.aim_with(operator) is None


@pytest.mark.parametrize("width", [1, 3])
def test_a_thin_hole_is_filled_as_the_biharmonic_equation_would(width):
    """By its dense matrix: the Laplacian twice is 0 in the hole."""
    side = 16
    y = RANDOM.uniform(-1, 1, (1, side, side)).astype(np.float32)
    y = np.cumsum(np.cumsum(y, 1), 2)
    y /= np.abs(y).max()
    missing = np.zeros((side, side), bool)
    missing[7 : 7 + width, 2:13] = True
    steps = np.eye(side, k=1) + np.eye(side, k=-1)
    steps[0, 0] = steps[-1, -1] = 1
    laplacian = np.kron(steps, np.eye(side)) + np.kron(np.eye(side), steps) - 4 * np.eye(side**2)
    twice, hole = laplacian @ laplacian, missing.reshape(-1)
    known = np.where(missing, 0, y[0]).reshape(-1)
    exact = np.linalg.solve(twice[np.ix_(hole, hole)], -(twice @ known)[hole])
    found = filled(np.where(missing, np.float32(9), y), missing)[0][missing]
    np.testing.assert_allclose(found, exact, atol=0.02)
