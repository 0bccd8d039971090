"""The command as a user meets it: what it says, what it writes, how it exits."""

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
from click.testing import CliRunner, Result
from PIL import Image

import frugal_rt.engines
from frugal_rt import Plan
from frugal_rt.cli import COMMANDS, main
from frugal_rt.engines import Prediction
from frugal_rt.engines.tiled import Tiled
from frugal_rt.runtime.pictures.images import SETTINGS_KEY
from frugal_rt.runtime.restorer import Restorer
from frugal_rt.runtime.sampling.schedule import Schedule

FRUGAL = [sys.executable, "-c", "from frugal_rt.cli import main; main(prog_name='frugal-rt')"]


@pytest.fixture
def here(tmp_path, monkeypatch, tiny_plan) -> Path:
    """A folder with a clean 16x16 picture and the tiny plan, to work in."""
    monkeypatch.chdir(tmp_path)
    levels = np.random.default_rng(0).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    Image.fromarray(levels).resize((16, 16), Image.Resampling.BICUBIC).save("clean.png")
    (tmp_path / "tiny.plan").symlink_to(tiny_plan)
    return tmp_path


def frugal(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments, catch_exceptions=False)


def refuses(sentence: str, *arguments: str, status: int = 1) -> None:
    """The command fails with one line that holds `sentence`, the given status, and no traceback."""
    before = sorted(Path.cwd().iterdir())
    result = frugal(*arguments)
    assert result.exit_code == status, result.output
    assert sentence in result.output.replace("\n", " "), result.output
    assert "Traceback" not in result.output
    if status == 1:
        error = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
        assert len(error) == 1
    assert sorted(Path.cwd().iterdir()) == before


RESTORE = ("restore", "-e", "tiny.plan", "--steps", "4")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command):
    result = frugal(command, "--help")
    assert result.exit_code == 0
    assert "Usage: " in result.output


def test_export_writes_a_verified_plan(here, make_prior):
    result = frugal("export", "--weights", str(make_prior()), "-o", "mine.plan")
    assert result.exit_code == 0
    assert "largest relative error against torch" in result.output
    assert "Public domain" in result.output
    assert Plan.open("mine.plan").manifest["parity"]["gradient"] < 1e-4
    refuses("mine.plan exists; give another name with -o, or --force", "export", "--model", "celeba", "-o", "mine.plan")


def test_export_needs_one_prior(here):
    refuses("say which prior: --model celeba, or --weights DIR", "export")
    refuses("no prior 'imagenet'; choose one of celeba", "export", "--model", "imagenet")
    refuses("nowhere is not a diffusers DDPM folder", "export", "--weights", "nowhere")
    refuses("there is no file nowhere.pt", "export", "--weights", "nowhere.pt", "--arch", "adm")
    refuses("--arch is of a .pt checkpoint", "export", "--model", "celeba", "--arch", "adm")
    Path("x.pt").write_bytes(b"anything")
    refuses("x.pt does not tell its architecture; for one of", "export", "--weights", "x.pt")
    refuses("must end in .plan", "export", "--model", "celeba", "-o", "x.onnx")
    refuses("the folder no does not exist", "export", "--model", "celeba", "-o", "no/x.plan")


@pytest.mark.parametrize(
    ("damage", "written", "task"),
    [
        (["--task", "sr", "--scale", "4"], "y.png", "sr (4x4 is 1/4 of 16x16"),
        (["--task", "sr", "--scale", "4", "--random", "0.3"], "y.png", "sr (4x4 is 1/4 of 16x16 a side; 44%"),
        (["--task", "inpaint", "--hole", "6x6"], "y.png", "inpaint (14% of the pixels are missing"),
        (["--task", "inpaint", "--random", "0.4"], "y.npy", "inpaint ("),
        (["--task", "outpaint", "--keep", "10x10"], "y.png", "inpaint (61%"),
        (["--task", "colorize"], "y.png", "colorize (the picture has one channel"),
        (["--task", "denoise", "--sigma", "51/255"], "y.png", "denoise (nothing is missing"),
    ],
)
def test_what_degrade_writes_restore_understands(here, damage, written, task):
    assert frugal("degrade", "clean.png", *damage, "-o", written).exit_code == 0
    result = frugal(*RESTORE, written)
    assert result.exit_code == 0, result.output
    assert task in result.output
    restored = Image.open("y.restored.png")
    assert (restored.size, restored.mode) == ((16, 16), "RGB")
    settings = json.loads(restored.text["frugal-rt"])
    assert settings["steps"] == 4
    assert settings["seed"] == 0
    assert {"sigma", "switch", "k", "task", "backend", "prior"} <= settings.keys()


@pytest.mark.parametrize(
    ("task", "damage", "operator"),
    [
        ("deblur", ["--kernel", "gaussian:1.2"], {"name": "deblur", "border": "mirror"}),
        ("deblur", ["--kernel", "motion:5,30"], {"name": "deblur", "kernel": "5x3", "border": "circular"}),
        ("deblur", ["--kernel", "kernel.png", "--border", "circular"], {"kernel": "4x3", "border": "circular"}),
        ("deblur", ["--kernel", "motion:5,30", "--border", "valid"], {"kernel": "5x3", "border": "valid"}),
        ("deblur", ["--kernel", "kernel.npy"], {"kernel": "4x3", "border": "circular"}),
        ("matrix", ["--matrix", "A.npy"], {"name": "matrix", "rows": 20, "columns": 256}),
        ("sense", ["--keep-fraction", "0.25"], {"name": "sense", "fraction": 0.25, "seed": 0}),
        ("sr", ["--scale", "4", "--kernel", "gaussian:1.5"], {"name": "sr", "scale": 4, "kernel": "13x13"}),
        ("sr", ["--scale", "4", "--filter", "bicubic"], {"name": "sr", "scale": 4, "filter": "bicubic"}),
    ],
)
def test_a_damage_is_named_the_same_in_both(here, task, damage, operator):
    levels = np.random.default_rng(1).integers(0, 256, (3, 4), dtype=np.uint8)
    Image.fromarray(levels).save("kernel.png")
    np.save("kernel.npy", levels / 7.0)
    np.save("A.npy", 5 * np.random.default_rng(2).normal(size=(20, 256)))
    assert frugal("degrade", "clean.png", "--task", task, *damage, "-o", "y.npy").exit_code == 0
    result = frugal(*RESTORE, "y.npy", *damage)
    assert result.exit_code == 0, result.output
    assert f"y.npy: {task} (" in result.output
    settings = json.loads(Image.open("y.restored.png").text[SETTINGS_KEY])["operator"]
    assert operator.items() <= settings.items()


def test_a_mask_picture_marks_what_is_missing(here):
    mask = np.zeros((16, 16), np.uint8)
    mask[3:7, 3:9] = 255
    Image.fromarray(mask).save("mask.png")
    result = frugal(*RESTORE, "clean.png", "--mask", "mask.png", "--method", "dmps")
    assert "inpaint (9% of the pixels are missing" in result.output
    assert "4 network calls and 0 gradients" in result.output


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--method", "dps"], "4 network calls and 4 gradients; DMPS ran the last 0 of 4"),
        (["--method", "dmps"], "4 network calls and 0 gradients; DMPS ran the last 4 of 4"),
        (["--switch", "1"], "4 network calls and 2 gradients; DMPS ran the last 1 of 4"),
        (["--switch", "1", "--every", "3"], "4 network calls and 1 gradient; DMPS ran the last 1 of 4"),
        (["--switch", "1", "--guidance", "official"], "4 network calls and 3 gradients; DMPS ran the last 1 of 4"),
        (["--backend", "torch", "--switch", "2"], "4 network calls and 1 gradient;"),
    ],
)
def test_methods_and_switch(here, options, says):
    assert says in frugal(*RESTORE, "clean.png", *options).output


def test_a_larger_picture_is_restored_at_its_own_size_in_tiles(here):
    asked = ("restore", "-e", "tiny.plan", "--steps", "4", "--tile")
    Image.open("clean.png").resize((40, 24)).save("large.png")
    assert "denoise" in frugal(*asked, "large.png").output
    assert Image.open("large.restored.png").size == (40, 24)
    frugal("degrade", "large.png", "--task", "sr", "--scale", "2", "-o", "small.png")
    assert frugal(*asked, "small.png", "--scale", "2").exit_code == 0
    assert Image.open("small.restored.png").size == (40, 24)
    refuses("needs its factor: --scale", *asked, "small.png", "--task", "sr", "-o", "x.png")
    refuses("an image of 20x12 is smaller than this prior's 16x16", *asked, "small.png", "-o", "x.png")
    refuses("how large the image is; leave --tile out", *asked, "small.png", "--keep-fraction", "0.5", "-o", "x.png")
    refuses("leave --fit out", *asked, "small.png", "--fit", "crop", status=2)
    refuses("--fit crop or --fit resize, --tile, or --align a face", *RESTORE, "large.png", "-o", "x.png")


def test_a_preset_names_the_steps_and_steps_overrule_it(here):
    asked = ("restore", "-e", "tiny.plan", "clean.png", "--method", "dmps", "--force")
    assert "the last 50 of 50 steps" in frugal(*asked).output
    assert "the last 20 of 20 steps" in frugal(*asked, "--preset", "fast").output
    assert "the last 5 of 5 steps" in frugal(*asked, "--preset", "fast", "--steps", "5").output
    refuses("'best' is not one of 'quality', 'balanced', 'fast'", *asked, "--preset", "best", status=2)


def test_a_trace_says_what_the_switch_saw(here):
    assert frugal(*RESTORE, "clean.png", "--steps", "20", "--trace", "t.csv", "--trace", "t.svg").exit_code == 0
    seen = list(csv.DictReader(Path("t.csv").read_text().splitlines()))
    k = json.loads(Image.open("clean.restored.png").text[SETTINGS_KEY])["k"]
    assert [int(line["left"]) for line in seen] == list(range(17, 0, -2))
    assert [line["phase"] for line in seen] == ["dps" if int(line["left"]) > k else "dmps" for line in seen]
    assert [line["may_switch"] for line in seen] == ["1" if 1 <= int(line["left"]) <= 10 else "0" for line in seen]
    assert {line["threshold"] for line in seen} == {"28"}
    assert [int(line["timestep"]) for line in seen] == [
        Schedule.respaced(Plan.open("tiny.plan").manifest["schedule"], 20).timesteps[left] for left in range(17, 0, -2)
    ]
    first = next((line for line in seen if line["may_switch"] == "1" and float(line["psnr"]) >= 28), {"left": 1})
    assert k == int(first["left"])
    assert "<svg" in Path("t.svg").read_text()
    frugal(*RESTORE, "clean.png", "--switch", "2", "--trace", "fixed.csv", "--force")
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
        "there is no file nothing.plan; make a plan with: frugal-rt export",
        "restore",
        "-e",
        "nothing.plan",
        "clean.png",
    )
    refuses("text.plan is not a frugal-rt plan", "restore", "-e", "text.plan", "clean.png")
    refuses("starts from 16x16; give one of that size, --fit crop or --fit resize", *RESTORE, "large.png")
    refuses("must end in .png", *RESTORE, "clean.png", "-o", "a.jpg")
    refuses("on the [-1, 1] scale, 0..2", *RESTORE, "clean.png", "--sigma", "25")
    refuses("sigma must be a number or a fraction", *RESTORE, "clean.png", "--sigma", "lots")
    refuses("steps must lie in 2..1000", "restore", "-e", "tiny.plan", "clean.png", "--steps", "1001")
    refuses("switch must be auto, never, always or a number of steps 0..4", *RESTORE, "clean.png", "--switch", "9")
    refuses("--scale 2 .. 16", *RESTORE, "clean.png", "--task", "sr")
    refuses("the mask is 30x20 but the picture is 16x16", *RESTORE, "clean.png", "--mask", "large.png")
    refuses("is for the hybrid", *RESTORE, "clean.png", "--method", "dps", "--switch", "3", status=2)
    refuses("is not one of", *RESTORE, "clean.png", "--task", "sharpen", status=2)
    refuses("Missing option", "restore", "clean.png", status=2)
    refuses("No such command", "mend", status=2)
    refuses("Did you mean restore?", "restor", status=2)
    refuses("Did you mean one of: '--samples', '--scale'", *RESTORE, "clean.png", "--scal", "4", status=2)
    refuses("--task", "degrade", "clean.png", "-o", "y.png")
    refuses("say how much noise", "degrade", "clean.png", "--task", "denoise", "-o", "y.png")


@pytest.mark.parametrize("how", ["crop", "resize"])
def test_fit(here, how):
    Image.new("RGB", (30, 20), "red").save("large.png")
    assert frugal(*RESTORE, "large.png", "--fit", how, "--hole", "4x4").exit_code == 0


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
        ("onnx", "pip install 'frugal-rt[cpu,export]'", ["export", "--model", "celeba"]),
        ("onnxruntime", "pip install 'frugal-rt[cpu,export]'", ["export", "--model", "celeba"]),
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


def test_inspect_describes_checks_and_extracts(here, tiny_plan):
    described = frugal("inspect", "tiny.plan").output
    assert "licence:   Public domain" in described
    assert "3x16x16" in described
    assert "parity:" in described
    manifest = json.loads(frugal("inspect", "tiny.plan", "--json").stdout)
    assert manifest == Plan.open("tiny.plan").manifest
    assert frugal("inspect", "tiny.plan", "--extract", "out").exit_code == 0
    assert {path.name for path in Path("out").iterdir()} == {"manifest.json", *manifest["members"]}
    data = bytearray(tiny_plan.read_bytes())
    data[len(data) // 2] ^= 1
    Path("bad.plan").write_bytes(data)
    refuses("does not match its SHA-256", "inspect", "bad.plan")


def test_doctor_lists_every_backend(here):
    output = frugal("doctor").output
    assert all(f" {backend} " in output for backend in ("cpu", "cuda", "openvino", "torch"))


def test_demo_writes_the_sheet_and_prints_its_figures(here):
    result = frugal("demo", "-e", "tiny.plan", "--steps", "4", "-o", "shown")
    assert result.exit_code == 0, result.output
    for word in ("super-resolution x4", "inpainting", "colourise", " dps ", " dmps ", " hybrid ", "dB"):
        assert word in result.output
    assert Image.open("shown/sheet.png").width > 900


def test_demo_leaves_no_folder_where_the_plan_is_broken(here):
    Path("bad.plan").write_bytes(b"no plan")
    assert frugal("demo", "-e", "bad.plan", "-o", "shown").exit_code == 1
    assert not Path("shown").exists()
    refuses("bad.plan is a file; name a folder", "demo", "-e", "tiny.plan", "-o", "bad.plan")


@pytest.fixture
def running(here):
    """A restoration in a process of its own, some steps in."""
    process = subprocess.Popen(
        [*FRUGAL, "restore", "-e", "tiny.plan", "clean.png", "--steps", "1000", "--method", "dmps"],
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


def test_ctrl_c_stops_between_tiles(here, monkeypatch):
    Image.new("RGB", (64, 64), "red").save("large.png")
    calls = []
    whole = Tiled._cut

    def cut(self, *arguments):
        calls.append(1)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return whole(self, *arguments)

    monkeypatch.setattr(Tiled, "_cut", cut)
    monkeypatch.setattr(Restorer, "fastest_batch", lambda self, rows: 1)
    result = frugal(*RESTORE, "large.png", "--tile")
    assert result.exit_code == 130
    assert "Stopped." in result.stderr
    assert len(calls) == 2
    assert not Path("large.restored.png").exists()


def test_the_bar_says_how_many_tiles_of_the_step_are_done(here, monkeypatch):
    for name, value in {"FORCE_COLOR": "1", "TERM": "xterm", "COLUMNS": "140"}.items():
        monkeypatch.setenv(name, value)
    Image.new("RGB", (40, 24), "red").save("large.png")
    assert "tile 8 of 8" in frugal(*RESTORE, "large.png", "--tile", "--method", "dmps").stderr


def test_two_processes_at_once_give_what_one_gives(here):
    commands = [[*FRUGAL, *RESTORE, "clean.png", "-o", f"{i}.png"] for i in range(2)]
    processes = [subprocess.Popen(command, stdout=subprocess.DEVNULL) for command in commands]
    assert [process.wait(timeout=120) for process in processes] == [0, 0]
    assert Path("0.png").read_bytes() == Path("1.png").read_bytes()
