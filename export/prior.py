"""Priors: a folder in diffusers' layout, checked and read. Needs no framework."""

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..engines import ExportError, InputError
from ..engines.plan import BETA_SCHEDULES, PREDICTION_TYPES, VARIANCE_TYPES

EMBEDDED = {"celeba": Path(__file__).parent / "priors" / "celeba"}
"""Priors that ship in the package, by the name `--model` takes."""

WEIGHT_FILE = "diffusion_pytorch_model.safetensors"


@dataclass(frozen=True)
class Prior:
    """A pixel-space diffusion prior: the configs of its UNet2DModel and scheduler, and where its weights are."""

    name: str
    card: str
    licence: str
    unet: dict[str, Any]
    scheduler: dict[str, Any]
    weights: Path
    channels: int
    pixel_unshuffle: int
    """r: the UNet sees r x r pixel-unshuffled images. Read off the config: in_channels = channels * r^2."""
    learned_variance: bool

    @property
    def size(self) -> int:
        """Side of the square images, in pixels."""
        return self.unet["sample_size"] * self.pixel_unshuffle

    def tensors(self) -> dict[str, np.ndarray]:
        """The weights by diffusers' names, float32. Raises ExportError."""
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        try:
            loaded = load_file(self.weights)
        except (OSError, SafetensorError, TypeError, KeyError) as error:  # the last two: a type numpy does not have
            raise ExportError(
                f"cannot read {self.weights.name} of the prior {self.name}: {error}; float32 and float16 weights work"
            ) from error
        return {name: np.ascontiguousarray(tensor, np.float32) for name, tensor in sorted(loaded.items())}


def find_prior(name: str) -> Prior:
    """An embedded prior by name. Raises InputError naming those there are."""
    if name not in EMBEDDED:
        raise InputError(
            f"there is no prior {name!r}; choose one of {', '.join(EMBEDDED)}, or give a folder: --weights DIR"
        )
    return read_prior(EMBEDDED[name], name)


def read_prior(folder: str | os.PathLike[str], name: str | None = None) -> Prior:
    """The prior in `folder`: unet/config.json, unet/*.safetensors, scheduler/scheduler_config.json, README.md.

    Raises InputError where the folder is not such a one, ExportError where its prior is of a kind not supported.
    """
    root = Path(folder)
    unet, scheduler = _config(root, "unet/config.json"), _config(root, "scheduler/scheduler_config.json")
    if unet.get("_class_name") != "UNet2DModel":
        raise ExportError(
            f"{root.name}: the UNet is a {unet.get('_class_name')}, only an unconditional UNet2DModel works"
        )
    if scheduler.get("rescale_betas_zero_snr"):
        raise ExportError(f"{root.name}: schedules rescaled to zero terminal SNR are not supported")
    weights = root / "unet" / WEIGHT_FILE
    if not weights.is_file():
        raise InputError(f"{root.name} holds no unet/{WEIGHT_FILE}; convert pickled weights with diffusers first")
    for key in ("in_channels", "out_channels", "sample_size"):
        if type(unet.get(key)) is not int or unet[key] < 1:
            raise ExportError(
                f"{root.name}/unet/config.json: {key} must be a whole number above 0; it is {unet.get(key)}"
            )
    channels, r = _pixel_layout(root.name, unet["in_channels"])
    ratio = unet["out_channels"] / unet["in_channels"]
    variance = str(scheduler.get("variance_type", "fixed_small"))
    if variance not in VARIANCE_TYPES or ratio != (2 if variance == "learned_range" else 1):
        raise ExportError(
            f"{root.name}: variance {variance} with {unet['out_channels']} output channels is not supported; "
            "fixed variances need as many as go in, learned_range twice as many"
        )
    if type(scheduler.setdefault("num_train_timesteps", 1000)) is not int:
        raise ExportError(f"{root.name}: num_train_timesteps must be a whole number")
    _known(root.name, "prediction type", scheduler.get("prediction_type", "epsilon"), PREDICTION_TYPES)
    if scheduler.get("trained_betas") is None:
        _known(root.name, "beta schedule", scheduler.get("beta_schedule", "linear"), BETA_SCHEDULES)
    return Prior(
        name=name or root.resolve().name,
        card=_text(root / "README.md"),
        licence=_licence(root),
        unet=unet,
        scheduler=scheduler,
        weights=weights,
        channels=channels,
        pixel_unshuffle=r,
        learned_variance=ratio == 2,
    )


def _known(name: str, what: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ExportError(f"{name}: the {what} {value!r} is not known; {', '.join(known)} are")


def _config(root: Path, name: str) -> dict[str, Any]:
    try:
        config = json.loads((root / name).read_text(encoding="utf-8"))
    except OSError:
        raise InputError(f"{root} is not a diffusers DDPM folder: it has no readable {name}") from None
    except ValueError as error:
        raise InputError(f"{root.name}/{name} is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise InputError(f"{root.name}/{name} is not a JSON object")
    return config


def _pixel_layout(name: str, in_channels: int) -> tuple[int, int]:
    """Image channels and unshuffle factor: 3 r^2 for colour, 1 for grey."""
    if in_channels == 1:
        return 1, 1
    r = math.isqrt(in_channels // 3)
    if in_channels != 3 * r * r:
        raise ExportError(f"{name}: a UNet of {in_channels} input channels is not one of pixels (3, 12, 48 or 1)")
    return 3, r


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def _licence(root: Path) -> str:
    """The first line of LICENSE, which names it."""
    lines = _text(root / "LICENSE").strip().splitlines()
    return lines[0].strip("# ") if lines else "not stated; ask whoever trained the weights"
