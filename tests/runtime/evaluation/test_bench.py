"""The benchmark: what its report holds, how its ratios come about, what it refuses. Nothing here asserts a speed."""

import json
import platform
import sys
import time

import numpy as np
import pytest
from click.testing import CliRunner, Result

from frugal_rt import Plan, Restorer
from frugal_rt.cli import main
from frugal_rt.engines import BACKENDS, BackendError, OnHost, Prediction, machine, open_engine
from frugal_rt.engines.backends import Wanted
from frugal_rt.export import build_plan, read_prior
from frugal_rt.runtime.evaluation import bench
from frugal_rt.runtime.evaluation.bench_report import figures

QUICK = ("--steps", "4", "--rounds", "1", "--no-compile")
KINDS = ("forward", "dps step", "dmps step")
WHOLE = ("dps", "dmps", "hybrid", "frugal")


@pytest.fixture
def here(tmp_path, monkeypatch, tiny_plan):
    """A folder with the tiny plan; the backends every machine has; a sample is one call, the peak a small product."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(bench, "BACKENDS", {name: BACKENDS[name] for name in ("auto", "cpu", "cuda", "torch")})
    monkeypatch.setattr(bench, "SAMPLE_SECONDS", 0.0)
    monkeypatch.setattr(machine, "SIZE", 64)
    (tmp_path / "tiny.plan").symlink_to(tiny_plan)
    return tmp_path


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ("bench", *arguments), catch_exceptions=False)


@pytest.fixture
def report(here):
    result = run("-e", "tiny.plan", "--batch", "2", "--batch", "1,2", *QUICK, "--json", "r.json", "--markdown", "r.md")
    assert result.exit_code == 0, result.output
    assert result.stdout == (here / "r.md").read_text()
    return json.loads((here / "r.json").read_text())


def test_the_report_holds_every_sample_of_every_row(report):
    steps = [(kind, batch) for batch in (1, 2) for kind in KINDS]
    assert [(row["kind"], row["batch"]) for row in report["rows"]] == [*steps, *((kind, 1) for kind in WHOLE)]
    calls = {row["kind"]: (row["forwards"], row["gradients"]) for row in report["rows"]}
    assert calls == {
        "forward": (1, 0),
        "dps step": (1, 1),
        "dmps step": (1, 0),
        "dps": (4, 4),
        "dmps": (4, 0),
        "hybrid": (4, 2),
        "frugal": (4, 1),
    }
    for row in report["rows"]:
        assert set(row["contenders"]) == {"ours: cpu", "torch channels_last", "torch eager"}
        for taken in row["contenders"].values():
            assert len(taken["seconds"]) == len(taken["network_seconds"]) == 1
            assert 0 < taken["network_seconds"][0] <= taken["seconds"][0]
            assert taken["first_seconds"] > 0


@pytest.mark.parametrize("steps", [7, 63])
def test_the_gradients_a_row_names_are_those_a_restoration_takes(here, tiny_plan, monkeypatch, steps):
    taken = []
    restore = Restorer.restore

    def listening(*arguments, **how):
        taken.append(restore(*arguments, **how))
        return taken[-1]

    monkeypatch.setattr(Restorer, "restore", listening)
    monkeypatch.setattr(bench, "BACKENDS", {"cpu": BACKENDS["cpu"]})
    monkeypatch.setattr(bench, "BASELINES", {})
    report = bench.bench(Plan.open(tiny_plan), steps=steps, batches=(), rounds=1)
    rows = [(row["kind"], row["forwards"], row["gradients"]) for row in report["rows"]]
    counts = [(*result.forwards, *result.gradients) for result in taken if result.settings["steps"] == steps]
    assert rows == [(kind, *count) for kind, count in zip(WHOLE, counts, strict=True)]
    assert 0 < rows[3][2] < rows[2][2] == (steps + 1) // 2


def test_the_header_says_what_was_measured_and_not_where(report, here):
    assert report["machine"]["cores"] >= 1
    assert report["machine"]["processor"]
    assert {"python", "frugal-rt", "numpy", "torch", "onnxruntime", "diffusers"} <= set(report["versions"])
    plan = Plan.open("tiny.plan")
    assert report["prior"]["weights_sha256"] == plan.manifest["members"]["weights.safetensors"]["sha256"]
    assert report["contenders"][report["reference"]] == open_engine(plan).name
    assert report["settings"]["rounds"] == 1
    assert report["left_out"]["torch.compile"] == "not asked for (--no-compile)"
    assert all(len(values) == 1 and values[0] > 0 for values in report["peak_flops"].values())
    for text in ((here / "r.json").read_text(), (here / "r.md").read_text()):
        assert platform.node() not in text
        assert str(here) not in text


def test_the_figures_follow_from_the_samples(report):
    rows = {(row["kind"], row["batch"]): row for row in report["rows"]}
    found = {figure["name"]: figure for figure in report["figures"]}

    def seconds(kind, label):
        return np.array(rows[kind, 1]["contenders"][label]["seconds"])

    ours = "ours: cpu"
    forward, step = seconds("forward", ours), seconds("dps step", ours)
    expected = {
        "forward, batch 1: torch eager / ours": seconds("forward", "torch eager") / forward,
        "DPS step, batch 1: torch eager / ours": seconds("dps step", "torch eager") / step,
        "DPS step / DMPS step, ours": step / seconds("dmps step", ours),
        "DPS, 4 steps, by torch eager / our hybrid at k = 2, 4 steps": seconds("dps", "torch eager")
        / seconds("hybrid", ours),
        "DPS, 4 steps, by torch eager / our frugal at k = 2, 4 steps": seconds("dps", "torch eager")
        / seconds("frugal", ours),
    }
    for name, samples in expected.items():
        np.testing.assert_allclose(found[name]["samples"], samples)
    assert report["figures"] == figures(report)
    work = report["network_flops"]["forward"] / forward / max(max(peak) for peak in report["peak_flops"].values())
    np.testing.assert_allclose(found["forward, ours: share of the measured peak"]["samples"], 100 * work)


def test_without_torch_what_runs_is_measured(here, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    result = run("-e", "tiny.plan", *QUICK, "--batch", "1", "--json", "r.json")
    assert result.exit_code == 0, result.output
    report = json.loads((here / "r.json").read_text())
    assert list(report["contenders"]) == ["ours: cpu"]
    assert report["network_flops"] is None
    assert "pip install 'frugal-rt[torch]'" in report["left_out"]["torch eager"]
    measured = {row["kind"] for row in report["rows"] if row["contenders"]}
    assert {"forward", "dmps step", "dmps"} <= measured


def test_a_new_backend_takes_part_or_says_why_not(here, tiny_plan, monkeypatch):
    def broken(plan, wanted):
        raise BackendError("this one needs a machine of its own")

    monkeypatch.setattr(bench, "BACKENDS", {"auto": BACKENDS["auto"], "mine": BACKENDS["cpu"], "broken": broken})
    monkeypatch.setitem(BACKENDS, "mine", BACKENDS["cpu"])
    monkeypatch.setitem(BACKENDS, "broken", broken)
    engines, left_out, reference = bench.open_contenders(Plan.open(tiny_plan), False, (), lambda stage: None)
    assert "ours: mine" in engines
    assert reference == "ours: mine"
    assert left_out["ours: broken"] == "this one needs a machine of its own"


def test_backends_may_be_chosen(here, tiny_plan):
    engines, left_out, _ = bench.open_contenders(Plan.open(tiny_plan), False, ["cpu"], lambda stage: None)
    assert [*engines] == ["ours: cpu", "torch eager"]
    assert [*left_out] == ["torch.compile"]


def test_ratios_are_against_a_gpu_where_there_is_one(here, tiny_plan, monkeypatch):
    def on_gpu(plan, wanted):
        engine = BACKENDS["torch"](plan, wanted)
        engine._device = "cuda"  # it says
        return engine

    monkeypatch.setattr(bench, "BACKENDS", {"cpu": BACKENDS["cpu"], "torch": on_gpu})
    monkeypatch.setattr(bench, "open_engine", lambda plan, name: bench.BACKENDS[name](plan, Wanted()))
    _, _, reference = bench.open_contenders(Plan.open(tiny_plan), False, (), lambda stage: None)
    assert reference == bench.TORCH


def test_network_time_is_that_of_calls_and_of_pulls():
    class Sleeper(OnHost):
        name, asarray = "sleeper", np.asarray

        def prepare(self, gradients):
            pass

        def predict(self, x, t):
            time.sleep(0.02)
            return Prediction(x, None)

        def pullback(self, x, t):
            def pull(cotangent):
                time.sleep(0.04)
                return cotangent

            return self.predict(x, t), pull

    timed, x = bench.Timed(Sleeper()), np.ones((1, 1, 1, 1))
    timed.predict(x, None)
    assert timed.seconds >= 0.02
    before = timed.seconds
    _, pull = timed.pullback(x, None)
    assert pull(x) is x
    assert timed.seconds - before >= 0.06


def test_the_host_s_own_time_is_neither_its_first_call_s_nor_what_it_waits(monkeypatch):
    """A device takes 50 s to load, 3 s of work and 2 s of waiting a call, and 7 s until the last result is there."""

    class Device(OnHost):
        can_capture = True

    class Result:
        def __getitem__(self, index):
            clock[0] += 7
            return 0.0

    device, clock, calls = Device(), [0.0], [0]

    def call():
        calls[0] += 1
        clock[0] += 50 if calls[0] == 1 else 5
        device.throttled_seconds += 0 if calls[0] == 1 else 2
        return Result()

    monkeypatch.setattr(bench.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(bench, "SAMPLE_SECONDS", 70)
    assert bench._paced(call, device, None) == ((50 + 4 * 5 + 7) / 5, None, 3.0)
    assert bench._paced(call, device, 1).host is None


def test_random_weights_measure_calls_and_steps_only(here, small):
    result = run("--random-weights", "celebahq-256", *QUICK, "--json", "r.json")
    assert result.exit_code == 0, result.output
    report = json.loads((here / "r.json").read_text())
    assert [(row["kind"], row["batch"]) for row in report["rows"]] == [(kind, 1) for kind in KINDS]
    assert report["prior"]["name"] == "celebahq-256, random weights"


@pytest.mark.parametrize(
    ("sentence", "arguments"),
    [
        ("say what to measure: --engine PLAN, or --random-weights", ()),
        ("one of the two", ("-e", "tiny.plan", "--random-weights", "celebahq-256")),
        ("no architecture 'imagenet'; choose one of celebahq-256", ("--random-weights", "imagenet")),
        ("--vs times whole restorations", ("--random-weights", "celebahq-256", "--vs", "deepinv")),
        ("there is no file none.plan", ("-e", "none.plan")),
        ("steps must lie in 2..1000", ("-e", "tiny.plan", "--steps", "1")),
        ("taken.json exists", ("-e", "tiny.plan", "--json", "taken.json")),
        ("must end in .json", ("-e", "tiny.plan", "--json", "r.txt")),
        ("must end in .md", ("-e", "tiny.plan", "--markdown", "r.json")),
        ("the folder no does not exist", ("-e", "tiny.plan", "--markdown", "no/r.md")),
        ("--vs deepinv needs deepinv", ("-e", "tiny.plan", "--vs", "deepinv")),
    ],
)
def test_what_cannot_be_measured_is_refused_in_a_sentence(here, monkeypatch, sentence, arguments):
    monkeypatch.setitem(sys.modules, "deepinv", None)
    (here / "taken.json").write_text("mine")
    before = sorted(here.iterdir())
    result = run(*arguments)
    assert result.exit_code == 1
    errors = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert len(errors) == 1
    assert sentence in errors[0]
    assert sorted(here.iterdir()) == before
    assert (here / "taken.json").read_text() == "mine"


@pytest.mark.parametrize("arguments", [("--batch", "0"), ("--batch", "1,x"), ("--rounds", "0"), ("--vs", "nobody")])
def test_options_that_make_no_sense_are_usage_errors(here, arguments):
    assert run("-e", "tiny.plan", *arguments).exit_code == 2


def test_a_grey_prior_is_refused(here, make_prior):
    plan = build_plan(read_prior(make_prior({"in_channels": 1, "out_channels": 1})), precisions=())
    with pytest.raises(bench.InputError, match="are grey"):
        bench.bench(plan, rounds=1, compiled=False)


def test_ctrl_c_leaves_no_file(here, monkeypatch):
    def stop():
        raise KeyboardInterrupt

    before = sorted(here.iterdir())
    monkeypatch.setattr(bench, "peak_flops", stop)
    result = run("-e", "tiny.plan", *QUICK, "--batch", "1", "--json", "r.json", "--markdown", "r.md")
    assert result.exit_code == 130
    assert sorted(here.iterdir()) == before
