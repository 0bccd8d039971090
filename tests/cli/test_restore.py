"""`frugal-rt restore` of one picture: what it says, what it writes, how it exits."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import frugal_rt.engines
from frugal_rt import Plan
from frugal_rt.engines import Prediction
from frugal_rt.runtime.pictures.images import SETTINGS_KEY
from frugal_rt.runtime.sampling.guidance import STEEP
from frugal_rt.runtime.sampling.schedule import Schedule

from ..commands import FRUGAL, frugal, refuses, runs

RESTORE = ("restore", "-e", "tiny.plan", "--steps", "4")


def test_a_mask_picture_marks_what_is_missing(here):
    mask = np.zeros((16, 16), np.uint8)
    mask[3:7, 3:9] = 255
    Image.fromarray(mask).save("mask.png")
    result = frugal(*RESTORE, "clean.png", "--mask", "mask.png", "--method", "dmps")
    assert "inpaint (9% of the pixels are missing" in result.output
    assert "4 network calls and 0 gradients" in result.output


def test_what_a_file_held_and_is_left_out_is_told_unless_quiet(here):
    frames = [Image.open("clean.png"), Image.open("clean.png").rotate(90)]
    frames[0].save("two.tif", save_all=True, append_images=frames[1:])
    told = "two.tif holds 2 pictures (frames or pages); only the first is read"
    asked = (*RESTORE, "two.tif", "--method", "dmps", "--force")
    assert told in runs(*asked).stderr
    assert told not in runs(*asked, "-q").output
    assert json.loads(runs(*asked, "--json").stdout)["restored"][0]["notes"] == [told]
    assert told in runs("degrade", "two.tif", "--task", "denoise", "--sigma", "0.1", "-o", "y.png").stderr


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--method", "dps"], "4 network calls and 4 gradients; none in the last 0 of 4"),
        (["--method", "dmps"], "4 network calls and 0 gradients\n"),
        (["--method", "closed-form"], "4 network calls and 0 gradients\n"),
        (["--switch", "1"], "4 network calls and 2 gradients; none in the last 1 of 4"),
        (["--switch", "1", "--every", "3"], "4 network calls and 1 gradient; none in the last 1 of 4"),
        (
            ["--method", "hybrid", "--switch", "1", "--guidance", "official"],
            "4 network calls and 3 gradients; none in the last 1 of 4",
        ),
        (["--backend", "torch", "--switch", "2"], "4 network calls and 1 gradient;"),
    ],
)
def test_methods_and_switch(here, options, says):
    assert says in frugal(*RESTORE, "clean.png", *options).output


def test_a_preset_names_the_steps_and_steps_overrule_it(here):
    asked = ("restore", "-e", "tiny.plan", "clean.png", "--method", "dmps", "--force")
    assert "50 network calls" in frugal(*asked).output
    assert "20 network calls" in frugal(*asked, "--preset", "fast").output
    assert "5 network calls" in frugal(*asked, "--preset", "fast", "--steps", "5").output
    refuses("'best' is not one of 'quality', 'balanced', 'fast'", *asked, "--preset", "best", status=2)


def test_a_trace_says_what_the_switch_saw(here):
    asked = (*RESTORE, "clean.png", "--hole", "6x6")
    assert frugal(*asked, "--steps", "20", "--trace", "t.csv", "--trace", "t.svg").exit_code == 0
    seen = list(csv.DictReader(Path("t.csv").read_text().splitlines()))
    settings = json.loads(Image.open("clean.restored.png").text[SETTINGS_KEY])
    k, config = settings["k"], Plan.open("tiny.plan").manifest["schedule"]
    timesteps = Schedule.below(config, settings["start"], 20, STEEP).timesteps
    lefts = list(range(len(timesteps) - 3, -1, -2))
    assert [int(line["left"]) for line in seen] == lefts
    assert [line["phase"] for line in seen] == ["gradient" if int(line["left"]) > k else "forward" for line in seen]
    assert [line["may_switch"] for line in seen] == ["1" if 1 <= int(line["left"]) <= 10 else "0" for line in seen]
    assert {line["threshold"] for line in seen} == {"28"}
    assert [int(line["timestep"]) for line in seen] == [timesteps[left] for left in lefts]
    first = next((line for line in seen if line["may_switch"] == "1" and float(line["psnr"]) >= 28), {"left": 1})
    assert k == int(first["left"])
    assert "<svg" in Path("t.svg").read_text()
    frugal(*asked, "--switch", "2", "--trace", "fixed.csv", "--force")
    assert next(csv.DictReader(Path("fixed.csv").read_text().splitlines()))["threshold"] == ""


def test_a_trace_is_checked_before_anything_runs(here, monkeypatch):
    Path("t.csv").write_text("mine")
    refuses("t.csv exists; give another name with -o, or --force", *RESTORE, "clean.png", "--trace", "t.csv")
    refuses("t.txt: the output must end in .csv or .png or .svg", *RESTORE, "clean.png", "--trace", "t.txt")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    refuses("pip install 'frugal-rt[plot]'", *RESTORE, "clean.png", "--trace", "t.png")
    assert Path("t.csv").read_text() == "mine"


def test_the_same_seed_gives_the_same_file(here):
    for name, seed in (("a.png", "5"), ("b.png", "5"), ("c.png", "6")):
        assert frugal(*RESTORE, "clean.png", "-o", name, "--seed", seed).exit_code == 0
    a, b, c = (Path(name).read_bytes() for name in ("a.png", "b.png", "c.png"))
    assert a == b != c


def test_outputs_are_never_overwritten_unasked(here):
    Path("clean.restored.png").write_text("precious")
    refuses("clean.restored.png exists; give another name with -o, or --force to replace it", *RESTORE, "clean.png")
    assert Path("clean.restored.png").read_text() == "precious"
    assert frugal(*RESTORE, "clean.png", "--force").exit_code == 0
    assert Image.open("clean.restored.png").size == (16, 16)


def test_wrong_inputs_are_one_sentence(here):
    Path("text.png").write_text("hello")
    Path("text.plan").write_text("hello")
    Image.new("RGB", (30, 20), "red").save("large.png")
    refuses("say where the restored pictures go: -o FOLDER", *RESTORE, ".")
    refuses("is a folder", "degrade", ".", "--task", "sr", "--scale", "4", "-o", "y.png")
    refuses("too long for a file", *RESTORE, "clean.png", "-o", "x" * 300 + ".png")
    np.save("A.npy", np.ones((5, 256)))
    np.save("objects.npy", np.array([{}, None], dtype=object), allow_pickle=True)
    refuses("is not a .npy array of numbers", *RESTORE, "clean.png", "--matrix", "objects.npy")
    refuses("there is no file B.npy", *RESTORE, "clean.png", "--matrix", "B.npy")
    refuses("starts from a .npy array of 5 values", *RESTORE, "clean.png", "--matrix", "A.npy")
    refuses("end in .npy", "degrade", "clean.png", "--task", "matrix", "--matrix", "A.npy", "-o", "y.png")
    refuses("there is no file blur.png", *RESTORE, "clean.png", "--kernel", "blur.png")
    refuses("a kernel is gaussian:STD", *RESTORE, "clean.png", "--kernel", "blurry")
    refuses("--hole does not go with deblur", *RESTORE, "clean.png", "--kernel", "uniform:3", "--hole", "4x4")
    refuses("there is no file nothing.png", *RESTORE, "nothing.png")
    refuses("too long", *RESTORE, "x" * 300 + ".png", "-o", "out.png")
    refuses("text.png is not a picture", *RESTORE, "text.png")
    refuses(
        "there is no file nothing.plan, nor a prior of that name in the package; make a plan with: frugal-rt export",
        "restore",
        "-e",
        "nothing.plan",
        "clean.png",
    )
    refuses("text.plan is not a frugal-rt plan", "restore", "-e", "text.plan", "clean.png")
    refuses("must end in .png", *RESTORE, "clean.png", "-o", "a.bmp")
    refuses("on the [-1, 1] scale, 0..2", *RESTORE, "clean.png", "--sigma", "25")
    refuses("sigma must be a number or a fraction", *RESTORE, "clean.png", "--sigma", "lots")
    refuses("steps must lie in 2..1000", "restore", "-e", "tiny.plan", "clean.png", "--steps", "1001")
    refuses("switch must be auto or a number of steps 0..4", *RESTORE, "clean.png", "--switch", "9")
    refuses("--scale 2 .. 16", *RESTORE, "clean.png", "--task", "sr")
    refuses("the mask is 30x20 but the picture is 16x16", *RESTORE, "clean.png", "--mask", "large.png")
    refuses("switch is a setting of frugal and hybrid", *RESTORE, "clean.png", "--method", "dps", "--switch", "3")
    refuses("is not one of", *RESTORE, "clean.png", "--task", "sharpen", status=2)
    refuses("No such command", "mend", status=2)
    refuses("Did you mean restore?", "restor", status=2)
    refuses("Did you mean one of: '--samples', '--scale'", *RESTORE, "clean.png", "--scal", "4", status=2)
    refuses("--task", "degrade", "clean.png", "-o", "y.png")
    refuses("say how much noise", "degrade", "clean.png", "--task", "denoise", "-o", "y.png")


def test_a_result_of_nan_is_an_error_and_writes_nothing(here, monkeypatch):
    real = frugal_rt.engines.onnxruntime.engine.OnnxRuntimeEngine.pullback

    def broken(self, x, t):
        prediction, pull = real(self, x, t)
        return prediction._replace(out=prediction.out * np.nan), pull

    monkeypatch.setattr(frugal_rt.engines.onnxruntime.engine.OnnxRuntimeEngine, "pullback", broken)
    refuses("left the finite numbers", *RESTORE, "clean.png", "--method", "dps")


def test_a_constant_result_is_an_error_and_writes_nothing(here, monkeypatch):
    monkeypatch.setattr(frugal_rt.engines.onnxruntime.engine.OnnxRuntimeEngine, "pullback", flat_pullback)
    refuses("came out as a constant image", *RESTORE, "clean.png", "--method", "dps", "--zeta", "0")


def flat_pullback(self, x, t):
    return Prediction(np.full_like(x, -1e3), None), lambda v: v


@pytest.mark.parametrize(
    ("missing", "sentence", "command"),
    [
        ("onnxruntime", "pip install 'frugal-rt[cpu]'", [*RESTORE, "clean.png", "--backend", "cpu"]),
        ("torch", "pip install 'frugal-rt[torch]'", [*RESTORE, "clean.png", "--backend", "torch"]),
        ("onnx", "pip install 'frugal-rt[cpu,export]'", ["export", "--model", "celeba", "--size", "64x64"]),
        ("onnxruntime", "pip install 'frugal-rt[cpu,export]'", ["export", "--model", "celeba", "--size", "64x64"]),
    ],
)
def test_a_missing_extra_is_one_sentence_with_its_command(here, monkeypatch, missing, sentence, command):
    monkeypatch.setitem(sys.modules, missing, None)
    refuses(sentence, *command)


def test_a_full_disk_is_one_sentence_and_leaves_nothing(here, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    refuses("cannot write clean.restored.png: the disk is full", *RESTORE, "clean.png")


@pytest.fixture
def running(here):
    """Start a restoration in a process of its own; wait until some steps are done."""
    process = subprocess.Popen(
        [*FRUGAL, "restore", "-e", "tiny.plan", "clean.png", "--steps", "1000", "--method", "dmps", "--samples", "64"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    assert "denoise" in process.stdout.readline()
    time.sleep(0.3)
    yield process
    process.kill()
    process.communicate()


def test_ctrl_c_stops_between_steps_leaves_nothing_and_exits_130(running, here):
    running.send_signal(signal.SIGINT)
    _, stderr = running.communicate(timeout=30)
    assert running.returncode == 130
    assert "Stopped." in stderr
    assert "Traceback" not in stderr
    assert sorted(path.name for path in here.iterdir()) == ["clean.png", "tiny.plan"]


def test_two_processes_at_once_give_what_one_gives(here):
    commands = [[*FRUGAL, *RESTORE, "clean.png", "-o", f"{i}.png"] for i in range(2)]
    processes = [subprocess.Popen(command, stdout=subprocess.DEVNULL) for command in commands]
    assert [process.wait(timeout=120) for process in processes] == [0, 0]
    assert Path("0.png").read_bytes() == Path("1.png").read_bytes()
