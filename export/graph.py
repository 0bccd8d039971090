"""From a torch module to an ONNX graph over the plan's weights."""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ..engines import ExportError, MissingExtra
from ..engines.plan import WEIGHTS, read_safetensors

if TYPE_CHECKING:
    import torch


def forward_graph(
    module: "torch.nn.Module", shape: tuple[int, int, int], outputs: list[str], weights: bytes | bytearray
) -> bytes:
    """The module as ONNX bytes: `x` (batch, C, H, W) float32 and `t` (batch,) int64 to `outputs`, any batch.

    Every parameter becomes an external initialiser that points into the member WEIGHTS, whose bytes are `weights`;
    the graph itself holds no weight. Not optimised: the exporter's optimiser drops small constants and copies
    weights, and the runtimes optimise on their own.

    Raises MissingExtra without onnx and onnxscript, ExportError if torch cannot export the module.
    """
    import torch

    try:
        import onnx
        import onnxscript  # noqa: F401  torch.onnx needs it and says so less clearly
    except ImportError as error:
        raise MissingExtra("Exporting", str(error.name), "export") from error
    example = (torch.randn(2, *shape), torch.tensor([3, 500]))
    batch = {0: torch.export.Dim.DYNAMIC}
    with _quiet():
        try:
            program = torch.onnx.export(
                module,
                example,
                dynamo=True,
                dynamic_shapes=(batch, batch),
                input_names=["x", "t"],
                output_names=outputs,
                optimize=False,
                verbose=False,
            )
        except Exception as error:  # torch's exporter raises many kinds
            raise ExportError(f"torch cannot export this network: {error}") from error
    assert program is not None  # only None for exports to a file
    model = program.model_proto
    onnx.checker.check_model(model)
    _externalise(model.graph.initializer, weights)
    for value in [*model.graph.input, *model.graph.output]:
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
        del value.metadata_props[:]
    for node in model.graph.node:  # stack traces of the exporting machine
        del node.metadata_props[:]
    return model.SerializeToString(deterministic=True)


def _externalise(initializers: Any, weights: bytes | bytearray) -> None:
    """Turn each initialiser into a pointer at its tensor in the safetensors bytes."""
    import onnx

    tensors = read_safetensors(memoryview(weights), "the export")
    if {tensor.name for tensor in initializers} != set(tensors):
        raise ExportError("the exported graph's weights are not those of the network; this torch is not supported")
    for tensor in initializers:
        view, offset = tensors[tensor.name]
        if list(tensor.dims) != list(view.shape):
            raise ExportError(f"the exported graph reshaped {tensor.name}; this torch is not supported")
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        for key, value in {"location": WEIGHTS, "offset": offset, "length": view.nbytes}.items():
            tensor.external_data.add(key=key, value=str(value))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's chatter, which tells a user nothing."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
