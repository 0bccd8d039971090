"""frugal-rt eval: its figures against hand computations, what it keeps and resumes, what it refuses."""

import csv
import io
import json
import sys
import tarfile
import types
import urllib.error
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from frugal_rt import ExportError, InputError, Restorer
from frugal_rt.cli import main
from frugal_rt.engines.onnxruntime.lpips import Lpips
from frugal_rt.export.lpips import CONVOLUTIONS, PACKAGE_NAMES, POOLED, build_lpips, from_package, verify_lpips
from frugal_rt.runtime.evaluation.calibration import STRIDE, coverage, draw
from frugal_rt.runtime.evaluation.contender import Outcome, Refused
from frugal_rt.runtime.evaluation.deepinv import Basis, DeepInvMethod, to_unit_range
from frugal_rt.runtime.evaluation.evaluate import Evaluation
from frugal_rt.runtime.evaluation.picture_set import PictureSet, read_pictures
from frugal_rt.runtime.evaluation.report import markdown, paired, results
from frugal_rt.runtime.evaluation.ssim import load_ssim
from frugal_rt.runtime.evaluation.suite import TASKS, measure
from frugal_rt.runtime.operators import Custom, Denoise
from frugal_rt.runtime.sampling.psnr import psnr

SHAPE = (3, 16, 16)
QUICK = ("eval", "-e", "tiny.plan", "--images", "faces", "--steps", "3")
FIGURES = ("psnr", "ssim", "lpips")


@pytest.fixture
def here(tmp_path, monkeypatch, tiny_plan) -> Path:
    """A folder with the tiny plan and `faces`, three 16x16 pictures, to work in."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.plan").symlink_to(tiny_plan)
    (tmp_path / "faces").mkdir()
    random = np.random.default_rng(0)
    for name in ("b.png", "a.jpg", "c.webp"):
        levels = random.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(levels).resize((16, 16), Image.Resampling.BICUBIC).save(f"faces/{name}")
    Path("faces/notes.txt").write_text("not a picture")
    return tmp_path


@pytest.fixture
def restored(monkeypatch) -> list[tuple]:
    """Every call of Restorer.restore: the operator's name, the switch and the seed."""
    calls = []
    real = Restorer.restore

    def restore(self, y, operator, **settings):
        calls.append((operator.name, settings["switch"], settings["seed"]))
        return real(self, y, operator, **settings)

    monkeypatch.setattr(Restorer, "restore", restore)
    return calls


def frugal(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments, catch_exceptions=False)


def runs(*arguments: str) -> Result:
    result = frugal(*arguments)
    assert result.exit_code == 0, result.output
    return result


def refuses(sentence: str, *arguments: str, status: int = 1) -> None:
    """One line that holds `sentence`, the given status, nothing written."""
    before = sorted(Path.cwd().rglob("*"))
    result = frugal(*arguments)
    assert result.exit_code == status, result.output
    assert sentence in result.stderr.replace("\n", " "), result.output
    assert sorted(Path.cwd().rglob("*")) == before
    if status == 1:
        assert sum(line.startswith("Error: ") for line in result.stderr.splitlines()) == 1


class Blur:
    """A contender that gives back what it is asked for plus noise of a known deviation; it counts its calls."""

    def __init__(self, images, deviation=0.1, name="blur", refuse=()):
        self.images, self.deviation, self.name, self.refuse, self.calls = images, deviation, name, refuse, []

    def events(self, images):
        return 1

    def restore(self, y, operator, sigma, seed, sample, on_step):
        if operator.name in self.refuse:
            raise Refused("not with me")
        self.calls.append((operator.name, seed, sample))
        noise = np.random.default_rng([seed, sample]).standard_normal(self.images.shape)
        n = len(y)
        return Outcome((self.images + self.deviation * noise).astype(np.float32), [None] * n, [4] * n, [2] * n, 6.0)


def test_every_task_by_every_method_comes_out_as_json_and_as_a_table(here):
    result = runs(*QUICK, "--json", "r.json")
    report = json.loads(Path("r.json").read_text())
    assert set(report) == {"rows", "run"}
    assert [(row["task"], row["method"]) for row in report["rows"]] == [
        (task, method)
        for task in ("denoise", "box", "outpaint", "sr4", "sr16", "colorize", "gaussian")
        for method in ("dps", "dmps", "hybrid")
    ]
    for row in report["rows"]:
        assert row["lpips"] is None
        assert row["lpips_se"] is None
        assert row["calls"] == row["forwards"] == 3
        assert row["gradients"] == {"dps": 3, "dmps": 0, "hybrid": 1}[row["method"]]  # of 2, 1, 0: at 2
        assert (row["images"], row["seeds"]) == (3, 1)
        assert {"psnr", "psnr_se", "ssim", "ssim_se", "seconds"} <= row.keys()
    assert {row["method"]: row["k"] for row in report["rows"]}["dmps"] == 3
    assert report["run"]["images"]["names"] == ["a.jpg", "b.png", "c.webp"]
    assert report["run"]["settings"] == {"steps": 3}
    assert "| super-resolution x4 | dps |" in result.stdout
    assert "inpainting, 6x6 hole" in result.stdout
    assert "Hybrid minus DPS, paired by image:" in result.stdout
    assert str(here) not in result.stdout + Path("r.json").read_text()
    assert sorted(path.name for path in here.iterdir()) == ["faces", "r.json", "tiny.plan"]


def test_a_figure_is_that_of_restoring_by_hand(here):
    runs(*QUICK, "--tasks", "sr4", "--methods", "dps", "--seeds", "2", "--zeta", "0.5", "-o", "out")
    rows = list(csv.DictReader(io.StringIO(Path("out/rows.csv").read_text())))
    images = read_pictures("faces", SHAPE).images
    operator, restorer, ssim = TASKS["sr4"].operator(SHAPE), Restorer.load("tiny.plan"), load_ssim()
    for seed in (0, 1):
        y = measure(operator, images, 0.01, seed)
        result = restorer.restore(y, operator, sigma=0.01, steps=3, switch="never", zeta=0.5, seed=seed)
        mine = [row for row in rows if row["seed"] == str(seed)]
        assert [row["image"] for row in mine] == ["a.jpg", "b.png", "c.webp"]
        assert [float(row["psnr"]) for row in mine] == psnr(result.image, images).tolist()
        assert [float(row["ssim"]) for row in mine] == ssim(result.image, images).tolist()
    report = json.loads(Path("out/results.json").read_text())
    by_image = np.array([float(row["psnr"]) for row in rows]).reshape(2, 3).mean(axis=0)
    assert report["rows"][0]["psnr"] == pytest.approx(by_image.mean())
    assert report["rows"][0]["psnr_se"] == pytest.approx(by_image.std(ddof=1) / np.sqrt(3))


def test_settings_reach_the_method_they_are_for(here, monkeypatch):
    seen = {}
    real = Restorer.restore

    def restore(self, y, operator, **settings):
        seen[settings["switch"]] = settings
        return real(self, y, operator, **settings)

    monkeypatch.setattr(Restorer, "restore", restore)
    runs(*QUICK, "--tasks", "sr4", "--switch", "1", "--lambda", "0.7", "--sigma", "0.2")
    assert set(seen) == {"never", "always", "1"}
    assert "guidance" not in seen["1"]
    for settings in seen.values():
        assert (settings["sigma"], settings["lam"], settings["steps"]) == (0.2, 0.7, 3)
        assert "zeta" not in settings
    runs(*QUICK, "--tasks", "sr4", "--every", "3")
    assert seen["auto"]["every"] == 3
    assert "every" not in seen["never"]
    assert "every" not in seen["always"]
    runs(*QUICK, "--tasks", "sr4", "--guidance", "official")
    assert {seen[switch]["guidance"] for switch in ("never", "always", "auto")} == {"official"}


def test_a_finished_run_is_not_run_again_and_more_may_be_added(here, restored):
    first = runs(*QUICK, "--tasks", "sr4,denoise", "--methods", "dps", "-o", "out")
    rows = Path("out/rows.csv").read_text()
    assert len(restored) == 2
    assert sorted(p.name for p in Path("out").iterdir()) == [
        "pictures",
        "results.json",
        "rows.csv",
        "run.json",
        "sheet.png",
        "summary.md",
    ]
    sheet = Path("out/sheet.png").read_bytes()
    again = runs(*QUICK, "--tasks", "sr4,denoise", "--methods", "dps", "-o", "out", "--json", "r.json")
    assert len(restored) == 2
    assert Path("out/rows.csv").read_text() == rows
    assert Path("out/sheet.png").read_bytes() == sheet
    assert again.stdout == first.stdout == Path("out/summary.md").read_text()
    assert Path("r.json").read_text() == Path("out/results.json").read_text()
    runs(*QUICK, "--tasks", "sr4", "--methods", "dps,dmps", "--seeds", "2", "-o", "out")
    assert restored[2:] == [("sr", "always", 0), ("sr", "never", 1), ("sr", "always", 1)]
    assert Path("out/rows.csv").read_text().startswith(rows)
    found = json.loads(Path("out/results.json").read_text())["rows"]
    assert [(row["task"], row["method"], row["seeds"]) for row in found] == [
        ("denoise", "dps", 1),
        ("sr4", "dps", 2),
        ("sr4", "dmps", 2),
    ]


def test_an_interrupted_run_loses_the_group_under_way_only(here, restored, monkeypatch):
    real = Restorer.restore
    arguments = (*QUICK, "--tasks", "box,sr4", "--methods", "dps", "--seeds", "2", "-o", "out")

    def interrupted(self, y, operator, **settings):
        if (operator.name, settings["seed"]) == ("sr", 0):
            raise KeyboardInterrupt
        return real(self, y, operator, **settings)

    monkeypatch.setattr(Restorer, "restore", interrupted)
    assert frugal(*arguments).exit_code == 130
    assert restored == [("inpaint", "never", 0), ("inpaint", "never", 1)]
    assert not Path("out/results.json").exists()
    monkeypatch.setattr(Restorer, "restore", real)
    runs(*arguments)
    assert restored[2:] == [("sr", "never", 0), ("sr", "never", 1)]
    resumed = Path("out/rows.csv").read_text()
    runs(*arguments[:-1], "whole")
    figures = [
        [row[name] for row in csv.DictReader(io.StringIO(text)) for name in ("image", "psnr", "ssim")]
        for text in (resumed, Path("whole/rows.csv").read_text())
    ]
    assert figures[0] == figures[1]


def test_another_run_is_refused_and_replaced_by_force(here, restored):
    arguments = (*QUICK, "--tasks", "sr4", "--methods", "dps", "-o", "out")
    runs(*arguments)
    for other, name in (
        (("--steps", "4"), "settings"),
        (("--zeta", "1"), "settings"),
        (("--sigma", "0.1"), "sigma"),
        (("--count", "2"), "images"),
        (("--samples", "2"), "samples"),
        (("--backend", "torch"), "backend"),
    ):
        refuses(f"out holds a run of another {name}; name another folder, or --force to start over", *arguments, *other)
    levels = np.asarray(Image.open("faces/b.png")).copy()
    levels[0, 0] ^= 1
    Image.fromarray(levels).save("faces/b.png")
    refuses("a run of another images", *arguments)
    runs(*arguments, "--steps", "4", "--force")
    assert json.loads(Path("out/run.json").read_text())["settings"] == {"steps": 4}
    assert len(Path("out/rows.csv").read_text().splitlines()) == 4
    Path("out/rows.csv").write_text("task,method\nsr4\n")
    refuses("out is damaged", *arguments, "--steps", "4")
    Path("mine").mkdir()
    Path("mine/thesis.txt").write_text("precious")
    refuses("mine holds thesis.txt and no evaluation", *arguments[:-1], "mine")


def test_wrong_inputs_are_one_sentence(here, tmp_path):
    Image.new("RGB", (20, 16), "red").save(tmp_path / "wide.png")
    Path("wide").mkdir()
    Path("wide.png").rename("wide/w.png")
    Path("empty").mkdir()
    Path("clear").mkdir()
    Image.new("RGBA", (16, 16)).save("clear/c.png")
    Path("taken.json").write_text("mine")
    Path("text.onnx").write_text("hello")
    engine = QUICK[:3]
    refuses("say what to evaluate: --engine PLAN and --images DIR", "eval")
    refuses("there is no task 'sharpen'; choose out of denoise, box,", *QUICK, "--tasks", "sr4,sharpen")
    refuses("there is no method 'ddnm'; choose out of dps, dmps, hybrid", *QUICK, "--methods", "ddnm")
    refuses("there is no folder or .tar none", *engine, "--images", "none")
    refuses("there are no pictures in empty", *engine, "--images", "empty")
    refuses("neither a folder of pictures nor an uncompressed .tar", *engine, "--images", "faces/a.jpg")
    refuses("w.png is 20x16, and this prior makes 16x16; give", *engine, "--images", "wide")
    refuses("c.png has transparent pixels", *engine, "--images", "clear")
    refuses("taken.json exists", *QUICK, "--json", "taken.json")
    refuses("must end in .json", *QUICK, "--json", "r.csv")
    refuses("0..2", *QUICK, "--sigma", "9")
    refuses("steps must lie in 2..1000", *QUICK, "--steps", "1")
    refuses("there is no file none.onnx; make one with", *QUICK, "--lpips", "none.onnx")
    refuses("text.onnx is not an ONNX file that onnxruntime can load", *QUICK, "--lpips", "text.onnx")
    refuses("run it alone", *QUICK, "--fetch-lpips", "new.onnx")
    refuses("must end in .onnx", "eval", "--fetch-lpips", "new.plan")
    refuses("--switch is for the hybrid", *QUICK, "--methods", "dps", "--switch", "3", status=2)
    refuses("--every is for the hybrid", *QUICK, "--methods", "dps,dmps", "--every", "3", status=2)
    refuses("--samples", *QUICK, "--samples", "1", status=2)
    refuses("--seeds", *QUICK, "--seeds", "0", status=2)


@pytest.mark.parametrize(
    ("module", "sentence", "more"),
    [
        ("skimage.metrics", "pip install 'frugal-rt[eval]'", ()),
        ("deepinv", "--vs deepinv needs deepinv", ("--vs", "deepinv")),
    ],
)
def test_what_is_not_installed_is_named_before_anything_runs(here, monkeypatch, module, sentence, more):
    monkeypatch.setitem(sys.modules, module, None)
    refuses(sentence, *QUICK, *more)


@pytest.mark.parametrize("how", ["crop", "resize"])
def test_fit_brings_pictures_to_size(here, how):
    Image.new("RGB", (30, 20), "red").save("faces/z.png")
    assert read_pictures("faces", SHAPE, fit=how).images.shape == (4, *SHAPE)


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


def test_tasks_scale_with_the_prior():
    at_64 = {name: task.operator((3, 64, 64)) for name, task in TASKS.items()}
    assert at_64["box"].settings["missing"] == 24 * 24
    assert at_64["outpaint"].settings["missing"] == 64 * 64 - 40 * 40
    assert (at_64["sr4"].scale, at_64["sr16"].scale) == (4, 16)
    assert at_64["colorize"].weights == "rec601"
    taps = at_64["gaussian"].taps
    positions = np.arange(len(taps)) - len(taps) // 2
    assert np.sqrt((taps * positions**2).sum()) == pytest.approx(2, abs=0.01)
    assert [name for name, task in TASKS.items() if task.sigma != 0.01] == ["denoise"]
    assert TASKS["box"].operator((3, 256, 256)).settings["missing"] == 96 * 96
    assert TASKS["gaussian"].title((3, 256, 256)) == "Gaussian deblur, std 8 px"


@pytest.mark.parametrize(("side", "window"), [(16, 7), (6, 5), (4, 3)])
def test_ssim_is_scikit_images(side, window):
    from skimage.metrics import structural_similarity

    a, b = np.clip(np.random.default_rng(0).standard_normal((2, 2, 3, side, side)), -1.5, 1.5).astype(np.float32)
    expected = [
        structural_similarity(
            np.clip(x, -1, 1).transpose(1, 2, 0),
            np.clip(y, -1, 1).transpose(1, 2, 0),
            win_size=window,
            channel_axis=-1,
            data_range=2,
        )
        for x, y in zip(a, b, strict=True)
    ]
    np.testing.assert_allclose(load_ssim()(a, b), expected, rtol=1e-6)
    np.testing.assert_allclose(load_ssim()(a, a), 1)


def made_up() -> list[dict]:
    """Two images, DPS with seeds 0 and 1, the hybrid with seed 0 and 1 too, of values that differ by image and seed."""
    values = {("dps", 0): (20, 30), ("dps", 1): (22, 34), ("hybrid", 0): (21, 33), ("hybrid", 1): (25, 35)}
    return [
        {"task": "sr4", "method": method, "seed": seed, "image": image, "psnr": float(value), "ssim": value / 100}
        | {"lpips": None, "k": 5.0, "forwards": 10, "gradients": 5, "seconds": 4.0 if method == "dps" else 3.0}
        for (method, seed), pair in values.items()
        for image, value in zip("ab", pair, strict=True)
    ]


RUN = {"prior": "p", "backend": "b", "images": {"count": 2}, "settings": {"steps": 10}, "sigma": None, "samples": None}


def test_differences_are_paired_by_image():
    """DPS (21, 32), hybrid (23, 34): +2 and +2 on average, so the gap has no spread though the images have much."""
    gap = paired(made_up(), "hybrid", "dps")["sr4"]
    assert gap["psnr"] == (2.0, 0.0)
    assert gap["lpips"] == (None, None)
    assert gap["time"] == 0.75
    rows = results(made_up(), {})["rows"]
    assert [(row["method"], row["psnr"]) for row in rows] == [("dps", 26.5), ("hybrid", 28.5)]
    assert [row["psnr_se"] for row in rows] == pytest.approx([5.5, 5.5])
    page = markdown(made_up(), RUN, (3, 64, 64))
    assert "| super-resolution x4 | +2.00 +- 0.00 | +0.0200 +- 0.0000 |  | x0.75 |" in page
    assert "|  | hybrid | 28.50 +- 5.50 | 0.2850 +- 0.0550 |  | 5 | 10 | 5 | 3.00 |" in page


def test_only_common_seeds_are_paired():
    """With the hybrid's seed 1 gone: (21 - 20, 33 - 30), mean 2, standard error 1."""
    rows = [row for row in made_up() if (row["method"], row["seed"]) != ("hybrid", 1)]
    assert paired(rows, "hybrid", "dps")["sr4"]["psnr"] == (2.0, pytest.approx(1.0))
    assert paired(rows[:4], "hybrid", "dps") == {}


def test_one_image_has_no_standard_error_and_an_infinite_psnr_is_null():
    rows = [row | {"psnr": np.inf} for row in made_up() if row["image"] == "a"]
    report = results(rows, {})
    assert report["rows"][0]["psnr"] is None
    assert report["rows"][0]["ssim_se"] is None
    json.loads(json.dumps(report, allow_nan=False))


def test_a_refusal_leaves_that_row_out_and_says_so():
    images = np.zeros((2, *SHAPE), np.float32)
    notes = []
    evaluation = Evaluation(PictureSet(("a", "b"), images), [Blur(images, refuse=("sr",))], ["sr4", "denoise"])
    groups = list(evaluation.groups(on_note=notes.append))
    assert [group.key for group in groups] == [("denoise", "blur", 0)]
    assert notes == ["sr4 by blur is left out: not with me"]
    assert groups[0].rows[1]["image"] == "b"
    assert groups[0].rows[1]["seconds"] == 3.0
    assert groups[0].rows[1]["psnr"] == pytest.approx(10 * np.log10(4 / 0.01), abs=0.3)


@pytest.mark.parametrize("samples", [4, 64])
def test_coverage_of_samples_drawn_as_the_truth_is_that_of_students_t(samples):
    from scipy import stats

    random = np.random.default_rng(1)
    spread = random.uniform(0.1, 1, (2, 3, 64, 64))
    centre = random.standard_normal(spread.shape)
    clean = centre + spread * random.standard_normal(spread.shape)
    images = centre + spread * random.standard_normal((samples, *spread.shape))
    found = coverage(clean, images.mean(0), images.std(0, ddof=1), samples)
    for n, gauss in ((1, 0.683), (2, 0.954)):
        expected = 2 * stats.t.cdf(n, samples - 1) - 1
        np.testing.assert_allclose(found[f"coverage{n}"], expected, atol=0.02)
        assert samples < 64 or abs(expected - gauss) < 0.005
    error = np.abs(clean - images.mean(0)).reshape(2, -1)
    expected = [np.corrcoef(e, s.ravel())[0, 1] for e, s in zip(error, images.std(0, ddof=1), strict=True)]
    np.testing.assert_allclose(found["correlation"], expected)
    assert (found["correlation"] > 0.2).all()


def test_samples_have_keys_of_their_own_and_costs_that_add_up():
    images = np.zeros((2, *SHAPE), np.float32)
    blur = Blur(images)
    outcome, deviation = draw(blur, images, Denoise(SHAPE), 0.1, 7, 3, lambda event: None)
    assert blur.calls == [("denoise", 7, 0), ("denoise", 7, STRIDE), ("denoise", 7, 2 * STRIDE)]
    drawn = np.stack([0.1 * np.random.default_rng([7, j * STRIDE]).standard_normal(images.shape) for j in range(3)])
    np.testing.assert_allclose(outcome.images, drawn.mean(0), atol=1e-6)
    np.testing.assert_allclose(deviation, drawn.std(0, ddof=1), atol=1e-6)
    assert (outcome.forwards, outcome.gradients, outcome.seconds) == ([12, 12], [6, 6], 18.0)
    assert outcome.k == [None, None]
    with pytest.raises(InputError, match="at least 2 samples"):
        draw(blur, images, Denoise(SHAPE), 0.1, 7, 1, lambda event: None)


def test_samples_through_the_command(here, restored):
    arguments = (*QUICK, "--tasks", "sr4", "--methods", "dmps", "--samples", "3", "--count", "2", "-o", "out")
    result = runs(*arguments)
    assert len(restored) == 3
    (row,) = json.loads(Path("out/results.json").read_text())["rows"]
    assert row["calls"] == 9
    assert row["k"] == 3
    assert 0 <= row["coverage1"] <= row["coverage2"] <= 1
    assert {"coverage1_se", "correlation"} <= row.keys()
    assert "within 1 (Gaussian: 0.683)" in result.stdout
    again = runs(*arguments)
    assert len(restored) == 3
    assert again.stdout == result.stdout


def random_lpips(bias: float = 0.0) -> dict[str, np.ndarray]:
    """Weights of the right shapes, scaled so that features neither die nor grow."""
    random = np.random.default_rng(0)
    weights = {"shift": np.array([-0.03, -0.088, -0.188]), "scale": np.array([0.458, 0.448, 0.45])}
    shapes = ((64, 3, 11), (192, 64, 5), (384, 192, 3), (256, 384, 3), (256, 256, 3))
    for i, (out, taken, side) in enumerate(shapes):
        fan = taken * side * side
        weights[f"conv{i + 1}_weight"] = random.standard_normal((out, taken, side, side)) * np.sqrt(2 / fan)
        weights[f"conv{i + 1}_bias"] = 0.1 * random.standard_normal(out) + bias
        weights[f"lin{i}"] = random.uniform(0, 1, out)
    return {name: array.astype(np.float32) for name, array in weights.items()}


def torch_lpips(weights):
    """The architecture again, in torch: (image, reference) -> (N, 1, 1, 1), and the package's state dict."""
    import torch

    class Module(torch.nn.Module):
        def forward(self, image, reference):
            w = {name: torch.from_numpy(array) for name, array in weights.items()}
            total = 0
            for i, (f, g) in enumerate(zip(self.features(image, w), self.features(reference, w), strict=True)):
                f, g = (one / (one.pow(2).sum(1, keepdim=True).sqrt() + 1e-10) for one in (f, g))
                weighted = (w[f"lin{i}"].view(1, -1, 1, 1) * (f - g) ** 2).sum(1, keepdim=True)
                total = total + weighted.mean((2, 3), keepdim=True)
            return total

        def features(self, x, w):
            x = (x - w["shift"].view(1, 3, 1, 1)) / w["scale"].view(1, 3, 1, 1)
            for i, (stride, padding) in enumerate(CONVOLUTIONS):
                if i in POOLED:
                    x = torch.nn.functional.max_pool2d(x, 3, 2)
                kernel, bias = w[f"conv{i + 1}_weight"], w[f"conv{i + 1}_bias"]
                x = torch.relu(torch.nn.functional.conv2d(x, kernel, bias, stride, padding))
                yield x

        def state_dict(self):
            names = {"scaling_layer.shift": "shift", "scaling_layer.scale": "scale"}
            for i, name in enumerate(PACKAGE_NAMES):
                names |= {f"net.{name}.weight": f"conv{i + 1}_weight", f"net.{name}.bias": f"conv{i + 1}_bias"}
                names[f"lin{i}.model.1.weight"] = f"lin{i}"
            state = {theirs: torch.from_numpy(weights[ours]) for theirs, ours in names.items()}
            for i in range(5):
                state[f"lin{i}.model.1.weight"] = state[f"lin{i}.model.1.weight"].view(1, -1, 1, 1)
            state["scaling_layer.shift"] = state["scaling_layer.shift"].view(1, 3, 1, 1)
            state["scaling_layer.scale"] = state["scaling_layer.scale"].view(1, 3, 1, 1)
            return state

    return Module()


def test_the_lpips_graph_is_the_architecture():
    weights = random_lpips()
    module = torch_lpips(weights)
    assert verify_lpips(build_lpips(weights).SerializeToString(), module) < 1e-5
    off = {**weights, "lin4": weights["lin4"] + 0.1}
    with pytest.raises(ExportError, match="away from the package's LPIPS; nothing was written"):
        verify_lpips(build_lpips(off).SerializeToString(), module)


def test_where_no_feature_fires_the_distance_is_0(tmp_path):
    (tmp_path / "l.onnx").write_bytes(build_lpips(random_lpips(bias=-1e3)).SerializeToString())
    a, b = np.random.default_rng(0).uniform(-1, 1, (2, 20, 3, 32, 32)).astype(np.float32)
    np.testing.assert_array_equal(Lpips(tmp_path / "l.onnx")(a, b), np.zeros(20))


def test_the_lpips_file_is_made_from_the_package(here, monkeypatch):
    module = torch_lpips(random_lpips())
    package = types.SimpleNamespace(LPIPS=lambda net, verbose: module)
    monkeypatch.setitem(sys.modules, "lpips", package)
    assert "against the lpips package" in runs("eval", "--fetch-lpips", "l.onnx").output
    refuses("LPIPS compares colour images of at least 32x32, and this prior's are 3x16x16", *QUICK, "--lpips", "l.onnx")
    refuses("l.onnx exists", "eval", "--fetch-lpips", "l.onnx")
    state = module.state_dict()
    monkeypatch.setattr(module, "state_dict", lambda: {n: t for n, t in state.items() if "slice3" not in n})
    refuses("this version of lpips has no net.slice3.6.weight", "eval", "--fetch-lpips", "other.onnx")

    def offline(net, verbose):
        raise urllib.error.URLError("no route")

    package.LPIPS = offline
    refuses("is this machine online?", "eval", "--fetch-lpips", "other.onnx")
    monkeypatch.setitem(sys.modules, "lpips", None)
    refuses("run: pip install lpips", "eval", "--fetch-lpips", "other.onnx")


def test_a_graph_that_is_no_lpips_is_refused(tmp_path):
    import onnx

    model = build_lpips(random_lpips())
    model.graph.output[0].name = "distance"
    model.graph.node[-1].output[0] = "distance"
    onnx.save(model, tmp_path / "l.onnx")
    with pytest.raises(InputError, match=r"takes image, reference and gives distance; an LPIPS file takes"):
        Lpips(tmp_path / "l.onnx")


def test_the_authors_example_pair(data):
    distance = Lpips(data / "metrics" / "lpips_alex.onnx")
    pictures = {
        name: np.asarray(
            Image.open(data / "metrics" / f"lpips-example-{name}.png").convert("RGB"), np.float32
        ).transpose(2, 0, 1)[None]
        / 127.5
        - 1
        for name in ("ref", "p0", "p1")
    }
    for name, expected in (("p0", 0.7219), ("p1", 0.1376)):
        assert distance(pictures["ref"], pictures[name])[0] == pytest.approx(expected, abs=2e-4)


def test_our_graph_of_the_data_folders_weights_is_that_file(data, tmp_path):
    import onnx
    from onnx import numpy_helper

    theirs = data / "metrics" / "lpips_alex.onnx"
    stored = {i.name: numpy_helper.to_array(i) for i in onnx.load(theirs).graph.initializer}
    weights = {name: stored[name] for name in random_lpips()}
    (tmp_path / "ours.onnx").write_bytes(build_lpips(weights).SerializeToString())
    a, b = np.random.default_rng(0).uniform(-1, 1, (2, 3, 3, 64, 64)).astype(np.float32)
    a[2] = b[2]
    np.testing.assert_allclose(Lpips(tmp_path / "ours.onnx")(a, b), Lpips(theirs)(a, b), atol=1e-5)


@pytest.mark.parametrize("kind", ["numpy", "torch"])
@pytest.mark.parametrize("task", TASKS)
def test_the_basis_handed_to_deepinv_holds_all_of_an_image(task, kind):
    operator = TASKS[task].operator(SHAPE)
    basis = Basis(operator)
    x = np.random.default_rng(0).standard_normal((2, *SHAPE))
    y = np.random.default_rng(1).standard_normal((2, *operator.measurement_shape))
    like = np.zeros((1, *operator.measurement_shape))
    if kind == "torch":
        import torch

        x, y, like = (torch.from_numpy(one) for one in (x, y, like))
    s, values = basis.V_adjoint(x), basis.values(like)
    np.testing.assert_allclose(basis.V(s), x, atol=1e-12)
    np.testing.assert_allclose((s**2).sum(1), (x**2).reshape(2, -1).sum(1))
    np.testing.assert_allclose(basis.U(values * s), operator.A(x), atol=1e-9)
    np.testing.assert_allclose(basis.V(values * basis.U_adjoint(y)), operator.AT(y), atol=1e-9)
    basis.U_adjoint(y)[:] = 0
    assert (y != 0).any()


@pytest.mark.parametrize("task", TASKS)
def test_a_measurement_on_the_unit_range_is_that_of_the_same_picture(task):
    operator = TASKS[task].operator(SHAPE)
    x = np.random.default_rng(0).uniform(-1, 1, (2, *SHAPE)).astype(np.float32)
    np.testing.assert_allclose(to_unit_range(operator.A(x), operator), operator.A((x + 1) / 2), atol=1e-5)


def test_missing_pixels_are_0_on_the_unit_range_and_grey_stays_grey():
    box, grey = TASKS["box"].operator(SHAPE), TASKS["colorize"].operator(SHAPE)
    white, black = np.ones((1, *SHAPE), np.float32), -np.ones((1, *SHAPE), np.float32)
    missing = np.broadcast_to(box.missing, white.shape)
    for picture, level in ((white, 1), (black, 0)):
        y = to_unit_range(box.A(picture), box)
        np.testing.assert_array_equal(y[missing], 0)
        np.testing.assert_array_equal(y[~missing], level)
        np.testing.assert_allclose(to_unit_range(grey.A(picture), grey), level, atol=1e-6)


class Library:
    """deepinv's place taken: two network calls an image, the result its seed."""

    version = "0"

    def __init__(self):
        import torch

        self.network, self.seeds = torch.nn.Identity(), []

    def sample(self, sampler, y, operator, sigma, steps, seed):
        if isinstance(operator, Custom):
            raise Refused("no decomposition")
        if sampler == "ddrm":
            raise ValueError("shapes\ndiffer")
        self.seeds.append(seed)
        for _ in range(steps):
            self.network(0)
        return np.full(SHAPE, 3.0, np.float32)


def test_a_rivals_calls_are_counted_and_its_seeds_are_an_images_own():
    library, events, y = Library(), [], np.zeros((3, *SHAPE), np.float32)
    found = DeepInvMethod(library, "dps", 2).restore(y, Denoise(SHAPE), 0.1, 5, 0, events.append)
    assert (found.forwards, found.gradients, found.k) == ([2, 2, 2], [2, 2, 2], [None] * 3)
    assert len(events) == DeepInvMethod(library, "dps", 2).events(3) == 6
    assert found.images.max() == 1
    assert len(set(library.seeds)) == 3
    assert all(0 < seed < 2**32 for seed in library.seeds)
    DeepInvMethod(library, "diffpir", 2).restore(y[:1], Denoise(SHAPE), 0.1, 5, 2, events.append)
    assert library.seeds[3] == library.seeds[2]
    assert not library.network._forward_hooks


def test_a_rival_that_fails_is_refused_and_ctrl_c_is_not():
    y = np.zeros((1, *SHAPE), np.float32)

    def stop(event):
        raise KeyboardInterrupt

    with pytest.raises(Refused, match=r"deepinv 0 failed: shapes$"):
        DeepInvMethod(Library(), "ddrm", 2).restore(y, Denoise(SHAPE), 0.1, 0, 0, lambda event: None)
    custom = Custom(SHAPE, SHAPE, lambda x: x, lambda x, r: r)
    with pytest.raises(Refused, match=r"^no decomposition$"):
        DeepInvMethod(Library(), "dps", 2).restore(y, custom, 0.1, 0, 0, lambda event: None)
    with pytest.raises(KeyboardInterrupt):
        DeepInvMethod(Library(), "dps", 2).restore(y, Denoise(SHAPE), 0.1, 0, 0, stop)


def test_the_package_state_is_renamed():
    weights = random_lpips()
    renamed = from_package({name: tensor.numpy() for name, tensor in torch_lpips(weights).state_dict().items()})
    for name, array in weights.items():
        np.testing.assert_array_equal(renamed[name].reshape(array.shape), array)
