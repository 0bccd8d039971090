"""Restored pictures: where they go, and what they carry."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from frugal_rt.runtime.offline import folder
from frugal_rt.runtime.offline.outputs import Targets
from frugal_rt.runtime.pictures.images import read_photo

from ...commands import frugal

RESTORE = ("restore", "-e", "tiny.plan", "--steps", "4")


@pytest.fixture
def here(three_pictures) -> Path:
    return three_pictures


def test_a_folder_is_made_with_the_first_result(here, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(folder.FolderRestorer, "_together", interrupted)
    assert frugal(*RESTORE, "photos", "-o", "out/deep").exit_code == 130
    assert not Path("out").exists()


def test_two_pictures_never_share_an_output(here):
    Image.new("RGB", (16, 16), "red").save("photos/a.jpg")
    assert "3 restored, 1 left alone" in frugal(*RESTORE, "photos", "-o", "out").output
    assert {"a.png.png", "a.jpg.png"} <= {path.name for path in Path("out").iterdir()}
    Path("more").mkdir()
    Image.new("RGB", (16, 16), "red").save("more/a.png")
    assert "would both become a.png.png" in frugal(*RESTORE, "photos/a.png", "more/a.png", "-o", "out").output
    assert "would be replaced by its restoration" in frugal(*RESTORE, "photos", "-o", "photos", "--force").output
    assert "for one picture" in frugal(*RESTORE, "photos", "-o", "out", "--video", "x.gif").output


def test_profiles_and_exif_are_kept(here):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exif = Image.Exif()
    exif[0x010E], exif[0x0112] = "a house", 6
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8))
    photo.save("p.jpg", icc_profile=profile, exif=exif)
    assert frugal(*RESTORE, "p.jpg").exit_code == 0
    restored = Image.open("p.restored.png")
    assert restored.info["icc_profile"] == profile
    assert restored.getexif()[0x010E] == "a house"
    assert 0x0112 not in restored.getexif()  # the turn was made
    photo.convert("L").save("grey.jpg", icc_profile=profile)  # a profile that is not for grey
    assert read_photo("grey.jpg").metadata.icc_profile is None
    photo.convert("CMYK").save("cmyk.tif", icc_profile=profile)
    assert read_photo("cmyk.tif").metadata.icc_profile is None


def test_what_was_there_when_targets_were_settled_is_replaced_and_nothing_found_later(tmp_path):
    """Two processes that resume one folder restore a picture once, whenever each began."""
    out, sources = tmp_path / "out", [tmp_path / "a.png", tmp_path / "b.png"]
    out.mkdir()
    (out / "a.png").touch()
    settled = Targets.settle(sources, False, out, 1, resume=False, force=True)
    (out / "b.png").touch()
    assert settled.replaced == {sources[0]}
    assert Targets.settle(sources[:1], False, out, 1, resume=True, force=False).replaced == frozenset()
