"""Where `frugal-rt restore` writes its pictures, and as what: by the suffix, by --format, by a second name."""

import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from frugal_rt.runtime.offline.folder import FolderRestorer
from frugal_rt.runtime.pictures import formats
from frugal_rt.runtime.pictures.formats import read_settings

from ..commands import frugal, refuses, runs

RESTORE = ("restore", "-e", "tiny.plan", "--steps", "4")
WRITTEN = ("x.png", "x.jpg", "x.JPEG", "x.webp", "x.tif", "x.tiff")


def pixels(path: str) -> np.ndarray:
    return np.asarray(Image.open(path))


@pytest.mark.parametrize("name", WRITTEN)
def test_the_suffix_says_the_format_and_params_finds_the_settings(here, name):
    runs(*RESTORE, "clean.png", "-o", name, "--seed", "5")
    runs(*RESTORE, "clean.png", "-o", "plain.png", "--seed", "5")
    with Image.open(name) as written:
        assert written.format == formats.PICTURES[Path(name).suffix.lower()]
    near = np.abs(pixels(name).astype(int) - pixels("plain.png"))
    assert near.max() <= (40 if written.format == "JPEG" else 0)
    assert read_settings(Path(name))["seed"] == 5
    runs("restore", "--params", name, "-o", "again.png")
    np.testing.assert_array_equal(pixels("again.png"), pixels("plain.png"))


@pytest.mark.parametrize("name", ["x.jpg", "x.webp", "x.tif"])
def test_params_checks_what_it_finds_in_every_format(here, name):
    runs(*RESTORE, "clean.png", "-o", name)
    Image.new("RGB", (16, 16), "red").save("clean.png")
    refuses(f"images: the file is another one than {name} was made with", "restore", "--params", name, "-o", "y.png")
    Image.new("RGB", (16, 16), "red").save(name)
    refuses(f"{name} does not say how it was restored", "restore", "--params", name, "-o", "y.png")


def test_samples_and_a_folder_s_pictures_are_of_the_format_asked_for(here):
    said = json.loads(runs(*RESTORE, "clean.png", "-o", "x.tif", "--samples", "2", "--json").stdout)
    assert said["restored"][0]["outputs"] == ["x.tif", "x.sample-1.tif", "x.sample-2.tif", "x.deviation.tif"]
    assert read_settings(Path("x.deviation.tif"))["white"] > 0
    Path("photos").mkdir()
    for name in ("a.png", "b.png"):
        Image.open("clean.png").save(Path("photos", name))
    runs(*RESTORE, "photos", "-o", "out", "--format", "webp")
    assert sorted(path.name for path in Path("out").iterdir()) == ["a.webp", "b.webp"]
    assert "2 were there" in runs(*RESTORE, "photos", "-o", "out", "--format", "webp", "--resume").output
    runs(*RESTORE, "clean.png", "--format", "jpg")
    assert Image.open("clean.restored.jpg").format == "JPEG"


def test_a_format_and_a_name_that_contradict_each_other(here):
    refuses("--format jpg is for pictures that", *RESTORE, "clean.png", "-o", "x.png", "--format", "jpg", status=2)
    refuses("must end in .png or .jpg", *RESTORE, "clean.png", "-o", "x.bmp", "--format", "jpg")
    runs(*RESTORE, "clean.png", "-o", "x.jpeg", "--format", "jpg")


def test_of_two_names_the_second_is_the_output_where_it_is_not_there(here):
    runs(*RESTORE, "clean.png", "new.jpg")
    assert Image.open("new.jpg").format == "JPEG"
    assert read_settings(Path("new.jpg"))["params"]["options"]["images"] == ["clean.png"]
    runs("restore", "--params", "new.jpg", "-o", "again.png")
    refuses("there is no file nothing.png", *RESTORE, "nothing.png", "other.png")


def test_a_second_name_that_is_there_is_a_picture_to_restore(here):
    Image.open("clean.png").save("other.png")
    before = Path("other.png").read_bytes()
    refuses("other.png is there, so it is a picture to restore: name a folder", *RESTORE, "clean.png", "other.png")
    assert "2 restored" in runs(*RESTORE, "clean.png", "other.png", "-o", "out").output
    assert Path("other.png").read_bytes() == before


def test_a_missing_second_name_is_an_error_where_the_output_is_named(here):
    result = frugal(*RESTORE, "clean.png", "typo.png", "-o", "out")
    assert result.exit_code == 1
    assert "there is no file typo.png" in result.stderr
    assert not Path("typo.png").exists()
    refuses("x.png is named as a picture; several go into a folder", *RESTORE, "clean.png", "typo.png", "-o", "x.png")
    refuses("say where the restored pictures go", *RESTORE, "clean.png", "typo.npy")


@pytest.mark.parametrize("name", WRITTEN)
def test_a_full_disk_and_a_folder_that_may_not_be_written_leave_what_was_there(here, name, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    def denied(self, *args):
        raise PermissionError(13, "Permission denied")

    Path(name).write_bytes(b"mine")
    files = sorted(here.iterdir())
    with monkeypatch.context() as patched:
        patched.setattr("os.fsync", full)
        refuses(f"cannot write {name}: the disk is full", *RESTORE, "clean.png", "-o", name, "--force")
    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", denied)
        refuses(f"cannot write {name}: Permission denied", *RESTORE, "clean.png", "-o", name, "--force")
    assert Path(name).read_bytes() == b"mine"
    assert sorted(here.iterdir()) == files


@pytest.mark.parametrize("name", WRITTEN)
def test_ctrl_c_leaves_what_was_there(here, name, monkeypatch):
    whole = FolderRestorer._together

    def interrupted(self, pictures, on_step):
        os.kill(os.getpid(), signal.SIGINT)
        return whole(self, pictures, on_step)

    monkeypatch.setattr(FolderRestorer, "_together", interrupted)
    Path(name).write_bytes(b"mine")
    files = sorted(here.iterdir())
    result = frugal(*RESTORE, "clean.png", "-o", name, "--force")
    assert (result.exit_code, "Stopped." in result.stderr) == (130, True)
    assert Path(name).read_bytes() == b"mine"
    assert sorted(here.iterdir()) == files
