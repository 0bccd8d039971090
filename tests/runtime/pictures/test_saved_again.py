"""A picture that was a JPEG before it was saved again: its coefficients are found in its pixels, against the file's."""

import io

import numpy as np
import pytest
from PIL import Image

from frugal_rt.runtime.pictures.damage import Damage
from frugal_rt.runtime.pictures.decoding import JpegSource, decode_photo
from frugal_rt.runtime.pictures.images import PORTRAIT
from frugal_rt.runtime.pictures.jpeg import read_jpeg, standard_tables
from frugal_rt.runtime.pictures.measurement import own_size, prepare, told_by_file
from frugal_rt.runtime.pictures.saved_again import SavedJpeg, find_jpeg, on_steps

SHAPE = (3, 16, 16)


def textured(width: int = 160, height: int = 128) -> Image.Image:
    """The portrait over coloured texture: detail at every frequency, as photographs have it."""
    random = np.random.default_rng(0)
    rough = Image.fromarray(random.integers(0, 256, (height // 4, width // 4, 3), dtype=np.uint8))
    picture = Image.blend(
        rough.resize((width, height), Image.Resampling.BICUBIC), Image.new("RGB", (width, height)), 0.5
    )
    with Image.open(PORTRAIT) as portrait:
        picture.paste(portrait.convert("RGB"), (10, 20))
    return picture


def saved(picture: Image.Image, kind: str = "JPEG", **how) -> bytes:
    written = io.BytesIO()
    picture.save(written, kind, **how)
    return written.getvalue()


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data)).convert("RGB")


def pixels(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture, np.float32).transpose(2, 0, 1) / 127.5 - 1


@pytest.mark.parametrize("again", [None, 95])
@pytest.mark.parametrize("subsampling", ["4:2:0", "4:2:2", "4:4:4"])
@pytest.mark.parametrize("quality", [10, 30, 75])
def test_the_coefficients_of_the_first_file_are_found(quality, subsampling, again):
    """All but a few in a thousand are found, in a picture of whole units, with its sampling and, if told, tables."""
    first = saved(textured(), quality=quality, subsampling=subsampling)
    shown = opened(first) if again is None else opened(saved(opened(first), quality=again, subsampling="4:4:4"))
    found, file = find_jpeg(pixels(shown)).file, read_jpeg(first, "a.jpg", 1 << 20)
    assert found.size == file.size
    for ours, theirs in zip(found.components, file.components, strict=True):
        assert (ours.across, ours.down) == (theirs.across, theirs.down)
    for ours, theirs in zip(found.blocks, file.blocks, strict=True):
        assert np.mean(ours != theirs) < 0.01


def test_a_picture_of_no_whole_units_has_its_inner_blocks_found():
    first = saved(textured(150, 117), quality=30)
    found, file = find_jpeg(pixels(opened(first))).file, read_jpeg(first, "a.jpg", 1 << 20)
    assert found.size == (150, 117)
    for ours, theirs in zip(found.blocks, file.blocks, strict=True):
        assert ours.shape == theirs.shape
        assert np.mean(ours[:-2, :-2] != theirs[:-2, :-2]) < 0.005


@pytest.mark.parametrize(
    "changed",
    [
        lambda picture: picture,
        lambda picture: opened(saved(picture, quality=40)).crop((3, 5, 160, 128)),
        lambda picture: opened(saved(picture, quality=40)).resize((120, 96)),
        lambda picture: picture.crop((0, 0, 7, 7)),
        lambda picture: Image.new("RGB", (64, 64), (90, 80, 70)),
    ],
    ids=["never one", "cropped off its blocks", "resized", "less than a block", "one colour"],
)
def test_where_there_is_no_sign_nothing_is_found(changed):
    assert find_jpeg(pixels(changed(textured()))) is None


def test_on_steps_tells_multiples_from_anything_else():
    table, random = np.full((8, 8), 12), np.random.default_rng(0)
    multiples = 12.0 * random.integers(-3, 4, (50, 8, 8))
    assert on_steps(multiples, table)[0] == pytest.approx(1)
    assert on_steps(multiples + 6, table)[0] == pytest.approx(-1)
    assert abs(on_steps(random.uniform(-90, 90, (500, 8, 8)), table)[0]) < 0.05
    assert on_steps(np.zeros((5, 8, 8)), table) == (0.0, 0)


def test_standard_tables_are_libjpeg_s():
    light, chroma = standard_tables(50)
    assert light[0].tolist() == [16, 11, 10, 16, 24, 40, 51, 61]  # T.81, table K.1
    assert chroma[0].tolist() == [17, 18, 24, 47, 99, 99, 99, 99]


def measured(data: bytes, name: str, damage: Damage):
    photo = decode_photo(data, name)
    damage = told_by_file(photo, damage, SHAPE, any_size=True)
    return prepare(photo, own_size(photo, damage, SHAPE, any_size=True).image_shape, damage)


@pytest.mark.parametrize("named", [True, False])
def test_a_png_of_a_jpeg_is_measured_as_the_jpeg_was(named):
    damage, first = Damage(task="jpeg" if named else None), saved(textured(), quality=30)
    jobs = [measured(data, name, damage) for data, name in ((first, "a.jpg"), (saved(opened(first), "PNG"), "a.png"))]
    assert np.mean(np.abs(jobs[0].y - jobs[1].y) > 0.5) < 0.002  # those of blocks that were clipped
    assert jobs[0].operator.settings == jobs[1].operator.settings
    assert [job.task for job in jobs] == ["jpeg", "jpeg"]
    assert "the tables of before it was saved again have steps of 96" in jobs[1].because


def test_of_a_file_saved_twice_the_coarser_is_undone():
    coarse = saved(textured(), quality=30)
    twice = saved(opened(coarse), quality=95)
    assert "of before it was saved again have steps of 96" in measured(twice, "a.jpg", Damage()).because
    finer = saved(opened(saved(textured(), quality=90)), quality=30)
    assert "its tables have steps of 96" in measured(finer, "a.jpg", Damage()).because


@pytest.mark.parametrize("name", ["a.jpg", "a.png"])
def test_the_coefficients_of_what_is_left_alone_are_not_read(monkeypatch, name):
    """A fine JPEG is what most photographs are, and reading all of one takes longer than anything else here."""

    def refuse(self):
        raise AssertionError("they were read")

    for kind in (JpegSource, SavedJpeg):
        monkeypatch.setattr(kind, "file", property(refuse))
    fine = saved(textured(), quality=90)
    data = fine if name == "a.jpg" else saved(opened(fine), "PNG")
    photo = decode_photo(data, name)
    assert told_by_file(photo, Damage(), SHAPE, any_size=True).task is None
