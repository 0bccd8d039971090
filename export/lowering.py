"""The ONNX form of each traced operation. An `Emitter` writes a value's nodes when the value is first needed."""

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar, cast

import numpy as np

from ..engines import ExportError
from .sizes import Shape, is_free, known
from .trace import Value

OPSET = 18
T = TypeVar("T")


class Emitter:
    """Writer of the nodes of an ONNX graph. A value's nodes are written when its name is first asked for."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: dict[str, np.ndarray] = {}
        self.weights: set[str] = set()
        self.names: dict[Value, str] = {}
        """Names in the graph of values already written or given as inputs."""
        self._memo: dict[Any, Any] = {}

    def __call__(self, value: Value) -> str:
        """Return the name of `value` in the graph; write its nodes if they are missing."""
        if value.weight is not None:
            self.weights.add(value.weight)
            return value.weight
        if value.constant is not None:
            return self.constant(value.constant)
        if value not in self.names:
            self.names[value] = self.emit(value)
        return self.names[value]

    def emit(self, value: Value) -> str:
        return FORWARD[value.op](self, value)

    def node(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Add a node; return the name of its output."""
        from onnx import helper

        name = f"{len(self.nodes)}:{kind}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], **attributes))
        return name

    def constant(self, array: Any, dtype: Any = None) -> str:
        array = np.asarray(array, dtype)
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._memo:
            self._memo[key] = f"constant:{len(self.constants)}"
            self.constants[self._memo[key]] = array
        return cast(str, self._memo[key])

    def ints(self, *values: int) -> str:
        return self.constant(values, np.int64)

    def once(self, key: Any, make: Callable[[], T]) -> T:
        """Return `make()`, called once for each `key`."""
        if key not in self._memo:
            self._memo[key] = make()
        return cast(T, self._memo[key])

    def reshape(self, x: str, shape: Shape) -> str:
        """Reshape x (batch, ...) to `shape`, whose first dimension is the batch."""
        return self.node("Reshape", x, self.ints(0, *map(known, shape[1:])))

    def grouped(self, x: str, shape: Shape, groups: int) -> str:
        """Reshape x of `shape` (B, C, ...) to (B, groups, N), or where sides are free to (B, groups, M, W)."""
        free = is_free(shape)
        return self.node("Reshape", x, self.ints(*((0, groups, -1, 0) if free else (0, groups, -1))))

    def ungrouped(self, x: str, shape: Shape) -> str:
        """Reshape the result of `grouped` back to `shape`."""
        if is_free(shape):
            return self.node("Reshape", x, self.ints(0, known(shape[1]), -1, 0))
        return self.reshape(x, shape)

    def permute(self, x: str, *axes: int) -> str:
        return self.node("Transpose", x, perm=list(axes))

    def slice(self, x: str, axis: int, start: int, stop: int) -> str:
        return self.node("Slice", x, self.ints(start), self.ints(stop), self.ints(axis))

    def each_channel(self, weight: Value, rank: int) -> str:
        """Reshape a vector (C,) to broadcast over (B, C, ...)."""
        shape = self.ints(-1, *[1] * (rank - 2))
        return self.once((weight, rank), lambda: self.node("Reshape", self(weight), shape))

    def group_norm(self, v: Value) -> str:
        x, weight, bias = v.inputs
        groups = v.settings["groups"]
        ones, zeros = self.constant(np.ones(groups, np.float32)), self.constant(np.zeros(groups, np.float32))
        grouped = self.grouped(self(x), v.shape, groups)
        normal = self.node("InstanceNormalization", grouped, ones, zeros, epsilon=v.settings["eps"])
        return self.scale_shift(self.ungrouped(normal, v.shape), weight, bias, len(v.shape))

    def scale_shift(self, x: str, weight: Value, bias: Value, rank: int) -> str:
        scaled = self.node("Mul", x, self.each_channel(weight, rank))
        return self.node("Add", scaled, self.each_channel(bias, rank))

    def softmax_scores(self, v: Value) -> str:
        """Compute softmax(q k^T / sqrt(d)), (B, heads, queries, keys)."""
        query, key, _ = v.inputs

        def make() -> str:
            scaled = self.node("Mul", self(query), self.constant(v.settings["scale"], np.float32))
            return self.node("Softmax", self.node("MatMul", scaled, self.permute(self(key), 0, 1, 3, 2)), axis=-1)

        return self.once((v, "scores"), make)

    def transposed_weight(self, weight: Value, flipped: bool = False) -> str:
        """Transpose (O, I, ...) to (I, O, ...), rotated by 180 degrees if `flipped`.

        Runtimes fold this when they load.
        """

        def make() -> str:
            rank = len(weight.shape)
            turned = self(weight)
            if flipped and weight.shape[2:] != (1, 1):
                turned = self._turn(turned)
            return self.permute(turned, 1, 0, *range(2, rank))

        return self.once((weight, "transposed", flipped), make)

    def _turn(self, kernel: str) -> str:
        last = np.iinfo(np.int64).min
        return self.node("Slice", kernel, self.ints(-1, -1), self.ints(last, last), self.ints(2, 3), self.ints(-1, -1))

    def upsample_kernel(self, weight: Value) -> str:
        """Return the kernel (I, O, 4, 4) whose transposed convolution of stride 2, padding 1 upsamples and convolves.

        Along each axis it is (w2, w1 + w2, w0 + w1, w0). A block of 4 output pixels takes 16 products instead of 36.
        """

        def make() -> str:
            kernel = self.transposed_weight(weight, flipped=True)
            for pads in ((2, 6), (3, 7)):  # begin and end of each spatial axis
                both = []
                for place in pads:
                    widths = [0] * 8
                    widths[place] = 1
                    both.append(self.node("Pad", kernel, self.ints(*widths)))
                kernel = self.node("Add", *both)
            return kernel

        return self.once((weight, "upsample"), make)

    def _phase_kernel(self, kernel: str, first: list[int], ends: list[int]) -> str:
        """Take every other row and column of a kernel (I, O, ...), from `first` back to before `ends`: (O, I, ...)."""
        taken = self.node("Slice", kernel, self.ints(*first), self.ints(*ends), self.ints(2, 3), self.ints(-2, -2))
        return self.permute(taken, 1, 0, 2, 3)

    def transposed_conv(self, x: str, kernel: str, size: int, pads: list[int], bias: str | None = None) -> str:
        """Write a transposed convolution of stride 2, (B, I, H, W) by (I, O, size, size) to (B, O, 2H, 2W).

        out[n] is the sum over m of kernel[m] x[(n + pad - m) / 2], where that index is whole. Each parity of row and
        column is a small convolution, and the four results are interleaved.
        """
        if size < 2:
            raise ExportError("the network has 1x1 convolutions of stride 2, which frugal-rt cannot export yet")
        phases = []
        for i in (0, 1):
            for j in (0, 1):
                first, ends, begin, end = [], [], [], []
                for parity, pad in ((i, pads[0]), (j, pads[1])):
                    taps = [m for m in range(size) if (m - parity - pad) % 2 == 0]
                    offsets = [(parity + pad - m) // 2 for m in taps]
                    first.append(taps[-1])
                    ends.append(taps[0] - 1 if taps[0] else np.iinfo(np.int64).min)
                    begin.append(-min(offsets))
                    end.append(max(offsets))
                if min(begin + end) < 0:
                    raise ExportError(f"a convolution of stride 2 padded by {pads} cannot be turned round yet")
                part = self.once((kernel, i, j), partial(self._phase_kernel, kernel, first, ends))
                phases.append(self.node("Conv", x, part, *([bias] if bias else []), pads=[*begin, *end]))
        return self.node("DepthToSpace", self.node("Concat", *phases, axis=1), blocksize=2, mode="DCR")


def _conv(e: Emitter, v: Value) -> str:
    s = v.settings
    return e.node("Conv", *map(e, v.inputs), strides=[s["stride"]] * 2, pads=s["pads"])


def _upsample_conv(e: Emitter, v: Value) -> str:
    x, weight, *bias = v.inputs
    return e.transposed_conv(e(x), e.upsample_kernel(weight), 4, [1, 1], e(bias[0]) if bias else None)


def _linear(e: Emitter, v: Value) -> str:
    x, weight, *bias = v.inputs
    product = e.node("MatMul", e(x), e.transposed_weight(weight))
    return e.node("Add", product, e(bias[0])) if bias else product


def _attention(e: Emitter, v: Value) -> str:
    return e.node("MatMul", e.softmax_scores(v), e(v.inputs[2]))


def _pad(e: Emitter, v: Value) -> str:
    top, left, bottom, right = v.settings["pads"]
    return e.node("Pad", e(v.inputs[0]), e.ints(0, 0, top, left, 0, 0, bottom, right))


def _silu(e: Emitter, v: Value) -> str:
    x = e(v.inputs[0])
    return e.node("Mul", x, e.node("Sigmoid", x))


def upsample(e: Emitter, x: str, shape: Shape) -> str:
    """Upsample by 2, nearest neighbour, as copies side by side. Other tools' gradient of Resize is a scatter."""
    if is_free(shape):
        return e.node("DepthToSpace", e.node("Concat", x, x, x, x, axis=1), blocksize=2, mode="DCR")
    _, c, h, w = map(known, shape)
    spread = e.reshape(x, (None, c, h, 1, w, 1))
    return e.reshape(e.node("Expand", spread, e.ints(1, 1, 1, 2, 1, 2)), (None, c, 2 * h, 2 * w))


def unshuffle(e: Emitter, x: str, shape: Shape, r: int) -> str:
    """Unshuffle pixels into torch's channel order, c r^2 + i r + j.

    ONNX's SpaceToDepth has (i r + j) C + c, which is the same for a single channel. A Gather would order all channels
    at once, but OpenVINO 2026.4 merges it wrongly into the Conv after it.
    """
    if is_free(shape):
        parts = [e.node("SpaceToDepth", e.slice(x, 1, c, c + 1), blocksize=r) for c in range(known(shape[1]))]
        return e.node("Concat", *parts, axis=1)
    _, c, h, w = map(known, shape)
    blocks = e.reshape(x, (None, c, h // r, r, w // r, r))
    return e.reshape(e.permute(blocks, 0, 1, 3, 5, 2, 4), (None, c * r * r, h // r, w // r))


def shuffle(e: Emitter, x: str, r: int) -> str:
    return e.node("DepthToSpace", x, blocksize=r, mode="CRD")


FORWARD: dict[str, Callable[[Emitter, Value], str]] = {
    "add": lambda e, v: e.node("Add", *map(e, v.inputs)),
    "attention": _attention,
    "cast": lambda e, v: e.node("Cast", e(v.inputs[0]), to=1),
    "cat": lambda e, v: e.node("Concat", *map(e, v.inputs), axis=v.settings["axis"]),
    "conv": _conv,
    "cos": lambda e, v: e.node("Cos", e(v.inputs[0])),
    "group_norm": lambda e, v: e.group_norm(v),
    "linear": _linear,
    "mean_pool": lambda e, v: e.node("AveragePool", e(v.inputs[0]), kernel_shape=[2, 2], strides=[2, 2]),
    "mul": lambda e, v: e.node("Mul", *map(e, v.inputs)),
    "pad": _pad,
    "permute": lambda e, v: e.permute(e(v.inputs[0]), *v.settings["axes"]),
    "pixel_shuffle": lambda e, v: shuffle(e, e(v.inputs[0]), v.settings["r"]),
    "pixel_unshuffle": lambda e, v: unshuffle(e, e(v.inputs[0]), v.inputs[0].shape, v.settings["r"]),
    "reshape": lambda e, v: e.reshape(e(v.inputs[0]), v.shape),
    "silu": _silu,
    "sin": lambda e, v: e.node("Sin", e(v.inputs[0])),
    "slice": lambda e, v: e.slice(e(v.inputs[0]), *(v.settings[k] for k in ("axis", "start", "stop"))),
    "upsample": lambda e, v: upsample(e, e(v.inputs[0]), v.inputs[0].shape),
    "upsample_conv": _upsample_conv,
}
