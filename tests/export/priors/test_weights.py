"""Weights in the layout and by the names of the first diffusers."""

import numpy as np
import pytest
import torch

from frugal_rt import ExportError, InputError
from frugal_rt.export import build_plan, read_prior


def test_a_flat_folder_with_old_names_is_the_same_prior(flat):
    old, new = (read_prior(folder, "one") for folder in flat)
    assert old.licence == "apache-2.0"
    assert old.tensors().keys() == new.tensors().keys()
    for name, tensor in new.tensors().items():
        np.testing.assert_array_equal(old.tensors()[name], tensor)
    members = [build_plan(prior, precisions=()).manifest["members"] for prior in (old, new)]
    assert members[0] == members[1]


def test_weights_that_cannot_be_read_are_named(flat):
    folder, _ = flat
    state = torch.load(folder / "diffusion_pytorch_model.bin", weights_only=True)
    torch.save({name: tensor.bfloat16() for name, tensor in state.items()}, folder / "diffusion_pytorch_model.bin")
    with pytest.raises(ExportError, match=r"^one: conv_in\.bias is no array of numbers that numpy knows; save it as"):
        read_prior(folder, "one").tensors()
    (folder / "diffusion_pytorch_model.bin").unlink()
    with pytest.raises(InputError, match=r"^flat holds no diffusion_pytorch_model\.safetensors, nor a \.bin"):
        read_prior(folder)
