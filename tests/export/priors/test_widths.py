"""A network's weights carried over to one of other widths."""

from typing import Any

import pytest
import torch
from diffusers.models.embeddings import get_timestep_embedding
from diffusers.models.unets.unet_2d import UNet2DModel

from frugal_rt.engines import InputError
from frugal_rt.export.priors.training import widths
from frugal_rt.export.priors.training.widths import carried_over, chosen

GROUPS = 4
ATTENTION = {"add_attention": True, "attention_head_dim": 8}


def network(*widths: int, **changes: Any) -> Any:
    """A UNet of random weights whose norms matter and differ."""
    torch.manual_seed(0)
    made: Any = UNet2DModel(
        **{
            "sample_size": 16,
            "in_channels": 12,
            "out_channels": 12,
            "block_out_channels": widths,
            "down_block_types": ["DownBlock2D"] * len(widths),
            "up_block_types": ["UpBlock2D"] * len(widths),
            "layers_per_block": 1,
            "norm_num_groups": GROUPS,
            "add_attention": False,
        }
        | changes
    )
    for name, weight in made.named_parameters():
        if ".norm" in name or "conv_norm" in name:
            torch.nn.init.normal_(weight, mean=float(name.endswith("weight")))
    return made.eval()


def called(one: Any) -> torch.Tensor:
    x = torch.randn((2, 12, 16, 16), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        return one(x, torch.tensor([30, 800]), return_dict=False)[0]


@pytest.fixture
def exactly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twice the frequencies hold the old ones, and an exact fit."""
    monkeypatch.setattr(widths, "LEAST_SHARE", 1e-12)


@pytest.mark.usefixtures("exactly")
@pytest.mark.parametrize("layers", [1, 2])
def test_all_channels_doubled_compute_the_same(layers: int) -> None:
    old, new = (network(*each, layers_per_block=layers) for each in ((8, 16, 32), (16, 32, 64)))
    before = called(new)
    new.load_state_dict(carried_over(old.state_dict(), old.config, new.config, noise=0))
    assert (called(old) - before).abs().max() > 0.1
    torch.testing.assert_close(called(new), called(old), atol=2e-4, rtol=0)


def test_other_frequencies_are_fitted_with_weights_of_their_size() -> None:
    """Slow ones are nearly alike: the closest fit of all has weights of a million, which float16 does not hold."""
    old, new = network(64, 64), network(96, 64)
    first, frequency = "time_embedding.linear_1.weight", torch.arange(64) % 32
    weights = old.state_dict()
    assert carried_over(weights, old.config, new.config, noise=0)[first].abs().max() < 10
    weights[first][:, frequency < 16] = 0  # what is faster than a radian in 100 timesteps
    made = carried_over(weights, old.config, new.config, noise=0)
    before, after = (
        get_timestep_embedding(torch.arange(1000), len(weight.T), True, 0) @ weight.T
        for weight in (weights[first], made[first])
    )
    apart = torch.cdist(before.T, after.T).min(1).values / before.T.norm(dim=1)
    assert apart.max() < 0.02


def test_the_noise_parts_copies_alone() -> None:
    """Copies would stay alike for ever: the same gradients would move them."""
    old, new = network(8, 16), network(16, 16)
    plain, parted = (carried_over(old.state_dict(), old.config, new.config, noise=noise) for noise in (0, 0.02))
    name = "down_blocks.0.resnets.0.conv1.weight"
    rows = plain[name].flatten(1)
    alike = torch.cdist(rows, rows) < 1e-6
    assert alike.sum(1).eq(2).all()  # each row has one copy
    copies = parted[name].flatten(1)
    assert torch.cdist(copies, copies).fill_diagonal_(1).min() > 0.01 * rows.std()
    for kept in ("down_blocks.1.resnets.0.conv2.weight", "conv_out.weight", "mid_block.resnets.0.norm1.weight"):
        torch.testing.assert_close(parted[kept], plain[kept], atol=0, rtol=0)
    again = carried_over(old.state_dict(), old.config, new.config, noise=0.02)
    assert all(torch.equal(again[name], weight) for name, weight in parted.items())


@pytest.mark.usefixtures("exactly")
def test_channels_that_nothing_reads_are_left_out() -> None:
    """Where one of two copies is read alone, the other goes, and the network is what it was before it was doubled."""
    old, new = network(8, 12, 16), network(16, 24, 32)
    doubled = carried_over(old.state_dict(), old.config, new.config, noise=0)
    folded = 0
    for weight in doubled.values():
        for i in range(weight.shape[1] - 1 if weight.ndim > 1 else 0):
            if torch.equal(weight[:, i], weight[:, i + 1]):
                weight[:, i + 1], weight[:, i] = 2 * weight[:, i], 0
                folded += 1
    assert folded > 100
    new.load_state_dict(doubled)
    torch.testing.assert_close(called(new), called(old), atol=2e-4, rtol=0)
    back = carried_over(doubled, new.config, old.config, noise=0)
    for name, weight in old.state_dict().items():
        torch.testing.assert_close(back[name], weight, atol=1e-5, rtol=0)


def test_the_most_important_channels_of_a_group_are_doubled() -> None:
    doubled = chosen(torch.tensor([1.0, 3, 2, 0, 9, 8, 7, 9]), 12, 2)
    assert doubled.copied.tolist() == [0, 1, 1, 2, 2, 3, 4, 4, 5, 6, 7, 7]
    assert doubled.shares.tolist() == [1, 0.5, 0.5, 0.5, 0.5, 1, 0.5, 0.5, 1, 1, 0.5, 0.5]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ({}, {"layers_per_block": 2}, "only the widths may differ: layers_per_block is 2, and was 1"),
        ({}, {"in_channels": 3}, "only the widths may differ: in_channels is 3, and was 12"),
        (ATTENTION, ATTENTION, "the widths of a network with attention cannot be changed"),
    ],
)
def test_other_differences_are_refused(old: dict[str, Any], new: dict[str, Any], message: str) -> None:
    trained, other = network(8, 16, **old), network(16, 16, **new)
    with pytest.raises(InputError, match=message):
        carried_over(trained.state_dict(), trained.config, other.config)


def test_more_than_twice_the_width_is_refused() -> None:
    trained, other = network(8, 16), network(24, 16)
    with pytest.raises(InputError, match="24 channels are more than twice 8"):
        carried_over(trained.state_dict(), trained.config, other.config)


def test_other_levels_are_refused() -> None:
    trained = network(8, 16)
    changed = {**trained.config, "block_out_channels": [8, 16, 16]}
    with pytest.raises(InputError, match="not the number of levels"):
        carried_over(trained.state_dict(), trained.config, changed)
