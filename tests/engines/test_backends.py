"""Backends by name: which one is opened, and the errors of missing ones."""

import sys

import numpy as np
import pytest
import torch

from frugal_rt import BackendError, InputError, MissingExtra, Plan
from frugal_rt.engines import backends, gpu_backend, open_engine

from .calls import inputs


def test_an_unknown_backend_lists_those_there_are(tiny_plan):
    with pytest.raises(InputError, match=f"no backend 'tpu'; choose one of {', '.join(backends.BACKENDS)}$"):
        open_engine(Plan.open(tiny_plan), "tpu")


def forget(monkeypatch: pytest.MonkeyPatch, *modules: str) -> None:
    """Make importing these fail, as if they were not installed."""
    for name in modules:
        monkeypatch.setitem(sys.modules, name, None)


@pytest.mark.parametrize(
    ("backend", "modules", "extra"),
    [
        ("cpu", ["onnxruntime"], "cpu"),
        ("openvino", ["openvino"], "openvino"),
        ("torch", ["torch"], "torch"),
        ("auto", ["onnxruntime", "torch"], "cpu"),
    ],
)
def test_a_missing_extra_is_one_sentence_with_its_command(tiny_plan, monkeypatch, backend, modules, extra):
    forget(monkeypatch, *modules)
    with pytest.raises(MissingExtra, match=rf"pip install 'frugal-rt\[{extra}\]'"):
        open_engine(Plan.open(tiny_plan), backend)


def test_without_torch_forward_calls_and_gradients_run(tiny_plan, monkeypatch):
    forget(monkeypatch, "torch")
    engine = open_engine(Plan.open(tiny_plan), "auto")
    assert engine.predict(*inputs(1)).out.shape == (1, 3, 16, 16)
    _, pull = engine.pullback(*inputs(1))
    assert np.abs(pull(inputs(1)[0])).max() > 0


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_cuda_where_there_is_none_is_refused_not_replaced(tiny_plan):
    with pytest.raises(BackendError, match=r"onnxruntime-gpu.*frugal-rt\[gpu\]"):
        open_engine(Plan.open(tiny_plan), "cuda")


@pytest.mark.usefixtures("cached")
def test_auto_says_once_why_it_is_not_tensorrt(plan, gpu, caplog):
    engine = open_engine(plan, "auto")
    assert "(cpu" in engine.name  # onnxruntime, or OpenVINO where that is measured faster
    (line,) = [record.getMessage() for record in caplog.records if record.name == "frugal_rt.engines.backends"]
    assert line.startswith("the backend is not TensorRT: ")


@pytest.mark.usefixtures("cached")
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


def test_half_precision_on_gpus_is_torch_s_where_no_engine_was_built(tiny_plan, monkeypatch):
    monkeypatch.setattr("frugal_rt.engines.backends._torch_device", lambda: "cuda")
    monkeypatch.setattr("frugal_rt.engines.onnxruntime.cuda.cuda_is_usable", lambda: True)  # in fp32 alone
    assert gpu_backend(Plan.open(tiny_plan), "auto:bf16") == "torch:bf16"


def test_the_backend_of_gpus_is_one_that_finds_them(tiny_plan, monkeypatch):
    plan = Plan.open(tiny_plan)
    for name in ("cpu", "openvino"):
        with pytest.raises(InputError, match=f"{name} computes on the CPU"):
            gpu_backend(plan, name)
    monkeypatch.setattr("frugal_rt.engines.backends._torch_device", lambda: "cuda")
    assert gpu_backend(plan, "torch") == "torch"
    monkeypatch.setattr("frugal_rt.engines.onnxruntime.sessions.PROVIDERS", {"cuda": "NoneExecutionProvider"})
    assert gpu_backend(plan, "auto") == "torch"
    with pytest.raises(MissingExtra, match=r"frugal-rt\[gpu\]"):
        gpu_backend(plan, "cuda")
    monkeypatch.setattr("frugal_rt.engines.backends._torch_device", lambda: "cpu")
    with pytest.raises(BackendError, match="torch sees no CUDA device"):
        gpu_backend(plan, "auto")
