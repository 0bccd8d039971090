"""Plans of embedded priors equal those of the exporter, without torch."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from frugal_rt import Plan, PlanError, Restorer
from frugal_rt.engines import MissingPlan, embedded, open_plan
from frugal_rt.engines.embedded import FOLDERS, embedded_plan
from frugal_rt.engines.plan import WEIGHTS
from frugal_rt.export.ready import ready
from frugal_rt.runtime.operators import Denoise

from ..commands import frugal

MEASURED = ("parity", "mixed", "tools")
"""Keys of a manifest that depend on the exporting machine: figures and versions."""


@pytest.fixture(scope="module", params=FOLDERS)
def exports(request) -> tuple[str, Plan]:
    """Return the name of a prior, and its plan as exported here with torch."""
    return request.param, Plan.open(request.getfixturevalue(f"{request.param}_plan"))


def test_it_is_byte_for_byte_what_exporting_gives(exports):
    """Where this fails, the exporter or a prior has changed: python -m frugal_rt.export.ready"""
    name, exported = exports
    plan = embedded_plan(name)
    assert plan.members == exported.members
    for member in plan.members:
        assert plan.member(member) == exported.member(member), member
    said, expected = (
        {key: one for key, one in each.manifest.items() if key not in MEASURED} for each in (plan, exported)
    )
    assert said == expected
    assert [*plan.manifest["mixed"]] == [*exported.manifest["mixed"]]
    assert max(plan.manifest["parity"].values()) < 1e-3


def test_what_is_packed_comes_back(exports, tmp_path, monkeypatch):
    name, exported = exports
    folder = tmp_path / name
    shutil.copytree(FOLDERS[name] / "unet", folder / "unet")
    (folder / "ready.zip").write_bytes(ready(exported))
    monkeypatch.setitem(FOLDERS, name, folder)
    plan = embedded_plan(name)
    plan.save(tmp_path / "mine.plan")
    exported.save(tmp_path / "exported.plan")
    assert (tmp_path / "mine.plan").read_bytes() == (tmp_path / "exported.plan").read_bytes()


@pytest.mark.parametrize("damage", ["ready.zip", "unet/diffusion_pytorch_model.safetensors"])
def test_a_damaged_installation_is_told(damage, tmp_path, monkeypatch):
    shutil.copytree(FOLDERS["photo"], tmp_path / "photo")
    monkeypatch.setitem(FOLDERS, "photo", tmp_path / "photo")
    file = tmp_path / "photo" / damage
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 0xFF
    file.write_bytes(data)
    with pytest.raises(PlanError, match=r"the prior photo in this installation is damaged .*; install frugal-rt again"):
        embedded_plan("photo")
    file.unlink()
    with pytest.raises(PlanError, match="install frugal-rt again"):
        open_plan("photo")


def test_a_file_of_that_name_goes_before(tmp_path, monkeypatch, tiny_plan):
    monkeypatch.chdir(tmp_path)
    assert open_plan("photo").manifest["prior"]["name"] == "photo"
    shutil.copy(tiny_plan, "photo")
    assert open_plan("photo").manifest["prior"]["name"] == "tiny"
    with pytest.raises(PlanError, match="nor a prior of that name"):
        open_plan("foto")


@pytest.mark.parametrize("name", FOLDERS)
def test_a_file_that_is_not_there_names_the_prior_in_the_package(tmp_path, name):
    with pytest.raises(MissingPlan, match=rf"use it by its name: -e {name} \(or .* export --model {name}\)$"):
        open_plan(tmp_path / f"{name}.plan")


def test_no_torch_is_imported(tmp_path):
    """Restoring, and exporting without torch."""
    script = f"""
import sys
sys.modules["torch"] = None
import numpy as np
from frugal_rt import Restorer
from frugal_rt.runtime.operators import Denoise
with Restorer.load("photo", "cpu") as restorer:
    image = restorer.at(24, 40).restore(np.zeros((3, 24, 40)), Denoise((3, 24, 40)), sigma=0.5, steps=2).image
    assert image.shape == (3, 24, 40)
import importlib.util
spec = importlib.util.find_spec
importlib.util.find_spec = lambda name, *more: None if name == "torch" else spec(name, *more)
from frugal_rt.cli import main
main(["export", "--model", "celeba", "--no-build", "-o", {str(tmp_path / "celeba.plan")!r}])
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "3x64x64" in done.stdout
    Plan.open(tmp_path / "celeba.plan").check()


def test_every_door_takes_the_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert json.loads(frugal("inspect", "photo", "--json").stdout)["prior"]["name"] == "photo"
    assert "photo, format 3" in frugal("inspect", "photo").output
    assert frugal("build", "photo", "--bundle").exit_code == 2
    rng = np.random.default_rng(0)
    from PIL import Image

    Image.fromarray(rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)).save("mine.png")
    said = frugal("restore", "mine.png", "--steps", "2", "--sigma", "0.3", "--json")
    assert said.exit_code == 0, said.output
    assert Image.open("mine.restored.png").size == (30, 20)
    settings = json.loads(Image.open("mine.restored.png").info["frugal-rt"])
    assert settings["prior"] == "photo"
    again = frugal("restore", "mine.png", "--params", "mine.restored.png", "-o", "again.png")
    assert again.exit_code == 0, again.output
    assert Path("again.png").exists()
    np.testing.assert_array_equal(np.asarray(Image.open("again.png")), np.asarray(Image.open("mine.restored.png")))


def test_the_restored_image_is_that_of_the_exported_plan(photo_plan):
    y = np.random.default_rng(1).uniform(-1, 1, (3, 16, 16)).astype(np.float32)
    images = [
        Restorer.load(plan, "cpu").at(16, 16).restore(y, Denoise((3, 16, 16)), sigma=0.3, steps=3).image
        for plan in ("photo", photo_plan)
    ]
    np.testing.assert_array_equal(*images)


def test_weights_are_written_where_the_header_says(monkeypatch):
    """A header with another order and with gaps, which a library would not write, is followed."""
    header = json.dumps(
        {
            "unet.b": {"dtype": "F32", "shape": [2], "data_offsets": [16, 24]},
            "unet.a": {"dtype": "F32", "shape": [1, 2], "data_offsets": [0, 8]},
        }
    ).encode()
    header += b" " * (-len(header) % 8)  # as safetensors pads it, so that values lie where their type may
    head = len(header).to_bytes(8, "little") + header
    stored = {"unet.a": np.array([[1, 2]], np.float16), "unet.b": np.array([3, 4], np.float16)}
    data = embedded._weights(head, stored)
    assert bytes(data[len(head) :]) == np.array([1, 2, 0, 0, 3, 4], "<f4").tobytes()
    assert WEIGHTS == "weights.safetensors"
