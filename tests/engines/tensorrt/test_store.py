"""Built engines: which may be loaded here, and how one that may not is refused."""

import errno
import hashlib
import json
import os
import shutil
import zipfile
from dataclasses import replace

import pytest
from click.testing import CliRunner

from frugal_rt import BackendError, InputError, Plan, PlanError
from frugal_rt.cli import main
from frugal_rt.engines.tensorrt import store
from frugal_rt.engines.tensorrt.store import ENGINES, Record

from .kept import HERE, kept


def refused(plan, here=HERE, **how) -> str:
    with pytest.raises(BackendError) as error:
        store.find(plan, here, **how)
    sentence = str(error.value)
    assert "\n" not in sentence
    return sentence


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
    assert "has no valid engines" in result.output


def test_what_is_built_again_takes_the_place_of_what_was(plan, cache_folder):
    first, second = kept(plan, level=1), kept(plan, level=5)
    assert first.record.key == second.record.key
    assert store.find(plan, HERE).record.level == 5
    assert sorted(path.name for path in cache_folder.iterdir()) == sorted([second.record.key, "lock"])


def test_engines_that_are_built_again_leave_a_set_that_was_opened(plan):
    kept(plan, level=1)
    found = store.find(plan, HERE)
    assert bytes(found.read("predict")) == b"pred"
    files = {name: {"bytes": 3, "sha256": hashlib.sha256(b"new").hexdigest()} for name in ENGINES}
    with store.building() as root:
        store.keep(replace(found.record, files=files), dict.fromkeys(ENGINES, b"new"), root)
    assert bytes(found.read("pullback")) == b"pull"
    assert bytes(store.find(plan, HERE).read("pullback")) == b"new"


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
