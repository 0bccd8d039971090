"""A restorer called with a picture: every kind of it, by the doors of the command line."""

import io
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from frugal_rt import FrugalError, InputError, Restorer
from frugal_rt.engines import KindError

from ..commands import frugal

SIDE = 24


@pytest.fixture(scope="module")
def whole(local_plan):
    """A restorer of pictures of any size."""
    return Restorer.load(local_plan)


def levels(shape=(SIDE, SIDE, 3), seed=0, noise=20.0):
    """A smooth noisy picture of uint8, (H, W, C) or (H, W)."""
    random = np.random.default_rng(seed)
    rough = random.integers(60, 200, (4, 4, *shape[2:]), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(rough).resize(shape[1::-1], Image.Resampling.BICUBIC), np.float32)
    return np.clip(np.round(smooth + noise * random.standard_normal(shape)), 0, 255).astype(np.uint8)


def floats(array):
    """(C, H, W) on [-1, 1], as a picture's file is read."""
    chw = np.atleast_3d(array).transpose(2, 0, 1).astype(np.float32) / np.float32(255)
    return chw * 2 - 1


def png(array, path="in.png"):
    Image.fromarray(array).save(path)
    return Path(path)


def pixels(picture):
    return np.asarray(Image.open(picture) if isinstance(picture, str) else picture)


@pytest.fixture
def here(tmp_path, monkeypatch, local_plan, tiny_plan):
    monkeypatch.chdir(tmp_path)
    Path("local.plan").symlink_to(local_plan)
    Path("tiny.plan").symlink_to(tiny_plan)
    return tmp_path


def by_command(*options, plan="local.plan"):
    assert frugal("restore", "-e", plan, "in.png", "-o", "out.png", "--force", *options).exit_code == 0
    return pixels("out.png")


ASKED = {
    "nothing": ([], {}),
    "noise": (["--noise", "25"], {"noise": 25}),
    "sigma": (["--sigma", "0.1", "--task", "denoise"], {"sigma": 0.1, "task": "denoise"}),
    "fidelity": (["--aim", "fidelity"], {"aim": "fidelity"}),
    "from noise": (["--steps", "6", "--seed", "3"], {"steps": 6, "seed": 3}),
    "dps": (["--steps", "6", "--method", "dps"], {"steps": 6, "method": "dps"}),
    "sr": (["--scale", "2", "--steps", "6"], {"scale": 2, "steps": 6}),
    "bicubic": (
        ["--scale", "2", "--filter", "bicubic", "--aim", "detail"],
        {"scale": 2, "filter": "bicubic", "aim": "detail"},
    ),
    "hole": (["--hole", "6x4", "--steps", "6"], {"hole": (6, 4), "steps": 6}),
    "mask": (["--mask", "mask.png", "--steps", "6"], {"mask": "mask.png", "steps": 6}),
    "blur": (
        ["--kernel", "gaussian:1", "--noise", "2", "--steps", "6"],
        {"kernel": "gaussian:1", "noise": 2, "steps": 6},
    ),
    "kernel of a file": (["--kernel", "k.npy", "--steps", "6"], {"kernel": np.eye(3), "steps": 6}),
    "grey": (["--task", "colorize", "--steps", "6"], {"task": "colorize", "steps": 6}),
}


@pytest.mark.parametrize("asked", ASKED)
def test_a_call_gives_the_pixels_that_the_command_writes(here, whole, asked):
    """By the file, a PIL image, an array of uint8, and floats of the same values, alone and in a batch."""
    array = levels()
    source = png(array)
    mask = np.zeros((SIDE, SIDE), bool)
    mask[5:9, 7:12] = True
    Image.fromarray(mask).save("mask.png")
    np.save("k.npy", np.eye(3))
    words, options = ASKED[asked]
    expected = by_command(*words)
    by_file = whole(str(source), **options)
    assert isinstance(by_file.image, Image.Image)
    np.testing.assert_array_equal(pixels(by_file.image), expected)
    np.testing.assert_array_equal(pixels(whole(source, **options).image), expected)
    np.testing.assert_array_equal(pixels(whole(Image.open(source), **options).image), expected)
    of_array = whole(array, **options)
    assert of_array.image.dtype == np.uint8
    np.testing.assert_array_equal(of_array.image, expected)
    tensor = torch.from_numpy(np.stack([floats(array)] * 2))
    of_tensor = whole(tensor, **options).image
    assert of_tensor.dtype == tensor.dtype
    assert of_tensor.shape == (2, 3, *expected.shape[:2])
    for row in of_tensor.numpy():
        written = np.round((np.clip(row, -1, 1) + 1) * 127.5).astype(np.uint8)
        np.testing.assert_array_equal(written.transpose(1, 2, 0), expected)


@pytest.mark.parametrize("fit", [None, "crop", "resize", "pad"])
def test_a_prior_of_one_size_takes_any_picture(here, tiny_plan, fit):
    png(levels((20, 14, 3)))
    expected = by_command("--noise", "20", *([] if fit is None else ["--fit", fit]), plan="tiny.plan")
    result = Restorer.load(tiny_plan)("in.png", noise=20, fit=fit)
    np.testing.assert_array_equal(pixels(result.image), expected)
    assert result.settings["fit"] == fit


def test_a_mask_is_a_file_a_picture_an_array_or_a_tensor(here, whole):
    array, mask = levels(), np.zeros((SIDE, SIDE), bool)
    mask[5:9, 7:12] = True
    Image.fromarray(mask).save("mask.png")
    kinds = ["mask.png", Image.open("mask.png"), mask, mask.astype(np.uint8), mask.astype(np.uint8) * 255, mask * 1.0]
    kinds += [torch.from_numpy(mask), torch.from_numpy(mask)[None, None].float()]
    first, *others = (whole(array, mask=one, steps=4).image for one in kinds)
    for other in others:
        np.testing.assert_array_equal(first, other)
    assert (first[mask] != array[mask]).any()
    with pytest.raises(InputError, match=r"values between 0 and 1; say .* mask > 0\.5"):
        whole(array, mask=mask * 0.5)
    with pytest.raises(InputError, match=r"the mask is of one channel, \(H, W\); got \(3, 4, 4\)"):
        whole(array, mask=np.zeros((3, 4, 4)))


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (lambda a: a, (SIDE, SIDE, 3)),
        (lambda a: a.transpose(2, 0, 1), (3, SIDE, SIDE)),
        (lambda a: a[None], (1, SIDE, SIDE, 3)),
        (lambda a: floats(a), (3, SIDE, SIDE)),
        (lambda a: floats(a).transpose(1, 2, 0), (SIDE, SIDE, 3)),
        (lambda a: floats(a)[None].astype(np.float64), (1, 3, SIDE, SIDE)),
        (lambda a: a[:, :, 0], (SIDE, SIDE)),
        (lambda a: a[:, :, :1], (SIDE, SIDE, 1)),
        (lambda a: floats(a)[0], (SIDE, SIDE)),
        (lambda a: floats(a)[:1], (1, SIDE, SIDE)),
    ],
)
def test_arrays_come_back_as_they_came(whole, make, shape):
    given = make(levels())
    before = given.copy()
    for kind in (np.asarray, torch.from_numpy):
        image = whole(kind(given.copy()), task="denoise", noise=20).image
        assert type(image) is type(kind(given))
        assert image.shape == shape
        assert image.dtype == kind(given).dtype
    np.testing.assert_array_equal(given, before)


def test_half_precision_and_gradients_of_tensors_are_no_hindrance(whole):
    tensor = torch.from_numpy(floats(levels()))
    for given in (tensor.half(), tensor.bfloat16(), tensor.clone().requires_grad_()):
        image = whole(given, noise=20).image
        assert (image.dtype, image.device) == (given.dtype, given.device)
        assert not image.requires_grad


def test_output_names_another_kind(here, whole):
    array = levels()
    source = png(array)
    expected = whole(source, noise=20).image
    as_array = whole(source, noise=20, output="array").image
    assert as_array.dtype == np.float32
    assert as_array.shape == (3, SIDE, SIDE)
    np.testing.assert_array_equal(np.round((as_array + 1) * 127.5).transpose(1, 2, 0), pixels(expected))
    as_tensor = whole(array, noise=20, output="tensor").image
    assert isinstance(as_tensor, torch.Tensor)
    np.testing.assert_array_equal(as_tensor.numpy(), pixels(expected))
    pictures = whole(torch.from_numpy(floats(array))[None], noise=20, output="pil").image
    assert [pixels(one).tobytes() for one in pictures] == [expected.tobytes()]
    with pytest.raises(InputError, match="there is no output 'jpeg'; choose one of pil, array, tensor"):
        whole(source, noise=20, output="jpeg")


def test_a_range_is_of_the_picture_its_noise_and_its_result(whole):
    array = floats(levels())
    expected = whole(array, sigma=0.1).image
    for low, high in ((0, 1), (0, 255), (-3, 5)):
        given = (array + 1) / 2 * (high - low) + low
        image = whole(given, sigma=0.1 * (high - low) / 2, range=(low, high)).image
        np.testing.assert_allclose((image - low) / (high - low) * 2 - 1, expected, atol=2e-4)
    wrong = r"range is the values of black and white, such as \(0, 1\); got "
    for range in ((1, 0), (0, 1, 2), "ab", (0, np.inf)):
        with pytest.raises(InputError, match=wrong):
            whole(array, sigma=0.1, range=range)
    with pytest.raises(InputError, match="range is for arrays and tensors of floats"):
        whole(Image.fromarray(levels()), range=(0, 1))


def test_floats_that_all_lie_in_0_to_1_are_warned_of_once(whole):
    array = (floats(levels()) + 1) / 2
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        for _ in range(3):
            whole(array, noise=5)
    said = [str(one.message) for one in caught]
    assert len(said) == 1
    assert said[0].startswith("the picture: all values lie in [0, 1], and are taken to be on [-1, 1]; if they are not")
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        whole(array, noise=5, range=(0, 1))
        whole(levels(), noise=5)
        whole(floats(levels()), noise=5)


def test_a_picture_in_which_nothing_is_wrong_is_as_it_came(here, whole):
    clean = levels(noise=0.0)
    source = png(clean)
    result = whole(source)
    np.testing.assert_array_equal(pixels(result.image), clean)
    assert result.unchanged == (True,)
    assert "nothing was found wrong" in result.because[0]
    assert (result.k, result.forwards, result.trace) == ((0,), (0,), ((),))
    np.testing.assert_array_equal(by_command(), clean)
    both = whole(np.stack([clean, levels()]))
    assert both.unchanged == (True, False)
    np.testing.assert_array_equal(both.image[0], clean)
    np.testing.assert_array_equal(both.image[1], whole(levels()).image)
    assert both.forwards == (0, 8)


def test_an_old_jpeg_and_the_damage_in_it_are_one_call(here, whole):
    """By the command line, by name and told by the file, and for several alike."""
    Image.fromarray(levels(noise=0)).save("in.jpg", quality=20)
    mask = np.zeros((SIDE, SIDE), bool)
    mask[5:9, 7:12] = True
    Image.fromarray(mask).save("mask.png")
    masked = whole("in.jpg", mask=mask)
    assert (masked.settings["task"], masked.settings["operator"]["missing"]) == ("jpeg", 20)
    assert "it was saved as a coarse JPEG" in masked.because[0]
    assert masked.forwards == (8,)
    Path("old").mkdir()
    Path("old/a.jpg").write_bytes(Path("in.jpg").read_bytes())
    for words, written in ((["in.jpg", "-o", "a.png"], "a.png"), (["old", "-o", "new"], "new/a.png")):
        assert frugal("restore", "-e", "local.plan", *words, "--mask", "mask.png").exit_code == 0
        np.testing.assert_array_equal(pixels(written), pixels(masked.image))
    by_name = whole("in.jpg", mask=mask, task="jpeg", method="hybrid", steps=6)
    assert (by_name.settings["operator"], by_name.settings["method"]) == (masked.settings["operator"], "hybrid")
    unmasked = np.float32(pixels(whole("in.jpg").image))
    apart = np.abs(pixels(masked.image) - unmasked)
    assert apart[mask].mean() > 1.5 * apart[~mask].mean()


def test_transparency_orientation_and_profile_are_heard(here, whole):
    array = np.dstack([levels(), np.full((SIDE, SIDE), 255, np.uint8)])
    array[4:8, 4:9, 3] = 0
    png(array)
    expected = by_command("--steps", "4")
    for given in ("in.png", Image.open("in.png"), array):
        result = whole(given, steps=4)
        np.testing.assert_array_equal(pixels(result.image), expected)
        assert "are missing" in result.because[0]
    profile, exif = b"\0" * 16 + b"RGB " + b"\0" * 108, Image.Exif()
    exif[0x0112] = 6
    exif[0x010F] = "a maker"
    Image.fromarray(levels((SIDE, 12, 3))).save("in.png", icc_profile=profile, exif=exif)
    turned = whole(Image.open("in.png"), noise=10).image
    np.testing.assert_array_equal(pixels(turned), by_command("--noise", "10"))
    assert turned.size == (SIDE, 12)
    file = io.BytesIO()
    turned.save(file, "PNG")
    kept = Image.open(file)
    assert kept.info["icc_profile"] == profile
    assert turned.getexif()[0x010F] == "a maker"


def test_a_call_leaves_the_caller_s_picture_open(here, whole):
    picture = Image.open(png(levels()))
    whole(picture, noise=10)
    np.testing.assert_array_equal(pixels(picture), levels())


def test_a_measurement_that_is_no_picture_is_an_array(tiny_plan):
    restorer = Restorer.load(tiny_plan)
    matrix = np.random.default_rng(0).standard_normal((40, 256)) / 16
    y = np.random.default_rng(1).standard_normal((3, 1, 40)).astype(np.float32)
    image = restorer(y, matrix=matrix, steps=4).image
    assert image.shape == (3, 16, 16)
    with pytest.raises(InputError, match="range is for pictures"):
        restorer(y, matrix=matrix, range=(0, 1))


@pytest.mark.parametrize(
    ("given", "options", "sentence", "kind"),
    [
        ("nothing.png", {}, "there is no file nothing.png", FileNotFoundError),
        (3, {}, "an array or a tensor; got int", TypeError),
        (None, {}, "a picture is a file's name, a PIL image, an array or a tensor; got NoneType", TypeError),
        (b"\x89PNG", {}, "got bytes", TypeError),
        (object(), {}, "an array or a tensor; got object", TypeError),
        ([[1, 2], [3]], {}, "an array or a tensor; got list", TypeError),
        (np.zeros((8, 8, 5), np.uint8), {}, "a picture has 1 or 3 channels", ValueError),
        (np.zeros((2, 2, 2, 2, 2), np.uint8), {}, r"a picture is \(H, W\)", ValueError),
        (np.zeros((0, 8, 8, 3), np.uint8), {}, "holds no picture", ValueError),
        (np.zeros((8, 8, 3), np.int64), {}, r"of int64, which says no scale; give uint8, .*=\(0, 255\)", ValueError),
        (np.zeros((8, 8, 3), complex), {}, "of complex128, which says no scale", ValueError),
        (np.full((3, 8, 8), 90.0), {}, r"must hold values on the \[-1, 1\] scale", ValueError),
        (levels(), {"tsk": "sr"}, "there is no option 'tsk'; did you mean task?", TypeError),
        (levels(), {"task": "deblurr"}, "there is no task 'deblurr'", ValueError),
        (levels(), {"task": 3}, "task is a word; got 3", TypeError),
        (levels(), {"scale": 2.5}, "scale is a whole number; got 2.5", TypeError),
        (levels(), {"hole": (3,)}, r"a size is a width and a height in pixels, .* got \(3,\)", ValueError),
        (levels(), {"noise": "much"}, "noise is in grey levels of 255", ValueError),
        (levels(), {"noise": 300}, "noise is in grey levels of 255, 0..255; got 300", ValueError),
        (levels(), {"sigma": []}, r"sigma is a number; got \[\]", TypeError),
        (levels(), {"sigma": 0.1, "noise": 3}, "say the same", ValueError),
        (levels(), {"preset": "quick"}, "there is no preset 'quick'", ValueError),
        (levels(), {"mask": "none.png"}, "there is no file none.png", FileNotFoundError),
        (levels(), {"hole": "4x4", "task": "denoise"}, "--hole does not go with denoise", ValueError),
    ],
)
def test_what_does_not_fit_is_the_error_that_is_expected(here, whole, given, options, sentence, kind):
    with pytest.raises(kind, match=sentence) as caught:
        whole(given, **options)
    assert isinstance(caught.value, FrugalError)
    assert "\n" not in str(caught.value)


def test_a_word_for_a_whole_number_is_refused_by_kind(whole):
    with pytest.raises(KindError):
        whole(levels(), scale="2")


def test_pictures_of_another_size_share_what_was_made_for_it(whole, monkeypatch):
    made, at = [], whole.at
    monkeypatch.setattr(whole, "at", lambda *size: made.append(size) or at(*size))
    whole._sized = None
    for shape in ((28, 20, 3), (28, 20, 3), (20, 28, 3)):
        whole(levels(shape), noise=20)
    assert made == [(28, 20), (20, 28)]
    wide = at(20, 28)
    np.testing.assert_array_equal(wide(levels(), noise=20).image, whole(levels(), noise=20).image)


def test_a_frame_of_a_file_is_restored_alone(here, whole):
    pages = [Image.fromarray(levels(seed=seed)) for seed in (1, 2)]
    pages[0].save("in.tif", save_all=True, append_images=pages[1:])
    expected = whole(np.asarray(pages[1]), noise=10).image
    result = whole("in.tif", noise=10, frame=2)
    np.testing.assert_array_equal(pixels(result.image), expected)
    assert result.notes == ()
    assert whole("in.tif", noise=10).notes == ("in.tif holds 2 pictures (frames or pages); only the first is read",)
    assert (
        frugal("restore", "-e", "local.plan", "in.tif", "--frame", "2", "--noise", "10", "-o", "o.png").exit_code == 0
    )
    np.testing.assert_array_equal(pixels("o.png"), expected)
    with pytest.raises(InputError, match="frame goes with the name of a file"):
        whole(pages[0], frame=1)
    with pytest.raises(TypeError, match="frame is a whole number; got '2'"):
        whole("in.tif", frame="2")


def test_a_clean_frame_is_passed_on_without_the_others(here, whole):
    pages = [Image.fromarray(levels(seed=seed, noise=0.0)) for seed in (1, 2)]
    pages[0].save("in.tif", save_all=True, append_images=pages[1:])
    assert frugal("restore", "-e", "local.plan", "in.tif", "--frame", "2", "-o", "o.tif").exit_code == 0
    with Image.open("o.tif") as written:
        assert written.n_frames == 1
        np.testing.assert_array_equal(pixels(written), pixels(pages[1]))
