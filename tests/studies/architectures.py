"""Networks of about equal cost, each trained from nothing for equal time, by one-shot denoising.

    python tests/studies/architectures.py --data ../shared/data/photos --out pictures --minutes 10

Each is trained by the recipe of `photo` on one thread in bfloat16, with batches of half its size, for so many minutes
of the processor's time; over the last three tenths the rate cools down. Printed are the milliseconds of a call at
256x256 (torch, float32, one thread, the median of 9), the weights in millions, the crops seen, and the PSNR in dB of
tune-20 at each noise level.
"""

import argparse
import dataclasses
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from diffusers.models.resnet import ResnetBlock2D
from torch.nn import Conv2d, GroupNorm, Linear, Module, Parameter
from torch.nn.functional import conv2d, silu

import frugal_rt.export.priors
from frugal_rt.export.priors.training import state
from frugal_rt.export.priors.training.denoising import LEVELS, psnr
from frugal_rt.export.priors.training.pictures import Pictures, read_held_out
from frugal_rt.export.priors.training.recipe import Batch, Recipe, read_recipe
from frugal_rt.export.priors.training.state import build_network

RECIPE = Path(frugal_rt.export.priors.__file__).parent / "photo/recipe.json"
COOL = 0.7
"""The share of the time after which the rate begins to fall."""
KERNEL, WIDER = 7, 2
"""KERNEL: the side of a depthwise kernel. WIDER: the channels between the convolutions, divided by those before."""


class PixelNorm(Module):
    """Divide each pixel by the root mean square of its channels, and multiply by a weight for each channel."""

    def __init__(self, channels: int):
        super().__init__()
        self.weight = Parameter(torch.ones(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        size = (x.square().mean(1, keepdim=True) + 1e-6).rsqrt()
        return x * size * self.weight[:, None, None]


class Depthwise(Module):
    """A block as ConvNeXt's (Liu et al., 2022): a large depthwise kernel, then two convolutions of one pixel."""

    def __init__(self, inputs: int, outputs: int, time_channels: int):
        super().__init__()
        self.kernel = Parameter(torch.randn(inputs * KERNEL**2) / KERNEL)  # a vector: AdamW trains it
        self.norm = PixelNorm(inputs)
        self.time = Linear(time_channels, inputs)
        self.expand, self.project = Conv2d(inputs, WIDER * inputs, 1), Conv2d(WIDER * inputs, outputs, 1)
        self.skip = Conv2d(inputs, outputs, 1) if inputs != outputs else torch.nn.Identity()

    def forward(self, x: torch.Tensor, temb: torch.Tensor) -> torch.Tensor:
        kernel = self.kernel.view(-1, 1, KERNEL, KERNEL)
        spread = conv2d(x, kernel.to(x.dtype), padding=KERNEL // 2, groups=len(kernel))
        spread = self.norm(spread) + self.time(silu(temb))[:, :, None, None]
        return self.skip(x) + self.project(silu(self.expand(spread)))


def replaced(module: Module, kind: type[Module], make: Callable[[Any], Module]) -> None:
    """Replace every part of the kind within the module."""
    for name, part in module.named_children():
        if isinstance(part, kind):
            setattr(module, name, make(part))
        else:
            replaced(part, kind, make)


def as_it_is(network: Module) -> None:
    """Leave diffusers' blocks."""


def pixel_norms(network: Module) -> None:
    """Put a norm of each pixel in the place of group norms, whose statistics are of the whole image."""
    replaced(network, GroupNorm, lambda norm: PixelNorm(norm.num_channels))


def depthwise(network: Module) -> None:
    """Put depthwise blocks in the place of residual blocks."""
    pixel_norms(network)
    replaced(
        network,
        ResnetBlock2D,
        lambda block: Depthwise(block.in_channels, block.out_channels, block.time_emb_proj.in_features),
    )


def shape_of(channels: list[int], layers: int = 1, unshuffled: int = 2) -> dict[str, Any]:
    """Return the arguments of UNet2DModel that differ."""
    return {
        "in_channels": 3 * unshuffled**2,
        "out_channels": 3 * unshuffled**2,
        "sample_size": 64 // unshuffled,
        "block_out_channels": channels,
        "down_block_types": ["DownBlock2D"] * len(channels),
        "up_block_types": ["UpBlock2D"] * len(channels),
        "layers_per_block": layers,
    }


CONTENDERS: dict[str, tuple[dict[str, Any], Callable[[Module], None]]] = {
    "photo's": (shape_of([64, 128, 256]), as_it_is),
    "photo's, pixel norms": (shape_of([64, 128, 256]), pixel_norms),
    "two layers, narrower": (shape_of([48, 112, 224], layers=2), as_it_is),
    "wider at half resolution": (shape_of([96, 112, 160]), as_it_is),
    "four levels": (shape_of([80, 128, 192, 256]), as_it_is),
    "from quarter resolution": (shape_of([128, 288], layers=2, unshuffled=4), as_it_is),
    "depthwise 7x7": (shape_of([64, 128, 256]), depthwise),
}


def trained(recipe: Recipe, data: Path, out: Path, minutes: float) -> state.Training:
    """Train from nothing for so many minutes of the processor's time."""
    torch.manual_seed(0)
    training, pictures = state.Training(recipe, "cpu", bf16=True), Pictures(data, recipe, out)
    began = time.process_time()
    while (spent := (time.process_time() - began) / 60) < minutes:
        if training.progress.cool_from is None and spent > COOL * minutes:
            crops = training.progress.crops
            training.progress.begin_cool_down(round(crops * (1 - COOL) / COOL))
        end = training.progress.end(recipe)
        if end is not None and training.progress.crops >= end:
            break
        training.step_on(pictures.draw(0, training.progress.step))
    return training


@torch.inference_mode()
def milliseconds(network: Module, recipe: Recipe) -> float:
    """Return the median time of a call at 256x256."""
    side, times = 256 // recipe.unshuffle, []
    x = torch.randn(1, recipe.network["in_channels"], side, side).to(memory_format=torch.channels_last)
    for _ in range(10):
        began = time.process_time()
        network(x, torch.tensor([100]), return_dict=False)
        times.append(1000 * (time.process_time() - began))
    return statistics.median(times[1:])


def row(name: str, base: Recipe, data: Path, out: Path, minutes: float) -> str:
    """Train a contender and return its row of the table; of 0 minutes, its cost and size alone."""
    network, change = CONTENDERS[name]
    recipe = dataclasses.replace(base, network=base.network | network)

    def build(recipe: Recipe, device: str) -> Any:
        network: Any = build_network(recipe, device)
        change(network)
        return network.to(memory_format=torch.channels_last)

    average = build(recipe, "cpu").eval()
    cost, weights = milliseconds(average, recipe), sum(weight.numel() for weight in average.parameters()) / 1e6
    cells = [name, f"{cost:.0f}", f"{weights:.1f}"]
    if minutes:
        with mock.patch.object(state, "build_network", build):
            training = trained(recipe, data, out, minutes)
        average.load_state_dict(training.average)
        held_out = read_held_out(data / recipe.held_out, recipe)
        found = psnr(average, held_out, recipe.unshuffle, "cpu").values()
        cells += [str(training.progress.crops), *(f"{value:.2f}" for value in found)]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--out", required=True, type=Path, help="a folder for the decoded photographs, 560 MB")
    parser.add_argument("--minutes", type=float, default=10, help="0: only the costs")
    parser.add_argument("--only", choices=CONTENDERS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    given.out.mkdir(parents=True, exist_ok=True)
    recipe = read_recipe(RECIPE)
    halved = tuple(Batch(kind.side, kind.crops // 2, kind.share) for kind in recipe.batches)
    recipe = dataclasses.replace(recipe, batches=halved)
    print("| network | ms | M | crops |", " | ".join(str(level) for level in LEVELS), "|")
    print("| --- |", " | ".join(["---:"] * (3 + len(LEVELS))), "|")
    for name in CONTENDERS if given.only is None else [given.only]:
        print(row(name, recipe, given.data, given.out, given.minutes), flush=True)


if __name__ == "__main__":
    main()
