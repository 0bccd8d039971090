"""The operator of a JPEG, against scipy's cosine transform and Pillow's files."""

import io

import numpy as np
import pytest
import scipy.fft
from PIL import Image

from frugal_rt import InputError, operators
from frugal_rt.engines.errors import Stopped
from frugal_rt.engines.stopping import stoppable
from frugal_rt.runtime.operators.jpeg import MARGIN, Component, unit_size
from frugal_rt.runtime.pictures.images import PORTRAIT
from frugal_rt.runtime.pictures.jpeg import read_jpeg

from ..stops import Counting
from .cases import jpeg, normal

MOST = 1 << 20
ONES = np.ones((8, 8), int)


def test_coefficients_are_scipy_s_of_pillow_s_components():
    """4:2:0: lightness block by block, chroma after the mean over 2x2; a row of each block is a vertical frequency."""
    operator = jpeg((3, 32, 48), (2, 2), (1, 1), (1, 1))
    levels = np.random.default_rng(0).integers(0, 256, (32, 48, 3))
    y = operator.A((levels / 127.5 - 1).transpose(2, 0, 1)[None])[0]
    r, g, b = levels.transpose(2, 0, 1)
    light = 0.299 * r + 0.587 * g + 0.114 * b
    planes = [light - 128]
    for chroma in ((b - light) / 1.772, (r - light) / 1.402):
        planes.append(chroma.reshape(16, 2, 24, 2).mean(axis=(1, 3)))
    for plane, blocks, one in zip(planes, operator.blocks(y), operator.components, strict=True):
        cut = plane.reshape(-1, 8, plane.shape[1] // 8, 8).transpose(0, 2, 1, 3)
        expected = scipy.fft.dctn(cut, axes=(2, 3), norm="ortho") / one.table
        np.testing.assert_allclose(blocks, expected, atol=1e-9)


@pytest.mark.parametrize("sampling", [[(2, 2), (1, 1), (1, 1)], [(2, 1), (1, 1), (1, 1)], [(1, 1)] * 3])
def test_blocks_undo_measurement(sampling):
    operator, random = jpeg((3, 32, 32), *sampling), np.random.default_rng(0)
    down, across = operator.measurement_shape[1:]
    given = [
        random.integers(-900, 900, (down * one.down, across * one.across, 8, 8), np.int16)
        for one in operator.components
    ]
    for ours, theirs in zip(operator.blocks(operator.measurement(given)), given, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-4)


def file_of(image: Image.Image, **how: int) -> tuple[bytes, operators.Jpeg, np.ndarray]:
    written = io.BytesIO()
    image.save(written, "JPEG", **how)
    file = read_jpeg(written.getvalue(), "a.jpg", MOST)
    operator = file.operator()
    return written.getvalue(), operator, file.measurement(operator)


def encoded_again(image: np.ndarray, data: bytes, **how: int) -> np.ndarray:
    """Encode an image (C, H, W) in 8 bits with the tables of a file, by Pillow; return its measurement."""
    with Image.open(io.BytesIO(data)) as given:
        tables = given.quantization
    levels = np.rint(127.5 * (np.clip(image, -1, 1) + 1)).astype(np.uint8)
    return file_of(Image.fromarray(levels.transpose(1, 2, 0)), qtables=tables, **how)[2]


def portrait(side: int = 64) -> Image.Image:
    with Image.open(PORTRAIT) as image:
        return image.convert("RGB").resize((side, side))


@pytest.mark.parametrize("subsampling", [0, 1, 2])
def test_decoded_is_what_pillow_shows(subsampling):
    """To rounding and, where chroma is enlarged, to Pillow's clipping before it: close on the mean."""
    data, operator, y = file_of(portrait(), quality=60, subsampling=subsampling)
    with Image.open(io.BytesIO(data)) as image:
        shown = np.asarray(image, np.float64).transpose(2, 0, 1)
    ours = 127.5 * (np.clip(operator.decoded(y), -1, 1) + 1)
    assert np.abs(ours - shown).mean() < 0.6
    assert np.abs(ours - shown).max() < 10


@pytest.mark.parametrize("side", [64, 256])
def test_decoding_ends_within_each_row_of_blocks(side):
    """Transforming a whole component of 4 megapixels takes over a second in a busy worker, which was killed then."""
    _, operator, y = file_of(portrait(side), quality=60, subsampling=0)
    stop = Counting()
    with stoppable(stop):
        operator.decoded(y)
    assert stop.checks >= 3 * side // 8
    with stoppable(Counting(stop.checks // 2)), pytest.raises(Stopped):
        operator.decoded(y)


@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("quality", [75, 100])
def test_encoded_is_libjpeg_s_measurement_but_for_its_integer_cosines(quality, subsampling):
    """They are rounded to eighths of a level; without the roundings of components and means it is half a level."""
    picture = portrait(256)
    _, operator, y = file_of(picture, quality=quality, subsampling=subsampling)
    levels = np.asarray(picture, np.float64).transpose(2, 0, 1)[None]
    units = operator._to_units(levels)[0].reshape(-1, 3, *operator.unit)
    found = operator._from_units(operator.encoded(units)[None])[0]

    def beyond(found):
        """Grey levels by which coefficients are out of the file's cells, at most."""
        blocks = zip(operator.blocks(found), operator.blocks(y), operator.components, strict=True)
        return max(np.max((np.abs(ours - file) - 0.5) * one.table) for ours, file, one in blocks)

    assert beyond(found) < MARGIN
    assert beyond(operator.A(levels / 127.5 - 1)[0]) > 2 * MARGIN


@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("quality", [10, 30, 75, 85, 90])
def test_a_finished_image_re_encodes_to_the_file_s_coefficients(quality, subsampling):
    """By Pillow at the file's tables, from 8-bit pixels: 98,304 to 196,608 coefficients."""
    data, operator, y = file_of(portrait(256), quality=quality, subsampling=subsampling)
    astray = operator.decoded(y) + 0.2 * normal(operator.image_shape)
    image = operator.finished(np.float32(astray), y)
    levels = 127.5 * (image + 1)
    np.testing.assert_allclose(levels, np.rint(levels), atol=1e-3)
    again, before = (encoded_again(one, data, subsampling=subsampling) for one in (image, astray))
    assert np.count_nonzero(np.abs(again - y) > 0.5) == 0
    assert np.count_nonzero(np.abs(before - y) > 0.5) > 20


def test_finishing_brings_most_of_a_fine_file_s_coefficients_back_and_lets_nan_pass():
    data, operator, y = file_of(portrait(), quality=96)
    image = operator.finished(np.float32(operator.decoded(y) + 0.1 * normal(operator.image_shape)), y)
    assert 0 < np.mean(np.abs(encoded_again(image, data) - y) > 0.5) < 0.03
    assert np.isnan(operator.finished(np.full(operator.image_shape, np.nan, np.float32), y)).all()


def test_finishing_leaves_an_image_that_agrees_as_it_is():
    _, operator, y = file_of(portrait(), quality=30)
    image = operator.finished(np.asarray(portrait(), np.float32).transpose(2, 0, 1) / 127.5 - 1, y)
    clean = np.asarray(portrait(), np.float32).transpose(2, 0, 1) / 127.5 - 1
    assert np.abs(image - clean).mean() < 0.006
    other = operators.Denoise((3, 8, 8))
    x = normal((3, 8, 8))
    assert other.finished(x, x) is x


def test_rounded_is_an_encoder_s_measurement():
    _, operator, y = file_of(portrait(), quality=20)
    ours = operator.rounded(np.asarray(portrait(), np.float64).transpose(2, 0, 1) / 127.5 - 1)
    assert np.mean(np.abs(ours - y) > 0.5) < 0.005
    np.testing.assert_allclose(
        ours + operator.shift[:, None, None], np.rint(ours + operator.shift[:, None, None]), atol=1e-5
    )


def test_full_rank_whatever_the_sampling():
    for sampling in ([(2, 2), (1, 1), (1, 1)], [(4, 1), (1, 1), (1, 1)], [(1, 1), (2, 1), (2, 1)]):
        assert jpeg((3, 8, 8), *sampling).decomposition.s.min() > 0.1


def test_settings_tell_files_of_other_tables_apart():
    one, other = (operators.Jpeg((1, 8, 8), [Component(1, 1, n * ONES)], "plain") for n in (3, 4))
    assert one.settings["tables_sha256"] != other.settings["tables_sha256"]
    assert jpeg((3, 8, 8), (2, 1), (1, 1), (1, 1)).settings["sampling"] == ["2x1", "1x1", "1x1"]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: operators.Jpeg((3, 8, 24), [Component(2, 2, ONES), *[Component(1, 1, ONES)] * 2]), "16x16 pixels; 24"),
        (lambda: operators.Jpeg((3, 8, 8), [Component(1, 1, ONES)], "plain"), "1 components"),
        (lambda: unit_size([Component(3, 1, ONES)]), "1, 2 or 4"),
        (lambda: unit_size([Component(4, 2, ONES), Component(2, 1, ONES), Component(1, 1, ONES)]), "10 blocks"),
    ],
)
def test_what_does_not_fit_is_said(make, said):
    with pytest.raises(InputError, match=said):
        make()
