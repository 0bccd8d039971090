"""Weights in the layouts that diffusers has had, by the names of then."""

import json

import numpy as np
import pytest
import torch

from frugal_rt import ExportError, InputError
from frugal_rt.export import build_plan, read_prior
from frugal_rt.export.priors.weights import WEIGHT_FILES


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


def test_a_variant_and_shards_are_read_as_the_whole_file_is(make_prior):
    from safetensors.numpy import load_file, save_file

    folder = make_prior()
    whole = folder / "unet" / WEIGHT_FILES[0]
    expected = read_prior(folder).tensors()
    whole.rename(folder / "unet" / "diffusion_pytorch_model.fp16.safetensors")
    assert_same(read_prior(folder).tensors(), expected)
    weights = load_file(folder / "unet" / "diffusion_pytorch_model.fp16.safetensors")
    (folder / "unet" / "diffusion_pytorch_model.fp16.safetensors").unlink()
    names, index = sorted(weights), {}
    for i in range(2):
        shard = f"diffusion_pytorch_model-0000{i + 1}-of-00002.safetensors"
        save_file({name: weights[name] for name in names[i::2]}, folder / "unet" / shard)
        index |= dict.fromkeys(names[i::2], shard)
    listed = folder / "unet" / "diffusion_pytorch_model.safetensors.index.json"
    listed.write_text(json.dumps({"metadata": {}, "weight_map": index}))
    assert_same(read_prior(folder).tensors(), expected)
    for broken, sentence in (
        (
            {"weight_map": {**index, "a": "../other.safetensors"}},
            r"names shards that are not in its folder: \.\./other",
        ),
        ({"weight_map": {**index, "a": "lost.safetensors"}}, "not in its folder: lost"),
        ({"weight_map": {}}, "not in its folder: none"),
        ({"map": index}, "is no index"),
    ):
        listed.write_text(json.dumps(broken))
        with pytest.raises(ExportError, match=sentence):
            read_prior(folder).tensors()


def test_of_several_variants_none_is_guessed(make_prior):
    folder = make_prior() / "unet"
    (folder / WEIGHT_FILES[0]).rename(folder / "diffusion_pytorch_model.fp16.safetensors")
    (folder / "diffusion_pytorch_model.ema.safetensors").write_bytes(b"")
    with pytest.raises(InputError, match=r"several variants of weights, .*\.ema\..*\.fp16\..*; rename the one to take"):
        read_prior(folder.parent)


def assert_same(tensors, expected):
    assert tensors.keys() == expected.keys()
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(tensor, expected[name])
