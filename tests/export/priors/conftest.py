"""A prior in the layout of early versions of diffusers."""

import re
import shutil

import pytest
import torch
from safetensors.torch import load_file

NEW = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


@pytest.fixture
def flat(make_prior, tmp_path):
    """A tiny prior in the layout of google/ddpm-celebahq-256 (no folders, pickled, old names), and in today's."""
    today, folder = make_prior(), tmp_path / "flat"
    folder.mkdir()
    shutil.copy(today / "unet" / "config.json", folder)
    shutil.copy(today / "scheduler" / "scheduler_config.json", folder)
    (folder / "README.md").write_text("---\ntags:\n- ddpm\nlicense: apache-2.0\n---\n# Tiny\n")
    state = {}
    for name, tensor in load_file(today / "unet" / "diffusion_pytorch_model.safetensors").items():
        pattern = r"(.*\.attentions\.\d+)\.(" + "|".join(map(re.escape, NEW)) + r")\.(\w+)"
        found = re.fullmatch(pattern, name)
        state[f"{found[1]}.{NEW[found[2]]}.{found[3]}" if found else name] = tensor
    assert any(".query.weight" in name for name in state)
    torch.save(state, folder / "diffusion_pytorch_model.bin")
    return folder, today
