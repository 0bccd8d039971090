"""Invalid manifests are refused with a sentence that names the place."""

import json
import os
import stat
import subprocess
import sys
import zipfile
from copy import deepcopy
from pathlib import Path

import pytest
from click.testing import CliRunner

from frugal_rt import Plan, PlanError
from frugal_rt.cli import main
from frugal_rt.engines.embedded import FOLDERS, embedded_plan
from frugal_rt.engines.manifest import LEAST_SIGNAL, fault
from frugal_rt.engines.plan import MANIFEST, WEIGHTS

GONE = object()
NUMBER = [0, -1, 2**40, 10**30, 16.0, "16", None, True, [], {}]
"""Values that are invalid as counts."""
SHARE = ["x", -0.1, 0, 1, 1.5, None, [], 1e308, True]
"""Values that are invalid as betas."""
WORDS = ["x", "", None, [], {}, 1, True]
FRAMINGS = ["x", [], {}, {"centre": "x", "side": 1}, {"centre": [0.5], "side": 1}, {"centre": [0.5, 0.5], "side": 0}]
FIVE, LONG = [0.1] * 5, [0.01] * 1000
ATTACKS = {
    "schedule": [None, [], "x", {}],
    "schedule.num_train_timesteps": [*NUMBER, 1, 20_000],
    "schedule.beta_start": SHARE,
    "schedule.beta_end": SHARE,
    "schedule.trained_betas": ["x", FIVE, [], {}, 0, *([*LONG[1:], one] for one in SHARE), [0.5] * 1000],
    "schedule.beta_schedule": WORDS,
    "schedule.prediction_type": WORDS,
    "schedule.variance_type": [*WORDS, "learned"],
    "image": [None, [], {}],
    "image.channels": [*NUMBER, 17],
    "image.height": NUMBER,
    "image.width": NUMBER,
    "image.range": [GONE, None, "\x1b[2J", [0, 1], []],
    "prior": [None, {}],
    "prior.name": [GONE, None, 1, "a\nError: b", "a" * 10**5, "\ud800"],
    "prior.licence": [GONE, None, "a" * 10**5, "\ud800"],
    "prior.card": [GONE, None, [], "\ud800"],
    "prior.framing": [*FRAMINGS, {"centre": [2**80, 0.5], "side": 0.5}, {"centre": [0.5, True], "side": 0.5}],
    "network": [None, {}],
    "network.architecture": WORDS,
    "network.pixel_unshuffle": NUMBER,
    "network.learned_variance": [True, None, 0, "no"],
    "network.config": [None, [], "x"],
    "network.config.block_out_channels": [[2**40], [[[8]]], {"a": 1}, [8] * 1000],
    "network.config.layers_per_block": NUMBER,
    "network.config.down_block_types": [5, None, True, [5], [None], [["Attn"]]],
    "network.config.up_block_types": [5, None, True, [5], [None], [["Attn"]]],
    "graphs": [None, [], {}],
    "graphs.embedding.inputs": [{}, None, {"x": ["batch"]}, {"t": ["batch", 1]}],
    "graphs.embedding.outputs": [{}, {"embedding": ["batch"]}, {"other": ["batch", 4]}, {"embedding": [4]}],
    "graphs.forward.inputs": [{}, None, {"x": ["batch", 3, 16, 16]}, {"x": ["batch", 3, 2**40, 16]}],
    "graphs.forward.outputs": [{}, None, {"out": ["batch"]}, {"out": ["batch", 3, 16, 17]}, {"out": "x"}],
    "graphs.forward.member": [None, [], "x", {}],
    "graphs.forward.weights": [None, {}, [1], [[]], "x"],
    "graphs.pullback.inputs": [{}, None, {"v": ["batch", 3, 16, 17]}, {"kept:none": ["batch", 1], "v": [3]}],
    "graphs.pullback.outputs": [{}, {"gradient": ["batch", 3, 16, 17]}],
    "precision": ["x", None, "float16", "\x1b[2J"],
    "tools": [None, [], {"torch": 1}],
    "mixed": [None, [], {"fp8": {"refused": "no"}}, {"fp16": {"refused": 1}}, {"fp16": {"graphs": {}}}],
    "parity": ["x", [], {"output": "x"}, {"gradient": None}],
    "engines": ["x", {}, 1],
    "members": [None, [], {}],
}
CASES = [(place, number) for place, values in ATTACKS.items() for number in range(len(values))]


def put(manifest: dict, place: str, value: object) -> None:
    *above, last = place.split(".")
    for key in above:
        manifest = manifest[key]
    if value is GONE:
        del manifest[last]
    else:
        manifest[last] = value


def rewritten(path: Path, manifest: bytes, compression: int = zipfile.ZIP_STORED) -> None:
    """Replace the manifest's bytes in the plan at `path`. Later members are then misplaced, which is checked later."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in {**members, MANIFEST: manifest}.items():
            archive.writestr(name, data)


@pytest.fixture(scope="module")
def manifest(tiny_plan) -> dict:
    return Plan.open(tiny_plan).manifest


@pytest.mark.parametrize(("place", "number"), CASES)
def test_every_value_is_of_the_range_that_readers_rely_on(manifest, place, number):
    changed = deepcopy(manifest)
    put(changed, place, ATTACKS[place][number])
    found = fault(changed)
    assert found, "nothing is found wrong"
    related = {"schedule.variance_type": "network.learned_variance", "members": "graphs"}.get(place, place)
    assert found.startswith((place, related, "graphs.", "network.")), found


@pytest.mark.parametrize("name", FOLDERS)
def test_nothing_is_found_in_the_embedded_priors(name):
    assert fault(embedded_plan(name).manifest) == ""


def test_a_schedule_leaves_some_of_the_picture(manifest):
    changed = deepcopy(manifest)
    changed["schedule"]["beta_end"] = 0.9
    assert fault(changed) == "schedule.beta_end"
    changed["schedule"] |= {"beta_start": 1e-4, "beta_end": 0.02}
    assert fault(changed) == ""
    assert LEAST_SIGNAL > 1e-38  # float32's smallest


TEXTS = {
    "nested": b'{"format": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "no numbers": b'{"format": "frugal-rt plan", "format_version": NaN}',
    "infinite": b'{"format": "frugal-rt plan", "format_version": 2, "image": {"height": Infinity}}',
    "long numbers": b'{"format_version": 1' + b"0" * 100_000 + b"}",
    "a list": b"[]",
    "null": b"null",
    "a number": b"[-1]",
    "no text": b"\xff\xfe",
    "nothing": b"",
}


@pytest.mark.parametrize("name", TEXTS)
def test_a_manifest_that_is_none_is_one_sentence(plan_copy, name):
    rewritten(plan_copy, TEXTS[name])
    with pytest.raises(PlanError, match=r"^tiny.plan is damaged: its manifest.json cannot be trusted; copy or export"):
        Plan.open(plan_copy)


@pytest.mark.parametrize("compression", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_compressed_members_are_one_sentence(plan_copy, compression):
    """Compressed members, valid and broken, are refused without being decompressed."""
    text = Plan.open(plan_copy).manifest_bytes()
    rewritten(plan_copy, bytes(text), compression)
    data = bytearray(plan_copy.read_bytes())
    with pytest.raises(PlanError, match=r"^tiny.plan is damaged: its manifest.json cannot be trusted"):
        Plan.open(plan_copy)
    for offset in range(len(data) - 3000, len(data)):
        data[offset] ^= 0x55
        plan_copy.write_bytes(data)
        with pytest.raises(PlanError):
            Plan.open(plan_copy)
        data[offset] ^= 0x55


def test_a_directory_without_end_is_not_read(tmp_path):
    """A directory of 100,000 members: 5 MB, and more in memory."""
    path = tmp_path / "many.plan"
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(100_000):
            archive.writestr(f"{number}", b"")
    with pytest.raises(PlanError, match="its table of contents does not hold together"):
        Plan.open(path)


@pytest.mark.parametrize("kind", ["fifo", "device", "folder", "socket", "loop", "nul", "long"])
def test_what_is_no_file_is_refused_at_once(tmp_path, kind, monkeypatch):
    """Run in a process of its own, which a FIFO without a writer would block forever."""
    monkeypatch.chdir(tmp_path)
    path = Path("a.plan")
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "device":
        path = Path("/dev/zero")
    elif kind == "folder":
        path.mkdir()
    elif kind == "socket":
        os.mknod(path, stat.S_IFSOCK | 0o600)
    elif kind == "loop":
        path.symlink_to(path)
    name = {"nul": "a\0b", "long": "a" * 300}.get(kind, str(path))
    script = "import sys; from frugal_rt import Plan, PlanError\ntry: Plan.open(eval(sys.argv[1]))\n"
    script += "except PlanError as error: print(error)"
    done = subprocess.run([sys.executable, "-c", script, repr(name)], capture_output=True, text=True, timeout=60)
    assert done.stdout.count("\n") == 1
    assert "an" in done.stdout
    assert "plan is a file" in done.stdout or done.stdout.startswith("cannot read ")


@pytest.mark.parametrize("entry", [WEIGHTS, MANIFEST])
def test_a_plan_in_which_a_link_or_a_folder_stands_for_a_member_is_refused(plan_copy, entry):
    with zipfile.ZipFile(plan_copy) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(plan_copy, "w") as archive:
        for name, data in members.items():
            archive.writestr(f"{name}/" if name == entry else name, data)
    with pytest.raises(PlanError):
        Plan.open(plan_copy)


def test_terminal_escapes_are_shown_and_not_obeyed(tiny_plan, tmp_path):
    plan = Plan.open(tiny_plan)
    manifest = deepcopy({key: value for key, value in plan.manifest.items() if key != "members"})
    manifest["prior"] |= {"name": "\x1b]0;me\x07tiny", "licence": "free\x9b2J", "card": "# A\n\x1b[31mred\u202e\n"}
    manifest["tools"]["\x1b[2J"] = "\b\b\b"
    Plan(manifest, {name: plan.member(name) for name in plan.members}).save(tmp_path / "odd.plan")
    told = CliRunner().invoke(main, ["inspect", str(tmp_path / "odd.plan")])
    assert told.exit_code == 0, told.output
    assert not set(told.output) & {"\x1b", "\x07", "\r", "\x9b", "\b", "\u202e"}
    assert r"\x1b]0;me\x07tiny" in told.output
    assert "\\x1b[31mred\\u202e\n" in told.output
    as_json = CliRunner().invoke(main, ["inspect", str(tmp_path / "odd.plan"), "--json"])
    assert json.loads(as_json.stdout)["prior"] == manifest["prior"]
    assert "\x1b" not in as_json.stdout


def test_they_are_not_obeyed_in_names_of_files_and_errors(tmp_path):
    told = CliRunner().invoke(main, ["inspect", str(tmp_path / "\x1b[2Jmy.plan")])
    assert told.exit_code == 1
    assert r"\x1b[2Jmy.plan" in told.stderr
    assert "\x1b" not in told.stderr
