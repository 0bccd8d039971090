"""A JPEG by its aims: what is drawn, the steps against dense algebra, and a result that the file is of."""

import io

import numpy as np
import pytest
import scipy.ndimage
import scipy.stats
from PIL import Image

from frugal_rt.runtime.operators import Jpeg, MaskedJpeg
from frugal_rt.runtime.operators.jpeg import mean_in_cell
from frugal_rt.runtime.pictures.images import PORTRAIT
from frugal_rt.runtime.pictures.jpeg import read_jpeg
from frugal_rt.runtime.sampling.equations import (
    DRAWN,
    DRAWN_SPREAD,
    local_variance,
    mean_transition,
    splitting_step,
)
from frugal_rt.runtime.sampling.guidance import DAMAGED_JPEG_NOISE, DAMAGED_JPEG_START, JPEG_NOISE, JPEG_RATIO, Guidance
from frugal_rt.runtime.sampling.plain_estimate import expected_error, filled, plain_estimate
from frugal_rt.runtime.sampling.restoration import Move

from .coefficients import at_step

SIGMA = 0.12


def compressed(quality: int, side: int = 16) -> tuple[Jpeg, np.ndarray]:
    file = io.BytesIO()
    with Image.open(PORTRAIT) as image:
        image.convert("RGB").resize((side, side)).save(file, "JPEG", quality=quality)
    found = read_jpeg(file.getvalue(), "a.jpg", 1 << 20)
    operator = found.operator()
    return operator, found.measurement(operator)


def test_fidelity_is_the_default_and_detail_is_the_closed_form_s(restorer):
    operator, y = compressed(30)
    moves = {}
    for aim in (None, "fidelity", "detail"):
        (row,) = restorer._begin(y, operator, Guidance(sigma=SIGMA, aim=aim))
        moves[aim] = (row.aim, row.method, row.move, row.steps)
    assert moves[None] == moves["fidelity"] == ("fidelity", None, Move.SPLITTING, 8)
    assert moves["detail"] == (None, "frugal", Move.CLOSED_FORM, 20)
    (row,) = restorer._begin(y, operator, Guidance(sigma=SIGMA, method="frugal"))
    assert (row.aim, row.method) == (None, "frugal")


def test_fidelity_draws_nothing_and_detail_does(restorer):
    operator, y = compressed(30)
    images = {
        (aim, seed): restorer.restore(y, operator, sigma=SIGMA, aim=aim, seed=seed).image
        for aim in ("fidelity", "detail")
        for seed in (0, 1)
    }
    np.testing.assert_array_equal(images["fidelity", 0], images["fidelity", 1])
    assert np.abs(images["detail", 0] - images["detail", 1]).max() > 0.01


@pytest.mark.parametrize("aim", ["fidelity", "detail"])
def test_the_result_lies_in_the_file_s_cells(restorer, aim):
    operator, y = compressed(10, 16)
    image = restorer.restore(y, operator, sigma=SIGMA, aim=aim).image
    assert np.abs(operator.A(image[None].astype(np.float64))[0] - y).max() <= 0.5


def test_detail_draws_the_more_noise_the_coarser_the_tables_are():
    noises = []
    for quality in (10, 30, 75):
        asked, operator = Guidance(sigma=SIGMA, aim="detail"), compressed(quality)[0]
        noises.append(asked.noise_with(operator))
        assert noises[-1] == asked.start_with(operator) == JPEG_RATIO * expected_error(operator, SIGMA)
        fidelity = Guidance(sigma=SIGMA, aim="fidelity")
        assert (fidelity.start_with(operator), fidelity.noise_with(operator)) == (JPEG_NOISE, 0)
        assert expected_error(operator, SIGMA) == expected_error(operator.at(32, 64), SIGMA)
    assert noises == sorted(noises, reverse=True)


def test_the_plain_estimate_is_the_decoded_picture():
    operator, y = compressed(30)
    np.testing.assert_array_equal(plain_estimate(operator, y, SIGMA), operator.decoded(y))


@pytest.mark.parametrize("aim", [None, "detail"])
def test_damage_in_a_jpeg_begins_filled_in_and_what_lies_around_it_as_decoded(restorer, aim):
    inner, file = compressed(30)
    hidden = np.zeros((16, 16), bool)
    hidden[4:7, 5:11] = True
    operator = MaskedJpeg(inner, hidden)
    y = operator.undamaged(file)
    estimate, decoded = plain_estimate(operator, y, SIGMA), operator.decoded(y)
    np.testing.assert_array_equal(estimate[:, ~hidden], decoded[:, ~hidden])
    np.testing.assert_array_equal(estimate, filled(decoded, hidden, rounds=0))
    assert not decoded[:, hidden].any()
    asked = Guidance(sigma=SIGMA, aim=aim)
    expected = (DAMAGED_JPEG_NOISE, 0) if aim is None else (DAMAGED_JPEG_START, DAMAGED_JPEG_START)
    assert (asked.start_with(operator), asked.noise_with(operator)) == expected
    (row,) = restorer._begin(y, operator, asked)
    assert row.move is (Move.SPLITTING if aim is None else Move.DRAWN)


def test_what_jpeg_spread_around_damage_is_not_continued_into_it():
    """The biharmonic equation would: its fill of a white stroke is the brighter one, and the worse one."""
    hidden = np.zeros((64, 64), bool)
    hidden[29:35] = True
    with Image.open(PORTRAIT) as image:
        clean = np.asarray(image.convert("RGB").resize((64, 64)))
    file = io.BytesIO()
    Image.fromarray(np.where(hidden[..., None], np.uint8(255), clean)).save(file, "JPEG", quality=30)
    found = read_jpeg(file.getvalue(), "a.jpg", 1 << 20)
    operator = MaskedJpeg(found.operator(), hidden)
    y = operator.undamaged(found.measurement(operator.inner))
    wanted = (clean / 127.5 - 1).transpose(2, 0, 1)[:, hidden]
    ours, biharmonic = plain_estimate(operator, y, SIGMA), filled(operator.decoded(y), hidden)
    errors = [np.mean((one[:, hidden] - wanted) ** 2) for one in (ours, biharmonic)]
    assert errors[0] < 0.9 * errors[1]


@pytest.mark.parametrize("deviation", [1e-9, 0.02, 0.3, 1.0, 5.0, 20.0])
def test_the_mean_in_a_cell_is_that_of_an_integral(deviation):
    """By scipy's logistic distribution on a fine grid; where that has no mass left, the tail is exponential."""
    expected = np.array([-400.0, -30.0, -3.0, -0.6, -0.5, -0.2, 0.0, 0.1, 0.5, 1.0, 7.0, 60.0])
    unit, grid = deviation * 3**0.5 / np.pi, np.linspace(-0.5, 0.5, 200_001)
    oracle = []
    for one in expected:
        logarithm = scipy.stats.logistic.logpdf(grid, one, unit)
        mass = np.exp(logarithm - logarithm.max())
        oracle.append((grid * mass).sum() / mass.sum())
    if deviation < 1e-3:
        oracle = np.clip(expected, -0.5, 0.5)
    for kind, near in ((np.float64, 2e-5), (np.float32, 1e-3)):
        found = mean_in_cell(expected.astype(kind), np.full(12, deviation, kind))
        assert found.dtype == kind
        np.testing.assert_allclose(found, oracle, atol=near)


def test_the_mean_of_a_jpeg_keeps_what_the_cells_leave_open():
    """An image of the file stays where its coefficients lie well within their cells, and the others come inside."""
    operator, y = compressed(30)
    random = np.random.default_rng(0)
    inside = y[None].astype(np.float64) + random.uniform(-0.3, 0.3, (1, *y.shape))
    x0hat = operator.AT(operator.resolvent(inside, 0.0, 1.0))
    free = random.uniform(-1, 1, x0hat.shape)
    free -= operator.AT(operator.resolvent(operator.A(free), 0.0, 1.0))  # what no coefficient sees
    sure = operator.mean(y[None].astype(np.float64), x0hat + free, SIGMA, 1e-10)
    np.testing.assert_allclose(sure, x0hat + free, atol=1e-6)
    unsure = operator.mean(y[None].astype(np.float64), x0hat + free, SIGMA, 1e6)
    np.testing.assert_allclose(operator.A(unsure)[0], y, atol=1e-3)
    far = operator.mean(y[None].astype(np.float64), x0hat + 0.5, SIGMA, 0.01)
    assert np.abs(operator.A(far)[0] - y).max() < 0.5


def test_a_splitting_step_is_the_mean_s():
    operator, y = compressed(30)
    x0hat = np.random.default_rng(0).uniform(-1, 1, (1, 3, 16, 16))
    c = at_step(20, x0hat, 50)
    step = splitting_step(operator, y[None].astype(np.float64), x0hat, SIGMA, c)
    mean = operator.mean(y[None].astype(np.float64), x0hat, SIGMA, (1 - c.abar) / c.abar)
    np.testing.assert_allclose(step, c.abar_prev**0.5 * mean)


@pytest.mark.parametrize("step", [20, 0])
def test_a_draw_is_ddim_s_around_the_mean_in_the_cells_of_an_image_drawn_around_the_estimate(step):
    operator, y = compressed(30, 32)
    random = np.random.default_rng(0)
    x0hat = random.uniform(-1, 1, (1, 3, 32, 32))
    c = at_step(step, x0hat, 50)
    eps, z = random.standard_normal((2, 1, 3, 32, 32))
    eps[..., :16] *= 0.5
    x = c.abar**0.5 * x0hat + (1 - c.abar) ** 0.5 * eps
    drawn = mean_transition(operator, y[None].astype(np.float64), x, x0hat, z, SIGMA, c)
    kept, s, s_next = (1 - c.fresh**2) ** 0.5, (1 / c.abar - 1) ** 0.5, (1 / c.abar_prev - 1) ** 0.5
    x0, grey = x0hat, z.mean(1, keepdims=True)[..., ::-1, ::-1]
    if step:
        x0 = x0hat + (1 - kept * s_next / s) * (2 * DRAWN * local_variance(eps, z, c)) ** 0.5 * grey
    mean = operator.mean(y[None].astype(np.float64), x0, SIGMA, DRAWN_SPREAD * s**2)
    noise = (1 - c.abar_prev) ** 0.5 * (kept * eps + c.fresh * z)
    np.testing.assert_allclose(drawn, c.abar_prev**0.5 * mean + noise, atol=1e-9)
    assert np.abs(x0 - x0hat).max() > 0.05 * s.item() or step == 0


def test_damaged_pixels_which_no_cell_holds_back_are_drawn_with_half_the_variance():
    inner, file = compressed(10, 32)
    hidden = np.zeros((32, 32), bool)
    hidden[8:20, 4:30] = True
    operator = MaskedJpeg(inner, hidden)
    random = np.random.default_rng(0)
    x0hat = random.uniform(-0.5, 0.5, (1, 3, 32, 32))
    c = at_step(20, x0hat, 50)
    eps, z = 0.7 * random.standard_normal(x0hat.shape), random.standard_normal(x0hat.shape)
    x = c.abar**0.5 * x0hat + (1 - c.abar) ** 0.5 * eps
    drawn = mean_transition(operator, operator.undamaged(file)[None].astype(np.float64), x, x0hat, z, SIGMA, c)
    kept, s, s_next = (1 - c.fresh**2) ** 0.5, (1 / c.abar - 1) ** 0.5, (1 / c.abar_prev - 1) ** 0.5
    grey = z.mean(1, keepdims=True)[..., ::-1, ::-1]
    x0 = x0hat + (1 - kept * s_next / s) * (DRAWN * local_variance(eps, z, c)) ** 0.5 * grey
    expected = c.abar_prev**0.5 * x0 + (1 - c.abar_prev) ** 0.5 * (kept * eps + c.fresh * z)
    np.testing.assert_allclose(drawn[..., hidden], expected[..., hidden], atol=1e-9)
    assert np.abs(drawn - expected)[..., ~hidden].max() > 0.01
