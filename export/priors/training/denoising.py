"""The training objective of the embedded priors, and measures of a network's denoising on held-out photographs."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

SCHEDULER = {
    "_class_name": "DDPMScheduler",
    "beta_start": 1e-4,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "num_train_timesteps": 1000,
    "prediction_type": "v_prediction",
    "variance_type": "fixed_small",
    "clip_sample": True,
}
"""scheduler_config.json of every embedded prior."""
ABAR = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)
"""abar_t of SCHEDULER, float64."""
LEVELS = (5, 10, 25, 50, 100)
"""Standard deviations of the noise that `psnr` removes, in grey levels of 255."""
PAIRS = 400
"""Crops that `errors` measures on, each at its own timestep."""
ROWS = 20
"""Crops in one call of `errors`."""


def as_input(images: np.ndarray, device: str) -> torch.Tensor:
    """Convert (B, 3, H, W) uint8 to float32 on [-1, 1]."""
    return torch.from_numpy(np.ascontiguousarray(images)).to(device).float() / 127.5 - 1


def predict_v(network: Any, x: torch.Tensor, t: torch.Tensor, r: int) -> torch.Tensor:
    """Predict v, float32, of images x (B, 3, H, W) at t (B,); the network works on r x r pixel-unshuffled images."""
    out = network(torch.nn.functional.pixel_unshuffle(x, r), t, return_dict=False)[0]
    return torch.nn.functional.pixel_shuffle(out.float(), r)


def diffuse(x0: torch.Tensor, t: torch.Tensor, noise: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Return x_t = sqrt(abar) x0 + sqrt(1-abar) eps, v = sqrt(abar) eps - sqrt(1-abar) x0, and abar (B, 1, 1, 1)."""
    abar = ABAR[t].float().to(x0.device).view(-1, 1, 1, 1)
    return abar.sqrt() * x0 + (1 - abar).sqrt() * noise, abar.sqrt() * noise - (1 - abar).sqrt() * x0, abar


def loss_of(network: Any, x0: torch.Tensor, t: torch.Tensor, noise: torch.Tensor, r: int, floor: float) -> torch.Tensor:
    """Return the mean of max(abar_t, floor) ||v - v_theta||^2; t lies on the CPU.

    abar_t ||v - v_theta||^2 is the usual error of eps. It vanishes with abar_t at the noisiest timesteps, which decide
    an image's colours and layout; the floor keeps their weight.
    """
    xt, v, abar = diffuse(x0, t, noise)
    return (abar.clamp(min=floor) * (predict_v(network, xt, t.to(x0.device), r) - v) ** 2).mean()


@torch.inference_mode()
def psnr(network: Any, pictures: Sequence[np.ndarray], r: int, device: str) -> dict[str, float]:
    """Return the mean PSNR in dB of one-shot denoising of pictures (H, W, 3) uint8, for each of LEVELS.

    y = x + sigma n is x_t / sqrt(abar) at the t where (1-abar)/abar = sigma^2, so one call gives x0hat =
    sqrt(abar) x_t - sqrt(1-abar) v, clipped to [-1, 1]. abar is computed from sigma, and t is the nearest timestep.
    """
    result = {}
    for level in LEVELS:
        sigma = 2 * level / 255
        abar = 1 / (1 + sigma**2)
        t = ((1 - ABAR).div(ABAR).sqrt() - sigma).abs().argmin().view(1).to(device)
        values = []
        for i, picture in enumerate(pictures):
            x = as_input(picture.transpose(2, 0, 1)[None], device)
            noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(i)).to(device)
            xt = math.sqrt(abar) * (x + sigma * noise)
            x0hat = math.sqrt(abar) * xt - math.sqrt(1 - abar) * predict_v(network, xt, t, r)
            values.append(10 * math.log10(4 / (x0hat.clamp(-1, 1) - x).square().mean().item()))
        result[f"psnr_{level}"] = sum(values) / len(values)
    return result


@torch.inference_mode()
def errors(network: Any, pictures: Sequence[np.ndarray], side: int, r: int, device: str) -> dict[str, float]:
    """Return the mean squared errors of eps, and of x0 on [-1, 1] by thirds of t, on fixed crops, timesteps and noise.

    There are PAIRS pairs of a timestep, evenly spread over the training range, and the central square of a picture. The
    noisiest timesteps, which `psnr` leaves out, are included.
    """
    crops = np.stack([_central(pictures[i % len(pictures)], side) for i in range(PAIRS)])
    steps = torch.linspace(0, 999, PAIRS).long()
    noise = torch.randn((PAIRS, 3, side, side), generator=torch.Generator().manual_seed(20))
    eps_errors, x0_errors = [], []
    for rows in torch.split(torch.arange(PAIRS), ROWS):
        x0, eps = as_input(crops[rows.numpy()], device), noise[rows].to(device)
        xt, _, abar = diffuse(x0, steps[rows], eps)
        v = predict_v(network, xt, steps[rows].to(device), r)
        eps_errors.append((abar.sqrt() * v + (1 - abar).sqrt() * xt - eps).square().mean((1, 2, 3)))
        x0hat = (abar.sqrt() * xt - (1 - abar).sqrt() * v).clamp(-1, 1)
        x0_errors.append((x0hat - x0).square().mean((1, 2, 3)))
    low, middle, high = torch.cat(x0_errors).tensor_split(3)
    return {
        "eps": torch.cat(eps_errors).mean().item(),
        "x0_low_noise": low.mean().item(),
        "x0_mid_noise": middle.mean().item(),
        "x0_high_noise": high.mean().item(),
    }


def _central(picture: np.ndarray, side: int) -> np.ndarray:
    """Return the central square of (H, W, 3), as (3, side, side)."""
    y, x = ((length - side) // 2 for length in picture.shape[:2])
    return picture[y : y + side, x : x + side].transpose(2, 0, 1)
