"""Floating-point operations of a network's calls."""

import pytest

from frugal_rt.engines.flops import network_flops
from frugal_rt.engines.torch.network import build_network
from frugal_rt.export.priors import random_prior


def test_the_celebahq_architecture_is_the_published_one():
    """113,673,219 parameters; 497.0 GFLOP forward and 497.7 more for the gradient (measured, notes on the runtimes)."""
    network = {
        "config": random_prior.ARCHITECTURES["celebahq-256"],
        "pixel_unshuffle": 1,
        "learned_variance": False,
    }
    assert sum(p.numel() for p in build_network(network).parameters()) == 113_673_219
    flops = network_flops({"network": network, "image": {"channels": 3, "height": 256, "width": 256}})
    assert flops is not None
    assert flops["forward"] == pytest.approx(497.0e9, rel=1e-3)
    assert flops["gradient"] == pytest.approx(497.7e9, rel=1e-3)
