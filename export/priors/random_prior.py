"""Priors of a known architecture with seeded random weights, to measure speed without a download."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from ...engines import InputError
from ...engines.torch.network import build_network
from ..priors.prior import Prior, read_prior
from ..priors.weights import WEIGHT_FILES

ARCHITECTURES: dict[str, dict[str, Any]] = {
    # google/ddpm-celebahq-256: 113,673,219 parameters.
    "celebahq-256": {
        "_class_name": "UNet2DModel",
        "sample_size": 256,
        "in_channels": 3,
        "out_channels": 3,
        "layers_per_block": 2,
        "block_out_channels": [128, 128, 256, 256, 512, 512],
        "down_block_types": [*["DownBlock2D"] * 4, "AttnDownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "AttnUpBlock2D", *["UpBlock2D"] * 4],
        "attention_head_dim": None,
        "norm_eps": 1e-6,
        "norm_num_groups": 32,
        "downsample_padding": 0,
        "flip_sin_to_cos": False,
        "freq_shift": 1,
    }
}
SCHEDULER = {
    "_class_name": "DDPMScheduler",
    "num_train_timesteps": 1000,
    "beta_start": 1e-4,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "variance_type": "fixed_small",
}


def random_prior(name: str, folder: Path, seed: int = 0) -> Prior:
    """Write the architecture `name` with random weights into the empty `folder`, as diffusers would, and read it.

    Raises InputError for a name that is not in ARCHITECTURES, MissingExtra without torch and diffusers.
    """
    if name not in ARCHITECTURES:
        raise InputError(f"there is no architecture {name!r}; choose one of {', '.join(ARCHITECTURES)}")
    from safetensors.numpy import save_file

    for sub, file, config in (
        ("unet", "config.json", ARCHITECTURES[name]),
        ("scheduler", "scheduler_config.json", SCHEDULER),
    ):
        (folder / sub).mkdir()
        (folder / sub / file).write_text(json.dumps(config), encoding="utf-8")
    save_file(_weights(ARCHITECTURES[name], seed), folder / "unet" / WEIGHT_FILES[0])
    (folder / "README.md").write_text(f"Random weights (seed {seed}), for measuring speed only.\n", encoding="utf-8")
    (folder / "LICENSE").write_text("None: random numbers\n", encoding="utf-8")
    return read_prior(folder, f"{name}, random weights")


def _weights(config: dict[str, Any], seed: int) -> dict[str, np.ndarray]:
    """Draw weights from a normal distribution of deviation 1 / sqrt(3 fan-in), as torch's default for these layers.

    Norms are the identity, biases are zero.
    """
    module = build_network({"config": config, "pixel_unshuffle": 1, "learned_variance": False})
    random = np.random.default_rng(seed)
    weights = {}
    for name, parameter in module.state_dict().items():
        shape = tuple(parameter.shape)
        if len(shape) == 1:
            value = np.full(shape, float(name.endswith("weight")), np.float32)
        else:
            value = random.standard_normal(shape, np.float32) / np.float32(math.sqrt(3 * math.prod(shape[1:])))
        weights[name.removeprefix("unet.")] = value
    return weights
