"""TensorRT where there is no GPU: a sentence, and no crash."""

import subprocess
import sys

import pytest

from frugal_rt.engines import extras, nvidia

from .kept import needs_rtx


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
