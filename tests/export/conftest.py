"""Checkpoints of guided-diffusion, and plans in half precision."""

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from frugal_rt.export import build_plan, read_prior


def adm_tensors(
    channels: int, mult: tuple[int, ...], blocks: int, attention: tuple[int, ...], updown: bool, shift: bool, out: int
) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes of the parameters, a bias beside each weight, of guided-diffusion's UNetModel.

    mult: channel multipliers by level. blocks: residual blocks a level. attention: the levels with it. updown: residual
    blocks resample, not convolutions. shift: scale and shift by the timestep. out: channels that come out, 3 go in.
    """

    def residual(name: str, a: int, b: int) -> Iterator[tuple[str, tuple[int, ...]]]:
        yield f"{name}.in_layers.0", (a,)
        yield f"{name}.in_layers.2", (b, a, 3, 3)
        yield f"{name}.emb_layers.1", (2 * b if shift else b, 4 * channels)
        yield f"{name}.out_layers.0", (b,)
        yield f"{name}.out_layers.3", (b, b, 3, 3)
        if a != b:
            yield f"{name}.skip_connection", (b, a, 1, 1)

    def attend(name: str, a: int) -> Iterator[tuple[str, tuple[int, ...]]]:
        yield from {f"{name}.norm": (a,), f"{name}.qkv": (3 * a, a, 1), f"{name}.proj_out": (a, a, 1)}.items()

    width = channels * mult[0]
    yield from {"time_embed.0": (4 * channels, channels), "time_embed.2": (4 * channels, 4 * channels)}.items()
    yield "input_blocks.0.0", (width, 3, 3, 3)
    skips, place = [width], 0
    for level, times in enumerate(mult):
        for _ in range(blocks):
            place += 1
            yield from residual(f"input_blocks.{place}.0", width, channels * times)
            width = channels * times
            if level in attention:
                yield from attend(f"input_blocks.{place}.1", width)
            skips.append(width)
        if level < len(mult) - 1:
            place += 1
            name = f"input_blocks.{place}.0"
            yield from residual(name, width, width) if updown else [(f"{name}.op", (width, width, 3, 3))]
            skips.append(width)
    yield from residual("middle_block.0", width, width)
    yield from attend("middle_block.1", width)
    yield from residual("middle_block.2", width, width)
    place = -1
    for level, times in reversed(list(enumerate(mult))):
        for block in range(blocks + 1):
            place += 1
            yield from residual(f"output_blocks.{place}.0", width + skips.pop(), channels * times)
            width = channels * times
            if level in attention:
                yield from attend(f"output_blocks.{place}.1", width)
            if level and block == blocks:
                name = f"output_blocks.{place}.{2 if level in attention else 1}"
                yield from residual(name, width, width) if updown else [(f"{name}.conv", (width, width, 3, 3))]
    yield from {"out.0": (width,), "out.2": (out, width, 3, 3)}.items()


@pytest.fixture(scope="session")
def adm_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Writes a guided-diffusion checkpoint of random weights (seed 0); keywords as of `adm_tensors`."""

    def make(**config: Any) -> Path:
        import torch

        random, state = torch.Generator().manual_seed(0), {}
        for name, shape in adm_tensors(**config):
            noise = torch.randn(shape, generator=random)
            norm = len(shape) == 1
            state[f"{name}.weight"] = 1 + noise / 8 if norm else noise / math.sqrt(math.prod(shape[1:]))
            state[f"{name}.bias"] = torch.randn(shape[0], generator=random) / 8
        path = tmp_path_factory.mktemp("adm") / "adm.pt"
        torch.save(state, path)
        return path

    return make


BLOCKS = {"down_block_types": ["ResnetDownsampleBlock2D"] * 2, "up_block_types": ["ResnetUpsampleBlock2D"] * 2}
PRIORS = {
    "attention": ({}, {}),
    "learned": ({"in_channels": 12, "out_channels": 24}, {"variance_type": "learned_range"}),
    "resnet": (BLOCKS, {"prediction_type": "v_prediction"}),
}
"""The first halves and doubles by convolutions of stride 2 and upsampling ones."""


@pytest.fixture(scope="module", params=PRIORS)
def plan(request, make_prior):
    """Not yet verified."""
    return build_plan(read_prior(make_prior(*PRIORS[request.param]), request.param))
