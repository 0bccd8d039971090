"""Checkpoints of openai/guided-diffusion's UNetModel ("ADM"), mapped onto diffusers' UNet2DModel.

The architecture is inferred from the tensors' names and shapes: channels, levels, residual blocks a level, levels with
attention, resampling, learned variances. AdmOptions holds the settings that names and shapes do not tell.
"""

import functools
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...engines import ExportError, InputError
from ...engines.torch.network import build_network
from ..priors.prior import Prior, make_prior
from .weights import read_pickled

if TYPE_CHECKING:
    import torch

SIZES: dict[tuple[float, ...], int] = {(1, 1, 2, 2, 4, 4): 256, (1, 1, 2, 3, 4): 128, (1, 2, 3, 4): 64}
"""The images' side in pixels by the channel multipliers, as guided-diffusion pairs them."""
FIRST = "input_blocks.0.0.weight"
"""The first tensor of a checkpoint."""
GROUPS = 32
"""Groups of every group norm."""
NOISES: dict[str, dict[str, Any]] = {
    "linear": {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02},
    "cosine": {"beta_schedule": "squaredcos_cap_v2"},
}
"""A diffusers scheduler's settings of the betas, by guided-diffusion's names of schedules."""

_TOP = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_ATTENTION = {"group_norm": "norm", "to_q": "qkv", "to_k": "qkv", "to_v": "qkv", "to_out.0": "proj_out"}
_DOWN = {**_RESNET, "conv": "op"}
_UP = {**_RESNET, "conv": "conv"}
"""Modules of a level's resampling, guided-diffusion's name by diffusers': a residual block or a convolution."""


@dataclass(frozen=True)
class AdmOptions:
    """Settings that an ADM checkpoint does not hold; the defaults are those of the published 256x256 checkpoints."""

    size: int | None = None
    """Side of the images, in pixels; None: the one that goes with the channel multipliers (SIZES)."""
    head_channels: int = 64
    """Channels of an attention head."""
    qkv: str = "legacy"
    """"legacy": each head's queries, keys and values lie together; "new": all heads' queries come first."""
    noise: str = "linear"
    """The betas that the network was trained with: one of NOISES."""

    @classmethod
    def parse(cls, text: str) -> "AdmOptions":
        """Read "adm" or "adm:size=64,head_channels=32,qkv=new,noise=cosine". Raises InputError."""
        name, _, rest = text.partition(":")
        settings: dict[str, Any] = {}
        for setting in filter(None, rest.split(",")):
            key, _, value = setting.partition("=")
            if key in ("size", "head_channels") and value.isdecimal() and int(value) > 0:
                settings[key] = int(value)
            elif (key == "qkv" and value in ("legacy", "new")) or (key == "noise" and value in NOISES):
                settings[key] = value
            else:
                name = ""
        if name != "adm":
            raise InputError(
                f"the architecture {text!r} is not known; it is adm, or adm with settings of a checkpoint that differs "
                "from the published 256x256 ones: adm:size=64,head_channels=32,qkv=new,noise=cosine"
            )
        return cls(**settings)


@dataclass(frozen=True)
class Layout:
    """The architecture, as inferred from the names and shapes of the tensors."""

    channels: tuple[int, ...]
    """Channels of each level, the finest first."""
    blocks: int
    """Residual blocks a level on the way down; there is one more on the way up."""
    attends: tuple[bool, ...]
    """Whether each level has attention."""
    resnet_resampling: bool
    scale_shift: bool
    in_channels: int
    out_channels: int


def read_adm(path: str | os.PathLike[str], options: AdmOptions = AdmOptions()) -> Prior:
    """Read the prior in the checkpoint `path`, a state dict written by torch.save; its schedule has 1000 steps.

    Raises InputError if there is no such file or the options do not fit; ExportError, naming the first tensor that does
    not fit, or the property that UNet2DModel cannot express.
    """
    file = Path(path)
    if not file.is_file():
        raise InputError(f"there is no file {path}; give a .pt checkpoint or a folder: --weights")
    state = _without_prefix(file.name, read_pickled(file))
    layout = _layout(file.name, state)
    config = _config(file.name, layout, options)
    sources = _sources(file.name, state, layout, config)
    scheduler = {
        "_class_name": "DDPMScheduler",
        "num_train_timesteps": 1000,
        **NOISES[options.noise],
        "variance_type": "learned_range" if layout.out_channels == 2 * layout.in_channels else "fixed_large",
    }
    return make_prior(
        file.stem,
        config,
        scheduler,
        functools.partial(_tensors, state, sources, options),
        card=f"A guided-diffusion checkpoint, {file.name}.\n",
        licence="not stated; ask whoever trained the weights",
    )


def _without_prefix(file: str, state: Mapping[str, "torch.Tensor"]) -> Mapping[str, "torch.Tensor"]:
    """Remove the prefix that a wrapper adds to the network's tensor names, such as DataParallel's "module.".

    Raises ExportError where tensors without the prefix are in the file.
    """
    prefixes = [name.removesuffix(FIRST) for name in state if name.endswith(f".{FIRST}")]
    if FIRST in state or not prefixes:
        return state
    prefix = prefixes[0]
    if not all(name.startswith(prefix) for name in state):
        raise ExportError(
            f"{file}: the network's tensors begin with {prefix!r}, and others are beside them; save it alone"
        )
    return {name.removeprefix(prefix): tensor for name, tensor in state.items()}


def _layout(file: str, state: Mapping[str, "torch.Tensor"]) -> Layout:
    def shape(name: str, dimensions: int = 4) -> tuple[int, ...]:
        if name not in state:
            raise ExportError(f"{file} is no checkpoint of a whole ADM UNet: there is no tensor {name}")
        found = tuple(state[name].shape)
        if len(found) != dimensions:
            raise ExportError(f"{file}: the tensor {name} is {found}; it should have {dimensions} dimensions")
        return found

    def numbers(part: str) -> set[int]:
        return {int(found[1]) for name in state if (found := re.match(rf"{part}\.(\d+)\.", name))}

    if "label_emb.weight" in state:
        raise ExportError(f"{file} is class-conditional (it has label_emb.weight); only unconditional priors work")
    in_channels, out_channels = shape("input_blocks.0.0.weight")[1], shape("out.2.weight")[0]
    inputs, outputs = numbers("input_blocks"), len(numbers("output_blocks"))
    if inputs != set(range(len(inputs))):
        raise ExportError(
            f"{file}: its images are resampled without weights (conv_resample False), which UNet2DModel cannot express"
        )
    places = [f"output_blocks.{i}.{j}" for i in range(outputs) for j in (1, 2)]
    by_resnet = [place for place in places if f"{place}.in_layers.0.weight" in state]
    by_convolution = [place for place in places if f"{place}.conv.weight" in state]
    levels = len(by_resnet) + len(by_convolution) + 1
    blocks, odd = divmod(outputs, levels)
    if odd or blocks < 2 or len(inputs) != levels * blocks:
        raise ExportError(
            f"{file}: {len(inputs)} input and {outputs} output blocks are not {levels} levels of the "
            "same number of residual blocks, which is what UNet2DModel can express"
        )
    firsts = [f"input_blocks.{1 + level * blocks}" for level in range(levels)]
    channels = tuple(shape(f"{first}.0.out_layers.3.weight")[0] for first in firsts)
    first_width, time_width = shape("input_blocks.0.0.weight")[0], shape("time_embed.0.weight", 2)[1]
    if not first_width == time_width == channels[0]:
        raise ExportError(
            f"{file}: the time embedding takes {time_width} channels, the first convolution gives {first_width}, the "
            f"first level has {channels[0]}; UNet2DModel needs one number"
        )
    return Layout(
        channels,
        blocks - 1,
        tuple(f"{first}.1.qkv.weight" in state for first in firsts),
        bool(by_resnet),
        shape(f"{firsts[0]}.0.emb_layers.1.weight", 2)[0] == 2 * channels[0],
        in_channels,
        out_channels,
    )


def _config(file: str, layout: Layout, options: AdmOptions) -> dict[str, Any]:
    """Return the config of the UNet2DModel that computes the same as this ADM UNet."""
    levels = len(layout.channels)
    size = options.size or SIZES.get(tuple(c / layout.channels[0] for c in layout.channels))
    if size is None or size % 2 ** (levels - 1):
        raise InputError(
            f"{file} does not tell the size of its images; say --arch adm:size=N, a multiple of {2 ** (levels - 1)}"
        )
    if any(width % GROUPS for width in layout.channels):
        raise ExportError(f"{file}: levels of {layout.channels} channels cannot be normed in {GROUPS} groups")
    for level, width in enumerate(layout.channels):
        if (layout.attends[level] or level == levels - 1) and width % options.head_channels:
            raise InputError(
                f"{file}: attention over {width} channels cannot have heads of {options.head_channels}; "
                "say --arch adm:head_channels=N"
            )
    kind = "Resnet{}sampleBlock2D" if layout.resnet_resampling else "{}Block2D"
    types = ["Attn{}Block2D" if attends else kind for attends in layout.attends]
    return {
        "_class_name": "UNet2DModel",
        "sample_size": size,
        "in_channels": layout.in_channels,
        "out_channels": layout.out_channels,
        "layers_per_block": layout.blocks,
        "block_out_channels": list(layout.channels),
        "down_block_types": [one.format("Down") for one in types],
        "up_block_types": [one.format("Up") for one in reversed(types)],
        "downsample_type": "resnet" if layout.resnet_resampling else "conv",
        "upsample_type": "resnet" if layout.resnet_resampling else "conv",
        "resnet_time_scale_shift": "scale_shift" if layout.scale_shift else "default",
        "attention_head_dim": options.head_channels,
        "norm_num_groups": GROUPS,
        "attn_norm_num_groups": GROUPS,  # without it and with scale_shift, diffusers leaves out a norm in the middle
        "norm_eps": 1e-5,
        "flip_sin_to_cos": True,
        "freq_shift": 0,
    }


def _modules(layout: Layout) -> dict[str, str]:
    """Return guided-diffusion's name of every module with weights that the layout may have, by diffusers' name."""
    names, levels = dict(_TOP), len(layout.channels)

    def add(ours: str, theirs: str, parts: Mapping[str, str]) -> None:
        names.update({f"{ours}.{part}": f"{theirs}.{source}" for part, source in parts.items()})

    def add_level(part: str, ours: str, first: int, blocks: int) -> None:
        for block in range(blocks):
            add(f"{ours}.resnets.{block}", f"{part}.{first + block}.0", _RESNET)
            add(f"{ours}.attentions.{block}", f"{part}.{first + block}.1", _ATTENTION)

    add("mid_block.resnets.0", "middle_block.0", _RESNET)
    add("mid_block.attentions.0", "middle_block.1", _ATTENTION)
    add("mid_block.resnets.1", "middle_block.2", _RESNET)
    for level in range(levels):
        first = 1 + level * (layout.blocks + 1)
        add_level("input_blocks", f"down_blocks.{level}", first, layout.blocks)
        add(f"down_blocks.{level}.downsamplers.0", f"input_blocks.{first + layout.blocks}.0", _DOWN)
        first = level * (layout.blocks + 1)
        add_level("output_blocks", f"up_blocks.{level}", first, layout.blocks + 1)
        place = 2 if layout.attends[levels - 1 - level] else 1  # in the level's last block, after attention if any
        add(f"up_blocks.{level}.upsamplers.0", f"output_blocks.{first + layout.blocks}.{place}", _UP)
    return names


def _sources(
    file: str, state: Mapping[str, "torch.Tensor"], layout: Layout, config: Mapping[str, Any]
) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Return the checkpoint's name and the shape of each tensor of the UNet2DModel. Raises ExportError."""
    modules, sources, used = _modules(layout), {}, set()
    network = build_network({"config": config, "pixel_unshuffle": 1, "learned_variance": False})
    for full, parameter in network.state_dict().items():
        name = full.removeprefix("unet.")
        module, _, kind = name.rpartition(".")
        source = f"{modules[module]}.{kind}"
        want = shape = tuple(parameter.shape)
        if ".attentions." in module and len(shape) == 2:  # the checkpoint has a 1-d convolution over flattened pixels
            want = (*shape, 1)
        if source.endswith((".qkv.weight", ".qkv.bias")):
            want = (3 * want[0], *want[1:])
        if source not in state:
            raise ExportError(f"{file} lacks the tensor {source}, {want}, which the other tensors ask for")
        if tuple(state[source].shape) != want:
            raise ExportError(f"{file}: the tensor {source} is {tuple(state[source].shape)}; it should be {want}")
        sources[name] = source, shape
        used.add(source)
    left = sorted(set(state) - used)
    if left:
        raise ExportError(f"{file}: an ADM UNet has no place for {left[0]}, {tuple(state[left[0]].shape)}")
    return sources


def _tensors(
    state: Mapping[str, "torch.Tensor"], sources: Mapping[str, tuple[str, tuple[int, ...]]], options: AdmOptions
) -> dict[str, "torch.Tensor"]:
    """Return the tensors of the UNet2DModel, as views of the checkpoint's where possible."""
    tensors = {}
    for name, (source, shape) in sources.items():
        tensor = state[source]
        if source.endswith((".qkv.weight", ".qkv.bias")):
            part = ("to_q", "to_k", "to_v").index(name.split(".")[-2])
            heads = shape[0] // options.head_channels
            split, axis = ((heads, 3, -1), 1) if options.qkv == "legacy" else ((3, heads, -1), 0)
            tensor = tensor.reshape(*split, *shape[1:]).select(axis, part)
        tensors[name] = tensor.reshape(shape)
    return tensors
