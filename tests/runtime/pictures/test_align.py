"""A face found in a photograph, framed as the prior knows faces, restored, and pasted back."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from frugal_rt import InputError, Plan
from frugal_rt.engines import MissingExtra
from frugal_rt.export import export_plan, read_prior
from frugal_rt.runtime.operators import Colorize, Denoise, Inpaint
from frugal_rt.runtime.pictures import align
from frugal_rt.runtime.pictures.align import Face, Frame, find_faces
from frugal_rt.runtime.pictures.decoding import Photo
from frugal_rt.runtime.pictures.images import PORTRAIT, read_photo
from frugal_rt.runtime.pictures.measurement import Measurement

from ...commands import frugal

SHARES = {"centre": [0.5, 0.6], "side": 0.8}
RESTORE = ("restore", "-e", "framed.plan", "--steps", "4")


@pytest.fixture(scope="module")
def framed_plan(make_prior, tmp_path_factory) -> Path:
    """The plan of a tiny prior of 16x16 that says how its faces are framed."""
    folder = make_prior({"in_channels": 12, "out_channels": 12})
    (folder / "framing.json").write_text(json.dumps(SHARES))
    path = tmp_path_factory.mktemp("plans") / "framed.plan"
    export_plan(read_prior(folder, "framed"), path, precisions=())
    return path


@pytest.fixture
def here(tmp_path, monkeypatch, framed_plan, tiny_plan) -> Path:
    """Two plans and photo.png, the packaged portrait in a larger picture, at (70, 30)."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "framed.plan").symlink_to(framed_plan)
    (tmp_path / "tiny.plan").symlink_to(tiny_plan)
    scene().save("photo.png")
    return tmp_path


def scene(*more: tuple[int, int, int]) -> Image.Image:
    """A soft slope with the portrait at (70, 30), and at other sizes and places."""
    slope = np.linspace(40, 200, 200)[None, :, None] + np.linspace(0, 40, 150)[:, None, None] * [1, 0, -1]
    picture = Image.fromarray(slope.clip(0, 255).astype(np.uint8))
    portrait = Image.open(PORTRAIT).convert("RGB")
    for size, left, top in ((64, 70, 30), *more):
        picture.paste(portrait.resize((size, size), Image.Resampling.BICUBIC), (left, top))
    return picture


def photo_of(picture: Image.Image) -> Photo:
    return Photo((np.asarray(picture, np.float32) / 127.5 - 1).transpose(2, 0, 1))


def pixels(path: str) -> np.ndarray:
    return np.asarray(Image.open(path)).astype(int)


def frame_of(path: str) -> tuple[slice, slice]:
    left, top, side = json.loads(Image.open(path).text["frugal-rt"])["frame"]
    return slice(max(top, 0), top + side), slice(max(left, 0), left + side)


def test_a_face_is_found_where_it_is_clean_and_noisy_and_nowhere_else():
    photo = photo_of(scene())
    for sigma in (0, 0.25):
        noise = sigma * np.random.default_rng(0).standard_normal(photo.pixels.shape)
        face, *_ = find_faces(replace(photo, pixels=np.float32(photo.pixels + noise)))
        np.testing.assert_allclose(face[:2], (70 + 32, 30 + 39), atol=5)
        assert 38 < face.side < 60
    assert find_faces(Photo(photo.pixels[:, :, :60])) == []


def test_a_frame_lies_about_a_box_as_in_the_prior_s_images():
    frame = Frame.around(Face(200, 150, 80, 9), SHARES, 64)
    assert frame == Frame(left=150, top=90, side=100)
    assert Frame.around(Face(200, 150, 48, 9), SHARES, 64).side == 64  # 60 would be enlarged for nothing


@pytest.mark.parametrize("frame", [Frame(5, 4, 16), Frame(-3, 9, 16), Frame(2, 1, 24), Frame(-4, -5, 40)])
def test_what_is_cut_is_the_square_and_knows_what_lies_beyond_the_photograph(frame):
    rng = np.random.default_rng(0)
    photo = Photo(rng.uniform(-1, 1, (3, 20, 30)).astype(np.float32))
    cut = frame.cut(photo, frame.side)
    rows, columns = (start + np.arange(frame.side) for start in (frame.top, frame.left))
    beyond = ((rows < 0) | (rows >= 20))[:, None] | ((columns < 0) | (columns >= 30))
    np.testing.assert_array_equal(beyond, np.zeros_like(beyond) if cut.outside is None else cut.outside)
    y, x = np.nonzero(~beyond)
    np.testing.assert_array_equal(cut.pixels[:, y, x], photo.pixels[:, y + frame.top, x + frame.left])
    assert frame.cut(photo, 16).size == (16, 16)


@pytest.mark.parametrize("frame", [Frame(5, 2, 16), Frame(-3, 9, 16), Frame(-4, -5, 40)])
def test_outside_the_frame_nothing_changes_and_its_border_fades(frame):
    photo = Photo(np.zeros((3, 20, 30), np.float32))
    job = Measurement(Denoise((3, 16, 16)), photo.pixels, 0.2, "denoise", "")
    (pasted,) = frame.paste(photo, np.ones((1, 3, 16, 16), np.float32), job)
    rows, columns = np.arange(20) - frame.top, np.arange(30) - frame.left
    edge = np.minimum.outer(np.minimum(rows, frame.side - 1 - rows), np.minimum(columns, frame.side - 1 - columns))
    assert (pasted[:, edge < 0] == 0).all()
    assert (pasted[:, edge >= frame.side / 8] > 0.999).all()
    fading = pasted[:, (edge >= 0) & (edge < frame.side / 8 - 1)]
    assert ((fading > 0) & (fading < 1)).all()


def test_what_was_measured_well_stays_the_photograph_s():
    rng = np.random.default_rng(0)
    frame, whole = Frame(4, 3, 24), rng.uniform(-1, 1, (3, 30, 40)).astype(np.float32)
    images = rng.uniform(-1, 1, (2, 3, 16, 16)).astype(np.float32)
    missing = np.zeros((30, 40), bool)
    missing[10:15, 12:18], missing[0, 0] = True, True
    hole = np.zeros((16, 16), bool)
    hole[5, 5] = True
    photo = Photo(whole, missing)
    filled = frame.paste(photo, images, Measurement(Inpaint((3, 16, 16), hole), whole, 0.01, "inpaint", ""))
    np.testing.assert_allclose(filled[0][:, ~missing], whole[:, ~missing], atol=1e-6)
    assert np.abs(filled[0][:, 10:15, 12:18] - whole[:, 10:15, 12:18]).min() > 0
    assert np.argwhere(frame.left_missing(photo)).tolist() == [[0, 0]]
    colorize = Colorize((3, 16, 16))
    grey = Photo(whole[:1])
    coloured = frame.paste(grey, images, Measurement(colorize, whole, 0.01, "colorize", ""))
    seen = Colorize((3, 30, 40)).A(coloured)
    np.testing.assert_allclose(seen, np.broadcast_to(grey.pixels, seen.shape), atol=1e-5)
    assert coloured.std(axis=1).max() > 0.1


@pytest.mark.parametrize("task", ["denoise", "colorize", "inpaint"])
def test_a_face_is_restored_in_its_photograph(here, task):
    options: tuple[str, ...] = ()
    if task == "colorize":
        Image.open("photo.png").convert("L").save("photo.png")
    if task == "inpaint":
        mask = np.zeros((150, 200), np.uint8)
        mask[60:70, 95:110] = 255
        mask[5, 5] = 255
        Image.fromarray(mask).save("mask.png")
        options = "--mask", "mask.png"
    result = frugal(*RESTORE, "photo.png", "--align", *options)
    assert result.exit_code == 0, result.output
    assert f"photo.png: {task} (" in result.output
    assert "the face, " in result.output
    assert "brought to 16x16" in result.output
    before, after = np.asarray(Image.open("photo.png").convert("RGB")), pixels("photo.restored.png")
    frame = frame_of("photo.restored.png")
    assert (after[frame][..., :3] != before[frame]).any()
    changed = (after[..., :3] != before).any(axis=-1)
    changed[frame] = False
    changed[5, 5] = False
    assert not changed.any()
    if task == "inpaint":
        assert np.argwhere(after[..., 3] == 0).tolist() == [[5, 5]]
        changed = (after[..., :3] != before).any(axis=-1)
        assert not changed[(mask == 0)].any()


def test_the_largest_face_is_taken_and_said_so(here):
    scene((32, 10, 100)).resize((400, 300)).save("two.png")
    result = frugal(*RESTORE, "two.png", "--align")
    assert "the largest of 2 faces" in result.output
    rows, columns = frame_of("two.restored.png")
    assert rows.start < 130 < rows.stop
    assert columns.start < 204 < columns.stop


def test_noise_is_the_photograph_s_and_less_in_a_frame_that_shrinks(here, framed_plan):
    plan = Plan.open(framed_plan)
    photo = photo_of(scene())
    noise = 0.3 * np.random.default_rng(0).standard_normal(photo.pixels.shape)
    noisy = replace(photo, pixels=np.float32(photo.pixels + noise))
    aligned = align.align(noisy, plan, align.Damage())
    clean = aligned.frame.cut(photo, 16).pixels
    assert aligned.measurement.task == "denoise"
    assert aligned.measurement.sigma == pytest.approx(0.3 * 16 / aligned.frame.side, rel=0.1)
    assert (aligned.measurement.y - clean).std() == pytest.approx(aligned.measurement.sigma, rel=0.15)
    named = align.align(noisy, plan, align.Damage(sigma=0.2))
    assert named.measurement.sigma == pytest.approx(0.2 * 16 / named.frame.side)


def test_what_cannot_be_aligned_is_refused_in_a_sentence(here, monkeypatch):
    def refused(sentence: str, *arguments: str, status: int = 1) -> None:
        result = frugal(*RESTORE, *arguments, "-o", "x.png")
        assert result.exit_code == status, result.output
        assert sentence in result.output, result.output
        assert not Path("x.png").exists()

    Image.new("RGB", (90, 80), "grey").save("plain.png")
    refused("no face was found in the picture", "plain.png", "--align")
    refused("deblur is about pixels of one scale", "photo.png", "--align", "--kernel", "gaussian:1")
    refused("--hole and --keep are about the middle", "photo.png", "--align", "--hole", "4x4")
    refused("leave --tile and --fit out", "photo.png", "--align", "--tile", status=2)
    corner = np.zeros((150, 200), np.uint8)
    corner[:4, :4] = 255
    Image.fromarray(corner).save("corner.png")
    refused("no pixel of the face's frame is missing", "photo.png", "--align", "--mask", "corner.png")
    refused("tiny does not say how the faces are framed", "photo.png", "--align", "-e", "tiny.plan")
    align._detector.cache_clear()
    monkeypatch.setitem(sys.modules, "skimage.feature", None)
    refused("pip install 'frugal-rt[align]'", "photo.png", "--align")
    with pytest.raises(MissingExtra):
        find_faces(read_photo(PORTRAIT))


def test_a_prior_of_framed_faces_says_what_tiles_are_not_for(here):
    advice = "framed knows whole faces framed in one way"
    assert advice in frugal(*RESTORE, "photo.png", "--fit", "crop", "--method", "dmps").stderr
    assert advice not in frugal(*RESTORE, "photo.png", "--align", "--force").stderr
    assert (
        "framed in one way" not in frugal(*RESTORE, "-e", "tiny.plan", "photo.png", "--fit", "crop", "--force").stderr
    )


@pytest.mark.parametrize("content", ['{"side": 1}', '{"centre": [0.5], "side": 1}', '{"centre": [0.5, 2], "side": 1}'])
def test_a_framing_that_is_none_is_refused(make_prior, content):
    folder = make_prior()
    (folder / "framing.json").write_text(content)
    with pytest.raises(InputError, match="must hold shares of the image"):
        read_prior(folder)
