"""The plan format: what is written is read, and nothing else is."""

import io
import json
import os
import random
import re
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.numpy import load as load_safetensors
from safetensors.numpy import save as save_safetensors

from frugal_rt import FrugalError, Plan, PlanError
from frugal_rt.cli import main
from frugal_rt.engines.plan import ALIGNMENT, FORMAT, ONE_SIZE, WEIGHTS

PICTURE, EMBEDDING, KEPT = ["batch", 3, 8, 8], ["batch", 4], ["batch", 2, 4, 4]
VALUES = {
    "embedding": ({"t": ["batch"]}, {"embedding": EMBEDDING}),
    "forward": ({"x": PICTURE, "embedding": EMBEDDING}, {"out": PICTURE, "kept:a": KEPT}),
    "pullback": ({"kept:a": KEPT, "v": PICTURE}, {"gradient": PICTURE}),
}


def entry(graph: str, **changes):
    """A graph's entry in a manifest."""
    inputs, outputs = VALUES[graph]
    return {"member": "elsewhere.onnx", "inputs": inputs, "outputs": outputs, "weights": [], **changes}


GRAPHS = {name: entry(name) for name in VALUES}


def small_plan() -> Plan:
    manifest = {
        "format": FORMAT,
        "format_version": ONE_SIZE,
        "prior": {"name": "none", "card": "", "licence": "none"},
        "image": {"channels": 3, "height": 8, "width": 8, "range": [-1, 1]},
        "schedule": {"num_train_timesteps": 1000},
        "network": {"config": {}, "pixel_unshuffle": 1, "learned_variance": False},
        "graphs": {name: {**graph, "member": "forward.onnx"} for name, graph in GRAPHS.items()},
        "precision": "float32",
        "tools": {},
    }
    return Plan(manifest, {WEIGHTS: b"weights" * 40, "forward.onnx": b"graph" * 99})


def rewrite(path: Path, change) -> None:
    """Write the zip anew, with `change(name, data) -> (name, data) | None` applied to each member."""
    with zipfile.ZipFile(path) as archive:
        members = [(name, archive.read(name)) for name in archive.namelist()]
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in filter(None, (change(*member) for member in members)):
            archive.writestr(name, data)
    path.write_bytes(buffer.getvalue())


def edit_manifest(path: Path, **changes: object) -> None:
    rewrite(
        path, lambda n, d: (n, json.dumps({**json.loads(d), **changes}).encode()) if n == "manifest.json" else (n, d)
    )


def test_any_zip_tool_opens_it_and_members_are_stored_and_aligned(tmp_path):
    small_plan().save(tmp_path / "a.plan")
    with zipfile.ZipFile(tmp_path / "a.plan") as archive:
        assert archive.testzip() is None
        assert archive.namelist()[0] == "manifest.json"
        data = (tmp_path / "a.plan").read_bytes()
        for entry in archive.infolist():
            name, extra = struct.unpack_from("<HH", data, entry.header_offset + 26)
            assert entry.compress_type == zipfile.ZIP_STORED
            assert (entry.header_offset + 30 + name + extra) % ALIGNMENT == 0


def test_a_plan_beyond_2_gib_is_aligned_too(tmp_path, monkeypatch):
    """Its sizes are in 64 bits (ImageNet's weights take 2.2 GB); here smaller ones are written so."""
    small_plan().save(tmp_path / "a.plan")
    monkeypatch.setattr("frugal_rt.engines.plan._LARGE", 10)
    small_plan().save(tmp_path / "b.plan")
    assert (tmp_path / "a.plan").read_bytes() != (tmp_path / "b.plan").read_bytes()
    assert read_all(tmp_path / "b.plan") == read_all(tmp_path / "a.plan")
    with zipfile.ZipFile(tmp_path / "b.plan") as archive:
        assert archive.testzip() is None


def test_saving_twice_gives_the_same_bytes(tmp_path):
    small_plan().save(tmp_path / "a.plan")
    Plan.open(tmp_path / "a.plan").save(tmp_path / "b.plan")
    assert (tmp_path / "a.plan").read_bytes() == (tmp_path / "b.plan").read_bytes()


def test_tensors_are_views_of_the_file_and_what_safetensors_reads(tiny_plan):
    plan = Plan.open(tiny_plan)
    ours, theirs = plan.tensors(), load_safetensors(bytes(plan.member(WEIGHTS)))
    assert ours.keys() == theirs.keys()
    assert all(np.array_equal(ours[name], theirs[name]) for name in theirs)
    assert all(not array.flags.owndata for array in ours.values())


OPEN = """
import re, sys
from frugal_rt import Plan
from frugal_rt.engines import plan

def anonymous():  # kB of memory that no file backs
    with open("/proc/self/status") as status:
        return int(re.search(r"RssAnon:\\s+(\\d+)", status.read())[1])

plan.IN_MEMORY = 0
before = anonymous()
plan = Plan.open(sys.argv[1])
total = sum(float(array[::4096].sum()) for array in plan.tensors().values())
print(total, anonymous() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="needs Linux's /proc")
def test_opening_a_large_plan_and_reading_its_weights_makes_no_copy(tmp_path):
    """Large is here what has no more than any."""
    weights = save_safetensors({f"t{i}": np.ones(1 << 22, np.float32) for i in range(4)})  # 4 x 16 MiB
    plan = small_plan()
    Plan({k: v for k, v in plan.manifest.items() if k != "members"}, {WEIGHTS: weights, "forward.onnx": b""}).save(
        tmp_path / "large.plan"
    )
    command = [sys.executable, "-c", OPEN, str(tmp_path / "large.plan")]
    total, grown = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    assert float(total) == 4 * 1024
    assert int(grown) < 4 << 10  # one tensor alone would be 16 MiB


def test_extract_writes_every_member_once(tiny_plan, tmp_path):
    paths = Plan.open(tiny_plan).extract(tmp_path / "out")
    graphs = ["embedding.onnx", "forward.onnx", "pullback.onnx"]
    assert sorted(path.name for path in paths) == [*graphs[:2], "manifest.json", graphs[2], "weights.safetensors"]
    with pytest.raises(FrugalError, match="already exists"):
        Plan.open(tiny_plan).extract(tmp_path / "out")


def read_all(path: Path) -> dict[str, bytes]:
    plan = Plan.open(path)
    return {name: bytes(plan.member(name)) for name in plan.members}


def flip(path: Path, offset: int, bit: int = 0) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 1 << bit
    path.write_bytes(data)


def find(path: Path, member: str) -> int:
    """An offset well inside a member."""
    with zipfile.ZipFile(path) as archive:
        entry = archive.getinfo(member)
    name, extra = struct.unpack_from("<HH", path.read_bytes(), entry.header_offset + 26)
    return entry.header_offset + 30 + name + extra + entry.file_size // 2


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda p: edit_manifest(p, format_version=99), "plan format 99 and this frugal-rt reads up to 3; upgrade"),
        (lambda p: edit_manifest(p, format_version=1), "plan format 1, which held no gradient; export it again"),
        (lambda p: edit_manifest(p, graphs={"forward": {"member": "x"}}), "has no valid graphs.embedding"),
        (lambda p: edit_manifest(p, graphs=GRAPHS), "has no valid graphs.embedding.member"),
        (lambda p: edit_manifest(p, image=None), "has no valid image"),
        (lambda p: edit_manifest(p, image={"channels": 3, "height": "8"}), "has no valid image.height"),
        (lambda p: edit_manifest(p, members={"a": {"bytes": 1}}), "has no valid members.a.sha256"),
        (lambda p: edit_manifest(p, format_version=True), r"its manifest\.json cannot be trusted"),
        (lambda p: p.write_bytes(p.read_bytes()[:-1000]), "cut short: the end of the file is missing"),
        (lambda p: p.write_bytes(p.read_bytes()[: p.stat().st_size // 2]), "cut short"),
        (lambda p: flip(p, find(p, WEIGHTS)), "weights.safetensors does not match its SHA-256"),
        (lambda p: flip(p, find(p, "forward.onnx")), "forward.onnx does not match its SHA-256"),
        (lambda p: flip(p, find(p, "manifest.json")), r"its manifest\.json cannot be trusted"),
        (
            lambda p: rewrite(p, lambda n, d: ("../" + n, d) if n == WEIGHTS else (n, d)),
            r"unexpected members \('\.\./weights",
        ),
        (lambda p: rewrite(p, lambda n, d: ("x.py" if n == WEIGHTS else n, d)), r"unexpected members \('x\.py'\)"),
        (lambda p: rewrite(p, lambda n, d: None if n == WEIGHTS else (n, d)), "lacks weights.safetensors"),
        (
            lambda p: rewrite(p, lambda n, d: None if n == "manifest.json" else (n, d)),
            "a zip archive without a manifest",
        ),
        (lambda p: p.write_bytes(b"ptrt" + bytes(100)), "a raw TensorRT engine, not a frugal-rt plan"),
        (lambda p: p.write_bytes(b"vtrt" + bytes(100)), "a raw TensorRT engine, not a frugal-rt plan"),
        (lambda p: p.write_bytes(b"\x08\x0a\x12\x07pytorch" + bytes(99)), "an ONNX model, not a frugal-rt plan"),
        (lambda p: p.write_text("hello, this is text"), "is not a frugal-rt plan"),
        (lambda p: p.write_bytes(b""), "is empty"),
        (lambda p: p.unlink(), "there is no file"),
        (lambda p: (p.unlink(), p.mkdir()), "tiny.plan is a folder, a pipe or a device, and a plan is a file"),
        (lambda p: (p.unlink(), os.mkfifo(p)), "tiny.plan is a folder, a pipe or a device, and a plan is a file"),
    ],
)
def test_each_kind_of_damage_has_its_sentence(plan_copy, damage, sentence):
    damage(plan_copy)
    with pytest.raises(PlanError, match=sentence):
        read_all(plan_copy)
    told = CliRunner().invoke(main, ["inspect", str(plan_copy)])
    assert told.exit_code == 1
    assert re.search(sentence, told.stderr)
    assert told.stderr.startswith("Error: ")
    assert told.stderr.count("\n") == 1


def mixed(**changes):
    half = {"member": "forward.onnx", "types": {"kept:a": "float16"}}
    return {
        "fp16": {"graphs": {"forward": entry("forward", **half), "pullback": entry("pullback", **{**half, **changes})}}
    }


@pytest.mark.parametrize(
    ("held", "wrong"),
    [
        ([], "mixed"),
        ({"fp16": None}, "mixed.fp16"),
        ({"fp16": {}}, "mixed.fp16.graphs"),
        ({"bf16": {"refused": "no"}, "fp16": {"refused": 1}}, "mixed.fp16.refused"),
        ({"fp16": {"refused": "no"}, "bf16": {"graphs": {}}}, "mixed.bf16.graphs.forward"),
        (mixed(member="elsewhere.onnx"), "mixed.fp16.graphs.pullback.member"),
        (mixed(weights={}), "mixed.fp16.graphs.pullback.weights"),
        (mixed(types=None), "mixed.fp16.graphs.pullback.types"),
        (mixed(types={"v": "float8"}), "mixed.fp16.graphs.pullback.types.v"),
        (mixed(types={"v": ["float16"]}), "mixed.fp16.graphs.pullback.types.v"),
        ({"fp16": {**mixed()["fp16"], "parity": {"output": 0.1}}}, "mixed.fp16.parity.gradient"),
        ({"fp16": {**mixed()["fp16"], "parity": {"output": "x", "gradient": 0.1}}}, "mixed.fp16.parity.output"),
    ],
)
def test_what_a_manifest_says_of_half_precision_is_checked(plan_copy, held, wrong):
    edit_manifest(plan_copy, mixed=held)
    with pytest.raises(PlanError, match=f"has no valid {wrong};"):
        Plan.open(plan_copy)


@pytest.mark.parametrize("held", [{}, mixed(), {"fp16": {"refused": "too far"}}])
def test_what_it_may_say_of_half_precision_opens(tmp_path, held):
    plan = small_plan()
    plan.manifest["mixed"] = held
    plan.save(tmp_path / "a.plan")
    assert Plan.open(tmp_path / "a.plan").manifest["mixed"] == held


def test_real_onnx_files_are_recognised(tiny_plan, tmp_path):
    graph = Plan.open(tiny_plan).member("forward.onnx")
    (tmp_path / "model.plan").write_bytes(graph)
    with pytest.raises(PlanError, match="an ONNX model"):
        Plan.open(tmp_path / "model.plan")


def test_no_single_flipped_bit_gets_past_or_raises_anything_else(tmp_path):
    """Every byte of a small plan, one bit at a time: a PlanError, or a plan that reads as it was written."""
    small_plan().save(tmp_path / "whole.plan")
    data = (tmp_path / "whole.plan").read_bytes()
    whole = Plan.open(tmp_path / "whole.plan")
    caught, path, bits = 0, tmp_path / "flipped.plan", random.Random(0)
    for offset in range(len(data)):
        path.write_bytes(data[:offset] + bytes([data[offset] ^ 1 << bits.randrange(8)]) + data[offset + 1 :])
        try:
            plan = Plan.open(path)
            members = {name: bytes(plan.member(name)) for name in plan.members}
        except PlanError:
            caught += 1
            continue
        assert plan.manifest == whole.manifest, offset
        assert members == {name: bytes(whole.member(name)) for name in whole.members}, offset
    assert caught > 0.7 * len(data)


def test_a_failed_write_leaves_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "a.plan"
    small_plan().save(path)
    before = path.read_bytes()

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(FrugalError, match="the disk is full"):
        small_plan().save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_an_interrupted_write_leaves_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "a.plan"
    small_plan().save(path)

    def interrupt(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("os.fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        small_plan().save(path)
    assert list(tmp_path.iterdir()) == [path]
    assert Plan.open(path).members == small_plan().members


def mapped(path: Path) -> bool:
    return os.path.realpath(path) in Path("/proc/self/maps").read_text()


@pytest.mark.skipif(not Path("/proc/self/maps").is_file(), reason="needs Linux's /proc")
def test_a_closed_plan_is_not_mapped_once_its_arrays_are_gone(plan_copy, tmp_path, monkeypatch):
    monkeypatch.setattr("frugal_rt.engines.plan.IN_MEMORY", 0)
    plan = Plan.open(plan_copy)
    array = next(iter(plan.tensors().values()))
    before = array.copy()
    plan.close()
    plan.close()
    assert mapped(plan_copy)
    np.testing.assert_array_equal(array, before)
    del array
    assert not mapped(plan_copy)
    for call in (lambda: plan.members, lambda: plan.save(tmp_path / "b.plan"), lambda: plan.extract(tmp_path / "b")):
        with pytest.raises(PlanError, match="has been closed; open it again"):
            call()
    assert not list(tmp_path.glob("*b*"))


@pytest.mark.parametrize(("fixture", "attends"), {"celeba_plan": True, "photo_plan": False}.items())
def test_a_plan_says_whether_its_network_has_attention(request, fixture, attends):
    assert Plan.open(request.getfixturevalue(fixture)).attends is attends
