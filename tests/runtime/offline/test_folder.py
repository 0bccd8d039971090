"""Many pictures and many samples from the command line, options used again, the trajectory, and what files carry."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image, ImageCms, ImageSequence

from frugal_rt.cli import main
from frugal_rt.engines import DivergedError
from frugal_rt.runtime.offline import folder
from frugal_rt.runtime.pictures.images import SETTINGS_KEY, read_photo
from frugal_rt.runtime.restorer import Restorer

RESTORE = ("restore", "-e", "tiny.plan", "--steps", "4")


@pytest.fixture
def here(tmp_path, monkeypatch, tiny_plan) -> Path:
    """The tiny plan, and a folder with three pictures for three tasks."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.plan").symlink_to(tiny_plan)
    Path("photos").mkdir()
    random = np.random.default_rng(0)
    for name, shape in {"a.png": (16, 16, 3), "b.png": (16, 16), "c.jpg": (4, 4, 3)}.items():
        Image.fromarray(random.integers(0, 256, shape, dtype=np.uint8)).save(Path("photos") / name)
    return tmp_path


def frugal(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments, catch_exceptions=False)


def pixels(path: str) -> np.ndarray:
    return np.asarray(Image.open(path))


def test_a_folder_is_restored_as_its_pictures_are_alone(here):
    Path("photos/notes.txt").write_text("not a picture")
    result = frugal(*RESTORE, "photos", "-o", "out")
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in Path("out").iterdir()) == ["a.png", "b.png", "c.png"]
    for task in ("denoise", "colorize", "sr"):
        assert f"; {task} (" in result.output
    assert "3 restored, 0 failed, 0 were there" in result.output
    for name in ("a.png", "b.png", "c.jpg"):
        assert frugal(*RESTORE, f"photos/{name}", "-o", "alone.png", "--force").exit_code == 0
        np.testing.assert_array_equal(pixels("alone.png"), pixels(f"out/{Path(name).stem}.png"))


def test_patterns_and_names_are_taken_once_each(here):
    result = frugal(*RESTORE, "photos/*.png", "photos/a.png", "-o", "out")
    assert "2 restored" in result.output
    assert {path.name for path in Path("out").iterdir()} == {"a.png", "b.png"}
    assert "no file fits photos/*.bmp" in frugal(*RESTORE, "photos/*.bmp", "-o", "out").output


def test_a_folder_is_made_with_the_first_result(here, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(folder.FolderRestorer, "_together", interrupted)
    assert frugal(*RESTORE, "photos", "-o", "out/deep").exit_code == 130
    assert not Path("out").exists()


def test_one_that_fails_is_told_at_the_end_and_stops_no_other(here):
    Path("photos/b.png").write_bytes(b"broken")
    Image.new("RGB", (30, 20), "red").save("photos/large.png")
    result = frugal(*RESTORE, "photos", "-o", "out", "--json")
    assert result.exit_code == 1
    said = json.loads(result.stdout)
    assert [one["image"] for one in said["restored"]] == ["photos/a.png", "photos/c.jpg"]
    assert [one["image"] for one in said["failed"]] == ["photos/b.png", "photos/large.png"]
    assert "starts from 16x16" in said["failed"][1]["error"]
    assert "photos/b.png: b.png is not a picture" in result.stderr
    assert sorted(path.name for path in Path("out").iterdir()) == ["a.png", "c.png"]


def test_one_that_diverges_does_not_take_those_in_its_batch_along(here, monkeypatch):
    whole = Restorer.results

    def results(self, groups, *more, **named):
        if any(group[0].operator.name == "colorize" for group in groups):
            raise DivergedError("left the finite numbers")
        return whole(self, groups, *more, **named)

    monkeypatch.setattr(Restorer, "results", results)
    result = frugal(*RESTORE, "photos", "-o", "out")
    assert result.exit_code == 1
    assert "2 restored, 1 failed" in result.output
    assert "photos/b.png: left the finite numbers" in result.stderr


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


def test_two_pictures_never_share_an_output(here):
    Image.new("RGB", (16, 16), "red").save("photos/a.jpg")
    assert "4 restored" in frugal(*RESTORE, "photos", "-o", "out").output
    assert {"a.png.png", "a.jpg.png"} <= {path.name for path in Path("out").iterdir()}
    Path("more").mkdir()
    Image.new("RGB", (16, 16), "red").save("more/a.png")
    assert "would both become a.png.png" in frugal(*RESTORE, "photos/a.png", "more/a.png", "-o", "out").output
    assert "would be replaced by its restoration" in frugal(*RESTORE, "photos", "-o", "photos", "--force").output
    assert "for one picture" in frugal(*RESTORE, "photos", "-o", "out", "--video", "x.gif").output


def test_batches_are_bounded(here, monkeypatch):
    monkeypatch.setattr(folder, "TOGETHER", 4)
    seen, whole = [], Restorer.results

    def results(self, groups, *more, **named):
        seen.append([len(group) for group in groups])
        return whole(self, groups, *more, **named)

    monkeypatch.setattr(Restorer, "results", results)
    assert frugal(*RESTORE, "photos", "-o", "out", "--samples", "2").exit_code == 0
    assert seen == [[2, 2], [2]]


def test_samples_are_their_own_restorations_with_their_mean_and_deviation(here):
    result = frugal(*RESTORE, "photos/b.png", "-o", "b.png", "--samples", "3", "--json")
    assert result.exit_code == 0, result.output
    outputs = ["b.png", "b.sample-1.png", "b.sample-2.png", "b.sample-3.png", "b.deviation.png"]
    assert json.loads(result.stdout)["restored"][0]["outputs"] == outputs
    assert frugal(*RESTORE, "photos/b.png", "-o", "alone.png").exit_code == 0
    np.testing.assert_array_equal(pixels("alone.png"), pixels("b.sample-1.png"))
    draws = np.stack([pixels(f"b.sample-{i}.png").astype(float) for i in (1, 2, 3)])
    assert draws.std(axis=0).max() > 1
    assert np.abs(pixels("b.png") - draws.mean(axis=0)).max() <= 1
    spread = np.sqrt(np.square(draws.std(axis=0, ddof=1) / 127.5).mean(axis=-1))
    shown = Image.open("b.deviation.png")
    white = json.loads(shown.text[SETTINGS_KEY])["white"]
    np.testing.assert_allclose(np.asarray(shown) / 255 * white, spread, atol=white / 255 + 2 / 127.5)
    Path("b.png").unlink()
    refused = frugal(*RESTORE, "photos/b.png", "-o", "b.png", "--samples", "2")
    assert refused.exit_code == 1
    assert "b.sample-1.png exists" in refused.stderr


def test_options_are_used_again_from_a_file_and_from_a_picture(here):
    asked = ("--task", "sr", "--scale", "4", "--method", "dmps", "--seed", "7", "--sigma", "0.05")
    assert frugal(*RESTORE, "photos/c.jpg", *asked, "-o", "first.png", "--save-params", "p.json").exit_code == 0
    for params in ("p.json", "first.png"):
        if params == "first.png":  # which names no folder: its files are looked for beside it, then here
            Path("c.jpg").write_bytes(Path("photos/c.jpg").read_bytes())
        result = frugal("restore", "--params", params, "-o", "again.png", "--force")
        assert result.exit_code == 0, result.output
        np.testing.assert_array_equal(pixels("first.png"), pixels("again.png"))
    assert frugal("restore", "--params", "p.json", "--seed", "8", "-o", "other.png").exit_code == 0
    assert (pixels("first.png") != pixels("other.png")).any()
    assert "photos" not in Image.open("first.png").text[SETTINGS_KEY]


def test_options_used_again_check_the_files_they_name(here):
    mask = np.zeros((16, 16), np.uint8)
    mask[3:7, 3:9] = 255
    Image.fromarray(mask).save("mask.png")
    assert (
        frugal(*RESTORE, "photos/a.png", "--mask", "mask.png", "-o", "x.png", "--save-params", "p.json").exit_code == 0
    )
    Image.fromarray(255 - mask).save("mask.png")
    again = ("restore", "--params", "p.json", "-o", "y.png")
    refused = frugal(*again)
    assert refused.exit_code == 1
    assert "mask: the file is another one than p.json was made with" in refused.stderr
    assert frugal(*again, "--mask", "mask.png").exit_code == 0


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("{}", "holds no options"),
        ("hello", "holds no options of a restoration"),
        ('{"options": {"scal": 4}}', "restore has no option 'scal'; did you mean scale?"),
        (
            '{"options": {"engine": "tiny.plan", "images": ["photos/a.png"], "steps_": "many"}}',
            "is not a valid integer",
        ),
    ],
)
def test_wrong_options_in_a_file_are_one_sentence(here, content, sentence):
    Path("p.json").write_text(content)
    result = frugal("restore", "--params", "p.json")
    assert result.exit_code != 0
    assert sentence in result.stderr
    assert "does not say how it was restored" in frugal("restore", "--params", "photos/a.png").stderr


def test_the_trajectory_is_written_as_pictures_and_as_an_animation(here):
    asked = (*RESTORE, "photos/a.png", "-o", "a.png", "--save-steps", "steps", "--video", "a.gif")
    assert frugal(*asked).exit_code == 0
    assert sorted(path.name for path in Path("steps").iterdir()) == [f"step-{left:04d}.png" for left in range(4)]
    with Image.open("a.gif") as animation:
        shown = [(frame.info["duration"], frame.convert("RGB")) for frame in ImageSequence.Iterator(animation)]
    assert sum(duration for duration, _ in shown) == 5500  # a last frame that is the one before is one with it
    frames = [frame for _, frame in shown]
    assert np.abs(np.asarray(frames[-1])[::16, ::16].astype(int) - pixels("a.png")).mean() < 4
    assert frames[0].size == (256, 256)
    refused = frugal(*RESTORE, "photos/a.png", "-o", "new.png", "--save-steps", "steps")
    assert refused.exit_code == 1
    assert "steps holds files already" in refused.stderr


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


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_name_the_command(shell):
    result = frugal("completion", shell)
    assert result.exit_code == 0
    assert "_FRUGAL_RT_COMPLETE" in result.output


def test_every_answer_can_be_had_as_json(here, make_prior):
    exported = json.loads(frugal("export", "--weights", str(make_prior()), "-o", "mine.plan", "--json").stdout)
    assert (exported["output"], exported["shape"]) == ("mine.plan", [3, 8, 8])
    assert [one["backend"] for one in json.loads(frugal("doctor", "--json").stdout)["backends"]]
    said = json.loads(frugal("degrade", "photos/a.png", "--task", "sr", "--scale", "4", "-o", "y.png", "--json").stdout)
    assert said == {"output": "y.png", "operator": {"name": "sr", **said["operator"]}, "shape": [3, 4, 4]}
    one = json.loads(frugal(*RESTORE, "y.png", "--json").stdout)["restored"][0]
    assert (one["task"], one["outputs"], one["forwards"]) == ("sr", ["y.restored.png"], [4])
    shown = json.loads(frugal("demo", "-e", "tiny.plan", "--steps", "4", "-o", "shown", "--json").stdout)["rows"]
    assert [(row["task"], row["method"]) for row in shown[:2]] == [("super-resolution x4", m) for m in ("dps", "dmps")]
    for row in (one, shown[0], shown[1]):
        assert row["forwards"] == [4]
        assert row["seconds"] > 0
    assert [row["gradients"] for row in shown[:2]] == [[4], [0]]
