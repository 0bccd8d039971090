"""read, write, to_pil and psnr: pictures as arrays, for callers."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import frugal_rt
from frugal_rt import FileError, InputError, psnr, read, to_pil, write
from frugal_rt.runtime.pictures.formats import is_restored


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def levels(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize("suffix", ["png", "tif", "webp", "npy"])
@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy])
def test_what_is_written_is_read(suffix, kind):
    image = levels(5, 7, 3).transpose(2, 0, 1).astype(np.float32) / np.float32(127.5) - 1
    write(f"x.{suffix}", kind(image))
    assert read(f"x.{suffix}").dtype == np.float32
    np.testing.assert_allclose(read(f"x.{suffix}"), image, atol=1e-6)


def test_what_is_missing_is_nan_here_and_transparent_there():
    image = np.zeros((3, 4, 4), np.float32)
    image[:, 1, 2] = np.nan
    write("x.png", image)
    assert np.asarray(Image.open("x.png"))[1, 2, 3] == 0
    np.testing.assert_array_equal(np.isnan(read("x.png")), np.isnan(image))


def test_a_size_is_cut_out_of_the_middle():
    array = levels(8, 16, 3)
    Image.fromarray(array).save("x.png")
    np.testing.assert_allclose((read("x.png", size=(8, 8)) + 1) * 127.5, array[:, 4:12].transpose(2, 0, 1), atol=1e-3)


def test_an_open_file_is_read():
    Image.fromarray(levels(8, 16, 3)).save("x.png")
    with Path("x.png").open("rb") as file:
        np.testing.assert_array_equal(read(file), read("x.png"))
    with pytest.raises(TypeError, match="a file of text was given"):
        read(io.StringIO("no picture"))
    with pytest.raises(InputError, match="the picture is not a picture"):
        read(io.BytesIO(b"no picture"))


def test_settings_make_a_file_known_for_restored():
    write("x.png", Image.fromarray(levels(4, 4, 3)))
    assert not is_restored(Path("x.png"))
    write("x.png", Image.fromarray(levels(4, 4, 3)), {"seed": 3})
    assert is_restored(Path("x.png"))


def test_pil_images_are_clipped_and_rounded():
    shown = np.asarray(to_pil(np.array([[-2.0, -1, 0, 1, 9]])))
    assert shown.tolist() == [[0, 0, 128, 255, 255]]
    assert to_pil(torch.zeros(3, 2, 5)).size == (5, 2)


def test_psnr_is_scikit_image_s():
    metrics = pytest.importorskip("skimage.metrics", reason="needs scikit-image (pip install 'frugal-rt[eval]')")
    a, b = (np.random.default_rng(seed).uniform(-1, 1, (2, 3, 5, 7)) for seed in (0, 1))
    assert psnr(a, torch.from_numpy(b)) == pytest.approx(metrics.peak_signal_noise_ratio(a, b, data_range=2))
    assert psnr(a, a) == np.inf


@pytest.mark.parametrize(
    ("call", "sentence", "kind"),
    [
        (lambda: read("none.png"), "there is no file none.png", FileNotFoundError),
        (
            lambda: write("x.bmp", np.zeros((4, 4))),
            r"x\.bmp: a picture ends in \.png, .* an array in \.npy",
            ValueError,
        ),
        (lambda: write("none/x.png", np.zeros((4, 4))), "cannot write", OSError),
        (lambda: to_pil(np.zeros((2, 3, 4, 4))), r"one at a time; got \(2, 3, 4, 4\)", ValueError),
        (lambda: to_pil(levels(4, 4)), "of uint8, and not of floats", TypeError),
        (lambda: to_pil("x.png"), "the image is a str, and no array", TypeError),
        (lambda: psnr(np.zeros(3), np.zeros(4)), r"got \(3,\) and \(4,\)", ValueError),
    ],
)
def test_what_does_not_fit_is_a_sentence(call, sentence, kind):
    with pytest.raises(kind, match=sentence) as caught:
        call()
    assert isinstance(caught.value, (InputError, FileError))


def test_names_of_the_package_bring_in_no_framework():
    assert {"read", "write", "to_pil", "psnr"} <= set(frugal_rt.__all__)
    assert not (Path(frugal_rt.__file__).parent / "io.py").exists()
