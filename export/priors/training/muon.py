"""Muon in a precision of choice: torch's own works in bfloat16, which many CPUs only emulate."""

from collections.abc import Iterable
from typing import Any

import torch
from torch.optim import Optimizer

MOMENTUM = 0.95
COEFFICIENTS = 3.4445, -4.7750, 2.0315
"""COEFFICIENTS of the quintic Newton-Schulz iteration that Jordan chose: all singular values end near 1."""
ITERATIONS, TINY = 5, 1e-7


class Muon(Optimizer):
    """Muon (Jordan et al., 2024): each step of a matrix is its momentum, with the singular values made nearly equal.

    The step is scaled to the root mean square of AdamW's, 0.2 (Liu et al., 2025), so that one rate serves both.
    `precision` is that of the products of matrices.
    """

    def __init__(self, matrices: Iterable[torch.Tensor], lr: float, weight_decay: float, precision: torch.dtype):
        super().__init__(matrices, {"lr": lr, "weight_decay": weight_decay})
        self.precision = precision

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Move each matrix (M, N) that has a gradient."""
        assert closure is None, "the loss is not evaluated again"
        for group in self.param_groups:
            for matrix in group["params"]:
                if matrix.grad is None:
                    continue
                state = self.state[matrix]
                if not state:
                    state["momentum_buffer"] = torch.zeros_like(matrix)
                momentum = state["momentum_buffer"].lerp_(matrix.grad, 1 - MOMENTUM)
                ahead = matrix.grad.lerp(momentum, MOMENTUM)  # Nesterov's
                step = orthogonalised(ahead.to(self.precision)).to(matrix.dtype)
                matrix.mul_(1 - group["lr"] * group["weight_decay"])
                matrix.add_(step, alpha=-0.2 * group["lr"] * max(matrix.shape) ** 0.5)


def orthogonalised(matrix: torch.Tensor) -> torch.Tensor:
    """Return U V^T of a matrix (M, N) = U S V^T, nearly, by Newton-Schulz iterations in its own precision."""
    a, b, c = COEFFICIENTS
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / x.norm().clamp(min=TINY)
    for _ in range(ITERATIONS):
        square = x @ x.T
        x = torch.addmm(x, torch.addmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return x.T if tall else x
