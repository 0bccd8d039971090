"""A torch module as a short list of operations: torch.export's ATen graph without operations that do nothing."""

import contextlib
import inspect
import io
import logging
import operator
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ..engines import ExportError
from .sizes import BATCH, Shape, Side, Size, is_twice, known

if TYPE_CHECKING:
    import torch


EXAMPLE, OTHERS = (7, 11), ((13, 17), (19, 23))
"""Height and width of the example in strides, where sides are free, and further ones to find how a size depends on
them. They are different primes, so that no two agree by chance."""


@dataclass(eq=False)
class Value:
    """A value of the graph: an input of the module, a weight, a constant, or the result of the operation `op`."""

    name: str
    shape: Shape
    op: str = ""
    inputs: tuple["Value", ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)
    constant: np.ndarray | None = None
    weight: str | None = None
    """The parameter's name in the plan's weights."""
    varies: bool = False
    """Whether the value depends on an input of the module."""
    active: bool = False
    """Whether the value depends on x, so that a gradient flows through it."""


@dataclass(frozen=True)
class Trace:
    """A traced module (x, t) -> outputs. `values` lists the results of operations in the order they are computed."""

    x: Value
    t: Value
    values: list[Value]
    outputs: list[Value]


def trace(module: "torch.nn.Module", shape: tuple[int, int, int], stride: int | None = None) -> Trace:
    """Trace `module`, which maps x (batch, C, H, W) float32 and t (batch,) int64 to one output or more.

    stride: images may have any sides that are multiples of it, and of `shape` the channels alone are used; None: all
    images have `shape`. Raises ExportError, naming an unknown operation, or with torch's reason where it cannot trace.
    """
    import torch

    free = torch.export.Dim.DYNAMIC
    axes = {0: free} if stride is None else {0: free, 2: free, 3: free}
    sides = shape[1:] if stride is None else [n * stride for n in EXAMPLE]
    with _quiet(), torch.no_grad():
        try:
            example = (torch.zeros(2, shape[0], *sides), torch.tensor([3, 500]))
            program = torch.export.export(module, example, dynamic_shapes=(axes, {0: free}))
        except Exception as error:  # torch's exporter raises errors of many kinds
            raise ExportError(f"torch cannot trace this network: {error}") from error
    return _Reader(program, stride).read()


class _Reader:
    """Reader of an ATen graph: it turns each node into a Value, or into an existing one where the node is an alias."""

    def __init__(self, program: Any, stride: int | None):
        self._program, self._stride = program, stride
        self._sides: dict[str, Any] = {}
        """Torch's symbols of the sides that are free."""
        self._values: list[Value] = []
        self._seen: dict[Any, Any] = {}

    def read(self) -> Trace:
        signature = self._program.graph_signature
        weights = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
        inputs: list[Value] = []
        for node in self._program.graph.nodes:
            if node.op == "placeholder" and node.name in weights:
                shape = tuple(int(n) for n in node.meta["val"].shape)
                self._seen[node] = Value(node.name, shape, weight=weights[node.name])
            elif node.op == "placeholder":
                if self._stride is not None and not inputs:
                    _, _, height, width = node.meta["val"].shape
                    self._sides = {"height": height.node.expr, "width": width.node.expr}
                inputs.append(Value(node.name, self._shape(node), varies=True, active=not inputs))
                self._seen[node] = inputs[-1]
            elif node.op == "call_function":
                self._seen[node] = self._call(node)
            elif node.op == "output":
                outputs = [self._seen[one] for one in node.args[0]]
        x, t = inputs
        return Trace(x, t, _used(self._values, outputs), outputs)

    def _call(self, node: Any) -> Any:
        if node.target is operator.getitem:
            return self._seen[node.args[0]][node.args[1]]
        name = str(node.target).removeprefix("aten.")
        if name == "sym_size.int":
            return self._size(node.meta["val"])
        if name == "_assert_tensor_metadata.default":
            return None
        sources = [self._seen[one] for one in node.all_input_nodes]
        if all(isinstance(one, Value) and one.constant is not None for one in sources):
            return self._fold(node)
        read = getattr(self, "_" + name.split(".")[0].lstrip("_"), None)
        if read is None:
            raise ExportError(f"the network uses the operation {node.target}, which frugal-rt cannot export yet")
        given = {key: self._resolve(value) for key, value in _arguments(node).items()}
        try:
            inspect.signature(read).bind(node, **given)
        except TypeError:
            raise ExportError(f"the network uses {node.target} in a way that frugal-rt cannot export yet") from None
        return read(node, **given)

    def _resolve(self, value: Any) -> Any:
        if isinstance(value, (list, tuple)):
            return [self._resolve(one) for one in value]
        return self._seen[value] if hasattr(value, "op") and hasattr(value, "meta") else value

    def _fold(self, node: Any) -> Value:
        """Compute a node that depends on no input and no weight.

        It is computed in float64 and then rounded: float32's exponential differs by a bit between CPUs, and a network
        must give the same graph on all of them.
        """
        import torch

        def concrete(value: Any) -> Any:
            if isinstance(value, list):
                return [concrete(one) for one in value]
            if not isinstance(value, Value):
                return value
            array = torch.from_numpy(value.constant)
            return array.double() if array.dtype == torch.float32 else array

        positional, named = self._resolve(list(node.args)), dict(node.kwargs)
        with torch.no_grad():
            result = node.target(*concrete(positional), **{key: concrete(self._resolve(v)) for key, v in named.items()})
        return self._constant(node.name, result.to(node.meta["val"].dtype).numpy())

    def _shape(self, node: Any) -> Shape:
        value = node.meta["val"]
        return tuple(self._size(n) for n in value.shape) if hasattr(value, "shape") else ()

    def _size(self, n: Any) -> Size:
        """Translate a size of torch's to a number, a side or a part of one, or the batch. Raises ExportError.

        Torch's expression may have any form, such as a number of channels derived from both sides. So it is evaluated
        at OTHERS.
        """
        if isinstance(n, int):
            return n
        if self._stride is None or not n.node.expr.free_symbols & set(self._sides.values()):
            return BATCH
        others = [(height * self._stride, width * self._stride) for height, width in OTHERS]
        worth = [n.node.expr.subs(dict(zip(self._sides.values(), sides, strict=True))) for sides in others]
        if len(set(worth)) == 1 and worth[0].is_Integer:
            return int(worth[0])
        for i, name in enumerate(self._sides):
            parts = {sides[i] / value for sides, value in zip(others, worth, strict=True)}
            if len(parts) == 1 and (by := parts.pop()).is_Integer:
                return Side(name, int(by))
        raise ExportError("the network changes its images' sides in a way that frugal-rt cannot export yet")

    @staticmethod
    def _constant(name: str, array: np.ndarray) -> Value:
        return Value(name, array.shape, constant=array)

    def _new(self, node: Any, op: str, *inputs: Value, shape: Shape | None = None, **settings: Any) -> Value:
        value = Value(
            node.name,
            self._shape(node) if shape is None else shape,
            op,
            inputs,
            settings,
            varies=any(one.varies for one in inputs),
            active=any(one.active for one in inputs),
        )
        self._values.append(value)
        return value

    # One method an ATen operation, named after it.

    def _ones(self, node: Any, size: list[Any], **_: Any) -> Value:
        return self._constant(node.name, np.ones([1 if n is BATCH else n for n in size], np.int64))

    def _to(self, node: Any, self_: Value, dtype: Any = None, **_: Any) -> Value:
        import torch

        if dtype is None or node.meta["val"].dtype == node.args[0].meta["val"].dtype:
            return self_
        if dtype is not torch.float32:
            raise ExportError(f"the network casts to {dtype}, which frugal-rt cannot export yet; float32 works")
        return self._new(node, "cast", self_)

    def _alias(self, node: Any, self_: Value, **_: Any) -> Value:
        return self_

    _contiguous = _clone = _detach = _alias

    def _dropout(self, node: Any, input: Value, **_: Any) -> Value:
        return input

    def _binary(self, node: Any, op: str, a: Value | float, b: Value | float) -> Value:
        a, b = (v if isinstance(v, Value) else self._constant("", np.asarray(v, np.float32)) for v in (a, b))
        if op == "mul":
            for one, other in ((a, b), (b, a)):
                if one.constant is not None and one.constant.size == 1 and float(one.constant.item()) == 1.0:
                    return other
        return self._new(node, op, a, b)

    def _add(self, node: Any, self_: Value, other: Value | float, alpha: float = 1) -> Value:
        if alpha != 1:
            raise ExportError("the network adds with a factor, which frugal-rt cannot export yet")
        return self._binary(node, "add", self_, other)

    def _mul(self, node: Any, self_: Value, other: Value | float) -> Value:
        return self._binary(node, "mul", self_, other)

    def _div(self, node: Any, self_: Value, other: Value | float) -> Value:
        if isinstance(other, Value) and other.constant is None:
            raise ExportError("the network divides by a tensor, which frugal-rt cannot export yet")
        divisor = other.constant if isinstance(other, Value) else other
        return self._binary(node, "mul", self_, self._constant("", np.asarray(1 / np.asarray(divisor), np.float32)))

    def _unary(self, node: Any, self_: Value, **_: Any) -> Value:
        return self._new(node, str(node.target).split(".")[1], self_)

    _sin = _cos = _silu = _unary

    def _unsqueeze(self, node: Any, self_: Value, dim: int) -> Value:
        return self._new(node, "reshape", self_)

    def _view(self, node: Any, self_: Value, **_: Any) -> Value:
        return self_ if self._shape(node) == self_.shape else self._new(node, "reshape", self_)

    _reshape = _flatten = _squeeze = _view

    def _transpose(self, node: Any, self_: Value, dim0: int, dim1: int) -> Value:
        axes = list(range(len(self_.shape)))
        axes[dim0], axes[dim1] = axes[dim1], axes[dim0]
        return self._permute(node, self_, axes)

    def _permute(self, node: Any, self_: Value, dims: list[int]) -> Value:
        dims = [axis % len(dims) for axis in dims]
        if self_.op == "permute":  # two in a row become one, or none
            dims, self_ = [self_.settings["axes"][axis] for axis in dims], self_.inputs[0]
        return self_ if dims == sorted(dims) else self._new(node, "permute", self_, axes=dims)

    def _slice(self, node: Any, self_: Value, dim: int = 0, start: Any = None, end: Any = None, step: int = 1) -> Value:
        size, first = self_.shape[dim], start or 0
        if first == 0 and step == 1 and (end is None or end >= (size if isinstance(size, int) else 2**62)):
            return self_
        if not isinstance(size, int) or step != 1:
            raise ExportError("the network slices its batch or skips entries, which frugal-rt cannot export yet")
        stop = size if end is None else min(end + size if end < 0 else end, size)
        return self._new(node, "slice", self_, axis=dim % len(self_.shape), start=first % size, stop=stop)

    def _chunk(self, node: Any, self_: Value, chunks: int, dim: int = 0) -> list[Value]:
        axis, shape = dim % len(self_.shape), self_.shape
        size = shape[axis]
        if not isinstance(size, int) or size % chunks:
            raise ExportError(f"the network cuts {size} channels into {chunks}, which frugal-rt cannot export yet")
        part = size // chunks
        cut = (*shape[:axis], part, *shape[axis + 1 :])
        return [
            self._new(node, "slice", self_, shape=cut, axis=axis, start=i * part, stop=(i + 1) * part)
            for i in range(chunks)
        ]

    def _split(self, node: Any, self_: Value, split_size: int, dim: int = 0) -> list[Value]:
        size = self_.shape[dim]
        if not isinstance(size, int) or size % split_size:
            raise ExportError(f"the network splits by {split_size} unevenly, which frugal-rt cannot export yet")
        return self._chunk(node, self_, size // split_size, dim)

    def _cat(self, node: Any, tensors: list[Value], dim: int = 0) -> Value:
        return self._new(node, "cat", *tensors, axis=dim % len(tensors[0].shape))

    def _linear(self, node: Any, input: Value, weight: Value, bias: Value | None = None) -> Value:
        return self._new(node, "linear", input, weight, *([bias] if bias else []))

    def _conv2d(
        self,
        node: Any,
        input: Value,
        weight: Value,
        bias: Value | None = None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
    ) -> Value:
        stride, padding, dilation = (_pair(v) for v in (stride, padding, dilation))
        if groups != 1 or dilation != [1, 1] or stride not in ([1, 1], [2, 2]):
            raise ExportError("the network has convolutions of a kind that frugal-rt cannot export yet")
        parameters = (weight, bias) if bias else (weight,)
        if input.op == "upsample" and weight.shape[2:] == (3, 3) and (stride, padding) == ([1, 1], [1, 1]):
            return self._new(node, "upsample_conv", input.inputs[0], *parameters)
        pads = [*padding, *padding]
        if input.op == "pad":
            pads, input = [a + b for a, b in zip(pads, input.settings["pads"], strict=True)], input.inputs[0]
        return self._new(node, "conv", input, *parameters, stride=stride[0], pads=pads)

    def _group_norm(
        self, node: Any, input: Value, num_groups: int, weight: Value, bias: Value, eps: float = 1e-5, **_: Any
    ) -> Value:
        return self._new(node, "group_norm", input, weight, bias, groups=num_groups, eps=eps)

    def _scaled_dot_product_attention(
        self, node: Any, query: Value, key: Value, value: Value, scale: float | None = None, **rest: Any
    ) -> Value:
        if rest.get("attn_mask") is not None or rest.get("is_causal") or rest.get("dropout_p"):
            raise ExportError("the network masks its attention, which frugal-rt cannot export yet")
        return self._new(
            node, "attention", query, key, value, scale=scale or float(known(query.shape[-1]) or 1) ** -0.5
        )

    def _upsample_nearest2d(self, node: Any, input: Value, **_: Any) -> Value:
        if not all(is_twice(n, half) for n, half in zip(self._shape(node)[2:], input.shape[2:], strict=True)):
            raise ExportError("the network upsamples by other than 2, which frugal-rt cannot export yet")
        return self._new(node, "upsample", input)

    def _pixel_shuffle(self, node: Any, self_: Value, upscale_factor: int) -> Value:
        return self._new(node, "pixel_shuffle", self_, r=upscale_factor)

    def _pixel_unshuffle(self, node: Any, self_: Value, downscale_factor: int) -> Value:
        return self._new(node, "pixel_unshuffle", self_, r=downscale_factor)

    def _pad(self, node: Any, self_: Value, pad: list[int], mode: str = "constant", value: Any = None) -> Value:
        if mode != "constant" or value or len(pad) != 4 or min(pad) < 0:
            raise ExportError(f"the network pads by {mode}, which frugal-rt cannot export yet; zeros work")
        left, right, top, bottom = pad
        return self._new(node, "pad", self_, pads=[top, left, bottom, right])  # ONNX's order

    _constant_pad_nd = _pad

    def _avg_pool2d(self, node: Any, self_: Value, kernel_size: Any, stride: Any = None, **rest: Any) -> Value:
        if _pair(kernel_size) != [2, 2] or _pair(stride or kernel_size) != [2, 2] or any(rest.get("padding", ())):
            raise ExportError("the network pools by other than 2x2 means, which frugal-rt cannot export yet")
        return self._new(node, "mean_pool", self_)


def _arguments(node: Any) -> dict[str, Any]:
    """Return a node's arguments by their names in ATen's schema; `self` becomes `self_`."""
    names = [argument.name for argument in node.target._schema.arguments]
    given = dict(zip(names, node.args, strict=False)) | dict(node.kwargs)
    if "self" in given:
        given = {"self_": given.pop("self"), **given}
    return given


def _pair(value: Any) -> list[int]:
    pair = [value, value] if isinstance(value, int) else list(value)
    return pair * 2 if len(pair) == 1 else pair


def _used(values: list[Value], outputs: list[Value]) -> list[Value]:
    """Return the values that the outputs depend on, in order."""
    needed, todo = set(), list(outputs)
    while todo:
        value = todo.pop()
        if value not in needed:
            needed.add(value)
            todo.extend(value.inputs)
    return [value for value in values if value in needed]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the tracer's messages during the block."""
    logger = logging.getLogger("torch.export")
    level = logger.level
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            logger.setLevel(level)
