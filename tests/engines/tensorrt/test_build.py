"""Engines are built for GPUs that are not here."""

import json
import shutil
import threading
from pathlib import Path

import onnx
import pytest
from click.testing import CliRunner

from frugal_rt import BackendError, Plan
from frugal_rt.cli import main
from frugal_rt.engines import extras, nvidia
from frugal_rt.engines.tensorrt import build, store
from frugal_rt.engines.tensorrt.store import ENGINES, Here

from .kept import kept, needs_rtx


@pytest.fixture
def frugal(tiny_plan, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(tiny_plan, "tiny.plan")
    return lambda *args: CliRunner().invoke(main, [*map(str, args)])


BLIND = ("build", "tiny.plan", "--flavour", "tensorrt-rtx", "--capability", "8.9", "--batch", "1,2", "--level", "0")


@needs_rtx
def test_build_keeps_engines_and_finds_them_again(frugal, cache_folder, monkeypatch):
    result = frugal(*BLIND, "--json")
    assert result.exit_code == 0, result.output
    record = json.loads(result.stdout)
    assert record["here"]["capability"] == "8.9"
    assert record["batches"] == [1, 2]
    folder = cache_folder / record["key"]
    assert folder.stat().st_mode & 0o777 == 0o700
    stamps = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    monkeypatch.setattr(build, "_build", None)  # is not called again
    result = frugal(*BLIND)
    assert result.exit_code == 0, result.output
    assert "engines for any GPU of compute capability 8.9 by tensorrt-rtx" in result.output
    assert stamps == {path: path.stat().st_mtime_ns for path in folder.iterdir()}


@needs_rtx
def test_build_bundles_into_the_plan(frugal):
    before = Path("tiny.plan").read_bytes()
    assert frugal(*BLIND, "--bundle", "-o", "b.plan").exit_code == 0
    assert Path("tiny.plan").read_bytes() == before
    assert frugal(*BLIND, "--bundle").exit_code == 0
    assert Path("tiny.plan").read_bytes() == Path("b.plan").read_bytes()
    result = frugal(*BLIND, "--bundle", "-o", "b.plan")
    assert "b.plan exists" in result.output
    here = Here("tensorrt-rtx", extras.version("tensorrt-rtx"), "8.9", "NVIDIA L4", store.system())
    found = store.find(Plan.open("b.plan"), here, trust=True)
    assert all(len(found.read(name)) == found.record.files[name]["bytes"] for name in ENGINES)


@pytest.mark.long
@needs_rtx
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_the_embedded_prior_builds_in_every_precision(celeba_plan, precision):
    plan = Plan.open(celeba_plan)
    built = build.build(plan, "tensorrt-rtx", precision=precision, batches=(1,), level=0, capability="12.0")
    sizes = {name: built.record.files[name]["bytes"] for name in ENGINES}
    weights = plan.manifest["members"]["weights.safetensors"]["bytes"]
    half = 1 if precision == "fp32" else 0.5
    assert all(half * weights * 0.8 < size < half * weights * 2.5 for size in sizes.values()), sizes


@needs_rtx
def test_ctrl_c_ends_a_build_and_leaves_nothing(plan, cache_folder):
    with pytest.raises(KeyboardInterrupt):
        build.build(plan, "tensorrt-rtx", level=0, capability="8.9", on_progress=lambda *step: False)
    assert [path.name for path in cache_folder.iterdir()] == ["lock"]


@needs_rtx
def test_a_build_that_fails_says_tensorrt_s_own_words(plan):
    members = {name: plan.member(name) for name in plan.members}
    model = onnx.load_from_string(bytes(members["forward.onnx"]))
    assert model.graph.node[0].op_type == "Slice"
    model.graph.node[0].op_type = "Less"
    members["forward.onnx"] = model.SerializeToString()
    manifest = {key: value for key, value in plan.manifest.items() if key != "members"}
    with pytest.raises(BackendError, match=r"tensorrt-rtx [\d.]+ could not read forward.onnx: Less .*Assertion failed"):
        build.build(Plan(manifest, members), "tensorrt-rtx", capability="8.9", level=0)


@needs_rtx
@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--capability", "9.9"), "does not know the compute capability 9.9; it builds for 7.5"),
        (("--batch", "0"), "batches are whole numbers from 1"),
        (("--batch", "a"), "batches are whole numbers from 1"),
        (("--level", "6"), "not in the range 0<=x<=5"),
        (("-o", "x.plan"), "-o names the plan that --bundle writes"),
        (("--flavour", "tensorrt"), "tensorrt"),
    ],
)
def test_what_cannot_be_built_is_one_sentence(frugal, options, sentence):
    result = frugal("build", "tiny.plan", "--flavour", "tensorrt-rtx", "--capability", "8.9", *options)
    assert result.exit_code != 0
    assert sentence in result.output
    assert "Traceback" not in result.output


@needs_rtx
@pytest.mark.skipif(nvidia.trouble() is None, reason="this machine has a GPU")
def test_without_a_gpu_build_asks_for_a_capability(frugal):
    result = frugal("build", "tiny.plan")
    assert result.exit_code == 1
    assert "there is no GPU here to build for (no NVIDIA driver (libcuda) on this machine)" in result.output
    assert "--capability 8.9" in result.output


@needs_rtx
def test_two_builds_at_once_build_once(plan, monkeypatch):
    calls = []
    real = build._build

    def counted(*args):
        calls.append(args[2])
        return real(*args)

    monkeypatch.setattr(build, "_build", counted)
    found = []

    def work():
        found.append(build.build(plan, "tensorrt-rtx", batches=(1,), level=0, capability="8.9").record)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found[0] == found[1]
    assert len(calls) == len(ENGINES)


def test_export_builds_where_it_can(make_prior, frugal, gpu, monkeypatch):
    export = (
        "export",
        "--weights",
        make_prior({"in_channels": 12, "out_channels": 12}),
        "--precision",
        "fp32",
        "--force",
    )
    built = []

    def build(plan, **how):
        built.append(plan.source)
        return kept(plan)

    monkeypatch.setattr("frugal_rt.cli.export.can_build", lambda: True)
    monkeypatch.setattr("frugal_rt.cli.export.build", build)
    result = frugal(*export, "-o", "new.plan")
    assert "fp32 engines for NVIDIA H200 by tensorrt 11.4.0.12" in result.output
    assert json.loads(frugal(*export, "-o", "new.plan", "--json").stdout)["engines"]["precision"] == "fp32"
    assert built == ["new.plan"] * 2
    assert frugal(*export, "-o", "new.plan", "--no-build").exit_code == 0
    assert built == ["new.plan"] * 2

    def fails(plan, **how):
        raise BackendError("tensorrt could not build the forward engine: out of memory")

    monkeypatch.setattr("frugal_rt.cli.export.build", fails)
    result = frugal(*export, "-o", "other.plan")
    assert result.exit_code == 0
    assert "no TensorRT engines were built: tensorrt could not build the forward engine: out of memory" in result.stderr
    Plan.open("other.plan")
