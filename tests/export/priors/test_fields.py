"""Every field of diffusers' configs, and every class of its schedulers: read, refused by name, or without effect.

The fields and classes are those of the diffusers that is installed, so that a new one fails here until it is looked at.
"""

import inspect
import re
from typing import Any, get_args

import diffusers
import numpy as np
import pytest
import torch
from diffusers import UNet2DModel
from diffusers.schedulers.scheduling_utils import SchedulerMixin

from frugal_rt import ExportError
from frugal_rt.engines import open_engine
from frugal_rt.engines.betas import train_betas
from frugal_rt.engines.torch.network import build_network
from frugal_rt.export import build_plan
from frugal_rt.export.priors.prior import SCHEDULERS, UNET_FIELDS, make_prior

from ...conftest import TINY_SCHEDULER, TINY_UNET

OTHERS = (
    *("AmusedScheduler", "CMStochasticIterativeScheduler", "CogVideoXDDIMScheduler", "CogVideoXDPMScheduler"),
    *("CosineDPMSolverMultistepScheduler", "DDPMWuerstchenScheduler", "EDMDPMSolverMultistepScheduler"),
    *(
        "EDMEulerScheduler",
        "FlowMatchEulerDiscreteScheduler",
        "FlowMatchHeunDiscreteScheduler",
        "FlowMatchLCMScheduler",
    ),
    *("IPNDMScheduler", "KarrasVeScheduler", "LCMScheduler", "LTXEulerAncestralRFScheduler", "SCMScheduler"),
    *("ScoreSdeVeScheduler", "ScoreSdeVpScheduler", "TCDScheduler", "UnCLIPScheduler", "VQDiffusionScheduler"),
)
"""Classes of other processes, in whatever diffusers is installed."""
UNET_VALUES: dict[str, list[Any]] = {
    "sample_size": [16, [8, 8]],
    "in_channels": [1, 12, 4],
    "out_channels": [6, 1],
    "center_input_sample": [True],
    "time_embedding_type": ["fourier", "learned"],
    "time_embedding_dim": [16],
    "freq_shift": [1],
    "flip_sin_to_cos": [False],
    "down_block_types": [
        ["DownBlock2D"] * 2,
        ["ResnetDownsampleBlock2D", "DownBlock2D"],
        ["SkipDownBlock2D", "AttnSkipDownBlock2D"],
    ],
    "mid_block_type": [None],
    "up_block_types": [["UpBlock2D"] * 2, ["ResnetUpsampleBlock2D", "UpBlock2D"]],
    "block_out_channels": [[16, 8]],
    "layers_per_block": [2],
    "mid_block_scale_factor": [2.0],
    "downsample_padding": [0],
    "downsample_type": ["resnet"],
    "upsample_type": ["resnet"],
    "dropout": [0.5],
    "act_fn": ["relu", "mish", "gelu"],
    "attention_head_dim": [4, None],
    "norm_num_groups": [2],
    "attn_norm_num_groups": [2],
    "norm_eps": [1e-2],
    "resnet_time_scale_shift": ["scale_shift"],
    "add_attention": [False],
    "class_embed_type": ["timestep", "identity"],
    "num_class_embeds": [10],
    "num_train_timesteps": [500],
}
"""Values to try of each field of UNet2DModel."""
SCHEDULER_VALUES: dict[str, list[Any]] = {
    "trained_betas": [[0.1, 0.2, 0.3]],
    "num_train_timesteps": [500],
    "beta_schedule": ["scaled_linear", "squaredcos_cap_v2", "sigmoid", "exp", "laplace"],
    "prediction_type": ["v_prediction", "sample", "flow_prediction"],
    "variance_type": ["fixed_large", "learned", "learned_range"],
    "timestep_spacing": ["linspace", "leading", "trailing"],
    "algorithm_type": ["dpmsolver", "sde-dpmsolver++", "noise_prediction"],
    "solver_type": ["heun", "bh1"],
    "final_sigmas_type": ["sigma_min"],
    "interpolation_type": ["log_linear"],
    "timestep_type": ["continuous"],
    "time_shift_type": ["linear"],
    "disable_corrector": [[0]],
    "solver_p": [],
    "tau_func": [],
    "sigma_min": [0.01],
    "sigma_max": [30.0],
    "shift_terminal": [0.1],
    "lambda_min_clipped": [-5.1],
}
"""Values to try of fields of schedulers whose default does not suggest one."""


def fields_of(kind: type) -> dict[str, Any]:
    """The fields of a config, each with its default."""
    skipped = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    parameters = inspect.signature(kind.__init__).parameters.values()
    return {one.name: one.default for one in parameters if one.name != "self" and one.kind not in skipped}


def scheduler_classes() -> list[str]:
    """Names of the scheduler classes of the diffusers that is installed, and of other versions."""
    named = [name for name in dir(diffusers) if name.endswith("Scheduler")]
    return sorted({name for name in named if issubclass(getattr(diffusers, name), SchedulerMixin)} | set(OTHERS))


def prior_of(unet: dict[str, Any], scheduler: dict[str, Any], read: Any = dict):
    return make_prior("tiny", unet, scheduler, read, "", "")


def values(name: str, default: Any) -> list[Any]:
    """Others than the default that a field of a scheduler may have."""
    if name in SCHEDULER_VALUES:
        return SCHEDULER_VALUES[name]
    if isinstance(default, bool):
        return [not default]
    assert isinstance(default, int | float), f"{name} is new: say what it may be"
    return [default + 1 if isinstance(default, int) else default * 1.5]


def check_named(field: str, error: ExportError) -> None:
    """The sentence names the field, or part of its name."""
    words = re.sub(r"[^a-z]+", " ", str(error).lower()).split()
    assert set(re.split(r"[_ ]", field)) & set(words), (field, str(error))


def test_every_class_of_schedulers_is_read_or_refused_by_name():
    for name in scheduler_classes():
        if name in SCHEDULERS:
            assert prior_of(dict(TINY_UNET), {"_class_name": name}).channels == 3
        else:
            with pytest.raises(ExportError, match=f"the scheduler is a {name}, which is not of a DDPM's"):
                prior_of(dict(TINY_UNET), {**TINY_SCHEDULER, "_class_name": name})
    assert not set(OTHERS) & set(SCHEDULERS)


def classes_with_betas() -> list[str]:
    return [name for name in SCHEDULERS if "beta_schedule" in fields_of(getattr(diffusers, name))]


@pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")
@pytest.mark.parametrize("name", classes_with_betas())
def test_every_field_of_a_scheduler_is_read_refused_or_without_effect(name):
    """On the noise of each step and on what the network predicts: diffusers' own scheduler says both."""
    kind, read, refused = getattr(diffusers, name), 0, 0
    for field, default in fields_of(kind).items():
        for value in [*([None] if field == "beta_start" else []), *values(field, default)]:  # None: nothing is said
            said = {} if value is None else {"num_train_timesteps": 50, field: value}
            unet = dict(TINY_UNET, **({"out_channels": 6} if value == "learned_range" else {}))
            try:
                theirs = kind.from_config(said)
            except (ValueError, NotImplementedError, ImportError, TypeError, AttributeError):
                continue  # diffusers has no such scheduler
            try:
                prior = prior_of(unet, {"_class_name": name, **said})
            except ExportError as error:
                check_named(field.removeprefix("use_").removesuffix("_sigmas"), error)
                refused += 1
                continue
            expected = np.asarray(theirs.alphas_cumprod, np.float64)
            np.testing.assert_allclose(np.cumprod(1 - train_betas(prior.scheduler)), expected, rtol=2e-4, err_msg=field)
            assert prior.scheduler.get("prediction_type", "epsilon") == theirs.config.get("prediction_type", "epsilon")
            read += 1
    assert read > 5
    assert refused


def test_betas_that_differ_from_a_ddpm_s_where_nothing_is_said_are_those_of_the_class():
    """DPMSolverSDEScheduler needs torchsde to be looked at: its defaults are those of the others."""
    for name in ("DPMSolverSDEScheduler", "HeunDiscreteScheduler", "KDPM2DiscreteScheduler"):
        betas = train_betas(prior_of(dict(TINY_UNET), {"_class_name": name}).scheduler)
        assert (betas[0], betas[-1]) == pytest.approx((0.00085, 0.012))


def network_of(unet: dict[str, Any]) -> UNet2DModel:
    torch.manual_seed(0)
    return UNet2DModel.from_config(unet).eval()


def tried() -> list[tuple[str, Any]]:
    return [(field, value) for field, options in UNET_VALUES.items() for value in options]


def test_every_field_of_the_network_is_tried():
    assert fields_of(UNet2DModel).keys() == UNET_VALUES.keys() == UNET_FIELDS


def changed(field: str, value: Any) -> dict[str, Any]:
    unet = {**TINY_UNET, field: value}
    if field == "in_channels" and value in (1, 12):
        unet["out_channels"] = value
    return unet


def read_or_refused(field: str, value: Any) -> Any:
    """The prior of a config with a field changed; None where it is refused by a sentence that names the field."""
    try:
        theirs = network_of(changed(field, value))
    except (TypeError, ValueError) as error:  # it has no such network
        pytest.skip(f"diffusers refuses it: {error!r}")
    try:
        return theirs, prior_of(changed(field, value), dict(TINY_SCHEDULER), theirs.state_dict)
    except ExportError as error:
        check_named(field, error)
        return None


def outputs_of(network: Any, prior: Any) -> np.ndarray:
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((2, *prior.image_shape)).astype(np.float32))
    r, t = prior.pixel_unshuffle, torch.tensor([3, 500])
    with torch.no_grad():
        out = network(torch.nn.functional.pixel_unshuffle(x, r), t).sample
        return x.numpy(), t.numpy(), torch.nn.functional.pixel_shuffle(out, r).numpy()


@pytest.mark.long
@pytest.mark.parametrize(("field", "value"), tried(), ids=lambda one: str(one)[:40])
def test_every_field_of_the_network_is_in_the_plan_s_graphs_or_refused(field, value):
    """A plan's graph gives what diffusers' own network gives, so that whatever the field does is in it."""
    found = read_or_refused(field, value)
    if found is None:
        return
    theirs, prior = found
    try:
        plan = build_plan(prior, precisions=())
    except ExportError as error:
        check_named("the network uses the operation", error)
        return
    x, t, expected = outputs_of(theirs, prior)
    ours = open_engine(plan, "cpu").predict(x, t)
    np.testing.assert_allclose(np.asarray(ours[0]), expected, atol=2e-4)


@pytest.mark.parametrize(("field", "value"), tried(), ids=lambda one: str(one)[:40])
def test_every_field_of_the_network_is_read_or_refused_by_name(field, value):
    found = read_or_refused(field, value)
    if found is not None:
        theirs, prior = found
        ours = build_network({"config": prior.unet, "pixel_unshuffle": 1, "learned_variance": False})
        assert {name.removeprefix("unet.") for name in ours.state_dict()} == set(theirs.state_dict())


def test_a_field_that_no_network_has_is_refused():
    for field in ("encoder_hid_dim", "cross_attention_dim"):
        with pytest.raises(ExportError, match=f"the UNet has {field} = 4, which UNet2DModel does not know"):
            prior_of({**TINY_UNET, field: 4}, dict(TINY_SCHEDULER))
    assert prior_of({**TINY_UNET, "cross_attention_dim": None, "_name_or_path": "x"}, dict(TINY_SCHEDULER))


def test_words_of_types_are_tried():
    """Where diffusers lists the values of a field, each is tried."""
    for name in classes_with_betas():
        for field, parameter in inspect.signature(getattr(diffusers, name).__init__).parameters.items():
            words = {one for one in get_args(parameter.annotation) if isinstance(one, str)}
            known = {*map(str, SCHEDULER_VALUES.get(field, [])), str(parameter.default)}
            if words and field in ("beta_schedule", "prediction_type"):
                assert words <= known | {"linear", "epsilon"}, (name, field)
