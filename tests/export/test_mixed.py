"""Graphs in half precision: what is in half and what is not, how far from float32 they are, and when one is refused."""

import json

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper

from frugal_rt import InputError, Plan
from frugal_rt.cli import main
from frugal_rt.engines import open_engine
from frugal_rt.export import build_plan, export_plan, mixed, read_prior, rounding, verified_plan

KINDS = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
GRAPHS = ("forward", "pullback")
SINGLE = {"InstanceNormalization", "Softmax", "ReduceMean", "ReduceSum", "ReduceMax", "Sqrt", "Reciprocal", "Div"}
BLOCKS = {"down_block_types": ["ResnetDownsampleBlock2D"] * 2, "up_block_types": ["ResnetUpsampleBlock2D"] * 2}
PRIORS = {
    "attention": ({}, {}),
    "learned": ({"in_channels": 12, "out_channels": 24}, {"variance_type": "learned_range"}),
    "resnet": (BLOCKS, {"prediction_type": "v_prediction"}),
}
"""The first halves and doubles by convolutions of stride 2 and upsampling ones."""


@pytest.fixture(scope="module", params=PRIORS)
def plan(request, make_prior):
    """Not yet verified."""
    return build_plan(read_prior(make_prior(*PRIORS[request.param]), request.param))


@pytest.fixture(scope="module")
def measured(plan):
    return rounding.measured(plan)


def graph_of(plan, graph, precision):
    """A graph with its types inferred, and the type of each of its values."""
    data = bytes(plan.member(f"{graph}.{precision}.onnx"))
    found = onnx.shape_inference.infer_shapes(onnx.load_from_string(data), strict_mode=True).graph
    kinds = {one.name: one.type.tensor_type.elem_type for one in (*found.input, *found.output, *found.value_info)}
    return found, kinds | {one.name: one.data_type for one in found.initializer}


@pytest.mark.parametrize("precision", KINDS)
@pytest.mark.parametrize("graph", GRAPHS)
def test_heavy_work_is_in_half_and_statistics_are_not(plan, graph, precision):
    found, kinds = graph_of(plan, graph, precision)
    half = KINDS[precision]
    ops = {node.op_type: [] for node in found.node}
    for node in found.node:
        ops[node.op_type].append(kinds[node.output[0]])
    for op in {"Conv", "MatMul", "Sigmoid"} & ops.keys():
        assert set(ops[op]) == {half}, op
    for op in SINGLE & ops.keys():
        assert set(ops[op]) == {TensorProto.FLOAT}, op
    assert half in ops["Add"]
    assert SINGLE & ops.keys()
    if graph == "pullback":  # a value less its mean, and products that are summed
        made = {name: node for node in found.node for name in node.output}
        reduced = [node for node in found.node if node.op_type in ("ReduceMean", "ReduceSum")]
        means = {node.output[0] for node in reduced if helper.get_node_attr_value(node, "keepdims")}
        beside = [node for node in found.node if means & set(node.input) and node.op_type in ("Sub", "Mul")]
        assert len(beside) >= len(means) * 2 // 3
        assert {kinds[node.output[0]] for node in beside} == {TensorProto.FLOAT}
        summed = [made[node.input[0]] for node in found.node if node.output[0] in means and node.input[0] in made]
        rounded = [made[node.input[0]].op_type for node in summed if node.op_type == "Cast" and node.input[0] in made]
        assert {node.op_type for node in summed} >= {"Mul", "Cast"}
        assert not {"Mul", "Sub"} & {*rounded}


@pytest.mark.parametrize("precision", KINDS)
@pytest.mark.parametrize("graph", GRAPHS)
def test_each_value_is_cast_once_and_never_back_and_forth(plan, graph, precision):
    found, _ = graph_of(plan, graph, precision)
    casts = [node for node in found.node if node.op_type == "Cast"]
    done = [(node.input[0], helper.get_node_attr_value(node, "to")) for node in casts]
    assert len(set(done)) == len(done) > 10
    made = {name: node for node in found.node for name in node.output}

    def origin(name):
        """The node that computed `name`, shapes aside."""
        while name in made and made[name].op_type in mixed.SHAPE - {"Concat"}:
            name = made[name].input[0]
        return made.get(name)

    for node in casts:
        before = origin(node.input[0])
        assert before is None or before.op_type != "Cast", node.output[0]


def test_the_two_graphs_agree_and_hold_no_parameter(plan):
    for precision, half in KINDS.items():
        entries = plan.manifest["mixed"][precision]["graphs"]
        assert entries.keys() == set(GRAPHS)
        ends = {}
        for graph in GRAPHS:
            found, kinds = graph_of(plan, graph, precision)
            single = plan.manifest["graphs"][graph]
            assert {**single, "member": f"{graph}.{precision}.onnx", "types": entries[graph]["types"]} == entries[graph]
            for one in (*found.input, *found.output):
                told = entries[graph]["types"].get(one.name, "float32")
                assert kinds[one.name] == {"float32": TensorProto.FLOAT}.get(told, half)
                assert told in ("float32", mixed.HALVES[precision])
                assert (told != "float32") == one.name.startswith("kept:")
                assert ends.setdefault(one.name, told) == told
            external = [one for one in found.initializer if one.data_location == onnx.TensorProto.EXTERNAL]
            assert [one.name for one in external] == single["weights"]
            assert {one.data_type for one in external} == {TensorProto.FLOAT}
            read = [node for node in found.node for name in node.input if name in single["weights"]]
            assert {node.op_type for node in read} == {"Cast"}
            assert len(read) == len(external)


def test_nothing_that_runs_in_float32_sees_them(plan, tmp_path):
    plan.save(tmp_path / "a.plan")
    opened = Plan.open(tmp_path / "a.plan")
    assert opened.manifest["graphs"].keys() == {"embedding", *GRAPHS}
    x = np.random.default_rng(0).standard_normal((1, *opened.image_shape), dtype=np.float32)
    manifest = {key: value for key, value in opened.manifest.items() if key not in ("mixed", "members")}
    alone = Plan(manifest, {name: opened.member(name) for name in opened.members if "16." not in name})
    ours, without = (open_engine(one, "cpu").predict(x, np.array([5])).out for one in (opened, alone))
    np.testing.assert_array_equal(ours, without)


@pytest.mark.parametrize("precision", KINDS)
def test_they_are_close_to_float32_and_not_float32(measured, precision):
    unit = 2.0 ** -(24 - rounding.DROPPED[precision])
    parity = measured[precision]["parity"]
    for what in ("output", "gradient"):
        assert unit / 2 < parity[what] < 25 * unit, what


def test_celeba_holds_both(celeba_plan):
    plan = Plan.open(celeba_plan)
    for precision, most in (("fp16", 0.01), ("bf16", 0.08)):
        assert 0 < plan.manifest["mixed"][precision]["parity"]["gradient"] < most / 8
        assert 0 < plan.manifest["mixed"][precision]["parity"]["output"] < most
        for graph in GRAPHS:
            assert len(plan.member(f"{graph}.{precision}.onnx")) < 2 * len(plan.member(f"{graph}.onnx"))
    result = CliRunner().invoke(main, ["inspect", str(celeba_plan)])
    assert result.exit_code == 0
    assert "in half:   bf16: relative error against float32: gradient " in result.stdout


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


def test_a_kept_value_in_float32_is_so_in_both_graphs():
    """x is normalised first, and the answer is given back by a sum that drops axes: neither is in half."""
    ends = {
        "x": ["batch", 2, 4],
        "out": ["batch", 2, 4],
        "kept:a": ["batch", 2, 4],
        "v": ["batch", 2, 4],
        "gradient": ["batch", 2],
    }
    info = {name: helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in ends.items()}
    ones = [numpy_helper.from_array(np.ones(2, np.float32), name) for name in "sb"]
    axes = [numpy_helper.from_array(np.array([2]), "axes")]
    forward = helper.make_graph(
        [
            helper.make_node("InstanceNormalization", ["x", "s", "b"], ["kept:a"]),
            helper.make_node("Sigmoid", ["kept:a"], ["out"]),
        ],
        "forward",
        [info["x"]],
        [info["out"], info["kept:a"]],
        ones,
    )
    pullback = helper.make_graph(
        [
            helper.make_node("Mul", ["kept:a", "v"], ["m"]),
            helper.make_node("Transpose", ["m"], ["n"], perm=[0, 1, 2]),
            helper.make_node("ReduceSum", ["n", "axes"], ["gradient"], keepdims=0),
        ],
        "pullback",
        [info["kept:a"], info["v"]],
        [info["gradient"]],
        axes,
    )
    graphs = {}
    for name, graph in (("forward", forward), ("pullback", pullback)):
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
        shapes = {side: {one.name: [] for one in getattr(graph, side)} for side in ("input", "output")}
        entry = {"inputs": shapes["input"], "outputs": shapes["output"], "weights": []}
        graphs[name] = (model.SerializeToString(), entry)
    made = mixed.mixed_graphs(graphs, "bf16")
    assert [entry["types"] for _, entry in made.values()] == [{}, {}]


def scaled(make_prior, layer, factor):
    """A prior one of whose convolutions gives `factor` times what it gave."""
    from safetensors.torch import load_file, save_file

    folder = make_prior()
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights = load_file(path)
    for name in (f"{layer}.weight", f"{layer}.bias"):
        weights[name] = weights[name] * factor
    save_file(weights, path)
    return read_prior(folder, "scaled")


def test_a_precision_that_overflows_is_left_out_with_the_reason(make_prior, tmp_path):
    """Of a first convolution's large answers, which its group norms take to 1 again."""
    export_plan(scaled(make_prior, "conv_in", 2e5), tmp_path / "a.plan")
    plan = Plan.open(tmp_path / "a.plan")
    assert plan.manifest["mixed"]["fp16"] == {"refused": "in float16 its output is not finite on x_t at t = 0"}
    assert plan.manifest["mixed"]["bf16"]["parity"]["output"] < rounding.TOLERANCE["bf16"]
    assert {name for name in plan.members if "16." in name} == {f"{graph}.bf16.onnx" for graph in GRAPHS}
    assert {*plan.members} == plan.manifest["members"].keys()
    result = CliRunner().invoke(main, ["inspect", str(tmp_path / "a.plan")])
    assert "fp16: left out, in float16 its output is not finite" in result.stdout


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


@pytest.mark.parametrize(("asked", "held"), [("fp32", ()), ("bf16", ("bf16",)), ("bf16,fp32, fp16", ("bf16", "fp16"))])
def test_precisions_are_chosen(make_prior, asked, held):
    assert mixed.parse_precisions(asked) == held
    plan = build_plan(read_prior(make_prior()), precisions=held)
    assert tuple(plan.manifest.get("mixed", ())) == held
    assert ("mixed" in plan.manifest) == bool(held)
    assert len(plan.members) == 4 + 2 * len(held)


@pytest.mark.parametrize("asked", ["fp8", "", "fp16,,bf16"])
def test_an_unknown_precision_is_named(make_prior, tmp_path, asked):
    with pytest.raises(InputError, match="is not known; choose among fp32, fp16, bf16"):
        mixed.parse_precisions(asked)
    command = ["export", "--weights", str(make_prior()), "-o", str(tmp_path / "a.plan"), "--precision", asked]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 1
    assert "is not known; choose among" in result.stderr
    assert not list(tmp_path.iterdir())
    with pytest.raises(InputError, match="'fp8' is not known"):
        verified_plan(read_prior(make_prior()), precisions=["fp8"])


def test_export_says_how_far_each_precision_is(make_prior, tmp_path):
    command = ["export", "--weights", str(make_prior()), "-o", str(tmp_path / "a.plan"), "--precision", "bf16"]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 0, result.output
    assert "bf16: relative error against float32: output " in result.stdout
    assert "fp16" not in result.stdout
    said = json.loads(CliRunner().invoke(main, [*command, "--force", "--json"]).stdout)
    assert said["mixed"] == {"bf16": {"parity": Plan.open(tmp_path / "a.plan").manifest["mixed"]["bf16"]["parity"]}}
    for more in (["--format", "triton"], ["--plan", "a.plan"]):
        refused = CliRunner().invoke(
            main, ["export", *(command[1:3] if "--plan" not in more else []), *more, *command[5:]]
        )
        assert refused.exit_code == 1
        assert "--precision is of a plan that is made" in refused.stderr
