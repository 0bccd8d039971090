"""A JPEG of a damaged picture: what its coefficients still say of the pixels beside the damage."""

import io

import numpy as np
import pytest
from PIL import Image, ImageDraw

from frugal_rt import InputError
from frugal_rt.runtime.operators import Jpeg, MaskedJpeg
from frugal_rt.runtime.operators.masked_jpeg import GREY
from frugal_rt.runtime.pictures.images import PORTRAIT
from frugal_rt.runtime.pictures.jpeg import read_jpeg

from .cases import dense, jpeg, normal, spots

SIDE = 32


def portrait() -> np.ndarray:
    """(3, H, W) on whole levels."""
    with Image.open(PORTRAIT) as image:
        levels = np.asarray(image.convert("RGB").resize((SIDE, SIDE)), np.float32)
    return levels.transpose(2, 0, 1) / np.float32(127.5) - 1


def scratch() -> np.ndarray:
    mask = Image.new("L", (SIDE, SIDE))
    ImageDraw.Draw(mask).line((3, 0, 28, 20), 255, 2)
    return np.asarray(mask) > 0


def file_of(x: np.ndarray, **how) -> tuple[Jpeg, np.ndarray]:
    """The operator of a picture's JPEG, and its coefficients."""
    levels, written = np.rint(127.5 * (np.clip(x, -1, 1) + 1)).astype(np.uint8).transpose(1, 2, 0), io.BytesIO()
    Image.fromarray(levels).save(written, "JPEG", **how)
    file = read_jpeg(written.getvalue(), "a.jpg", 1 << 20)
    operator = file.operator()
    return operator, file.measurement(operator)


@pytest.fixture(params=[0, 2], ids=["4:4:4", "4:2:0"])
def damaged(request) -> tuple[MaskedJpeg, np.ndarray, np.ndarray]:
    """The operator of a scratched portrait's JPEG, the file's coefficients, and those without the damage."""
    inner, file = file_of(np.where(scratch(), 1, portrait()), quality=30, subsampling=request.param)
    operator = MaskedJpeg(inner, scratch())
    return operator, file, operator.undamaged(file)


def rms(x: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(x))))


def test_without_the_damage_the_coefficients_are_of_the_rest_of_the_picture(damaged):
    operator, file, y = damaged
    rest = np.where(scratch(), 0, portrait())
    assert rms(y - operator.A(rest)) < 0.6 * rms(file - operator.inner.A(rest))
    np.testing.assert_array_equal(operator.A(portrait()), operator.A(rest))


def test_fine_coefficients_are_those_of_the_rest_to_their_rounding():
    inner, file = file_of(np.where(scratch(), 1, portrait()), quality=100, subsampling=0)
    operator = MaskedJpeg(inner, scratch())
    apart = operator.undamaged(file) - operator.A(portrait())
    assert np.abs(apart).max() < 8  # of levels; the damage is 255 high
    assert rms(apart) < 1


def test_what_is_finished_is_the_rest_of_a_picture_that_encodes_to_the_file(damaged):
    operator, file, y = damaged
    noise = np.random.default_rng(0).standard_normal(operator.image_shape)
    x = np.asarray(operator.decoded(y) + 0.2 * noise, np.float32)
    finished = operator.finished(x, y)
    np.testing.assert_array_equal(finished[:, scratch()], x[:, scratch()])
    # Into its scratch goes what was taken off the file there, as far as `finished` let that move.
    grey = operator.inner.A(np.where(scratch(), GREY, 0) * np.ones((3, 1, 1)))
    moved = operator.inner.finished(np.where(scratch(), GREY, x), y + grey) - GREY
    shown = np.rint(127.5 * (np.clip(operator.inner.decoded(file), -1, 1) + 1)) / 127.5 - 1
    encoded = np.where(scratch(), shown + moved, finished)
    assert np.mean(np.abs(operator.inner.A(encoded) - file) > 0.5 + 1e-3) < 0.002
    assert np.mean(np.abs(operator.inner.A(np.where(scratch(), shown, x)) - file) > 0.5) > 0.05


def test_the_mean_is_that_of_the_whole_jpeg_in_units_that_no_damage_touches(damaged):
    operator, file, y = damaged
    x0hat = np.float32(0.9) * operator.inner.decoded(file)
    ours, whole = (
        operator.mean(y[None], x0hat[None], 0.1, 0.05)[0],
        operator.inner.mean(file[None], x0hat[None], 0.1, 0.05)[0],
    )
    np.testing.assert_allclose(ours[:, 16:, :16], whole[:, 16:, :16], atol=1e-4)
    assert np.abs(ours - whole)[:, :16, :16].max() > 0.05
    np.testing.assert_array_equal(ours[:, scratch()], x0hat[:, scratch()])


def test_the_mean_s_known_pixels_are_nearer_than_by_the_whole_jpeg_s(damaged):
    """The damage is white; the estimate, the portrait itself, has none."""
    operator, file, y = damaged
    clean = portrait()
    ours, whole = (one.mean(z[None], clean[None], 0.1, 0.05)[0] for one, z in ((operator, y), (operator.inner, file)))
    beside = ~scratch()
    assert rms((ours - clean)[:, beside]) < 0.85 * rms((whole - clean)[:, beside])


def test_torch_s_is_numpy_s(damaged):
    torch = pytest.importorskip("torch")
    operator, _, y = damaged
    x = np.float32(0.5) * portrait()
    ours, theirs = (operator.mean(a(y[None]), a(x[None]), 0.1, 0.05) for a in (np.asarray, torch.asarray))
    np.testing.assert_allclose(np.asarray(theirs), ours, atol=1e-5)


@pytest.mark.parametrize("sampling", [((1, 1), (1, 1), (1, 1)), ((2, 2), (1, 1), (1, 1))])
def test_its_products_and_its_resolvent_are_the_dense_matrix_s(sampling):
    """Alone and in a batch."""
    inner = jpeg((3, 16, 16), *sampling)
    operator = MaskedJpeg(inner, spots(inner.image_shape))
    operator.tolerance, operator.most = 1e-8, 1000
    matrix = dense(operator)
    assert not matrix[:, np.tile(operator.hidden.reshape(-1), 3)].any()
    x, y = normal((2, *operator.image_shape)), normal((2, *operator.measurement_shape), 1)
    flat = y.reshape(2, -1)
    np.testing.assert_allclose(operator.AT(y).reshape(2, -1), flat @ matrix, atol=1e-9)
    gram = 0.5**2 * np.eye(len(matrix)) + 0.3 * matrix @ matrix.T
    ours = operator.resolvent(y, 0.5, 0.3)
    np.testing.assert_allclose(ours.reshape(2, -1), np.linalg.solve(gram, flat.T).T, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(operator.mean(y, x, 0.1, 0.05)[1], operator.mean(y[1:], x[1:], 0.1, 0.05)[0], atol=1e-9)


def test_its_settings_tell_the_mask(damaged):
    operator = damaged[0]
    assert operator.settings["missing"] == scratch().sum()
    other = MaskedJpeg(operator.inner, ~scratch())
    assert other.settings["mask_sha256"] != operator.settings["mask_sha256"]
    assert operator.measured == min(operator.inner.measured, 3 * int((~scratch()).sum()))


def test_a_mask_of_another_size_is_refused(damaged):
    with pytest.raises(InputError, match="the mask is 4x4 but the image is 32x32"):
        MaskedJpeg(damaged[0].inner, np.eye(4) > 0)
