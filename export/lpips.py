"""The LPIPS file: LPIPS v0.1 over AlexNet (Zhang et al., CVPR 2018) as an ONNX graph of the lpips package's weights.

The graph is written node by node, as exporters simplify `norm + 1e-10` to `norm`, which gives 0 / 0 where no feature is
active.
"""

import importlib
import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ..engines import ExportError, MissingExtra
from ..engines.files import atomic_write

if TYPE_CHECKING:
    import onnx

CONVOLUTIONS = ((4, 2), (1, 2), (1, 1), (1, 1), (1, 1))
"""Stride and padding of AlexNet's five; a max pool of 3 pixels, stride 2, precedes the second and the third."""
POOLED = (1, 2)
PACKAGE_NAMES = ("slice1.0", "slice2.3", "slice3.6", "slice4.8", "slice5.10")
"""Names of the convolutions in the package's state dict."""
EPS = 1e-10
OPSET, IR_VERSION = 18, 10
TOLERANCE = 1e-4
"""Largest error accepted against the package, relative to the larger of 1 and the distance."""


def fetch_lpips(path: str | os.PathLike[str], on_stage: Callable[[str], object] = lambda stage: None) -> float:
    """Make the LPIPS file at `path` from the lpips package, which downloads AlexNet's weights the first time.

    The graph is compared with the package's module; one that differs is not written. Returns the largest error.
    Raises MissingExtra, ExportError or FrugalError.
    """
    for name in ("torch", "onnx"):
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise MissingExtra("Making the LPIPS file", name, "cpu,export") from error
    on_stage("loading lpips")
    try:
        package: Any = importlib.import_module("lpips")
    except (ImportError, RuntimeError) as error:  # RuntimeError: its torchvision was built for another torch
        raise ExportError(
            f"making the LPIPS file needs the lpips package and its torchvision ({error}); run: pip install lpips"
        ) from error
    try:
        module = package.LPIPS(net="alex", verbose=False).eval()
    except OSError as error:  # a URLError too
        raise ExportError(f"the weights of AlexNet cannot be had: {error}; is this machine online?") from error
    model = build_lpips(from_package({name: tensor.numpy() for name, tensor in module.state_dict().items()}))
    on_stage("comparing with the package")
    worst = verify_lpips(model.SerializeToString(), module)
    with atomic_write(path) as file:
        file.write(model.SerializeToString())
    return worst


def from_package(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Rename the package's state dict to the names that `build_lpips` reads.

    Raises ExportError where one is missing.
    """
    names = {"shift": "scaling_layer.shift", "scale": "scaling_layer.scale"}
    for i, name in enumerate(PACKAGE_NAMES):
        names |= {f"conv{i + 1}_weight": f"net.{name}.weight", f"conv{i + 1}_bias": f"net.{name}.bias"}
        names[f"lin{i}"] = f"lin{i}.model.1.weight"
    missing = [theirs for theirs in names.values() if theirs not in state]
    if missing:
        raise ExportError(f"this version of lpips has no {missing[0]}; run: pip install lpips==0.1.4")
    return {ours: np.asarray(state[theirs]) for ours, theirs in names.items()}


def build_lpips(weights: Mapping[str, np.ndarray]) -> "onnx.ModelProto":
    """Build the graph `image`, `reference` (N, 3, H, W) on [-1, 1] -> `lpips` (N,).

    d = sum_l mean_hw w_l . (f_l / (|f_l| + eps) - g_l / (|g_l| + eps))^2, where f_l and g_l are the channels after the
    l-th of five ReLUs. `weights`: shift and scale of 3 values, conv1_weight .. conv5_bias, lin0 .. lin4 of one value a
    channel.
    """
    from onnx import TensorProto, checker, helper, numpy_helper

    shaped = dict.fromkeys(("shift", "scale"), (1, 3, 1, 1)) | {f"lin{i}": (1, -1, 1, 1) for i in range(5)}
    constants = {name: array.reshape(shaped.get(name, array.shape)) for name, array in weights.items()}
    initialisers = [numpy_helper.from_array(np.asarray(a, np.float32), name) for name, a in constants.items()]
    initialisers.append(numpy_helper.from_array(np.array(EPS, np.float32), "eps"))
    initialisers += [
        numpy_helper.from_array(np.array(axes, np.int64), name)
        for name, axes in (("channels", [1]), ("everything", [1, 2, 3]))
    ]
    nodes: list[Any] = []

    def node(operator: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        output = output or f"{operator.lower()}_{len(nodes)}"
        nodes.append(helper.make_node(operator, inputs, [output], **attributes))
        return output

    def features(picture: str) -> list[str]:
        x, layers = node("Div", node("Sub", picture, "shift"), "scale"), []
        for i, (stride, padding) in enumerate(CONVOLUTIONS):
            if i in POOLED:
                x = node("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2])
            weight, bias = f"conv{i + 1}_weight", f"conv{i + 1}_bias"
            x = node("Relu", node("Conv", x, weight, bias, strides=[stride] * 2, pads=[padding] * 4))
            norm = node("Sqrt", node("ReduceSum", node("Mul", x, x), "channels", keepdims=1))
            layers.append(node("Div", x, node("Add", norm, "eps")))
        return layers

    distances = []
    for i, (f, g) in enumerate(zip(features("image"), features("reference"), strict=True)):
        apart = node("Sub", f, g)
        weighted = node("Conv", node("Mul", apart, apart), f"lin{i}")
        distances.append(node("ReduceMean", weighted, "everything", keepdims=0))
    node("Sum", *distances, output="lpips")
    pictures = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 3, "H", "W"]) for name in ("image", "reference")
    ]
    graph = helper.make_graph(
        nodes, "lpips", pictures, [helper.make_tensor_value_info("lpips", TensorProto.FLOAT, ["N"])], initialisers
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    checker.check_model(model)
    return model


def verify_lpips(graph: bytes, module: Any) -> float:
    """Return the largest error of the graph in onnxruntime against a torch module `(image, reference) -> (N, ...)`.

    Pairs are of noise, of constant pictures and of a picture with itself, at three sizes. Raises ExportError above
    TOLERANCE, MissingExtra without onnxruntime.
    """
    import torch

    from ..engines.onnxruntime.sessions import import_onnxruntime, session_options

    ort = import_onnxruntime()
    session = ort.InferenceSession(graph, session_options(ort), providers=["CPUExecutionProvider"])
    random, worst = np.random.default_rng(0), 0.0
    for height, width in ((32, 32), (64, 64), (45, 70)):
        noise = np.clip(random.standard_normal((4, 3, height, width)), -1, 1).astype(np.float32)
        flat = np.broadcast_to(np.array([-1, -0.2, 0.5, 1], np.float32)[:, None, None, None], noise.shape)
        for image, reference in ((noise, noise[::-1].copy()), (noise, flat.copy()), (noise, noise), (flat, 0.9 * flat)):
            image, reference = (np.ascontiguousarray(one, np.float32) for one in (image, reference))
            got = session.run(None, {"image": image, "reference": reference})[0]
            with torch.no_grad():
                want = module(torch.from_numpy(image), torch.from_numpy(reference)).numpy().reshape(-1)
            error = float((np.abs(got - want) / np.maximum(1, np.abs(want))).max())
            if not error <= TOLERANCE:
                raise ExportError(f"the graph is {error:.1e} away from the package's LPIPS; nothing was written")
            worst = max(worst, error)
    return worst
