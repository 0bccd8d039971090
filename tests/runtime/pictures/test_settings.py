"""The record of what was asked, and the settings of which it is a part."""

import hashlib
from pathlib import Path

import pytest

from frugal_rt.runtime.pictures.settings import alone, hashes, png_settings, record

PICTURE = hashlib.sha256(b"a picture").hexdigest()


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    Path("photos/a.png").write_bytes(b"a picture")
    return tmp_path


def test_hashes_are_those_of_files(here):
    assert hashes("photos/a.png") == [PICTURE]
    assert hashes(["photos/a.png", "photos", "photos/*.png", "gaussian:1.5", "nothing.png"]) == [PICTURE]


def test_a_record_leaves_out_what_has_no_hash():
    kept = record({"kernel": "gaussian:1"}, "weights", {"kernel": [], "mask": ("1",)})
    assert (kept["options"], kept["sha256"]) == ({"kernel": "gaussian:1"}, {"weights": "weights", "mask": ["1"]})


@pytest.mark.parametrize(
    ("kernel", "named"), [("gaussian:1.5", "gaussian:1.5"), ("motion:5,30", "motion:5,30"), ("far/k.png", "k.png")]
)
def test_a_picture_s_record_names_files_and_no_folder(here, kernel, named):
    options = {"engine": "plans/p.plan", "images": ["photos"], "mask": "far/m.png", "kernel": kernel, "seed": 7}
    kept = record(options, "w", {"mask": ["1"]})
    mine = alone(kept, Path("photos/a.png"))
    expected = {"engine": "p.plan", "images": ["a.png"], "mask": "m.png", "kernel": named, "seed": 7}
    assert mine["options"] == expected
    assert mine["sha256"] == {"weights": "w", "mask": ["1"], "images": [PICTURE]}
    assert (kept["options"], kept["sha256"]) == (options, {"weights": "w", "mask": ["1"]})


def test_a_face_is_its_frame_and_its_noise_and_several_samples_tell_the_first_k():
    kept, face = record({}, "w", {}), {"frame": [-3, 4, 64], "sigma": 0.02}
    settings = png_settings({"steps": 50, "sample": 3}, (7, 9), "denoise", "crop", kept, [face])
    assert (settings["steps"], settings["sample"], settings["k"], settings["samples"]) == (50, 3, 7, 2)
    assert (settings["faces"], settings["params"]) == ([face], kept)
    assert png_settings({}, (0,), "sr", None, kept)["faces"] == []
