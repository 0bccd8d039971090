"""A JPEG by its aims: what is drawn, the steps against dense algebra, and a result that the file is of."""

import io

import numpy as np
import pytest
from PIL import Image

from frugal_rt.runtime.operators import Jpeg
from frugal_rt.runtime.pictures.images import PORTRAIT
from frugal_rt.runtime.pictures.jpeg import read_jpeg
from frugal_rt.runtime.sampling.equations import measured_mean, splitting_step
from frugal_rt.runtime.sampling.guidance import JPEG_NOISE, Guidance
from frugal_rt.runtime.sampling.plain_estimate import expected_error, plain_estimate
from frugal_rt.runtime.sampling.restoration import Move
from frugal_rt.runtime.sampling.schedule import Schedule

SIGMA = 0.12


def compressed(quality: int, side: int = 16) -> tuple[Jpeg, np.ndarray]:
    file = io.BytesIO()
    with Image.open(PORTRAIT) as image:
        image.convert("RGB").resize((side, side)).save(file, "JPEG", quality=quality)
    found = read_jpeg(file.getvalue(), "a.jpg", 1 << 20)
    operator = found.operator()
    return operator, found.measurement(operator)


def test_each_aim_has_its_move_and_detail_is_the_default(restorer):
    operator, y = compressed(30)
    moves = {}
    for aim in (None, "detail", "fidelity"):
        (row,) = restorer._begin(y, operator, Guidance(sigma=SIGMA, aim=aim))
        moves[aim] = (row.aim, row.move, len(row.schedule) <= 8)
    assert moves[None] == moves["detail"] == ("detail", Move.MEASURED_FLOW, True)
    assert moves["fidelity"] == ("fidelity", Move.SPLITTING, True)
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


def test_noise_is_drawn_as_the_tables_are_coarse():
    noises, levels = [], []
    for quality in (10, 30, 75):
        asked, operator = Guidance(sigma=SIGMA, aim="detail"), compressed(quality)[0]
        noises.append(asked.noise_with(operator))
        levels.append(asked.start_with(operator))
        assert Guidance(sigma=SIGMA, aim="fidelity").start_with(operator) == JPEG_NOISE
        assert expected_error(operator, SIGMA) == expected_error(operator.at(32, 64), SIGMA)
    assert noises == sorted(noises, reverse=True)
    assert levels == [max(JPEG_NOISE, noise) for noise in noises]
    assert noises[0] > JPEG_NOISE > noises[2]


def test_the_plain_estimate_is_the_decoded_picture():
    operator, y = compressed(30)
    np.testing.assert_array_equal(plain_estimate(operator, y, SIGMA), operator.decoded(y))


def test_a_splitting_step_is_the_mean_of_dense_algebra():
    operator, y = compressed(30)
    A = np.asarray(operator.A(np.eye(768).reshape(768, 3, 16, 16))).reshape(768, -1).T
    x0hat = np.random.default_rng(0).uniform(-1, 1, (1, 3, 16, 16))
    c = Schedule.gather([Schedule.respaced({}, 50)], [20], x0hat, np)
    variance = ((1 - c.abar) / c.abar).item()
    x, residual = x0hat.reshape(-1), y.reshape(-1) - A @ x0hat.reshape(-1)
    gain = np.linalg.solve(SIGMA**2 / variance * np.eye(len(A)) + A @ A.T, residual)
    expected = x + A.T @ gain
    found = measured_mean(operator, y[None].astype(np.float64), x0hat, np.full((1, 1, 1, 1), SIGMA), c)
    np.testing.assert_allclose(found.reshape(-1), expected, atol=1e-9)
    step = splitting_step(operator, y[None].astype(np.float64), x0hat, np.full((1, 1, 1, 1), SIGMA), c)
    np.testing.assert_allclose(step.reshape(-1), c.abar_prev.item() ** 0.5 * expected, atol=1e-9)
