"""The reach that a plan claims holds: pixels farther away change nothing but through norms."""

import numpy as np
import pytest

from frugal_rt import ExportError
from frugal_rt.engines.torch.network import build_network, load_weights
from frugal_rt.export import find_prior, read_prior
from frugal_rt.export.reach import reach_of
from frugal_rt.export.trace import trace

LOCAL = {"down_block_types": ["DownBlock2D"] * 2, "up_block_types": ["UpBlock2D"] * 2, "add_attention": False}


def built(folder):
    prior = read_prior(folder)
    network = {"config": prior.unet, "pixel_unshuffle": prior.pixel_unshuffle, "learned_variance": False}
    module = build_network({"architecture": "UNet2DModel", **network})
    load_weights(module, {f"unet.{name}": tensor for name, tensor in prior.tensors().items()}, "small")
    return module


@pytest.mark.parametrize("unshuffle", [1, 2])
@pytest.mark.parametrize(
    "change", [{}, {"layers_per_block": 2}, {"downsample_type": "conv", "block_out_channels": [8, 8]}]
)
def test_nothing_beyond_the_reach_is_seen_and_something_just_within_is(make_prior, unshuffle, change, monkeypatch):
    """By autograd with the norms' statistics cut out: they are the one thing that looks further."""
    import torch

    channels = 3 * unshuffle**2
    module = built(make_prior({**LOCAL, "in_channels": channels, "out_channels": channels, **change}))
    stride = 2 * unshuffle
    reach = reach_of(trace(module, (3, 0, 0), stride))
    monkeypatch.setattr(torch.nn.functional, "group_norm", lambda x, *_, **__: x * 1.5)
    side = stride * (2 * (reach // stride) + 8)
    x = torch.rand(1, 3, side, side, dtype=torch.float32, requires_grad=True)
    seen = 0
    for pixel in range(side // 2, side // 2 + stride):
        (gradient,) = torch.autograd.grad(module(x, torch.tensor([3]))[0, 0, pixel, pixel], x)
        rows = torch.nonzero(gradient.abs().sum(dim=(0, 1, 3)))[:, 0]
        seen = max(seen, pixel - int(rows.min()), int(rows.max()) - pixel)
    assert seen <= reach
    assert seen > reach - 2 * stride


def test_a_network_that_attends_has_none(make_prior):
    with pytest.raises(ExportError):
        reach_of(trace(built(make_prior()), (3, 0, 0), 2))


def test_the_embedded_prior_of_photographs_takes_any_size():
    prior = find_prior("photo")
    assert prior.any_size
    assert not prior.at(64, 64).any_size
    assert not find_prior("celeba").any_size
    assert np.prod(prior.image_shape) == 3 * 64 * 64
