"""The noise schedule that a prior was trained with, read from a diffusers scheduler config."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from .errors import InputError

BETA_SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2")
PREDICTION_TYPES = ("epsilon", "v_prediction", "sample")
VARIANCE_TYPES = ("fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log", "learned_range")
"""The values of `variance_type` that are understood."""
UNSAID = {"beta_schedule": "linear", "prediction_type": "epsilon", "variance_type": "fixed_small"}
"""Values of a config's entries that are absent: diffusers' defaults."""


def train_betas(config: Mapping[str, Any]) -> np.ndarray:
    """Return the training schedule's betas, (T_train,) float64, from a diffusers scheduler config.

    Raises InputError for a schedule that this package does not know.
    """
    count = config.get("num_train_timesteps", 1000)
    if config.get("trained_betas") is not None:
        return np.asarray(config["trained_betas"], np.float64)
    start, end = config.get("beta_start", 1e-4), config.get("beta_end", 0.02)
    kind = config.get("beta_schedule", UNSAID["beta_schedule"])
    if kind == "linear":
        return np.linspace(start, end, count)
    if kind == "scaled_linear":
        return np.linspace(start**0.5, end**0.5, count) ** 2
    if kind == "squaredcos_cap_v2":  # Nichol and Dhariwal, 2021, eq. 17
        edges = np.cos((np.arange(count + 1) / count + 0.008) / 1.008 * np.pi / 2) ** 2
        return np.asarray(np.minimum(1 - edges[1:] / edges[:-1], 0.999))
    raise InputError(f"the beta schedule {kind!r} is not known; {', '.join(BETA_SCHEDULES)} are")
