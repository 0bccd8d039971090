"""Pictures of a folder or a .tar."""

import tarfile
from pathlib import Path

import pytest
from PIL import Image

from frugal_rt import InputError
from frugal_rt.runtime.evaluation.picture_set import read_pictures

SHAPE = (3, 16, 16)


@pytest.mark.parametrize("how", ["crop", "resize"])
def test_fit_brings_pictures_to_size(here, how):
    Image.new("RGB", (30, 20), "red").save("faces/z.png")
    assert read_pictures("faces", SHAPE, fit=how).images.shape == (4, *SHAPE)


def test_a_prior_of_any_size_takes_that_of_the_first(here):
    Image.new("RGB", (30, 20), "red").save("faces/0.png")
    assert read_pictures("faces", SHAPE, 1, any_size=True).images.shape == (1, 3, 20, 30)
    with pytest.raises(InputError, match=r"a\.jpg is 16x16, and the images evaluated are 30x20"):
        read_pictures("faces", SHAPE, any_size=True)
    assert read_pictures("faces", SHAPE, fit="resize", any_size=True).images.shape == (4, 3, 20, 30)


def test_a_tar_and_its_folder_are_the_same_set(here):
    with tarfile.open("faces.tar", "w") as tar:
        tar.add("faces")
        link = tarfile.TarInfo("faces/link.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/hostname"
        tar.addfile(link)
    a, b = read_pictures("faces", SHAPE, 2), read_pictures("faces.tar", SHAPE, 2)
    assert [Path(name).name for name in b.names] == list(a.names) == ["a.jpg", "b.png"]
    assert a.sha256 == b.sha256
    with tarfile.open("faces.tgz", "w:gz") as tar:
        tar.add("faces")
    with pytest.raises(InputError, match=r"uncompressed \.tar"):
        read_pictures("faces.tgz", SHAPE)


def test_a_large_member_is_refused_unread(here, monkeypatch):
    with tarfile.open("faces.tar", "w") as tar:
        tar.add("faces")
    monkeypatch.setattr("frugal_rt.runtime.evaluation.picture_set.MAX_BYTES", 10)
    monkeypatch.setattr("frugal_rt.runtime.evaluation.picture_set.decode_photo", None)
    with pytest.raises(InputError, match=r"a\.jpg has 0 MiB; pictures of up to 0 MiB are read"):
        read_pictures("faces.tar", SHAPE)
