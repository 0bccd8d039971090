"""Priors in diffusers' layout: a folder, checked and read. Only pickled weights need torch."""

import difflib
import functools
import json
import math
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ...engines import ExportError, InputError
from ...engines.betas import BETA_SCHEDULES, PREDICTION_TYPES, UNSAID, VARIANCE_TYPES
from ...engines.embedded import FOLDERS
from ...engines.manifest import has_attention, is_framing
from .hub import PUBLISHED, fetch
from .weights import WEIGHT_FILES, find_weights, read_weights

EMBEDDED = FOLDERS
"""Priors in the package, by their names for `--model`, which takes those of `hub.PUBLISHED` too."""

FRAMING = "framing.json"
SCHEDULERS = (
    *("DDPMScheduler", "DDPMParallelScheduler", "DDIMScheduler", "DDIMParallelScheduler", "DDIMInverseScheduler"),
    *("PNDMScheduler", "RePaintScheduler", "DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler"),
    *("DPMSolverMultistepInverseScheduler", "DPMSolverSDEScheduler", "DEISMultistepScheduler"),
    *("UniPCMultistepScheduler", "SASolverScheduler", "LMSDiscreteScheduler", "HeunDiscreteScheduler"),
    *("EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler"),
    *("KDPM2DiscreteScheduler", "KDPM2AncestralDiscreteScheduler"),
)
"""diffusers' schedulers for a network trained on a schedule of betas. How they take steps does not matter here."""
OF_LATENTS = (
    *("HeunDiscreteScheduler", "KDPM2DiscreteScheduler", "KDPM2AncestralDiscreteScheduler", "DPMSolverSDEScheduler"),
)
LATENT_BETAS = {"beta_start": 0.00085, "beta_end": 0.012}
"""Latent diffusion's betas, which some of these schedulers assume where a config has none."""
UNET_FIELDS = {
    *("sample_size", "in_channels", "out_channels", "center_input_sample", "time_embedding_type", "time_embedding_dim"),
    *("freq_shift", "flip_sin_to_cos", "down_block_types", "mid_block_type", "up_block_types", "block_out_channels"),
    *("layers_per_block", "mid_block_scale_factor", "downsample_padding", "downsample_type", "upsample_type"),
    *("dropout", "act_fn", "attention_head_dim", "norm_num_groups", "attn_norm_num_groups", "norm_eps"),
    *("resnet_time_scale_shift", "add_attention", "class_embed_type", "num_class_embeds", "num_train_timesteps"),
}
"""Fields of UNet2DModel's config; diffusers builds the exported network from all of them."""
OTHER_PIPELINES = ("LDMPipeline", "ScoreSdeVePipeline", "KarrasVePipeline", "ConsistencyModelPipeline")
"""diffusers' pipelines whose UNet2DModel is no pixel-space prior with a schedule of betas."""
AUTOENCODERS = ("vae", "vqvae", "movq")
"""Folders of an autoencoder in a pipeline's folder; with one of them the UNet works on latents."""
LARGEST = 4
"""The largest side of images, divided by the side that the network was trained at: attention's cost grows with the
square of the pixels."""


@dataclass(frozen=True)
class Prior:
    """A pixel-space diffusion prior: the configs of its UNet2DModel and scheduler, and how its weights are read."""

    name: str
    card: str
    licence: str
    unet: dict[str, Any]
    scheduler: dict[str, Any]
    read: Callable[[], Mapping[str, Any]]
    """Returns the weights by diffusers' names: numpy arrays or torch tensors of any float type. Raises ExportError."""
    channels: int
    pixel_unshuffle: int
    """r, where the UNet works on r x r pixel-unshuffled images, from the config: in_channels = channels * r^2."""
    learned_variance: bool
    framing: dict[str, Any] | None = None
    """For a prior of faces: the detector's box in its images, {"centre": [x, y], "side": s}, see
    runtime/pictures/align.py."""
    sides: tuple[int, int] | None = None
    """Height and width of the images, where they differ from those that it was trained on."""

    @property
    def size(self) -> int:
        """Side of the square training images, in pixels."""
        side: int = self.unet["sample_size"]
        return side * self.pixel_unshuffle

    @property
    def attends(self) -> bool:
        """Whether the network has attention, which ties it to images of one size."""
        return has_attention(self.unet)

    @property
    def any_size(self) -> bool:
        """Whether its plan will take images of any size: without attention, unless `at` has set a size."""
        return self.sides is None and not self.attends

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of its plan's images; where they may have any size, of the training images."""
        return self.channels, *(self.sides or (self.size, self.size))

    @property
    def stride(self) -> int:
        """Pixels that the sides of an image must be multiples of."""
        levels: int = len(self.unet["down_block_types"])
        return self.pixel_unshuffle << (levels - 1)

    def at(self, height: int, width: int) -> "Prior":
        """Return the same network for images of another size.

        Raises InputError for sides that are no multiples of its stride, and, for a network with attention, for a size
        outside the range from the training size to LARGEST times its side.
        """
        if (height, width) == (self.size, self.size) and self.attends:
            return self
        if height % self.stride or width % self.stride:
            raise InputError(
                f"{self.name} halves its images until {self.stride} pixels are one, so both sides must be multiples of "
                f"{self.stride}; {width}x{height} is not: take a larger one, and --fit pad"
            )
        if self.attends and (min(height, width) < self.size or max(height, width) > LARGEST * self.size):
            raise InputError(
                f"{self.name} was trained at {self.size}x{self.size}; its range is taken to be from there to "
                f"{LARGEST} times the side; restore takes larger pictures in tiles"
            )
        return replace(self, sides=(height, width), framing=None)

    def tensors(self) -> dict[str, np.ndarray]:
        """Return the weights by diffusers' names, in float32. Raises ExportError."""
        return {name: _float32(self.name, name, tensor) for name, tensor in sorted(self.read().items())}


def find_prior(name: str) -> Prior:
    """Return a prior by name, downloaded unless it is in the package. Raises InputError for an unknown name."""
    if name in EMBEDDED:
        return read_prior(EMBEDDED[name], name)
    if name in PUBLISHED:
        return replace(read_prior(fetch(name), name), framing=PUBLISHED[name].framing)
    known = [*EMBEDDED, *PUBLISHED]
    near = difflib.get_close_matches(name, known, 1)
    raise InputError(
        f"there is no prior {name!r}{f' (did you mean {near[0]}?)' if near else ''}; choose one of {', '.join(known)}, "
        "or give your own: --weights DIR"
    )


def read_prior(folder: str | os.PathLike[str], name: str | None = None) -> Prior:
    """Read the prior in `folder`, in diffusers' layout.

    Files: unet/config.json and weights, scheduler/scheduler_config.json, README.md, LICENSE. Early versions of
    diffusers had no folders unet and scheduler. A prior of faces also has framing.json, {"centre": [x, y], "side": s}:
    the detector's box in shares of the image's side.

    Raises InputError where the folder has another layout, ExportError where its prior is of an unsupported kind.
    """
    root = Path(folder)
    flat = not (root / "unet").is_dir() and (root / "config.json").is_file()
    unet_folder, scheduler_folder = ("", "") if flat else ("unet/", "scheduler/")
    unet = _config(root, f"{unet_folder}config.json")
    scheduler = _config(root, f"{scheduler_folder}scheduler_config.json")
    _refuse_other_pipelines(root)
    weights = find_weights(root / unet_folder)
    if weights is None:
        raise InputError(f"{root.name} holds no {unet_folder}{WEIGHT_FILES[0]}, nor a .bin of that name")
    prior = make_prior(
        name or root.resolve().name,
        unet,
        scheduler,
        functools.partial(read_weights, weights),
        card=_text(root / "README.md"),
        licence=_licence(root),
    )
    return replace(prior, framing=_framing(root)) if (root / FRAMING).is_file() else prior


def make_prior(
    name: str,
    unet: dict[str, Any],
    scheduler: dict[str, Any],
    read: Callable[[], Mapping[str, Any]],
    card: str,
    licence: str,
) -> Prior:
    """Make a prior of these configs, after checking them. Raises ExportError where its kind is not supported."""
    if unet.get("_class_name") != "UNet2DModel":
        raise ExportError(f"{name}: the UNet is a {unet.get('_class_name')}, only an unconditional UNet2DModel works")
    unknown = sorted(
        field for field in unet.keys() - UNET_FIELDS if unet[field] is not None and not field.startswith("_")
    )
    if unknown:
        raise ExportError(
            f"{name}: the UNet has {unknown[0]} = {unet[unknown[0]]}, which UNet2DModel does not know; take it out of "
            "its config if the network does not need it"
        )
    if unet.get("class_embed_type") is not None or unet.get("num_class_embeds") is not None:
        raise ExportError(f"{name}: the UNet is class-conditional; only unconditional priors work")
    if unet.get("time_embedding_type", "positional") != "positional":
        raise ExportError(
            f"{name}: the UNet's time embedding is {unet['time_embedding_type']}, and a DDPM's is positional: it was "
            "trained on noise levels, not on steps of a schedule of betas"
        )
    sampler = scheduler.get("_class_name", SCHEDULERS[0])
    if sampler not in SCHEDULERS or scheduler.get("use_flow_sigmas"):
        raise ExportError(
            f"{name}: the scheduler is a {sampler}{' of flow matching' * (sampler in SCHEDULERS)}, which is not of a "
            "DDPM's schedule of betas: its network predicts something else; priors of the DDPM family work"
        )
    if scheduler.get("rescale_betas_zero_snr"):
        raise ExportError(f"{name}: schedules rescaled to zero terminal SNR are not supported")
    for key in ("in_channels", "out_channels", "sample_size"):
        if type(unet.get(key)) is not int or unet[key] < 1:
            raise ExportError(f"{name}: {key} must be a whole number above 0; it is {unet.get(key)}")
    channels, r = _pixel_layout(name, unet["in_channels"])
    ratio = unet["out_channels"] / unet["in_channels"]
    scheduler = {**(LATENT_BETAS if sampler in OF_LATENTS else {}), **scheduler}
    scheduler = {key: value for key, value in scheduler.items() if value is not None or key not in UNSAID}
    said = {**UNSAID, **scheduler}
    variance = str(said["variance_type"])
    if variance not in VARIANCE_TYPES or ratio != (2 if variance == "learned_range" else 1):
        raise ExportError(
            f"{name}: variance {variance} with {unet['out_channels']} output channels is not supported; "
            "fixed variances need as many as go in, learned_range twice as many"
        )
    if type(scheduler.setdefault("num_train_timesteps", 1000)) is not int:
        raise ExportError(f"{name}: num_train_timesteps must be a whole number")
    _known(name, "prediction type", said["prediction_type"], PREDICTION_TYPES)
    if scheduler.get("trained_betas") is None:
        _known(name, "beta schedule", said["beta_schedule"], BETA_SCHEDULES)
    return Prior(name, card, licence, unet, scheduler, read, channels, r, ratio == 2)


def _float32(prior: str, name: str, tensor: Any) -> np.ndarray:
    try:
        weights = np.ascontiguousarray(tensor, np.float32)
    except (TypeError, ValueError) as error:
        raise ExportError(f"{prior}: {name} is no array of numbers that numpy knows; save it as float32") from error
    if not np.isfinite(weights).all():
        raise ExportError(f"{prior}: {name} holds values that are not finite; save weights beyond 65504 as float32")
    return weights


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


def _refuse_other_pipelines(root: Path) -> None:
    """Raise ExportError where the folder's model_index.json names another pipeline than a DDPM's."""
    index = _config(root, "model_index.json") if (root / "model_index.json").is_file() else {}
    kind = index.get("_class_name")
    coder = next((name for name in AUTOENCODERS if index.get(name) or (root / name).is_dir()), None)
    if coder is not None:
        said = "" if kind is None else f" of a {kind}"
        raise ExportError(
            f"{root.name} is the folder{said} with an autoencoder, {coder}: its UNet works on latents, and only priors "
            "of pixels are exported"
        )
    if kind in OTHER_PIPELINES:
        raise ExportError(f"{root.name} is the folder of a {kind}, which is no DDPM; priors of the DDPM family work")


def _framing(root: Path) -> dict[str, Any]:
    framing = _config(root, FRAMING)
    if not is_framing(framing):
        raise InputError(f'{root.name}/{FRAMING} must hold shares of the image: {{"centre": [0.5, 0.6], "side": 0.9}}')
    return {"centre": framing["centre"], "side": framing["side"]}


def _pixel_layout(name: str, in_channels: int) -> tuple[int, int]:
    """Return the image channels and the unshuffle factor r, from in_channels: 3 r^2 for colour, 1 for grey."""
    if in_channels == 1:
        return 1, 1
    r = math.isqrt(in_channels // 3)
    if in_channels != 3 * r * r:
        raise ExportError(f"{name}: a UNet of {in_channels} input channels is not one of pixels (3, 12, 48 or 1)")
    return 3, r


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def _licence(root: Path) -> str:
    """Return the licence: the first line of LICENSE, or the entry in the front matter of the card (README.md)."""
    lines = _text(root / "LICENSE").strip().splitlines()
    if lines:
        return lines[0].strip("# ")
    front = re.match(r"---\n(?:.*\n)*?license: *(.+)\n(?:.*\n)*?---\n", _text(root / "README.md"))
    return front[1].strip() if front else "not stated; ask whoever trained the weights"
