"""The autograd-capable engine: the prior's UNet in torch, on the CPU or a CUDA device."""

from typing import Any

import numpy as np

from .base import Array, Prediction, Pull
from .errors import BackendError
from .network import build_network, import_torch, load_weights
from .plan import Plan


class TorchEngine:
    """Forward calls and pullbacks by torch autograd, in float32.

    State lives in torch tensors on `device`; numpy arrays are taken too, and answered with numpy arrays.
    """

    def __init__(self, plan: Plan, device: str = "cpu"):
        self._torch = import_torch("The torch backend")
        if device == "cuda" and not self._torch.cuda.is_available():
            raise BackendError("torch sees no CUDA device here; run: frugal-rt doctor")
        self._device = device
        module: Any = build_network(plan.manifest["network"])
        load_weights(module, plan.tensors(), plan.source)
        self._module = module.to(device, memory_format=self._torch.channels_last)

    @property
    def name(self) -> str:
        return f"torch ({self._device})"

    def prepare(self, gradients: bool) -> None:
        pass  # all is loaded

    def asarray(self, x: Any) -> Array:
        return self._torch.as_tensor(x, dtype=self._torch.float32, device=self._device)

    def predict(self, x: Array, t: Array) -> Prediction:
        with self._torch.inference_mode():
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
        out = self._module(x.contiguous(memory_format=self._torch.channels_last), t)
        return Prediction(*out) if isinstance(out, tuple) else Prediction(out, None)

    @staticmethod
    def _answer(prediction: Prediction, x: Array) -> Prediction:
        out, variance = prediction
        return Prediction(_like(out.detach(), x), None if variance is None else _like(variance.detach(), x))


def _like(tensor: Array, x: Array) -> Array:
    """`tensor` in the memory order of an image batch, as numpy where `x` is numpy."""
    tensor = tensor.contiguous()
    return tensor.cpu().numpy() if isinstance(x, np.ndarray) else tensor
