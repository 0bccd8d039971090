"""Many pictures and many samples from the command line."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from frugal_rt.engines import DivergedError
from frugal_rt.runtime.offline import folder
from frugal_rt.runtime.pictures.images import SETTINGS_KEY
from frugal_rt.runtime.restorer import Restorer

from ...commands import frugal

RESTORE = ("restore", "-e", "tiny.plan", "--steps", "4")


@pytest.fixture
def here(three_pictures) -> Path:
    return three_pictures


def pixels(path: str) -> np.ndarray:
    return np.asarray(Image.open(path))


def test_a_folder_is_restored_as_its_pictures_are_alone(here):
    Path("photos/notes.txt").write_text("not a picture")
    result = frugal(*RESTORE, "photos", "-o", "out")
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in Path("out").iterdir()) == ["a.png", "b.png", "c.png"]
    for said in ("; denoise (", "grey stays grey", "; sr ("):
        assert said in result.output
    assert "3 restored, 0 failed, 0 were there" in result.output
    for name in ("a.png", "b.png", "c.jpg"):
        assert frugal(*RESTORE, f"photos/{name}", "-o", "alone.png", "--force").exit_code == 0
        np.testing.assert_array_equal(pixels("alone.png"), pixels(f"out/{Path(name).stem}.png"))


def test_patterns_and_names_are_taken_once_each(here):
    result = frugal(*RESTORE, "photos/*.png", "photos/a.png", "-o", "out")
    assert "2 restored" in result.output
    assert {path.name for path in Path("out").iterdir()} == {"a.png", "b.png"}
    assert "no file fits photos/*.bmp" in frugal(*RESTORE, "photos/*.bmp", "-o", "out").output


def test_a_folder_takes_every_name_of_a_format_that_is_read_and_tells_of_the_others(here):
    picture = Image.fromarray(np.random.default_rng(1).integers(0, 256, (4, 4, 3), dtype=np.uint8))
    picture.save("photos/d.jfif", "JPEG")
    picture.save("photos/e.mpo", "MPO", save_all=True, append_images=[picture])
    for name in ("f.heic", "g.HEIC", "h.cr2"):
        (Path("photos") / name).write_bytes(b"no matter")
    result = frugal(*RESTORE, "photos", "-o", "out")
    assert "5 restored, 0 failed" in result.stdout
    assert {"d.png", "e.png"} <= {path.name for path in Path("out").iterdir()}
    told = "photos: 3 passed over, of formats that are not read (.cr2, .heic): f.heic, g.HEIC, h.cr2"
    assert told in result.stderr
    assert "e.mpo holds 2 pictures" in result.stderr
    assert "passed over" not in frugal(*RESTORE, "photos", "-o", "quiet", "-q").output


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tif"])
def test_what_this_program_restored_is_no_source_in_a_folder(here, suffix):
    Image.new("RGB", (16, 16), "red").save("photos/d.bmp")  # nothing is wrong with it, and it is written anew
    assert "3 restored, 1 left alone" in frugal(*RESTORE, "photos", "-o", "out", "--format", suffix).output
    for path in Path("out").iterdir():
        path.rename(Path("photos") / f"{path.stem}.restored.{suffix}")
    result = frugal(*RESTORE, "photos", "-o", "again")
    assert "3 restored, 1 left alone" in result.stdout
    assert "photos: 4 passed over, results of frugal-rt" in result.stderr
    assert {path.name for path in Path("again").iterdir()} == {"a.png", "b.png", "c.png", "d.png"}
    assert frugal(*RESTORE, f"photos/a.restored.{suffix}", "-o", "named.png").exit_code == 0
    assert "no pictures in again but 4 that were restored" in frugal(*RESTORE, "again", "-o", "x").output


def test_resume_into_the_folder_of_the_pictures_restores_nothing_twice(here):
    Path("photos/a.png").unlink()
    Path("photos/b.png").unlink()
    assert "1 restored" in frugal(*RESTORE, "photos", "-o", "photos").output
    assert "0 restored, 0 failed, 1 were there" in frugal(*RESTORE, "photos", "-o", "photos", "--resume").output
    assert {path.name for path in Path("photos").iterdir()} == {"c.jpg", "c.png"}


def test_one_that_fails_is_told_at_the_end_and_stops_no_other(here):
    Path("photos/b.png").write_bytes(b"broken")
    Image.new("RGBA", (16, 16)).save("photos/empty.png")  # nothing but missing pixels
    result = frugal(*RESTORE, "photos", "-o", "out", "--json")
    assert result.exit_code == 1
    said = json.loads(result.stdout)
    assert [one["image"] for one in said["restored"]] == ["photos/a.png", "photos/c.jpg"]
    assert [one["image"] for one in said["failed"]] == ["photos/b.png", "photos/empty.png"]
    assert "every pixel" in said["failed"][1]["error"]
    assert "photos/b.png: b.png is not a picture" in result.stderr
    assert sorted(path.name for path in Path("out").iterdir()) == ["a.png", "c.png"]


def test_one_that_diverges_does_not_take_those_in_its_batch_along(here, monkeypatch):
    whole = Restorer._finish

    def results(self, groups, *more, **named):
        if any(group[0].operator.name == "sr" for group in groups):
            raise DivergedError("left the finite numbers")
        return whole(self, groups, *more, **named)

    monkeypatch.setattr(Restorer, "_finish", results)
    result = frugal(*RESTORE, "photos", "-o", "out")
    assert result.exit_code == 1
    assert "2 restored, 1 failed" in result.output
    assert "photos/c.jpg: left the finite numbers" in result.stderr


def test_resume_restores_only_what_is_not_there(here):
    assert frugal(*RESTORE, "photos", "-o", "out").exit_code == 0
    before = pixels("out/b.png")
    Path("out/b.png").unlink()
    Path("out/a.png").write_bytes(b"left alone")
    refused = frugal(*RESTORE, "photos", "-o", "out")
    assert refused.exit_code == 1
    assert "a.png exists" in refused.stderr
    result = frugal(*RESTORE, "photos", "-o", "out", "--resume")
    assert "1 restored, 0 failed, 2 were there" in result.output
    np.testing.assert_array_equal(pixels("out/b.png"), before)
    assert Path("out/a.png").read_bytes() == b"left alone"
    assert "0 restored, 0 failed, 3 were there" in frugal(*RESTORE, "photos", "-o", "out", "--resume").output


def test_batches_are_bounded(here, monkeypatch):
    monkeypatch.setattr(folder, "TOGETHER", 4)
    seen, whole = [], Restorer._finish

    def results(self, groups, *more, **named):
        seen.append([len(group) for group in groups])
        return whole(self, groups, *more, **named)

    monkeypatch.setattr(Restorer, "_finish", results)
    assert frugal(*RESTORE, "photos", "-o", "out", "--samples", "2").exit_code == 0
    assert seen == [[2, 2], [2]]


def test_samples_are_their_own_restorations_with_their_mean_and_deviation(here):
    result = frugal(*RESTORE, "photos/a.png", "-o", "b.png", "--samples", "3", "--json")
    assert result.exit_code == 0, result.output
    outputs = ["b.png", "b.sample-1.png", "b.sample-2.png", "b.sample-3.png", "b.deviation.png"]
    assert json.loads(result.stdout)["restored"][0]["outputs"] == outputs
    assert frugal(*RESTORE, "photos/a.png", "-o", "alone.png").exit_code == 0
    np.testing.assert_array_equal(pixels("alone.png"), pixels("b.sample-1.png"))
    draws = np.stack([pixels(f"b.sample-{i}.png").astype(float) for i in (1, 2, 3)])
    assert draws.std(axis=0).max() > 1
    assert np.abs(pixels("b.png") - draws.mean(axis=0)).max() <= 1
    spread = np.sqrt(np.square(draws.std(axis=0, ddof=1) / 127.5).mean(axis=-1))
    shown = Image.open("b.deviation.png")
    white = json.loads(shown.text[SETTINGS_KEY])["white"]
    np.testing.assert_allclose(np.asarray(shown) / 255 * white, spread, atol=white / 255 + 2 / 127.5)
    Path("b.png").unlink()
    refused = frugal(*RESTORE, "photos/a.png", "-o", "b.png", "--samples", "2")
    assert refused.exit_code == 1
    assert "b.sample-1.png exists" in refused.stderr
