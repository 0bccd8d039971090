"""Half precision's distance from float32, by graphs that round as it does."""

import numpy as np
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper

from frugal_rt.engines import open_engine
from frugal_rt.export import build_plan, mixed, rounding

from .halves import KINDS, scaled


@pytest.fixture(scope="module")
def measured(plan):
    return rounding.measured(plan)


@pytest.mark.parametrize("precision", KINDS)
def test_they_are_close_to_float32_and_not_float32(measured, precision):
    unit = 2.0 ** -(24 - rounding.DROPPED[precision])
    parity = measured[precision]["parity"]
    for what in ("output", "gradient"):
        assert unit / 2 < parity[what] < 25 * unit, what


def run(model, **inputs):
    return onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"]).run(None, inputs)


def torch_rounds(x, precision):
    return torch.tensor(x).to(getattr(torch, mixed.HALVES[precision])).float().numpy()


AWKWARD = [0, -0.0, 1, -1, 1 / 3, 1e-3, 65504, 65519, -65519, 3e4, 1e-4, 2.0**-14, 2.0**-24, 6e-8, 2e-8, -1e-6, 5e-5]


@pytest.mark.parametrize("precision", KINDS)
def test_the_stand_in_rounds_as_the_format_does(precision):
    """To the nearest number of the format; of the two nearest, as they tie, to either."""
    half = KINDS[precision]
    cast = [helper.make_node("Cast", ["x"], ["y"], to=half), helper.make_node("Cast", ["y"], ["z"], to=1)]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n"]) for name in "xz"]
    graph = helper.make_graph(cast, "cast", ends[:1], ends[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    random = np.random.default_rng(0)
    spread = random.standard_normal(50000) * 2.0 ** random.uniform(-30, 14, 50000)
    x = np.concatenate([AWKWARD, spread, 1 + np.arange(1000) / 2.0**23, 2 - np.arange(1000) / 2.0**23])
    x = x.astype(np.float32)
    (ours,) = run(rounding.rounded(model.SerializeToString(), precision), x=x)
    exact = torch_rounds(x, precision)
    np.testing.assert_array_equal(torch_rounds(ours, precision), ours)
    np.testing.assert_array_equal(np.abs(ours - x), np.abs(exact - x))
    assert np.mean(ours != exact) < 1e-3  # ties
    assert np.mean(ours != x) > 0.9
    large = np.array([65520, -65536, 1e5, -1e30], np.float32)
    (ours,) = run(rounding.rounded(model.SerializeToString(), precision), x=large)
    np.testing.assert_array_equal(ours, torch_rounds(large, precision))
    assert np.isinf(ours).all() == (precision == "fp16")


@pytest.mark.parametrize("precision", KINDS)
def test_every_value_of_the_stand_in_is_rounded(plan, precision):
    """In its graphs as onnxruntime runs them, fused and folded: each kept activation is a number of the format."""
    engine = open_engine(rounding.stand_in(plan, precision), "cpu")
    _, x, t, _ = next(rounding.natural_cases(plan))
    embedding = engine._embed(t)
    kept = [one.name for one in engine._forward.get_outputs() if one.name.startswith("kept:")]
    values = engine._forward.run(kept, {"x": x, "embedding": embedding})
    for name, value in zip(kept, values, strict=True):
        np.testing.assert_array_equal(value, torch_rounds(value, precision), err_msg=name)
    exact = open_engine(plan, "cpu")._forward.run(kept, {"x": x, "embedding": embedding})
    assert all((value != other).mean() > 0.5 for value, other in zip(values, exact, strict=True))


def test_onnxruntime_s_own_float16_agrees_with_the_stand_in(plan, tmp_path):
    """The graphs themselves, weights beside them; onnxruntime rounds less often, so to float16's rounding."""
    plan.extract(tmp_path)
    label, x, t, v = list(rounding.natural_cases(plan))[2]
    values = {"x": x, "v": v, "t": t}
    for member in ("embedding", "forward.fp16", "pullback.fp16"):
        session = onnxruntime.InferenceSession(tmp_path / f"{member}.onnx", providers=["CPUExecutionProvider"])
        given = {one.name: values[one.name] for one in session.get_inputs()}
        assert {value.dtype for name, value in given.items() if name.startswith("kept:")} <= {np.dtype(np.float16)}
        names = [one.name for one in session.get_outputs()]
        values |= dict(zip(names, session.run(None, given), strict=True))
    ours = rounding.evaluate(open_engine(rounding.stand_in(plan, "fp16"), "cpu"), x, t, v)
    output = np.concatenate([values[name] for name in ("out", "variance") if name in values], axis=1)
    for got, want in ((output, ours["output"]), (values["gradient"], ours["gradient"])):
        assert got.dtype == np.float32
        assert rounding._rms(got - want) / rounding._rms(want) < 0.01, label


@pytest.mark.parametrize("precision", KINDS)
@pytest.mark.parametrize("scale", [1e-9, 1e7])
def test_the_gradient_is_linear_in_the_cotangent(plan, precision, scale):
    """A step's cotangent may be far smaller than float16's smallest number."""
    engine = open_engine(rounding.stand_in(plan, precision), "cpu")
    _, x, t, v = next(rounding.natural_cases(plan))
    one, other = (engine.pullback(x, t)[1](v * np.float32(factor)) for factor in (1, scale))
    assert rounding._rms(other / np.float32(scale) - one) < 0.02 * rounding._rms(one) * (
        8 if precision == "bf16" else 1
    )
    assert not engine.pullback(x, t)[1](0 * v).any()


def test_a_network_that_gives_zeros_is_exact_in_every_precision(make_prior):
    found = rounding.measured(build_plan(scaled(make_prior, "conv_out", 0)))
    assert [found[precision]["parity"] for precision in KINDS] == [{"output": 0, "gradient": 0}] * 2


@pytest.mark.parametrize("precision", KINDS)
def test_a_precision_too_far_from_float32_is_refused(plan, monkeypatch, precision):
    monkeypatch.setitem(rounding.TOLERANCE, precision, 1e-4)
    found = rounding.measured(plan)
    assert "parity" in found[({*KINDS} - {precision}).pop()]
    kind = mixed.HALVES[precision]
    assert found[precision].keys() == {"refused"}
    assert f"in {kind} its output is " in found[precision]["refused"]
    assert "away from float32's on x_t at t = 0, 1e-04 is allowed" in found[precision]["refused"]


def test_large_images_are_compared_on_fewer_inputs(plan, monkeypatch):
    every = list(rounding.natural_cases(plan))
    monkeypatch.setattr(rounding, "LARGE", 4)
    few = list(rounding.natural_cases(plan))
    assert len(few) == 4 < len(every)
    assert {int(t[0]) for _, _, t, _ in few} == {0, 499, 500, 999}
    for _, x, t, v in every:
        assert x.dtype == v.dtype == np.float32
        assert x.shape == v.shape == (1, *plan.image_shape)
        assert np.abs(x).max() < 6
        assert t.dtype == np.int64
