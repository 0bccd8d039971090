"""The difference between a GPU's answers and the reference's."""

import numpy as np
import torch

from frugal_rt.engines import Engine


def precision_of(engine: Engine) -> str:
    return next((one for one in ("fp16", "bf16") if one in engine.name), "fp32")


def on_host(array: object) -> np.ndarray:
    return np.asarray(array.cpu() if isinstance(array, torch.Tensor) else array, np.float64)


def distance(got: object, want: object) -> float:
    """Return the root mean square of the difference, divided by that of `want`."""
    got, want = on_host(got), on_host(want)
    return float(np.sqrt(((got - want) ** 2).mean() / (want**2).mean()))
