"""Trials of backends, on any machine: what is missing is said at once, and what hangs ends."""

import subprocess

import gpu_trial
import pytest
from gpu_trial import why_not

from frugal_rt.engines import nvidia

no_gpu = pytest.mark.skipif(nvidia.trouble() is None, reason="this machine has a GPU")


@no_gpu
@pytest.mark.parametrize("backend", ["cuda", "tensorrt:fp16", "tensorrt-rtx:bf16"])
def test_a_backend_that_is_not_here_is_not_tried(monkeypatch, tiny_plan, backend):
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("a process was started"))
    why = why_not(tiny_plan, backend)
    assert "not installed" in why or str(nvidia.trouble()) in why


def test_a_backend_that_runs_has_no_reason(tiny_plan):
    assert why_not(tiny_plan, "torch", (1,)) is None


def test_a_trial_ends_with_its_time(tiny_plan):
    assert why_not(tiny_plan, "torch", (1,), seconds=0.01).startswith("it was not done within 0.01 s")


def test_compiling_has_longer(monkeypatch, tiny_plan):
    asked = []
    monkeypatch.setattr(gpu_trial, "not_here", dict)
    monkeypatch.setattr(
        subprocess, "run", lambda *_, timeout, **__: asked.append(timeout) or subprocess.CompletedProcess([], 0)
    )
    assert [why_not(tiny_plan, one) for one in ("torch:bf16", gpu_trial.COMPILED)] == [None, None]
    assert asked == [gpu_trial.SECONDS, 5 * gpu_trial.SECONDS]


def test_the_reason_of_a_backend_that_fails_is_its_own(tmp_path):
    assert why_not(tmp_path / "missing.plan", "torch", (1,)).startswith("there is no file")
