"""The autograd-capable engine: the prior's UNet in torch, on the CPU or a CUDA device."""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np

from .base import Array, Prediction, Pull
from .errors import BackendError
from .network import build_network, import_torch, load_weights
from .plan import Plan


class TorchEngine:
    """Forward calls and pullbacks by torch autograd, in float32.

    State lives in torch tensors on `device`; numpy arrays are taken too, and answered with numpy arrays.

    The keywords are for comparing: `channels_last` is the memory format; an engine that is not `frozen` keeps graphs
    that could reach the parameters, as a checkpoint does when it is loaded and used; a `compiled` one pays for
    torch.compile at the first call of each batch size, with and without a gradient.
    """

    def __init__(
        self,
        plan: Plan,
        device: str = "cpu",
        *,
        channels_last: bool = True,
        frozen: bool = True,
        compiled: bool = False,
    ):
        self._torch = import_torch("The torch backend")
        if device == "cuda" and not self._torch.cuda.is_available():
            raise BackendError("torch sees no CUDA device here; run: frugal-rt doctor")
        self._device = device
        module: Any = build_network(plan.manifest["network"])
        load_weights(module, plan.tensors(), plan.source)
        self._format = self._torch.channels_last if channels_last else self._torch.contiguous_format
        if not channels_last:
            module = copy.deepcopy(module)  # into torch's own aligned memory, where the other format lies anyway
        module = module.to(device, memory_format=self._format).requires_grad_(not frozen)
        self._forward_only = self._torch.inference_mode if frozen else self._torch.no_grad
        self._module = _compile(self._torch, module) if compiled else module

    @property
    def name(self) -> str:
        return f"torch ({self._device})"

    def prepare(self, gradients: bool, batch: int = 1) -> None:
        pass  # all is loaded

    def asarray(self, x: Any) -> Array:
        return self._torch.as_tensor(x, dtype=self._torch.float32, device=self._device)

    def predict(self, x: Array, t: Array) -> Prediction:
        with self._forward_only():
            return self._answer(self._call(self.asarray(x), t), x)

    def pullback(self, x: Array, t: Array) -> tuple[Prediction, Pull]:
        with self._torch.enable_grad():
            leaf = self.asarray(x).detach().clone().requires_grad_()
            prediction = self._call(leaf, t)

        def pull(cotangent: Array) -> Array:
            (gradient,) = self._torch.autograd.grad(prediction.out, leaf, self.asarray(cotangent))
            return _like(gradient, cotangent)

        return self._answer(prediction, x), pull

    def _call(self, x: Array, t: Array) -> Prediction:
        t = self._torch.as_tensor(t, dtype=self._torch.int64, device=self._device)
        out = self._module(x.contiguous(memory_format=self._format), t)
        return Prediction(*out) if isinstance(out, tuple) else Prediction(out, None)

    @staticmethod
    def _answer(prediction: Prediction, x: Array) -> Prediction:
        out, variance = prediction
        return Prediction(_like(out.detach(), x), None if variance is None else _like(variance.detach(), x))


def _compile(torch: Any, module: Any) -> Callable[..., Any]:
    """The module compiled for each shape it meets; whole, so that nothing falls back to eager unnoticed."""
    call = torch.compile(module, fullgraph=True, dynamic=False)
    from torch._dynamo.exc import TorchDynamoException

    def compiled(x: Array, t: Array) -> Any:
        try:
            return call(x, t)
        except TorchDynamoException as error:
            raise BackendError(f"torch.compile failed: {str(error).strip().splitlines()[0]}") from error

    return compiled


def _like(tensor: Array, x: Array) -> Array:
    """`tensor` in the memory order of an image batch, as numpy where `x` is numpy."""
    tensor = tensor.contiguous()
    return tensor.cpu().numpy() if isinstance(x, np.ndarray) else tensor
