"""The faces of a photograph, framed as the prior knows faces, restored, and pasted back."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from frugal_rt import InputError, Plan, Restorer
from frugal_rt.engines import MissingExtra
from frugal_rt.export import export_plan, read_prior
from frugal_rt.runtime.operators import Colorize, Denoise, Inpaint, Operator
from frugal_rt.runtime.pictures import align, faces
from frugal_rt.runtime.pictures.align import MOST, Aligned, Damage, Frame, FramedFace
from frugal_rt.runtime.pictures.decoding import Photo
from frugal_rt.runtime.pictures.detail import detail
from frugal_rt.runtime.pictures.faces import Face
from frugal_rt.runtime.pictures.images import PORTRAIT, read_photo, resized
from frugal_rt.runtime.pictures.measurement import Measurement

from ...commands import frugal
from .photos import photo_of, scene

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


def pixels(path: str) -> np.ndarray:
    return np.asarray(Image.open(path)).astype(int)


def frame_of(path: str) -> tuple[slice, slice]:
    return frames_of(path)[0]


def frames_of(path: str) -> list[tuple[slice, slice]]:
    """Rows and columns of each frame that a restored picture names."""
    frames = [face["frame"] for face in json.loads(Image.open(path).text["frugal-rt"])["faces"]]
    return [(slice(max(top, 0), top + side), slice(max(left, 0), left + side)) for left, top, side in frames]


def find(monkeypatch, *found: Face) -> None:
    """Let these be the faces that a detector finds."""
    monkeypatch.setattr(align, "find_faces", lambda photo: [*found])


def framed(frame: Frame, operator: Operator, task: str, sigma: float) -> FramedFace:
    y = np.zeros(operator.measurement_shape, np.float32)
    return FramedFace(frame, Measurement(operator, y, sigma, task, ""), sigma)


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
    one = framed(frame, Denoise((3, 16, 16)), "denoise", 0.2)
    (pasted,) = Aligned(photo, [one]).paste([np.ones((1, 3, 16, 16), np.float32)])
    rows, columns = np.arange(20) - frame.top, np.arange(30) - frame.left
    edge = np.minimum.outer(np.minimum(rows, frame.side - 1 - rows), np.minimum(columns, frame.side - 1 - columns))
    assert (pasted[:, edge < 0] == 0).all()
    inner = edge >= frame.side / 8 + 4  # beyond the photograph lies what was restored, and its detail is not flat
    assert (np.abs(pasted[:, inner] - 1) < 0.2).all()
    fading = pasted[:, (edge >= 0) & (edge < frame.side / 8 - 1)]
    assert ((fading > 0) & (fading < 1)).all()


def test_what_was_measured_well_stays_the_photograph_s():
    rng = np.random.default_rng(0)
    frame, whole = Frame(4, 3, 24), rng.uniform(-1, 1, (3, 30, 40)).astype(np.float32)
    images = rng.uniform(-1, 1, (2, 3, 16, 16)).astype(np.float32)
    missing = np.zeros((30, 40), bool)
    missing[10:15, 12:18], missing[0, 0], missing[4, 6] = True, True, True
    hole = np.zeros((16, 16), bool)
    hole[5, 5] = True
    aligned = Aligned(Photo(whole, missing), [framed(frame, Inpaint((3, 16, 16), hole), "inpaint", 0.01)])
    filled = aligned.paste([images])
    np.testing.assert_array_equal(filled[:, :, ~missing], np.stack([whole[:, ~missing]] * 2))
    assert np.abs(filled[0][:, 10:15, 12:18] - whole[:, 10:15, 12:18]).min() > 0
    assert np.argwhere(aligned.left_missing()).tolist() == [[0, 0]]
    enlarged = np.stack([resized(channel, (24, 24)) for channel in images[0]])
    np.testing.assert_allclose(filled[0][:, 4, 6], enlarged[:, 1, 2], atol=1e-6)  # it does not fade into nothing
    grey = Photo(whole[:1])
    coloured = Aligned(grey, [framed(frame, Colorize((3, 16, 16)), "colorize", 0.01)]).paste([images])
    seen = Colorize((3, 30, 40)).A(coloured)
    np.testing.assert_allclose(seen, np.broadcast_to(grey.pixels, seen.shape), atol=1e-5)
    assert coloured.std(axis=1).max() > 0.1


def test_noise_is_of_the_photograph_s_own_pixels_where_it_is_asked_what_is_known():
    """A mean of 6 x 6 pixels is known within SIGMA where its pixels are not."""
    photo = Photo(np.zeros((3, 96, 96), np.float32), np.eye(96, dtype=bool))
    hole = np.eye(16, dtype=bool)
    one = framed(Frame(0, 0, 96), Inpaint((3, 16, 16), hole), "inpaint", 0.05)
    one = one._replace(measurement=replace(one.measurement, sigma=0.05 / 6))
    (pasted,) = Aligned(photo, [one]).paste([np.ones((1, 3, 16, 16), np.float32)])
    assert pasted[:, 40:50, 30:35].mean() > 0.5


@pytest.mark.parametrize(("sigma", "kept"), [(0.0, 0.999), (0.3, 0.5)])
def test_detail_above_the_prior_s_resolution_stays_where_noise_is_below_it(sigma, kept):
    photo, frame = photo_of(scene().resize((400, 300))), Frame(150, 70, 120)
    y = frame.cut(photo, 16).pixels
    image = np.clip(y + 0.1, -1, 1)[None]
    noisy = photo.pixels + sigma * np.random.default_rng(0).standard_normal(photo.pixels.shape)
    one = framed(frame, Denoise((3, 16, 16)), "denoise", sigma)
    (pasted,) = Aligned(replace(photo, pixels=np.float32(noisy)), [one]).paste([image])
    middle = np.s_[:, 90:170, 170:250]
    own = detail(photo.pixels[:, 70:190, 150:270], 16, 0)[:, 20:100, 20:100]
    low = photo.pixels[middle] - own + 0.1
    found = pasted[middle] - low
    assert np.vdot(found, own) / np.vdot(own, own) > kept
    assert np.square(found - own).mean() < (1 - kept + 1e-6) * np.square(own).mean()


@pytest.mark.parametrize("channels", [1, 3])
def test_grey_stays_grey(channels):
    rng = np.random.default_rng(0)
    grey = np.repeat(rng.uniform(-1, 1, (1, 40, 40)), channels, axis=0).astype(np.float32)
    images = rng.uniform(-1, 1, (1, 3, 16, 16)).astype(np.float32)
    one = framed(Frame(3, 4, 30), Denoise((3, 16, 16)), "denoise", 0.1)
    (pasted,) = Aligned(Photo(grey), [one]).paste([images])
    assert pasted.shape == grey.shape
    assert (pasted == pasted[:1]).all()
    assert np.abs(pasted - grey).max() > 0.1


def test_where_frames_overlap_the_larger_face_lies_above():
    photo, shape = Photo(np.zeros((3, 40, 60), np.float32)), (3, 16, 16)
    large, small = (framed(Frame(*place), Denoise(shape), "denoise", 0.0) for place in ((20, 2, 32), (8, 10, 20)))
    one, other = np.full((1, *shape), 0.5, np.float32), np.full((1, *shape), -0.5, np.float32)
    (both,) = Aligned(photo, [large, small]).paste([one, other])
    (under,) = Aligned(photo, [small]).paste([other])
    fade = np.zeros((40, 60), np.float32)
    fade[2:34, 20:52] = large.frame.fade()
    np.testing.assert_allclose(both, under + fade * (0.5 - under), atol=1e-6)
    assert (both[:, 20, 26] == 0.5).all()


@pytest.mark.parametrize("task", ["denoise", "colorize", "inpaint"])
def test_a_face_is_restored_in_its_photograph(here, task):
    options: tuple[str, ...] = ()
    if task == "colorize":
        Image.open("photo.png").convert("L").save("photo.png")
        options = "--task", "colorize"
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


def test_every_face_is_restored_and_said(here):
    scene((32, 10, 100)).resize((400, 300)).save("two.png")
    result = frugal(*RESTORE, "two.png", "--align", "--samples", "2")
    assert result.exit_code == 0, result.output
    assert "2 faces, " in result.output
    first, second = frames_of("two.restored.png")
    before = pixels("two.png")
    for name in ("two.restored.png", "two.restored.sample-2.png"):
        changed = (pixels(name) != before).any(axis=-1)
        for (rows, columns), (y, x) in ((first, (138, 204)), (second, (238, 52))):
            assert rows.start < y < rows.stop
            assert columns.start < x < columns.stop
            assert changed[rows, columns].mean() > 0.3
        changed[first], changed[second] = False, False
        assert not changed.any()


def test_a_call_restores_faces_as_the_command_does(here):
    scene((32, 10, 100)).resize((400, 300)).save("two.png")
    assert frugal(*RESTORE, "two.png", "--align").exit_code == 0
    with Restorer.load("framed.plan") as restorer:
        for given in ("two.png", np.asarray(Image.open("two.png"))):
            result = restorer(given, align=True, steps=4)
            np.testing.assert_array_equal(np.asarray(result.image), pixels("two.restored.png"))
            assert "2 faces, " in result.because[0]


def test_each_face_is_restored_as_it_would_be_alone(here, monkeypatch):
    faces = Face(102, 69, 50, 30), Face(30, 40, 20, 9)
    find(monkeypatch, *faces)
    frugal(*RESTORE, "photo.png", "--align", "-o", "both.png")
    for i, face in enumerate(faces):
        find(monkeypatch, face)
        frugal(*RESTORE, "photo.png", "--align", "-o", f"{i}.png")
        np.testing.assert_array_equal(
            pixels("both.png")[frame_of(f"{i}.png")], pixels(f"{i}.png")[frame_of(f"{i}.png")]
        )


def test_the_settings_in_a_picture_repeat_it(here):
    noise = 12 * np.random.default_rng(0).standard_normal((300, 400, 3))
    noisy = np.clip(np.asarray(scene((32, 10, 100)).resize((400, 300))) + noise, 0, 255)
    Image.fromarray(noisy.astype(np.uint8)).save("two.png")
    assert frugal(*RESTORE, "two.png", "--align", "--seed", "3").exit_code == 0
    settings = json.loads(Image.open("two.restored.png").text["frugal-rt"])
    large, small = settings["faces"]
    assert settings["sigma"] == large["sigma"]
    assert small["sigma"] / large["sigma"] == pytest.approx(large["frame"][2] / small["frame"][2], rel=0.15)
    result = frugal("restore", "--params", "two.restored.png", "-o", "again.png")
    assert result.exit_code == 0, result.output
    np.testing.assert_array_equal(pixels("again.png"), pixels("two.restored.png"))
    assert json.loads(Image.open("again.png").text["frugal-rt"])["faces"] == [large, small]


def test_a_grey_picture_s_face_is_denoised_and_coloured_only_as_asked(here):
    Image.open("photo.png").convert("L").save("grey.png")
    result = frugal(*RESTORE, "grey.png", "--align")
    assert "grey.png: denoise (" in result.output
    assert "grey stays grey: --task colorize colours it; the face" in result.output
    assert Image.open("grey.restored.png").mode == "L"


def test_so_many_faces_of_a_crowd_are_restored_and_the_largest(framed_plan, monkeypatch):
    photo = photo_of(scene())
    find(monkeypatch, *(Face(5 * i, 60, 12 + i, 20) for i in range(MOST + 3)))
    aligned = align.align(photo, Plan.open(framed_plan), Damage())
    sides = [face.frame.side for face in aligned.faces]
    assert len(sides) == MOST
    assert sides == sorted(sides, reverse=True)
    assert sides[0] == round((12 + MOST + 2) / 0.8)
    assert f"{MOST} of {MOST + 3} faces, " in aligned.faces[0].measurement.because
    assert aligned.faces[0].measurement.because.endswith(f"; and {MOST - 3} smaller")


def test_faces_too_small_for_the_prior_are_left_and_refused_alone(framed_plan, monkeypatch):
    photo, plan = photo_of(scene()), Plan.open(framed_plan)
    small, large = Face(20, 20, 2.4, 9), Face(102, 69, 50, 30)
    find(monkeypatch, small, large)
    assert len(align.align(photo, plan, Damage()).faces) == 1
    find(monkeypatch, small)
    with pytest.raises(InputError, match="has 3 pixels a side, too few for framed, which needs 4;"):
        align.align(photo, plan, Damage())


def test_faces_with_nothing_missing_are_left_where_missing_pixels_are_filled_in(framed_plan, monkeypatch):
    mask = np.zeros((150, 200), bool)
    mask[60:66, 100:110] = True
    find(monkeypatch, Face(30, 40, 60, 30), Face(102, 69, 50, 30))
    aligned = align.align(photo_of(scene()), Plan.open(framed_plan), Damage(mask=mask))
    assert [face.frame for face in aligned.faces] == [Frame.around(Face(102, 69, 50, 30), SHARES, 16)]


def test_noise_is_the_photograph_s_and_less_in_a_frame_that_shrinks(here, framed_plan):
    plan = Plan.open(framed_plan)
    photo = photo_of(scene())
    noise = 0.3 * np.random.default_rng(0).standard_normal(photo.pixels.shape)
    noisy = replace(photo, pixels=np.float32(photo.pixels + noise))
    (face,) = align.align(noisy, plan, Damage()).faces
    clean = face.frame.cut(photo, 16).pixels
    assert face.measurement.task == "denoise"
    assert face.sigma == pytest.approx(0.3, rel=0.1)
    assert face.measurement.sigma == pytest.approx(0.3 * 16 / face.frame.side, rel=0.1)
    assert (face.measurement.y - clean).std() == pytest.approx(face.measurement.sigma, rel=0.15)
    (named,) = align.align(noisy, plan, Damage(sigma=0.2)).faces
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
    refused("no pixel of a face's frame is missing", "photo.png", "--align", "--mask", "corner.png")
    refused("so none can be aligned; use -e celeba --align", "photo.png", "--align", "-e", "tiny.plan")
    faces._detector.cache_clear()
    monkeypatch.setitem(sys.modules, "skimage.feature", None)
    refused("pip install 'frugal-rt[align]'", "photo.png", "--align")
    with pytest.raises(MissingExtra):
        faces.find_faces(read_photo(PORTRAIT))


@pytest.mark.parametrize(("size", "found"), [((200, 150), True), ((40, 30), False)])
def test_a_prior_of_framed_faces_says_so_of_larger_pictures_and_of_align_where_one_is(here, size, found):
    advice = "framed knows whole faces framed in one way, and does poorly elsewhere"
    scene().resize(size).save("photo.png")
    for way in (("--fit", "crop"), ()):
        result = frugal(*RESTORE, "photo.png", *way, "--noise", "10", "--method", "dmps", "--force")
        assert result.stderr.splitlines().count(advice + ": see --align" * found) == 1
    assert advice not in frugal(*RESTORE, "photo.png", "--align", "--force").stderr
    assert advice not in frugal(*RESTORE, "-e", "tiny.plan", "photo.png", "--fit", "crop", "--force").stderr
    Image.open("photo.png").resize((16, 16)).save("small.png")
    assert advice not in frugal(*RESTORE, "small.png").stderr


def test_of_a_folder_it_is_said_once_and_without_the_detector_too(here, monkeypatch):
    faces._detector.cache_clear()
    monkeypatch.setitem(sys.modules, "skimage.feature", None)
    for name in ("a.png", "b.png"):
        scene().save(name)
    result = frugal(*RESTORE, "a.png", "b.png", "--fit", "crop", "--noise", "10", "--method", "dmps", "-o", "out")
    assert result.exit_code == 0, result.output
    assert result.stderr.splitlines() == [
        "2 pictures by framed, 4 steps each",
        "a.png: framed knows whole faces framed in one way, and does poorly elsewhere",
    ]


@pytest.mark.parametrize("content", ['{"side": 1}', '{"centre": [0.5], "side": 1}', '{"centre": [0.5, 2], "side": 1}'])
def test_a_framing_that_is_none_is_refused(make_prior, content):
    folder = make_prior()
    (folder / "framing.json").write_text(content)
    with pytest.raises(InputError, match="must hold shares of the image"):
        read_prior(folder)
