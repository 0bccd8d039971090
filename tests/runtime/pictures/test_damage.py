"""A damage in words: numbers, the task that an option implies, and the operator that it makes."""

import numpy as np
import pytest

from frugal_rt import InputError
from frugal_rt.runtime.operators import Iterative, dense
from frugal_rt.runtime.pictures.damage import Damage, parse_noise, parse_sigma, parse_size
from frugal_rt.runtime.pictures.measurement import prepare

from .photos import HOLE, SHAPE, photo


@pytest.mark.parametrize(
    ("damage", "task"),
    [
        (Damage(mask=HOLE), "inpaint"),
        (Damage(hole=(4, 4)), "inpaint"),
        (Damage(keep=(8, 8)), "outpaint"),
        (Damage(kernel="gaussian:1.5"), "deblur"),
        (Damage(kernel="uniform:3"), "deblur"),
        (Damage(kernel="motion:5,20"), "deblur"),
        (Damage(kernel=np.ones((2, 3)), border="circular"), "deblur"),
        (Damage(task="colorize"), "colorize"),
    ],
)
def test_an_option_implies_its_task(damage, task):
    assert prepare(photo(), SHAPE, damage).task == task


def test_a_blur_takes_the_border_that_its_kernel_allows():
    borders = {
        "gaussian:1": "mirror",
        "uniform:3": "mirror",
        "gaussian:1,0.5": "mirror",
        "motion:5": "mirror",
        "motion:5,30": "valid",
        "gaussian:1,0.5,20": "valid",
    }
    for kernel, border in borders.items():
        assert prepare(photo(), SHAPE, Damage(kernel=kernel)).operator.settings["border"] == border
        circular = prepare(photo(), SHAPE, Damage(kernel=kernel, border="circular")).operator
        assert circular.settings["border"] == "circular"
    decimated = prepare(photo(4, 4), SHAPE, Damage(scale=4, kernel="gaussian:1.5"))
    assert (decimated.task, decimated.operator.settings["kernel"]) == ("sr", "13x13")


@pytest.mark.parametrize(
    "damage",
    [
        Damage(task="deblur", kernel="motion:5,30", border="valid"),
        Damage(task="deblur", kernel="motion:5,30", border="valid", mask=HOLE),
        Damage(task="deblur", kernel="motion:5,30", mask=HOLE),
        Damage(task="deblur", kernel="gaussian:1", border="valid", mask=HOLE),
        Damage(task="sr", scale=4, filter="bicubic", mask=np.eye(4, dtype=bool)),
    ],
    ids=["valid", "valid, masked", "circular, masked", "separable valid, masked", "bicubic, masked"],
)
def test_what_is_too_large_for_a_matrix_is_the_same_operator_by_conjugate_gradients(damage, monkeypatch):
    picture = photo(4, 4) if damage.task == "sr" else photo()

    def made():
        return prepare(picture, SHAPE, damage)

    matrix = made()
    monkeypatch.setattr(dense, "MAX_DERIVED", 1000)
    iterated = made()
    assert isinstance(matrix.operator, dense.Dense)
    assert isinstance(iterated.operator, Iterative)
    np.testing.assert_array_equal(iterated.y, matrix.y)
    x = photo().pixels[None]
    np.testing.assert_allclose(iterated.operator.A(x), matrix.operator.A(x), atol=1e-6)
    assert iterated.operator.settings == matrix.operator.settings


@pytest.mark.parametrize(("text", "sigma"), [("0.1", 0.1), ("13/255", 13 / 255), ("0", 0), ("2", 2), (" 1e-2 ", 0.01)])
def test_sigma_is_a_number_or_a_fraction(text, sigma):
    assert parse_sigma(text) == pytest.approx(sigma)


@pytest.mark.parametrize("text", ["3", "25", "-0.1", "nan", "inf", "1/0", "much", ""])
def test_other_sigmas_are_refused(text):
    with pytest.raises(InputError, match="sigma"):
        parse_sigma(text)


@pytest.mark.parametrize(
    ("text", "sigma"), [("25", 50 / 255), ("0", 0), ("255", 2), ("1.275", 0.01), (" 5 ", 10 / 255)]
)
def test_noise_is_in_grey_levels(text, sigma):
    assert parse_noise(text) == pytest.approx(sigma)


@pytest.mark.parametrize("text", ["256", "-1", "nan", "inf", "13/255", "much", ""])
def test_other_noises_are_refused(text):
    with pytest.raises(InputError, match="noise is in grey levels of 255, such as 25; got"):
        parse_noise(text)


def test_sizes():
    assert parse_size("24x32") == (24, 32)
    assert parse_size("24") == (24, 24)
    for text in ("", "x", "24x", "0x4", "2x3x4", "-4x4"):
        with pytest.raises(InputError, match="WIDTHxHEIGHT"):
            parse_size(text)
