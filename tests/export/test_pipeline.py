"""From a prior of the form to its plan."""

import numpy as np
import pytest
import torch
from diffusers import UNet2DModel

from frugal_rt import Plan, Restorer, operators
from frugal_rt.engines import open_engine
from frugal_rt.export import export_plan, read_prior


@pytest.mark.parametrize(
    ("unet", "scheduler", "shape", "learned"),
    [
        ({}, {}, (3, 8, 8), False),
        ({"in_channels": 12, "out_channels": 12}, {"prediction_type": "v_prediction"}, (3, 16, 16), False),
        ({"out_channels": 6}, {"variance_type": "learned_range"}, (3, 8, 8), True),
        ({"in_channels": 12, "out_channels": 24}, {"variance_type": "learned_range"}, (3, 16, 16), True),
        ({"in_channels": 1, "out_channels": 1}, {"beta_schedule": "squaredcos_cap_v2"}, (1, 8, 8), False),
    ],
)
def test_any_prior_of_the_form_is_what_diffusers_computes(make_prior, tmp_path, unet, scheduler, shape, learned):
    folder = make_prior(unet, scheduler)
    export_plan(read_prior(folder), tmp_path / "a.plan", precisions=())
    plan = Plan.open(tmp_path / "a.plan")
    image = plan.manifest["image"]
    assert (image["channels"], image["height"], image["width"]) == shape
    x, t = np.random.default_rng(0).standard_normal((2, *shape), dtype=np.float32), np.array([7, 900])
    out, variance = open_engine(plan, "cpu").predict(x, t)

    model = UNet2DModel.from_pretrained(folder / "unet", low_cpu_mem_usage=False).eval()
    r = shape[1] // 8
    with torch.no_grad():
        inner = model(torch.nn.functional.pixel_unshuffle(torch.tensor(x), r), torch.tensor(t)).sample
        expected = torch.nn.functional.pixel_shuffle(inner, r).numpy()
    np.testing.assert_allclose(out, expected[:, : shape[0]], atol=1e-5)
    assert (variance is not None) == learned
    if learned:
        np.testing.assert_allclose(variance, expected[:, shape[0] :], atol=1e-5)


def test_the_manifest_says_what_the_plan_is(celeba_plan):
    manifest = Plan.open(celeba_plan).manifest
    assert "non-commercial" in manifest["prior"]["licence"]
    assert "CelebA" in manifest["prior"]["card"]
    assert manifest["image"] == {"channels": 3, "height": 64, "width": 64, "range": [-1, 1]}
    assert 0 < manifest["parity"]["output"] < 1e-4
    assert 0 < manifest["parity"]["gradient"] < 1e-4
    assert manifest["precision"] == "float32"
    assert {"torch", "onnx", "frugal-rt"} <= manifest["tools"].keys()


def test_exporting_twice_gives_the_same_plan(make_prior, tmp_path):
    prior = read_prior(make_prior(), "same")
    for name in ("a", "b"):
        export_plan(prior, tmp_path / f"{name}.plan")
    assert (tmp_path / "a.plan").read_bytes() == (tmp_path / "b.plan").read_bytes()


def test_a_prior_is_exported_for_images_of_another_size(make_prior, tmp_path):
    """The network's own range: the plan's graphs are torch's at that size, and restore what a torch engine does."""
    prior = read_prior(make_prior({"in_channels": 12, "out_channels": 12}), "tiny").at(20, 28)
    plan = export_plan(prior, tmp_path / "wide.plan", precisions=())
    assert plan.image_shape == (3, 20, 28)
    assert max(plan.manifest["parity"].values()) < 1e-4
    operator = operators.SuperResolution(plan.image_shape, 4)
    y = np.random.default_rng(0).uniform(-1, 1, operator.measurement_shape).astype(np.float32)
    ours, torch = (
        Restorer.load(tmp_path / "wide.plan", backend).restore(y, operator, steps=6, method="closed-form").image
        for backend in ("cpu", "torch")
    )
    np.testing.assert_allclose(ours, torch, atol=1e-3)
