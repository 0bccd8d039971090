"""Other widths: the weights of a trained network, carried over to one of other channels.

Where a tensor has more channels in the new network, its most important ones are doubled, and what reads them reads each
copy with half the weight (Net2WiderNet, Chen et al., 2016). Where it has fewer, the least important are left out. Both
are done within the groups of the group norms. If all channels are doubled, the function stays as it is; otherwise it
stays near, as group norms see other statistics, and a training goes on from there.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.models.embeddings import get_timestep_embedding

from ....engines.errors import InputError
from .denoising import ABAR

NOISE = 0.02
"""The standard deviation of the noise that parts the copies of a channel, divided by that of the weights."""
LEAST_SHARE = 0.01
"""The least singular value of the new frequencies, over the timesteps, that takes part in the fit, divided by the
largest: slow frequencies are nearly alike, and those below would have weights beyond float16."""
Weights = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Channels:
    """The channels of a tensor in the new network: `copied` holds for each the index of the old channel it copies."""

    copied: torch.Tensor
    width: int
    """The number of old channels."""

    @property
    def shares(self) -> torch.Tensor:
        """Return for each new channel 1 / the number of copies that its old channel has."""
        return 1 / torch.bincount(self.copied)[self.copied]


def chosen(importance: torch.Tensor, width: int, groups: int) -> Channels:
    """Choose `width` channels by the importance of the old ones (C,), equally many in each of the groups.

    Raises InputError where they are more than twice as many.
    """
    before, after = len(importance) // groups, width // groups
    if after > 2 * before:
        raise InputError(f"{width} channels are more than twice {len(importance)}")
    parts = []
    for first in range(0, len(importance), before):
        order = importance[first : first + before].argsort(descending=True, stable=True) + first
        parts.append(torch.cat([order[: min(before, after)], order[: max(0, after - before)]]).sort().values)
    return Channels(torch.cat(parts), len(importance))


def concatenated(tensors: Sequence[Channels]) -> Channels:
    """Return the channels of tensors that are concatenated."""
    copied, width = [], 0
    for one in tensors:
        copied.append(one.copied + width)
        width += one.width
    return Channels(torch.cat(copied), width)


@dataclass(frozen=True)
class Part:
    """A convolution or a residual block. Tensors are named by the part that writes them first."""

    name: str
    reads: tuple[str, ...]
    """The tensors that it reads, concatenated."""
    writes: str
    level: int
    """The level whose width the written tensor has."""


def parts_of(config: Mapping[str, Any], weights: Weights) -> Iterator[Part]:
    """Yield the parts of a UNet2DModel without attention in their order, from conv_in to the last residual block.

    A residual block without a convolution in its shortcut adds to the tensor that it reads.
    """
    layers, last = config["layers_per_block"], len(config["block_out_channels"]) - 1

    def block(name: str, level: int, *reads: str) -> Part:
        return Part(name, reads, name if f"{name}.conv_shortcut.weight" in weights else reads[0], level)

    def convolution(name: str, level: int, *reads: str) -> Part:
        return Part(name, reads, name, level)

    yield (part := convolution("conv_in", 0))
    skipped = [part.writes]
    for level in range(last + 1):
        for layer in range(layers):
            yield (part := block(f"down_blocks.{level}.resnets.{layer}", level, part.writes))
            skipped.append(part.writes)
        if level < last:
            yield (part := convolution(f"down_blocks.{level}.downsamplers.0.conv", level, part.writes))
            skipped.append(part.writes)
    for layer in range(2):
        yield (part := block(f"mid_block.resnets.{layer}", last, part.writes))
    for level in range(last, -1, -1):
        for layer in range(layers + 1):
            yield (part := block(f"up_blocks.{last - level}.resnets.{layer}", level, part.writes, skipped.pop()))
        if level:
            yield (part := convolution(f"up_blocks.{last - level}.upsamplers.0.conv", level, part.writes))


def carried_over(
    weights: Weights, old: Mapping[str, Any], new: Mapping[str, Any], seed: int = 0, noise: float = NOISE
) -> dict[str, torch.Tensor]:
    """Return `weights`, of the UNet2DModel with the config `old`, for one with the config `new`.

    Raises InputError where the two differ in more than their widths, have attention, or a width is more than doubled.
    """
    _check(weights, old, new)
    held = {name: weight.float() for name, weight in weights.items()}
    groups, parts = old["norm_num_groups"], list(parts_of(old, weights))
    importance = _importance(parts, held)
    channels = {
        part.writes: chosen(importance[part.writes], new["block_out_channels"][part.level], groups) for part in parts
    }
    hidden, time = (chosen(one, 4 * new["block_out_channels"][0], 1) for one in _importance_of_time(held))
    generator = torch.Generator().manual_seed(seed)
    made: dict[str, torch.Tensor] = {}

    def carry(name: str, reads: Channels | None, writes: Channels | None) -> None:
        weight, bias = held[f"{name}.weight"], held[f"{name}.bias"]
        if reads is not None:
            weight = weight[:, reads.copied] * _beside(reads.shares, weight[0])
        if writes is not None:
            weight, bias = weight[writes.copied], bias[writes.copied]
        if writes is not None and weight.ndim > 1:
            parted = noise * weight.std() * torch.randn(weight.shape, generator=generator)
            weight = weight + _beside(writes.shares < 1, weight) * parted
        made[f"{name}.weight"], made[f"{name}.bias"] = weight, bias

    carry("time_embedding.linear_1", None, hidden)
    made["time_embedding.linear_1.weight"] = _refitted(held["time_embedding.linear_1.weight"][hidden.copied], new)
    carry("time_embedding.linear_2", hidden, time)
    for part in parts:
        read = concatenated([channels[name] for name in part.reads]) if part.reads else None
        written = channels[part.writes]
        if f"{part.name}.weight" in held:
            carry(part.name, read, written)
            continue
        read_within = _squares(held, f"{part.name}.conv2", f"{part.name}.norm2")
        within = chosen(read_within, new["block_out_channels"][part.level], groups)
        carry(f"{part.name}.norm1", None, read)
        carry(f"{part.name}.conv1", read, within)
        carry(f"{part.name}.time_emb_proj", time, within)
        carry(f"{part.name}.norm2", None, within)
        carry(f"{part.name}.conv2", within, written)
        if f"{part.name}.conv_shortcut.weight" in held:
            carry(f"{part.name}.conv_shortcut", read, written)
    carry("conv_norm_out", None, channels[parts[-1].writes])
    carry("conv_out", channels[parts[-1].writes], None)
    return made


def _check(weights: Weights, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    for name in sorted(old.keys() - {"block_out_channels", "sample_size"}):
        if not name.startswith("_") and old[name] != new[name]:
            raise InputError(f"only the widths may differ: {name} is {new[name]!r}, and was {old[name]!r}")
    if len(old["block_out_channels"]) != len(new["block_out_channels"]):
        raise InputError("only the widths may differ, not the number of levels")
    if any(".attentions." in name for name in weights):
        raise InputError("the widths of a network with attention cannot be changed")


def _importance(parts: Sequence[Part], weights: Weights) -> dict[str, torch.Tensor]:
    """Return for each tensor the squared weights with which each channel is read, (C,), a norm's weight included."""
    found: dict[str, torch.Tensor] = {}
    for part in parts:
        if f"{part.name}.weight" in weights:
            read, written = _squares(weights, part.name), f"{part.name}.bias"
        else:
            read, written = _squares(weights, f"{part.name}.conv1", f"{part.name}.norm1"), f"{part.name}.conv2.bias"
            if f"{part.name}.conv_shortcut.weight" in weights:
                read = read + _squares(weights, f"{part.name}.conv_shortcut")
        first = 0
        for name in part.reads:
            found[name] += read[first : first + len(found[name])]
            first += len(found[name])
        found.setdefault(part.writes, torch.zeros(len(weights[written])))
    found[parts[-1].writes] += _squares(weights, "conv_out", "conv_norm_out")
    return found


def _importance_of_time(weights: Weights) -> tuple[torch.Tensor, torch.Tensor]:
    """Return for both layers of the timestep's embedding how strongly each channel is read, (4 C,)."""
    read = [weight.square().sum(0) for name, weight in weights.items() if name.endswith("time_emb_proj.weight")]
    return weights["time_embedding.linear_2.weight"].square().sum(0), torch.stack(read).sum(0)


def _squares(weights: Weights, convolution: str, norm: str | None = None) -> torch.Tensor:
    """Return the squared weights with which a convolution reads each channel, (C,), times those of a norm before it."""
    squares = weights[f"{convolution}.weight"].square().sum((0, 2, 3))
    return squares if norm is None else squares * weights[f"{norm}.weight"].square()


def _beside(factors: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """View the factors (C,) as (C, 1, 1, ...), for a weight whose first axis is of channels."""
    return factors.view(-1, *(1,) * (weight.ndim - 1))


def _refitted(weight: torch.Tensor, new: Mapping[str, Any]) -> torch.Tensor:
    """Return weights (M, F') of the F' frequencies of `new` that give nearly what (M, F) gives of F, at all t."""

    def frequencies(count: int) -> torch.Tensor:
        flip, shift = new["flip_sin_to_cos"], new["freq_shift"]
        embedded: torch.Tensor = get_timestep_embedding(torch.arange(len(ABAR)), count, flip, shift)
        return embedded.double()

    wanted = frequencies(weight.shape[1]) @ weight.double().T
    features = frequencies(new["block_out_channels"][0])
    fitted: torch.Tensor = torch.linalg.lstsq(features, wanted, rcond=LEAST_SHARE, driver="gelsd")[0]
    return fitted.T.float()
