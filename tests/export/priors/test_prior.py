"""Priors by name: downloaded, checked, and read in the layout and by the names of the first diffusers."""

import dataclasses
import hashlib
import re
import shutil
import sys

import huggingface_hub
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file

from frugal_rt import ExportError, InputError, MissingExtra
from frugal_rt.cli import main
from frugal_rt.export import build_plan, find_prior, read_prior
from frugal_rt.export.priors import hub

NEW = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


@pytest.fixture
def flat(make_prior, tmp_path):
    """A tiny prior as google/ddpm-celebahq-256 is laid out: no folders, pickled, old names; and the same of today."""
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


@pytest.fixture
def published(flat, monkeypatch):
    """The flat prior in the place of celebahq-256 on the hub: the list of what is asked for, and the folder."""
    folder, asked = flat[0], []

    def download(repository, file, revision):
        asked.append((repository, file, revision))
        return str(folder / file)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    digest = hashlib.sha256((folder / "diffusion_pytorch_model.bin").read_bytes()).hexdigest()
    entry = dataclasses.replace(hub.PUBLISHED["celebahq-256"], sha256=digest)
    monkeypatch.setitem(hub.PUBLISHED, "celebahq-256", entry)
    return asked, folder


def test_a_published_prior_is_downloaded_at_its_revision(published):
    prior = find_prior("celebahq-256")
    assert prior.name == "celebahq-256"
    assert prior.tensors()["mid_block.attentions.0.to_q.weight"].dtype == np.float32
    repositories, files, revisions = map(set, zip(*published[0], strict=True))
    assert repositories == {"google/ddpm-celebahq-256"}
    assert revisions == {"cd5c944777ea2668051904ead6cc120739b86c4d"}
    assert {"config.json", "scheduler_config.json", "diffusion_pytorch_model.bin"} < files


def test_weights_of_another_hash_are_not_read(published, monkeypatch):
    weights = published[1] / "diffusion_pytorch_model.bin"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    monkeypatch.setattr(torch, "load", lambda *args, **kwargs: pytest.fail("it was read"))
    with pytest.raises(InputError, match=r"of celebahq-256 is not the file that was published: its SHA-256 differs"):
        find_prior("celebahq-256")


@pytest.mark.parametrize("error", [ConnectionError("no route"), RuntimeError("closed"), TimeoutError()])
def test_offline_is_one_sentence_that_names_weights(monkeypatch, error):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    with pytest.raises(InputError, match=r"^celebahq-256 could not be downloaded .* or give a folder .*--weights DIR$"):
        find_prior("celebahq-256")


def test_a_hub_that_is_not_installed_is_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(MissingExtra, match=r"Downloading celebahq-256 needs huggingface_hub.*frugal-rt\[cpu,export\]"):
        find_prior("celebahq-256")


@pytest.mark.parametrize("module", ["torch", "diffusers", "onnx", "onnxruntime"])
def test_what_exporting_needs_is_asked_for_before_anything_is_downloaded(published, monkeypatch, tmp_path, module):
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, ["export", "--model", "celebahq-256"])
    assert result.exit_code == 1
    assert re.search(rf"Exporting needs {module}\b.*frugal-rt\[cpu,export\]", result.output)
    assert published[0] == []


def test_an_unknown_name_gets_the_nearest():
    with pytest.raises(InputError, match=r"no prior 'celebhq-256' \(did you mean celebahq-256\?\); choose one of cele"):
        find_prior("celebhq-256")
