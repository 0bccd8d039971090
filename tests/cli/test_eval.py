"""`frugal-rt eval`: what it prints and writes, what it refuses."""

import json
import sys
import types
import urllib.error
from pathlib import Path

import pytest
from PIL import Image

from frugal_rt import Restorer
from frugal_rt.runtime.sampling.guidance import METHODS
from frugal_rt.runtime.sampling.schedule import FLIPS

from ..commands import refuses, runs
from ..export.lpips_network import random_lpips, torch_lpips

QUICK = ("eval", "-e", "tiny.plan", "--images", "faces", "--steps", "3")


@pytest.fixture
def here(three_faces) -> Path:
    return three_faces


def test_every_task_by_every_method_comes_out_as_json_and_as_a_table(here):
    result = runs(*QUICK, "--json", "r.json")
    report = json.loads(Path("r.json").read_text())
    assert set(report) == {"rows", "run"}
    assert [(row["task"], row["method"]) for row in report["rows"]] == [
        (task, method)
        for task in ("denoise", "box", "outpaint", "sr4", "sr16", "colorize", "gaussian")
        for method in METHODS
    ]
    for row in report["rows"]:
        assert row["lpips"] is None
        assert row["lpips_se"] is None
        assert row["calls"] == row["forwards"] == 3
        sees_all = row["task"] in ("denoise", "gaussian")  # so that frugal takes none; else of 2, 1, 0 at 2
        assert row["gradients"] == {"dps": 3, "frugal": 1 - sees_all, "hybrid": 2}.get(row["method"], 0)
        assert (row["images"], row["seeds"]) == (3, 1)
        assert {"psnr", "psnr_se", "ssim", "ssim_se", "seconds"} <= row.keys()
    assert {row["method"]: row["k"] for row in report["rows"]}["dmps"] == 3
    assert report["run"]["images"]["names"] == ["a.jpg", "b.png", "c.webp"]
    assert report["run"]["settings"] == {"steps": 3}
    assert "| super-resolution x4 | frugal |" in result.stdout
    assert "inpainting, 6x6 hole" in result.stdout
    assert "frugal minus dps, paired by image:" in result.stdout
    assert str(here) not in result.stdout + Path("r.json").read_text()
    assert sorted(path.name for path in here.iterdir()) == ["faces", "r.json", "tiny.plan"]


def test_settings_reach_the_method_they_are_for(here, monkeypatch):
    seen = {}
    real = Restorer.restore

    def restore(self, y, operator, **settings):
        seen[settings["method"]] = settings
        return real(self, y, operator, **settings)

    monkeypatch.setattr(Restorer, "restore", restore)
    runs(*QUICK, "--tasks", "sr4", "--switch", "1", "--lambda", "0.7", "--sigma", "0.2")
    assert set(seen) == set(METHODS)
    for method, settings in seen.items():
        assert (settings["sigma"], settings["steps"]) == (0.2, 3)
        assert settings.get("switch") == ("1" if method in ("frugal", "hybrid") else None)
        assert settings.get("lam") == (0.7 if method in ("dmps", "hybrid") else None)
        assert not {"zeta", "guidance", "every"} & set(settings)
    runs(*QUICK, "--tasks", "sr4", "--every", "3")
    assert {method for method, settings in seen.items() if "every" in settings} == {"frugal"}
    runs(*QUICK, "--tasks", "sr4", "--guidance", "official")
    assert {method for method, settings in seen.items() if "guidance" in settings} == {"hybrid", "dps", "dmps"}


def test_plain_methods_stand_beside_aims_at_the_pictures_own_size(local_plan, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "bm3d", None)
    Path("photos").mkdir()
    for name, box in (("a.png", (0, 0, 32, 48)), ("b.png", (20, 10, 52, 58))):
        Image.effect_noise((64, 64), 60).convert("RGB").crop(box).save(Path("photos") / name)
    quick = ("eval", "-e", str(local_plan), "--images", "photos", "--vs", "classical")
    result = runs(*quick, "--json", "r.json", "-o", "out")
    assert "BM3D is left out: BM3D, which is for non-commercial use only, needs bm3d" in result.stderr
    rows = {(row["task"], row["method"]): row for row in json.loads(Path("r.json").read_text())["rows"]}
    fit = {
        **dict.fromkeys(("denoise10", "denoise25", "denoise50"), ("non-local means",)),
        **dict.fromkeys(("text", "scratches", "missing70"), ("biharmonic",)),
        **dict.fromkeys(("sr2", "sr4"), ("Lanczos",)),
        **dict.fromkeys(("blur", "motion"), ("Richardson-Lucy", "Wiener")),
        **dict.fromkeys(("jpeg10", "jpeg30"), ("as decoded",)),
    }
    own = {task: task.startswith(("denoise", "jpeg")) for task in fit}
    ours = {
        task: ("detail", "fidelity") if alone else ("detail", "fidelity", "balanced") for task, alone in own.items()
    }
    ours |= dict.fromkeys(("text", "scratches", "missing70"), ("detail", "balanced"))  # thin: both aims mean the same
    assert list(rows) == [(task, one) for task, names in fit.items() for one in (*ours[task], *names)]
    assert rows["denoise10", "fidelity"]["calls"] == FLIPS
    assert rows["sr2", "Lanczos"]["calls"] == 0
    assert "| JPEG of quality 30 | as decoded |" in result.stdout
    assert Image.open("out/sheet.png").size[0] > 300
    again = runs(*quick, "-o", "out", "--tasks", "sr2", "--methods", "frugal", "--steps", "100", "--json", "more.json")
    assert "T = 100" in again.stdout
    assert len(json.loads(Path("more.json").read_text())["rows"]) == len(rows) + 1
    refuses("none of --methods detail,fidelity,balanced has the setting --steps", *quick, "--steps", "5", status=2)
    Image.new("RGB", (20, 16), "red").save("photos/0.png")
    refuses("a JPEG holds whole units of 16x16 pixels; 20x16 is not a multiple", *quick, "--count", "1")


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
    refuses(
        "no method 'ddnm'; choose out of frugal, hybrid, dps, dmps, closed-form, detail,", *QUICK, "--methods", "ddnm"
    )
    refuses("there is no folder or .tar none", *engine, "--images", "none")
    refuses("there are no pictures in empty", *engine, "--images", "empty")
    refuses("neither a folder of pictures nor an uncompressed .tar", *engine, "--images", "faces/a.jpg")
    refuses("w.png is 20x16, and the images evaluated are 16x16; give", *engine, "--images", "wide")
    refuses("c.png has transparent pixels", *engine, "--images", "clear")
    refuses("taken.json exists", *QUICK, "--json", "taken.json")
    refuses("must end in .json", *QUICK, "--json", "r.csv")
    refuses("0..2", *QUICK, "--sigma", "9")
    refuses("steps must lie in 2..1000", *QUICK, "--steps", "1")
    refuses("there is no file none.onnx; make one with", *QUICK, "--lpips", "none.onnx")
    refuses("text.onnx is not an ONNX file that onnxruntime can load", *QUICK, "--lpips", "text.onnx")
    refuses("run it alone", *QUICK, "--fetch-lpips", "new.onnx")
    refuses("must end in .onnx", "eval", "--fetch-lpips", "new.plan")
    refuses("none of --methods dps has the setting --switch", *QUICK, "--methods", "dps", "--switch", "3", status=2)
    refuses(
        "none of --methods dps,dmps has the setting --every", *QUICK, "--methods", "dps,dmps", "--every", "3", status=2
    )
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
