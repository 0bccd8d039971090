"""The vector-Jacobian product of each traced operation in ONNX, and the loop that chains them.

`reverse` is reverse-mode differentiation. No rule emits ScatterND: with duplicate indices its threads race in
onnxruntime.
"""

from typing import Any

import numpy as np

from ..engines import ExportError
from .lowering import Emitter, shuffle, unshuffle, upsample
from .sizes import Side, is_free, is_twice, known
from .trace import Trace, Value

Cotangents = list[tuple[Value, str]]


RECOMPUTED = {"cat", "group_norm", "mul", "permute", "pixel_shuffle", "pixel_unshuffle", "reshape", "silu", "slice"}
"""Operations whose results are recomputed in the pullback. Other values that it needs are outputs of the forward graph.
"""


class PullbackEmitter(Emitter):
    """Writer of the pullback graph. It recomputes values of RECOMPUTED; the others are inputs, listed in `kept`."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[Value] = []

    def emit(self, value: Value) -> str:
        if value.op in RECOMPUTED:
            return super().emit(value)
        self.kept.append(value)
        return f"kept:{value.name}"

    def normalised(self, v: Value) -> tuple[str, str]:
        """Return (x - mean) / std of a group norm in the shape of `grouped`, and 1 / std, (B, G, 1) or (B, G, 1, 1)."""

        def make() -> tuple[str, str]:
            grouped = self.grouped(self(v.inputs[0]), v.shape, v.settings["groups"])
            centred = self.node("Sub", grouped, self.mean(v, grouped))
            variance = self.mean(v, self.node("Mul", centred, centred))
            padded = self.node("Add", variance, self.constant(v.settings["eps"], np.float32))
            inverse = self.node("Reciprocal", self.node("Sqrt", padded))
            return self.node("Mul", centred, inverse), inverse

        return self.once((v, "normalised"), make)

    def mean(self, v: Value, grouped: str) -> str:
        """Return the mean of each group of a group norm v."""
        return self.node("ReduceMean", grouped, self.ints(*((-2, -1) if is_free(v.shape) else (-1,))), keepdims=1)

    def group_norm(self, v: Value) -> str:
        _, weight, bias = v.inputs
        return self.scale_shift(self.ungrouped(self.normalised(v)[0], v.shape), weight, bias, len(v.shape))

    def pull(self, v: Value, g: str) -> Cotangents:
        """Return the cotangents of v's active inputs, given g, the cotangent of v."""
        if v.op not in PULL:
            raise ExportError(f"the gradient of the operation {v.op} is not known")
        return [(one, cotangent) for one, cotangent in PULL[v.op](self, v, g) if one.active]


def _pull_conv(e: PullbackEmitter, v: Value, g: str) -> Cotangents:
    x, weight, *_ = v.inputs
    size, pads = known(weight.shape[2]), v.settings["pads"]
    if v.settings["stride"] == 1:
        back = [size - 1 - pad for pad in pads]
        return [(x, e.node("Conv", g, e.transposed_weight(weight, flipped=True), pads=back))]
    if not all(is_twice(n, half) for n, half in zip(x.shape[2:], v.shape[2:], strict=True)):
        raise ExportError("the network halves odd sizes, which frugal-rt cannot export yet")
    return [(x, e.transposed_conv(g, e(weight), size, pads))]


def _pull_upsample_conv(e: PullbackEmitter, v: Value, g: str) -> Cotangents:
    return [(v.inputs[0], e.node("Conv", g, e.upsample_kernel(v.inputs[1]), strides=[2, 2], pads=[1, 1, 1, 1]))]


def _pull_group_norm(e: PullbackEmitter, v: Value, g: str) -> Cotangents:
    """dx = (h - mean(h) - n mean(h n)) / std, with n the normalised input and h = weight g."""
    x, weight, _ = v.inputs
    normal, inverse = e.normalised(v)
    scaled = e.node("Mul", g, e.each_channel(weight, len(v.shape)))
    h = e.grouped(scaled, v.shape, v.settings["groups"])
    along = e.node("Mul", normal, e.mean(v, e.node("Mul", h, normal)))
    centred = e.node("Sub", e.node("Sub", h, e.mean(v, h)), along)
    return [(x, e.ungrouped(e.node("Mul", centred, inverse), x.shape))]


def _pull_silu(e: PullbackEmitter, v: Value, g: str) -> Cotangents:
    """d silu = s (1 + x (1 - s)), s the sigmoid."""
    x = v.inputs[0]
    s, one = e.node("Sigmoid", e(x)), e.constant(1, np.float32)
    slope = e.node("Mul", s, e.node("Add", e.node("Mul", e(x), e.node("Sub", one, s)), one))
    return [(x, e.node("Mul", g, slope))]


def _pull_attention(e: PullbackEmitter, v: Value, g: str) -> Cotangents:
    query, key, value = v.inputs
    scores = e.softmax_scores(v)
    d_scores = e.node("MatMul", g, e.permute(e(value), 0, 1, 3, 2))
    total = e.node("ReduceSum", e.node("Mul", d_scores, scores), e.ints(-1), keepdims=1)
    inner = e.node("Mul", scores, e.node("Sub", d_scores, total))
    scaled = e.node("Mul", inner, e.constant(v.settings["scale"], np.float32))
    return [
        (query, e.node("MatMul", scaled, e(key))),
        (key, e.node("MatMul", e.permute(scaled, 0, 1, 3, 2), e(query))),
        (value, e.node("MatMul", e.permute(scores, 0, 1, 3, 2), g)),
    ]


def _pull_cat(e: PullbackEmitter, v: Value, g: str) -> Cotangents:
    axis, start, parts = v.settings["axis"], 0, []
    for one in v.inputs:
        stop = start + known(one.shape[axis])
        parts.append((one, e.slice(g, axis, start, stop)))
        start = stop
    return parts


def _pull_slice(e: PullbackEmitter, v: Value, g: str) -> Cotangents:
    x, axis, rank = v.inputs[0], v.settings["axis"], len(v.shape)
    widths = [0] * (2 * rank)
    widths[axis], widths[rank + axis] = v.settings["start"], known(x.shape[axis]) - v.settings["stop"]
    return [(x, e.node("Pad", g, e.ints(*widths)))]


def _pull_mul(e: PullbackEmitter, v: Value, g: str) -> Cotangents:
    a, b = v.inputs
    return [(one, e.node("Mul", g, e(other))) for one, other in ((a, b), (b, a)) if one.active]


def _pull_upsample(e: PullbackEmitter, v: Value, g: str) -> Cotangents:
    x = v.inputs[0]
    if is_free(x.shape):
        means = e.node("AveragePool", g, kernel_shape=[2, 2], strides=[2, 2])
        return [(x, e.node("Mul", means, e.constant(4, np.float32)))]
    _, c, h, w = map(known, x.shape)
    blocks = e.reshape(g, (None, c, h, 2, w, 2))
    return [(x, e.node("ReduceSum", blocks, e.ints(3, 5), keepdims=0))]


def _pull_mean_pool(e: PullbackEmitter, v: Value, g: str) -> Cotangents:
    quarter = e.node("Mul", g, e.constant(0.25, np.float32))
    return [(v.inputs[0], upsample(e, quarter, v.shape))]


def _pull_pad(e: PullbackEmitter, v: Value, g: str) -> Cotangents:
    top, left, bottom, right = v.settings["pads"]
    x = v.inputs[0]
    for axis, before, after in ((2, top, bottom), (3, left, right)):
        free = isinstance(x.shape[axis], Side)
        g = e.slice(g, axis, before, (-after or np.iinfo(np.int64).max) if free else before + known(x.shape[axis]))
    return [(x, g)]


def _inverse(axes: list[int]) -> list[int]:
    return [axes.index(i) for i in range(len(axes))]


PULL: dict[str, Any] = {
    "add": lambda e, v, g: [(one, g) for one in v.inputs],
    "attention": _pull_attention,
    "cat": _pull_cat,
    "conv": _pull_conv,
    "group_norm": _pull_group_norm,
    "linear": lambda e, v, g: [(v.inputs[0], e.node("MatMul", g, e(v.inputs[1])))],
    "mean_pool": _pull_mean_pool,
    "mul": _pull_mul,
    "pad": _pull_pad,
    "permute": lambda e, v, g: [(v.inputs[0], e.permute(g, *_inverse(v.settings["axes"])))],
    "pixel_shuffle": lambda e, v, g: [(v.inputs[0], unshuffle(e, g, v.shape, v.settings["r"]))],
    "pixel_unshuffle": lambda e, v, g: [(v.inputs[0], shuffle(e, g, v.settings["r"]))],
    "reshape": lambda e, v, g: [(v.inputs[0], e.reshape(g, v.inputs[0].shape))],
    "silu": _pull_silu,
    "slice": _pull_slice,
    "upsample": _pull_upsample,
    "upsample_conv": _pull_upsample_conv,
}


def reverse(e: PullbackEmitter, traced: Trace, v: str) -> str:
    """Write the gradient in x for the cotangent v of the first output; return its name.

    Reverse-mode differentiation: operations in reverse order; the cotangents of a value are summed.
    """
    cotangents: dict[Value, list[str]] = {traced.outputs[0]: [v]}
    for value in reversed(traced.values):
        if value.active and value in cotangents:
            for one, cotangent in e.pull(value, _sum(e, cotangents.pop(value))):
                cotangents.setdefault(one, []).append(cotangent)
    return _sum(e, cotangents[traced.x])


def _sum(e: Emitter, names: list[str]) -> str:
    total = names[0]
    for name in names[1:]:
        total = e.node("Add", total, name)
    return total
