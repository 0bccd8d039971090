"""Sessions share the plan's weights, and keep the graphs that onnxruntime optimised."""

import numpy as np
import onnxruntime
import pytest

from frugal_rt import BackendError, Plan
from frugal_rt.engines import cache
from frugal_rt.engines.onnxruntime import sessions
from frugal_rt.engines.onnxruntime.engine import OnnxRuntimeEngine
from frugal_rt.engines.onnxruntime.sessions import PROVIDERS, Sessions

from ..calls import answers


def test_the_weights_stay_in_the_plan_s_memory(tiny_plan):
    plan = Plan.open(tiny_plan)
    engine = OnnxRuntimeEngine(plan)
    addresses = {array.ctypes.data for array in plan.tensors().values()}
    assert {value.data_ptr() for value in engine._sessions._weights.values()} == addresses


def test_optimised_graphs_are_kept_and_give_the_same(tiny_plan, cached, monkeypatch):
    first = answers(tiny_plan)
    assert len(list(cached.glob("*.sha256"))) == 3
    monkeypatch.setattr(Sessions, "_weights", None)  # the kept graphs hold them
    for a, b in zip(first, answers(tiny_plan), strict=True):
        np.testing.assert_array_equal(a, b)


def test_graphs_of_very_large_weights_are_not_kept(tiny_plan, cached, monkeypatch):
    plan = Plan.open(tiny_plan)
    monkeypatch.setattr(cache, "LARGEST", plan.manifest["members"]["weights.safetensors"]["bytes"] - 1)
    OnnxRuntimeEngine(plan).prepare(gradients=True)
    assert not cached.exists()


def test_other_weights_versions_and_machines_are_other_entries(tiny_plan, cached, monkeypatch):
    answers(tiny_plan)
    monkeypatch.setattr("frugal_rt.engines.cache.instructions", lambda: "another CPU")
    answers(tiny_plan)
    assert len(list(cached.glob("*.sha256"))) == 6
    monkeypatch.setattr(sessions, "LEVEL", "ORT_ENABLE_BASIC")
    answers(tiny_plan)
    assert len(list(cached.glob("*.sha256"))) == 9


def test_a_provider_that_fails_is_one_sentence_with_its_reason(tiny_plan, monkeypatch, capfd):
    """On a machine whose CUDA is too old: onnxruntime alone prints the reason and runs on the CPU."""
    tried = []

    def fails(session, providers, *rest):
        tried.append(providers[0])
        raise RuntimeError("CUDA failure 35: the driver\n  is insufficient.")

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: list(PROVIDERS.values()))
    monkeypatch.setattr(onnxruntime.InferenceSession, "_create_inference_session", fails)
    with pytest.raises(BackendError) as caught:
        Sessions(Plan.open(tiny_plan), "cuda").open("forward", "cuda", use_tf32="0")
    assert str(caught.value) == (
        "onnxruntime cannot run on cuda here: CUDA failure 35: the driver is insufficient; run: frugal-rt doctor"
    )
    assert tried == [("CUDAExecutionProvider", {"use_tf32": "0"})]
    assert capfd.readouterr().out == ""
