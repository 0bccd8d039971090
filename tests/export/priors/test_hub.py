"""Priors by name: downloaded at a revision, and checked."""

import dataclasses
import hashlib
import re
import sys

import huggingface_hub
import numpy as np
import pytest
import torch
from click.testing import CliRunner

from frugal_rt import InputError, MissingExtra
from frugal_rt.cli import main
from frugal_rt.export import find_prior
from frugal_rt.export.priors import hub


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
