"""Folders that are no prior of the form are refused, each in its sentence."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from frugal_rt import ExportError, InputError, PlanError
from frugal_rt.export import build_plan, find_prior, read_prior
from frugal_rt.export.priors.prior import SCHEDULERS


def test_an_unknown_name_gets_the_nearest():
    with pytest.raises(InputError, match=r"no prior 'celebhq-256' \(did you mean celebahq-256\?\); choose one of phot"):
        find_prior("celebhq-256")


def change_config(folder, name, **changes):
    path = folder / name
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def overflow(folder):
    path = next((folder / "unet").glob("*.safetensors"))
    weights = load_file(path)
    weights["conv_in.bias"][0] = np.inf  # what float16 makes of a million
    save_file(weights, path)


@pytest.mark.parametrize(
    ("break_it", "error", "sentence"),
    [
        (lambda f: (f / "unet" / "config.json").unlink(), InputError, "is not a diffusers DDPM folder"),
        (lambda f: (f / "unet" / "config.json").write_text("{"), InputError, "is not JSON"),
        (lambda f: next((f / "unet").glob("*.safetensors")).unlink(), InputError, r"holds no unet/diffusion_pytorch"),
        (lambda f: next((f / "unet").glob("*.safetensors")).write_text("x"), ExportError, "cannot read"),
        (overflow, ExportError, "conv_in.bias holds values that are not finite; save weights beyond 65504 as float32"),
        (
            lambda f: change_config(f, "unet/config.json", _class_name="UNet2DConditionModel"),
            ExportError,
            "only an unconditional",
        ),
        (lambda f: change_config(f, "unet/config.json", in_channels=0), ExportError, "in_channels must be"),
        (lambda f: change_config(f, "unet/config.json", sample_size=[8, 8]), ExportError, "sample_size must be"),
        (lambda f: (f / "unet" / "config.json").write_text("[]"), InputError, "is not a JSON object"),
        (lambda f: change_config(f, "unet/config.json", in_channels=4), ExportError, "4 input channels"),
        (
            lambda f: change_config(f, "unet/config.json", block_out_channels=[8, 32]),
            PlanError,
            "do not fit.*size mismatch for unet",
        ),
        (
            lambda f: change_config(f, "scheduler/scheduler_config.json", variance_type="learned"),
            ExportError,
            "variance learned",
        ),
        (
            lambda f: change_config(f, "scheduler/scheduler_config.json", prediction_type="flow"),
            ExportError,
            "'flow' is not known",
        ),
        (
            lambda f: change_config(f, "scheduler/scheduler_config.json", rescale_betas_zero_snr=True),
            ExportError,
            "zero terminal SNR",
        ),
        (
            lambda f: change_config(f, "scheduler/scheduler_config.json", beta_schedule="sigmoid"),
            ExportError,
            "'sigmoid' is not known",
        ),
    ],
)
def test_what_cannot_be_exported_is_refused(make_prior, break_it, error, sentence):
    folder = make_prior()
    break_it(folder)
    with pytest.raises(error, match=sentence):
        build_plan(read_prior(folder))


def test_an_unknown_model_lists_those_there_are():
    with pytest.raises(
        InputError, match=r"no prior 'imagenet'; choose one of photo, celeba, celebahq-256, or give your own"
    ):
        find_prior("imagenet")


@pytest.mark.parametrize(
    ("sides", "says"),
    [
        ((18, 16), "multiples of 4; 16x18 is not"),
        ((12, 16), "trained at 16x16"),
        ((16, 68), "4 times the side; restore takes larger pictures"),
    ],
)
def test_a_size_out_of_a_prior_s_range_is_refused(make_prior, sides, says):
    prior = read_prior(make_prior({"in_channels": 12, "out_channels": 12}), "tiny")
    assert prior.at(16, 16) is prior
    with pytest.raises(InputError, match=says):
        prior.at(*sides)


@pytest.mark.parametrize(
    "sampler",
    [
        *("FlowMatchEulerDiscreteScheduler", "EDMEulerScheduler", "KarrasVeScheduler", "ScoreSdeVeScheduler"),
        *("CMStochasticIterativeScheduler", "VQDiffusionScheduler", "LCMScheduler", "MadeUpScheduler"),
    ],
)
def test_schedulers_of_other_processes_are_refused_by_name(make_prior, sampler):
    with pytest.raises(ExportError, match=f"the scheduler is a {sampler}, which is not of a DDPM's schedule of betas"):
        read_prior(make_prior(scheduler={"_class_name": sampler}))


def test_samplers_of_a_ddpm_are_read_unless_they_are_told_to_flow(make_prior):
    for sampler in SCHEDULERS:
        assert read_prior(make_prior(scheduler={"_class_name": sampler})).scheduler["_class_name"] == sampler
    flowing = make_prior(scheduler={"_class_name": "UniPCMultistepScheduler", "use_flow_sigmas": True})
    with pytest.raises(ExportError, match="UniPCMultistepScheduler of flow matching"):
        read_prior(flowing)


def test_every_scheduler_that_is_taken_has_betas():
    import inspect

    import diffusers

    for sampler in SCHEDULERS:
        if sampler != "DPMSolverSDEScheduler" and hasattr(diffusers, sampler):  # it needs torchsde to be looked at
            assert "beta_schedule" in inspect.signature(getattr(diffusers, sampler)).parameters


@pytest.mark.parametrize("coder", ["vae", "vqvae"])
@pytest.mark.parametrize("said", ["index", "folder"])
def test_a_prior_of_latents_is_refused(make_prior, coder, said):
    folder = make_prior()
    if said == "folder":
        (folder / coder).mkdir()
    else:
        index = {"_class_name": "LDMPipeline", coder: ["diffusers", "VQModel"]}
        (folder / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(ExportError, match=f"with an autoencoder, {coder}: its UNet works on latents"):
        read_prior(folder)


def test_pipelines_of_other_processes_are_refused_by_name(make_prior):
    folder = make_prior()
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "ScoreSdeVePipeline"}))
    with pytest.raises(ExportError, match="folder of a ScoreSdeVePipeline, which is no DDPM"):
        read_prior(folder)
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "DDIMPipeline"}))
    assert read_prior(folder).channels == 3


@pytest.mark.parametrize(
    ("unet", "sentence"),
    [
        ({"num_class_embeds": 10}, "class-conditional"),
        ({"class_embed_type": "timestep"}, "class-conditional"),
        ({"time_embedding_type": "fourier"}, "time embedding is fourier"),
    ],
)
def test_networks_that_take_other_inputs_are_refused(make_prior, unet, sentence):
    folder = make_prior()
    change_config(folder, "unet/config.json", **unet)
    with pytest.raises(ExportError, match=sentence):
        read_prior(folder)
