"""DPS by another library, on the same network and the same measurement, for `frugal-rt bench --vs`."""

import importlib
import importlib.metadata
from typing import Any

import numpy as np

from ..engines import BackendError, InputError, Plan
from ..engines.network import build_network, import_torch, load_weights
from .operators import Operator
from .schedule import train_betas


class DeepInvDPS:
    """deepinv.sampling.DPS as its documentation sets it up, but for the network, which is the plan's.

    Raises MissingExtra without torch or diffusers, BackendError where deepinv is missing or cannot be imported.
    """

    def __init__(self, plan: Plan):
        if plan.manifest["network"]["learned_variance"]:
            raise InputError("--vs deepinv works with priors of a fixed variance; this one's is learned")
        self._torch = import_torch("Comparing with deepinv")
        try:
            self._deepinv: Any = importlib.import_module("deepinv")
        except ImportError as error:
            raise BackendError(f"--vs deepinv needs deepinv ({error}); run: pip install deepinv") from error
        except RuntimeError as error:  # torchvision, which deepinv imports, was built for another torch
            raise BackendError(f"deepinv is installed and cannot be imported: {error}") from error
        self.version = importlib.metadata.version("deepinv")
        self._device = "cuda" if self._torch.cuda.is_available() else "cpu"
        self._shape = plan.image_shape
        module = build_network(plan.manifest["network"])
        load_weights(module, plan.tensors(), plan.source)
        schedule = plan.manifest["schedule"]
        abar = np.cumprod(1 - train_betas(schedule))
        try:
            wrap = self._deepinv.models.wrapper.ScoreModelWrapper
        except AttributeError as error:
            raise BackendError(
                f"deepinv {self.version} is too old to compare with; run: pip install -U deepinv"
            ) from error
        self._denoiser = wrap(
            module,
            prediction_type=schedule.get("prediction_type", "epsilon"),
            scale_t=self._torch.tensor(abar**0.5, dtype=self._torch.float32),
            variance_preserving=True,
            takes_integer_time=True,
            n_timesteps=len(abar),
            device=self._device,
        )

    @property
    def name(self) -> str:
        return f"torch ({self._device}), deepinv.sampling.DPS"

    def restore(self, y: np.ndarray, operator: Operator, steps: int) -> np.ndarray:
        """The image (C, H, W) on [-1, 1] that `operator` turned into y (c, h, w), after `steps` network calls."""
        physics = self._deepinv.physics.Physics(A=lambda x, **_: operator.A(x))
        # Its pictures lie on [0, 1]; n + 1 points in time are n steps.
        sampler = self._deepinv.sampling.DPS(self._denoiser, num_steps=steps + 1, device=self._device)
        measured = self._torch.from_numpy((y[None] + 1) / 2).to(self._device)
        x = sampler(measured, physics, x_init=(1, *self._shape))
        return np.asarray(x[0].detach().cpu(), np.float32) * 2 - 1
