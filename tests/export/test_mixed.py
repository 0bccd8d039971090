"""Graphs in half precision: what is in half and what is not, and when they are left out."""

import json

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper

from frugal_rt import InputError, Plan
from frugal_rt.cli import main
from frugal_rt.engines import open_engine
from frugal_rt.export import build_plan, export_plan, mixed, read_prior, rounding, verified_plan

from .halves import GRAPHS, KINDS, scaled

SINGLE = {"InstanceNormalization", "Softmax", "ReduceMean", "ReduceSum", "ReduceMax", "Sqrt", "Reciprocal", "Div"}


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


def test_a_precision_that_overflows_is_left_out_with_the_reason(make_prior, tmp_path):
    """Overflow of a first convolution's large answers, which its group norms take to 1 again."""
    export_plan(scaled(make_prior, "conv_in", 2e5), tmp_path / "a.plan")
    plan = Plan.open(tmp_path / "a.plan")
    assert plan.manifest["mixed"]["fp16"] == {"refused": "in float16 its output is not finite on x_t at t = 0"}
    assert plan.manifest["mixed"]["bf16"]["parity"]["output"] < rounding.TOLERANCE["bf16"]
    assert {name for name in plan.members if "16." in name} == {f"{graph}.bf16.onnx" for graph in GRAPHS}
    assert {*plan.members} == plan.manifest["members"].keys()
    result = CliRunner().invoke(main, ["inspect", str(tmp_path / "a.plan")])
    assert "fp16: left out, in float16 its output is not finite" in result.stdout


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
        assert "--precision is for a plan that is exported" in refused.stderr
