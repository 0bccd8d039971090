"""A plan's graphs stand alone, and hold no parameter."""

import numpy as np
import onnx
import onnxruntime

from frugal_rt import Plan
from frugal_rt.engines import open_engine


def test_the_extracted_graphs_stand_alone(tiny_plan, tmp_path):
    """onnxruntime alone, on the extracted files, gives what our engine gives: outputs and gradient."""
    plan = Plan.open(tiny_plan)
    plan.extract(tmp_path)
    sessions = {}
    for graph in plan.manifest["graphs"]:
        path = str(tmp_path / f"{graph}.onnx")
        onnx.checker.check_model(path)
        sessions[graph] = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    x, t = np.random.default_rng(0).standard_normal((3, 3, 16, 16), dtype=np.float32), np.array([0, 5, 999])
    values = {"x": x, "v": x}
    values["embedding"] = sessions["embedding"].run(None, {"t": t})[0]
    for graph in ("forward", "pullback"):
        names = [output.name for output in sessions[graph].get_outputs()]
        inputs = {one.name: values[one.name] for one in sessions[graph].get_inputs()}
        values |= dict(zip(names, sessions[graph].run(None, inputs), strict=True))
    (out, _), pull = open_engine(plan, "cpu").pullback(x, t)
    np.testing.assert_array_equal(values["out"], out)
    np.testing.assert_array_equal(values["gradient"], pull(x))


def test_the_graphs_hold_no_parameter_and_no_scatter(tiny_plan):
    plan = Plan.open(tiny_plan)
    for entry in plan.manifest["graphs"].values():
        graph = onnx.load_from_string(bytes(plan.member(entry["member"]))).graph
        external = [one.name for one in graph.initializer if one.data_location == onnx.TensorProto.EXTERNAL]
        assert external == entry["weights"] != []
        held = [onnx.numpy_helper.to_array(one) for one in graph.initializer if one.name not in external]
        assert sum(array.size for array in held) < 500
        assert not [node.op_type for node in graph.node if "Scatter" in node.op_type]
