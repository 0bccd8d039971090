"""TensorRT engines where there is no GPU: what is built, what is refused and how it is said; and the engine's wiring,
with onnxruntime in TensorRT's place. tests/gpu runs the real thing."""

import ctypes
import errno
import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
import zipfile
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner

from frugal_rt import BackendError, InputError, Plan, PlanError
from frugal_rt.cli import main
from frugal_rt.engines import backends, doctor, extras, nvidia, open_engine
from frugal_rt.engines.onnxruntime.sessions import Sessions
from frugal_rt.engines.tensorrt import build, engine, library, store
from frugal_rt.engines.tensorrt.store import ENGINES, Built, Here, Record

H200 = nvidia.Device(0, "NVIDIA H200", "9.0", 141 << 30)
HERE = Here("tensorrt", "11.4.0.12", "9.0", "NVIDIA H200", store.system())
needs_rtx = pytest.mark.skipif(
    not extras.version("tensorrt-rtx"), reason="tensorrt-rtx is not installed; pip install 'frugal-rt[rtx]'"
)


@pytest.fixture(autouse=True)
def cache_folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("FRUGAL_RT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "engines"


@pytest.fixture
def plan(tiny_plan) -> Plan:
    return Plan.open(tiny_plan)


@pytest.fixture
def gpu(monkeypatch) -> None:
    """As if the driver showed an H200. Nothing that would need it may be reached."""
    monkeypatch.setattr(nvidia, "trouble", lambda: None)
    monkeypatch.setattr(nvidia, "devices", lambda: [H200])


def kept(plan: Plan, here: Here = HERE, precision="fp32", batches=(1, 4), **changes) -> Built:
    """Engines of four bytes in the cache."""
    data = {name: f"{name:4}"[:4].encode() for name in ENGINES}
    files = {name: {"bytes": 4, "sha256": hashlib.sha256(one).hexdigest()} for name, one in data.items()}
    record = Record(store.plan_hash(plan), here, precision, batches, 3, files)
    with store.building() as root:
        return store.keep(replace(record, **changes), data, root)


def refused(plan, here=HERE, **how) -> str:
    with pytest.raises(BackendError) as error:
        store.find(plan, here, **how)
    sentence = str(error.value)
    assert "\n" not in sentence
    return sentence


# What may be loaded here.


def test_what_was_kept_is_found_and_read(plan):
    kept(plan)
    found = store.find(plan, HERE)
    assert found.own
    assert bytes(found.read("forward")) == b"forw"
    assert Record.parse(json.loads(json.dumps(found.record.data()))) == found.record


@pytest.mark.parametrize(
    ("changes", "both"),
    [
        ({"version": "10.9.0.34"}, ["tensorrt 10.9.0.34", "tensorrt 11.4.0.12"]),
        ({"flavour": "tensorrt-rtx", "version": "1.7.1.116"}, ["tensorrt-rtx 1.7.1.116", "tensorrt 11.4.0.12"]),
        ({"capability": "8.9", "gpu": "NVIDIA L4"}, ["8.9 (NVIDIA L4)", "NVIDIA H200 has 9.0"]),
        ({"system": "Windows AMD64"}, ["Windows AMD64", store.system()]),
    ],
)
def test_an_engine_for_elsewhere_is_refused_with_both_values_and_the_command(plan, changes, both):
    kept(plan, HERE._replace(**changes) if hasattr(HERE, "_replace") else replace(HERE, **changes))
    sentence = refused(plan)
    assert all(value in sentence for value in both)
    assert sentence.endswith("run: frugal-rt build tiny.plan")


def test_an_engine_of_another_precision_is_refused(plan):
    kept(plan, precision="fp32")
    sentence = refused(plan, precision="bf16")
    assert "computes in fp32, and bf16 is asked for" in sentence
    assert sentence.endswith("run: frugal-rt build tiny.plan --precision bf16")


def test_without_any_the_command_is_named(plan):
    assert refused(plan) == (
        "tiny.plan has no TensorRT engine yet for the NVIDIA H200 of this machine; run: frugal-rt build tiny.plan"
    )
    rtx = replace(HERE, flavour="tensorrt-rtx")
    assert refused(plan, rtx).endswith("run: frugal-rt build tiny.plan --flavour tensorrt-rtx")


def test_engines_of_another_plan_are_not_this_one_s(plan):
    found = kept(plan)
    members = {name: plan.member(name) for name in plan.members}
    manifest = {key: value for key, value in plan.manifest.items() if key != "members"}
    changed = Plan(manifest, {**members, "embedding.onnx": b"other"}, "other.plan")
    assert store.plan_hash(changed) != found.record.plan
    assert "has no TensorRT engine yet" in refused(changed)


def test_the_best_that_fits_is_taken(plan):
    for here in (replace(HERE, gpu="NVIDIA H100"), replace(HERE, version="10.0.0.1")):
        kept(plan, here, "fp16")
    assert store.find(plan, HERE).record.here.gpu == "NVIDIA H100"  # of its kind, where there is none for it
    kept(plan, HERE, "fp32")
    assert store.find(plan, HERE).record.precision == "fp32"  # for this very GPU
    kept(plan, HERE, "bf16", (1,))
    kept(plan, HERE, "bf16", (1, 16))
    assert store.find(plan, HERE).record.batches == (1, 16)
    assert store.find(plan, HERE, "fp32").record.precision == "fp32"


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("damage", ["cut", "flipped", "gone"])
def test_a_damaged_engine_is_refused_before_it_is_loaded(plan, cache_folder, name, damage):
    found = kept(plan)
    file = cache_folder / found.record.key / f"{name}.engine"
    if damage == "gone":
        file.unlink()
    else:
        file.write_bytes(b"for" if damage == "cut" else b"evil")
    with pytest.raises(BackendError, match=r"SHA-256; delete it, or build again|cannot be read: No such file"):
        store.find(plan, HERE).read(name)


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"files": 3}', "\0\0"])
def test_a_record_that_cannot_be_read_is_no_engine(plan, cache_folder, text):
    found = kept(plan)
    (cache_folder / found.record.key / "record.json").write_text(text)
    assert "has no TensorRT engine yet" in refused(plan)


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="permissions are POSIX's")
def test_engines_in_a_folder_that_others_may_write_are_not_the_user_s_own(plan, cache_folder):
    found = kept(plan)
    (cache_folder / found.record.key).chmod(0o777)
    assert "--trust-engines loads it if you trust where it came from" in refused(plan)
    assert store.find(plan, HERE, trust=True).record == found.record


def test_bundled_engines_are_loaded_only_when_trusted(plan, cache_folder, tmp_path):
    store.bundle(plan, kept(plan)).save(tmp_path / "bundled.plan")
    shutil.rmtree(cache_folder)
    bundled = Plan.open(tmp_path / "bundled.plan")
    sentence = refused(bundled)
    assert sentence.startswith("the engine in bundled.plan is native code that was not built by you on this machine")
    found = store.find(bundled, HERE, trust=True)
    assert not found.own
    assert bytes(found.read("pullback")) == b"pull"
    again = store.bundle(bundled, kept(bundled))  # takes the place of the one of its key
    assert len(again.manifest["engines"]) == 1
    assert store.find(again, HERE).own  # the user's own come first
    result = CliRunner().invoke(main, ["inspect", str(tmp_path / "bundled.plan")])
    assert "fp32 by tensorrt 11.4.0.12 for NVIDIA H200 of compute capability 9.0" in result.output


def test_a_bundled_engine_that_was_changed_is_refused(plan, tmp_path):
    store.bundle(plan, kept(plan)).save(tmp_path / "b.plan")
    data = (tmp_path / "b.plan").read_bytes()
    with zipfile.ZipFile(tmp_path / "b.plan") as archive:
        (entry,) = (one for one in archive.infolist() if one.filename.endswith("/forward.engine"))
    member = data.index(b"forw", entry.header_offset + 30 + len(entry.filename))
    (tmp_path / "b.plan").write_bytes(data[:member] + b"evil" + data[member + 4 :])
    shutil.rmtree(store.folder())
    found = store.find(Plan.open(tmp_path / "b.plan"), HERE, trust=True)
    with pytest.raises(PlanError, match=r"forward\.engine does not match its SHA-256"):
        found.read("forward")


@pytest.mark.parametrize("listed", [[{"plan": 1}], [3], {"a": 1}, "x"])
def test_a_plan_that_lists_engines_badly_is_refused(plan, tmp_path, listed):
    broken = Plan({**plan.manifest, "engines": listed}, {name: plan.member(name) for name in plan.members})
    with pytest.raises(PlanError, match="its manifest has no valid engines"):
        store.find(broken, HERE)
    broken.save(tmp_path / "broken.plan")
    result = CliRunner().invoke(main, ["inspect", str(tmp_path / "broken.plan")])
    assert result.exit_code == 1
    assert result.output.startswith("Error: ")
    assert "its manifest has no valid engines" in result.output


def test_what_is_built_again_takes_the_place_of_what_was(plan, cache_folder):
    first, second = kept(plan, level=1), kept(plan, level=5)
    assert first.record.key == second.record.key
    assert store.find(plan, HERE).record.level == 5
    assert sorted(path.name for path in cache_folder.iterdir()) == sorted([second.record.key, "lock"])


def test_a_full_disk_leaves_what_was(plan, cache_folder, monkeypatch):
    kept(plan, level=1)

    def full(fd):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(BackendError, match="the disk is full"):
        kept(plan, level=5)
    assert store.find(plan, HERE).record.level == 1
    assert bytes(store.find(plan, HERE).read("predict")) == b"pred"
    assert not list(cache_folder.glob("tmp*"))


def test_engines_used_longest_ago_make_room(plan, cache_folder, monkeypatch):
    built = [kept(plan, precision=precision) for precision in ("fp16", "bf16")]
    size = sum(file.stat().st_size for file in (cache_folder / built[0].record.key).iterdir())
    monkeypatch.setattr(store, "LIMIT", 2 * size + 50)
    for age, one in zip((1000, 2000), built, strict=True):
        os.utime(cache_folder / one.record.key, (age, age))
    kept(plan, precision="fp32")
    assert [store.find(plan, HERE, one).record.precision for one in ("bf16", "fp32")] == ["bf16", "fp32"]
    assert not (cache_folder / built[0].record.key).exists()


def test_without_a_cache_nothing_is_built(plan, monkeypatch):
    monkeypatch.setenv("FRUGAL_RT_CACHE", "off")
    with (
        pytest.raises(InputError, match="the cache, which is off; let FRUGAL_RT_CACHE name a folder"),
        store.building(),
    ):
        pass
    assert "has no TensorRT engine yet" in refused(plan)


# Where there is no GPU, and where there seems to be one.


@pytest.mark.skipif(nvidia.trouble() is None, reason="this machine has a GPU")
@pytest.mark.parametrize("backend", ["tensorrt", "tensorrt-rtx"])
def test_without_a_gpu_the_backend_is_one_sentence(tiny_plan, tmp_path, backend):
    """In a process of its own: TensorRT itself would take it down."""
    code = f"from frugal_rt.engines import Plan, open_engine; open_engine(Plan.open({str(tiny_plan)!r}), {backend!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    wanted = (
        "needs an NVIDIA GPU: no NVIDIA driver"
        if extras.version(backend)
        else f"needs {backend}, which is not installed"
    )
    assert wanted in last or "the NVIDIA driver shows no device" in last


@pytest.mark.skipif(nvidia.trouble() is None, reason="this machine has a GPU")
@needs_rtx
def test_the_runtime_is_not_made_without_a_driver():
    code = "from frugal_rt.engines.tensorrt.library import load; load('tensorrt-rtx').runtime"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "BackendError: tensorrt-rtx needs an NVIDIA GPU" in done.stderr


@needs_rtx
def test_a_backend_says_why_its_engine_does_not_fit(plan, gpu):
    kept(plan, replace(HERE, flavour="tensorrt-rtx", version="1.0.0.1"))
    with pytest.raises(BackendError, match=r"built by tensorrt-rtx 1\.0\.0\.1, and tensorrt-rtx [\d.]+ is here"):
        open_engine(plan, "tensorrt-rtx")


def test_auto_says_once_why_it_is_not_tensorrt(plan, gpu, caplog):
    engine = open_engine(plan, "auto")
    assert engine.name == "onnxruntime (cpu)"
    (line,) = [record.getMessage() for record in caplog.records if record.name == "frugal_rt.engines.backends"]
    assert line.startswith("the backend is not TensorRT: ")


def test_auto_takes_torch_on_the_gpu_rather_than_the_cpu(plan, gpu, monkeypatch):
    opened = []
    monkeypatch.setattr(backends, "_torch_device", lambda: "cuda")
    monkeypatch.setitem(backends.BACKENDS, "torch", lambda plan, wanted: opened.append(wanted))
    open_engine(plan, "auto")
    assert len(opened) == 1


@pytest.mark.parametrize("backend", ["cpu", "cuda", "openvino"])
def test_a_backend_of_one_precision_refuses_others(plan, backend):
    with pytest.raises(InputError, match=f"the {backend} backend computes in .*; fp16 takes tensorrt or torch"):
        open_engine(plan, f"{backend}:fp16")


def test_an_unknown_precision_lists_those_there_are(plan):
    with pytest.raises(InputError, match="no precision 'int4'; choose one of fp16, bf16, fp32: torch:bf16"):
        open_engine(plan, "torch:int4")


def test_doctor_explains_both_flavours(monkeypatch):
    found = {finding.backend: finding for finding in doctor.findings()}
    for name in library.FLAVOURS:
        if extras.version(name) is None:
            assert found[name].detail == f"{name} is not installed"
        elif nvidia.trouble():
            assert nvidia.trouble() in found[name].detail


@needs_rtx
def test_doctor_shows_the_gpu(gpu):
    found = {finding.backend: finding for finding in doctor.findings()}["tensorrt-rtx"]
    assert found.usable
    assert "NVIDIA H200, compute capability 9.0" in found.detail


# Building, for GPUs that are not here.


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
    model.graph.node[0].op_type = "Frobnicate"
    members["forward.onnx"] = model.SerializeToString()
    manifest = {key: value for key, value in plan.manifest.items() if key != "members"}
    with pytest.raises(BackendError, match=r"tensorrt-rtx [\d.]+ could not read forward.onnx: Frobnicate .*Plugin"):
        build.build(Plan(manifest, members), "tensorrt-rtx", capability="8.9", level=0)


@needs_rtx
@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--capability", "9.9"), "knows no 9.9; it builds for 7.5"),
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


# The engine's wiring, on the CPU: onnxruntime reads and writes the addresses that a context was given.


class FakeContext:
    def __init__(self, session):
        self.session = session
        self.addresses, self.shapes, self.profile = {}, {}, None

    def set_optimization_profile_async(self, profile, stream):
        self.profile = profile
        return True

    def set_input_shape(self, name, shape):
        low, high = [(1, 1), (2, 4)][self.profile]
        self.shapes[name] = shape
        return low <= shape[0] <= high

    def set_tensor_address(self, name, address):
        self.addresses[name] = address
        return True

    def get_tensor_shape(self, name):
        wanted = next(one for one in self.session.get_outputs() if one.name == name).shape
        return [next(iter(self.shapes.values()))[0], *wanted[1:]]

    def execute_async_v3(self, stream):
        def at(name, shape):
            memory = (ctypes.c_float * int(np.prod(shape))).from_address(self.addresses[name])
            return np.frombuffer(memory, np.float32).reshape(shape)

        names = [one.name for one in self.session.get_outputs() if one.name in self.addresses]
        inputs = {one.name: at(one.name, self.shapes[one.name]) for one in self.session.get_inputs()}
        for name, value in zip(names, self.session.run(names, inputs), strict=True):
            at(name, value.shape)[...] = value
        return True


class FakeEngine:
    def __init__(self, session, wanted):
        self.session = session
        self.inputs = {one.name: one.shape for one in session.get_inputs()}
        self.outputs = {one.name: one.shape for one in session.get_outputs() if wanted(one.name)}
        self.names = [*self.inputs, *self.outputs]
        self.num_io_tensors = len(self.names)

    def get_tensor_name(self, i):
        return self.names[i]

    def get_tensor_mode(self, name):
        return "in" if name in self.inputs else "out"

    def get_tensor_dtype(self, name):
        return SimpleNamespace(name="FLOAT")

    def get_tensor_shape(self, name):
        return [-1, *{**self.inputs, **self.outputs}[name][1:]]

    def create_execution_context(self, strategy):
        return FakeContext(self.session)


class FakeArrays:
    device, records, torch = "cpu", False, torch

    def __init__(self, what, device): ...

    def asarray(self, x):
        return torch.as_tensor(x, dtype=torch.float32)

    def ahead(self, array):
        return lambda: self.asarray(array)

    def record(self, work):
        return None

    def pace(self): ...

    @contextmanager
    def queue(self):
        yield SimpleNamespace(cuda_stream=7, synchronize=lambda: None)

    memory = nullcontext


@pytest.fixture
def wired(plan, gpu, monkeypatch):
    """A TensorRT of onnxruntime, with engines for batches of 1 and 4."""
    sessions = Sessions(plan, "cpu")

    def deserialize(data):
        name = {b"pred": "predict", b"forw": "forward", b"pull": "pullback"}[bytes(data)]
        session = sessions.open("pullback" if name == "pullback" else "forward", "cpu")
        return FakeEngine(session, lambda output: name != "predict" or not output.startswith("kept:"))

    rt = SimpleNamespace(
        name="tensorrt",
        version=HERE.version,
        flavour=library.FLAVOURS["tensorrt"],
        runtime=SimpleNamespace(deserialize_cuda_engine=deserialize),
        trt=SimpleNamespace(
            TensorIOMode=SimpleNamespace(INPUT="in"),
            ExecutionContextAllocationStrategy=SimpleNamespace(ON_PROFILE_CHANGE=1),
        ),
        errors=["the log's last line"],
    )
    rt.need = lambda result, what: library.TensorRT.need(rt, result, what)
    rt.need_device = lambda: H200
    monkeypatch.setattr(library, "load", lambda name: rt)
    monkeypatch.setattr(engine, "TorchArrays", FakeArrays)
    kept(plan)
    return open_engine(plan, "tensorrt")


@pytest.mark.parametrize("batch", [1, 2, 3, 4, 5, 9])
@pytest.mark.parametrize("as_torch", [False, True])
def test_calls_of_any_size_are_onnxruntime_s(plan, wired, batch, as_torch):
    random = np.random.default_rng(0)
    x, v = random.standard_normal((2, batch, *plan.image_shape)).astype(np.float32)
    t = random.integers(0, 1000, batch)
    given = [torch.from_numpy(one) if as_torch else one for one in (x, t, v)]
    reference = open_engine(plan, "cpu")
    (want, _), want_pull = reference.pullback(x, t)
    np.testing.assert_allclose(np.asarray(wired.predict(*given[:2]).out), want, atol=1e-5)
    (out, variance), pull = wired.pullback(*given[:2])
    assert variance is None
    assert isinstance(out, torch.Tensor) == as_torch
    np.testing.assert_allclose(np.asarray(out), want, atol=1e-5)
    np.testing.assert_allclose(np.asarray(pull(given[2])), want_pull(v), atol=1e-4)


def test_what_a_context_refuses_is_an_error_with_the_log_s_last_lines(plan, wired, monkeypatch):
    monkeypatch.setattr(FakeContext, "execute_async_v3", lambda self, stream: False)
    x = np.zeros((1, *plan.image_shape), np.float32)
    with pytest.raises(BackendError, match=r"could not run in the predict engine: the log's last line"):
        wired.predict(x, np.array([3]))


def test_a_name_says_version_and_precision(wired):
    assert wired.name == "tensorrt 11.4.0.12 (cuda, fp32)"


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
