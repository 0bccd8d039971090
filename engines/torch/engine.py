"""The reference engine: the prior's UNet in torch with autograd, on the CPU or a CUDA device."""

import copy
import logging
from collections.abc import Callable
from functools import partial
from typing import Any

from .. import stopping
from ..array_api import Array
from ..base import Prediction, Pull, Room
from ..errors import BackendError
from ..plan import Plan
from .arrays import GRAIN, OnTorch, Tensor, TorchArrays, like
from .network import build_network, load_weights

logger = logging.getLogger(__name__)
SHAPES = 64
"""The most shapes, with and without a gradient, for which a network may be compiled."""


class TorchEngine(OnTorch):
    """Forward calls and pullbacks by torch autograd. State lives in float32 torch tensors on `device`; numpy arrays are
    taken too, and answered with numpy arrays.

    `precision` "fp16" or "bf16" is autocast's: convolutions and products in it, norms and softmax in float32. In fp16
    the pullback scales each row of the cotangent to a largest magnitude of 1, and the gradient back. On a CUDA device
    whole steps are captured as CUDA graphs. On the CPU a Stop ends a call or its pullback before the next layer.

    The other keywords are for comparisons. `channels_last`: the memory format. `frozen`: whether parameters need no
    gradient; a checkpoint as it is loaded has parameters that do. `compiled`: use torch.compile, which compiles at the
    first call of each size, with and without a gradient. `falls_back`: where compiling fails, run uncompiled with a
    message in the log, instead of raising BackendError.
    """

    def __init__(
        self,
        plan: Plan,
        device: str = "cpu",
        precision: str = "fp32",
        *,
        channels_last: bool = True,
        frozen: bool = True,
        compiled: bool = False,
        falls_back: bool = False,
    ):
        super().__init__(TorchArrays("The torch backend", device))
        torch = self._torch = self._arrays.torch
        self._device, self._precision = device, precision
        module: Any = build_network(plan.manifest["network"])
        load_weights(module, plan.tensors(), plan.source)
        self._format = torch.channels_last if channels_last else torch.contiguous_format
        if not channels_last or precision != "fp32":
            module = copy.deepcopy(module)  # into torch's own aligned memory; channels_last makes a copy anyway
        half = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(precision)
        for layer in module.modules():
            if half is not None and isinstance(layer, torch.nn.Conv2d | torch.nn.Linear):
                layer.to(half)  # once; autocast would convert at every call
        module = module.to(device, memory_format=self._format).requires_grad_(not frozen)
        # Made for each call: an instance shared by threads would restore another thread's state.
        self._autocast = partial(torch.autocast, device, half, enabled=half is not None)
        self._forward_only = torch.inference_mode if frozen else torch.no_grad
        if device == "cpu" and not compiled:
            _make_stoppable(module)
        self._module = _compile(torch, module, falls_back) if compiled else module
        self._compiled = compiled

    @property
    def name(self) -> str:
        how = ", ".join(
            [self._device, *[self._precision] * (self._precision != "fp32"), *["compiled"] * self._compiled]
        )
        return f"torch ({how})"

    @property
    def room(self) -> Room:
        return self._arrays.room(GRAIN) if self._compiled else super().room

    def prepare(self, gradients: bool, batch: int = 1) -> None:
        self.need_open()  # and all is loaded

    def predict(self, x: Array, t: Array) -> Prediction:
        with self._arrays.memory(), self._forward_only():
            return self._answer(self._call(self.asarray(x), t), x)

    def pullback(self, x: Array, t: Array) -> tuple[Prediction, Pull]:
        with self._arrays.memory(), self._torch.enable_grad():
            leaf = self.asarray(x).detach().clone().requires_grad_()
            prediction = self._call(leaf, t)

        def pull(cotangent: Array) -> Array:
            with self._arrays.memory():
                v = self.asarray(cotangent)
                if self._precision != "fp16":
                    return like(self._gradient(prediction, leaf, v), cotangent)
                # float16 ends at 6e-8, where DPS's cotangents have about 1e-4: as in the exported graphs.
                scale = v.abs().amax(dim=(1, 2, 3), keepdim=True).clamp_min(self._torch.finfo(v.dtype).tiny)
                return like(scale * self._gradient(prediction, leaf, v / scale), cotangent)

        return self._answer(prediction, x), pull

    def _gradient(self, prediction: Prediction, leaf: Tensor, v: Tensor) -> Tensor:
        """Return the transposed Jacobian of `prediction.out` in `leaf`, times v; each (B, C, H, W)."""
        (gradient,) = self._torch.autograd.grad(prediction.out, leaf, v)
        return gradient

    def _call(self, x: Tensor, t: Array) -> Prediction:
        t = self._torch.as_tensor(t, dtype=self._torch.int64, device=self._device)
        with self._autocast():
            out = self._module(x.contiguous(memory_format=self._format), t)
        return Prediction(*(one.float() for one in out)) if isinstance(out, tuple) else Prediction(out.float(), None)

    @staticmethod
    def _answer(prediction: Prediction, x: Array) -> Prediction:
        out: Tensor = prediction.out
        variance: Tensor = prediction.variance
        return Prediction(like(out.detach(), x), None if variance is None else like(variance.detach(), x))


def _make_stoppable(module: Any) -> None:
    """Have each layer raise Stopped, before its forward and its backward pass, where a Stop ends the call."""

    def check(*_: Any) -> None:
        stopping.check()

    def watch(layer: Any, inputs: Any, out: Tensor) -> None:
        if out.requires_grad:
            out.register_hook(check)  # of its gradient, from which the layer's own is computed next

    for layer in module.modules():
        if not [*layer.children()]:
            layer.register_forward_pre_hook(check)
            layer.register_forward_hook(watch)


def _compile(torch: Any, module: Any, falls_back: bool) -> Callable[..., Any]:
    """Compile the module for each shape, as a whole graph, so that no part runs uncompiled unnoticed."""
    import torch._dynamo.config
    from torch._dynamo.exc import FailOnRecompileLimitHit, TorchDynamoException

    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, SHAPES)
    call = torch.compile(module, fullgraph=True, dynamic=False)

    def compiled(x: Array, t: Array) -> Any:
        nonlocal call
        try:
            return call(x, t)
        except (TorchDynamoException, FailOnRecompileLimitHit) as error:
            why = str(error).strip().splitlines()[0]
            if not falls_back:
                raise BackendError(f"torch.compile failed: {why}") from error
            logger.warning("torch.compile failed, and the network runs as it is: %s", why)
            call = module
            return call(x, t)

    return compiled
