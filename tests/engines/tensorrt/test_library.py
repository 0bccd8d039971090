"""TensorRT without a GPU gives an error, and does not crash."""

import subprocess
import sys

import pytest

from frugal_rt.engines import extras, nvidia
from frugal_rt.engines.tensorrt import library

from .kept import needs_rtx


@pytest.mark.skipif(nvidia.trouble() is None, reason="this machine has a GPU")
@pytest.mark.parametrize("backend", ["tensorrt", "tensorrt-rtx"])
def test_without_a_gpu_the_backend_is_one_sentence(tiny_plan, tmp_path, backend):
    """Run in a process of its own, as TensorRT would crash it."""
    code = f"from frugal_rt.engines import Plan, open_engine; open_engine(Plan.open({str(tiny_plan)!r}), {backend!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    wanted = (
        "needs an NVIDIA GPU: no NVIDIA driver"
        if backend in library.installed()
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


def test_a_module_is_enough_whatever_distribution_brought_it(tmp_path, monkeypatch):
    """tensorrt-cu13 alone brings the module tensorrt, and no distribution of that name."""
    for flavour in library.FLAVOURS.values():
        (tmp_path / flavour.module).mkdir()
        (tmp_path / flavour.module / "__init__.py").write_text("raise AssertionError('it is not imported')")
        monkeypatch.delitem(sys.modules, flavour.module, raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(extras, "version", lambda name: None)
    assert library.installed() == ["tensorrt", "tensorrt-rtx"]


def test_a_distribution_is_not_enough_without_its_module(monkeypatch):
    monkeypatch.setattr(extras, "installed", lambda module: module == "tensorrt_rtx")
    monkeypatch.setattr(extras, "version", lambda name: "11.4.0.12")
    assert library.installed() == ["tensorrt-rtx"]
