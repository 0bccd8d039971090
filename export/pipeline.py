"""The steps of an export: open a prior, trace it, build its plan, verify it, write it."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..engines import InputError, Plan
from ..engines.extras import EXPORT_MODULES, require_export, version
from ..engines.manifest import ANY_SIZE, FORMAT, HALVES, ONE_SIZE, WEIGHTS
from ..engines.torch.network import build_network, load_weights
from .mixed import check_precisions, mixed_graphs
from .priors.adm import AdmOptions, read_adm
from .priors.prior import Prior, read_prior


def open_prior(weights: str | os.PathLike[str], arch: str | None = None) -> Prior:
    """Open the prior in a diffusers folder, or in a checkpoint of the architecture `arch` (see `AdmOptions.parse`).

    Raises InputError, ExportError or MissingExtra.
    """
    path = Path(weights)
    if arch is not None:
        if path.is_dir():
            raise InputError(f"{path.name} is a folder, whose config tells its architecture; leave out --arch")
        return read_adm(path, AdmOptions.parse(arch))
    if path.is_file():
        raise InputError(f"{path.name} does not tell its architecture; for one of guided-diffusion say --arch adm")
    return read_prior(path)


def export_plan(
    prior: Prior,
    path: str | os.PathLike[str],
    on_stage: Callable[[str], object] = lambda stage: None,
    precisions: Sequence[str] = tuple(HALVES),
) -> Plan:
    """Export `prior`, check it against torch, and write the plan to `path`; a plan that fails is not written.

    `on_stage` is called with a short phrase for each stage. `precisions`: as in `verified_plan`. Raises MissingExtra,
    InputError, ExportError or FrugalError.
    """
    plan = verified_plan(prior, on_stage, precisions)
    on_stage("writing")
    plan.save(path)
    return plan


def verified_plan(
    prior: Prior,
    on_stage: Callable[[str], object] = lambda stage: None,
    precisions: Sequence[str] = tuple(HALVES),
) -> Plan:
    """Return the plan of `prior`, in memory, compared with torch. Raises MissingExtra, InputError or ExportError.

    `precisions`: "fp16" and "bf16", those of the graphs beside float32. A precision whose error against float32 is too
    large is left out, and the manifest holds the reason.
    """
    plan = build_plan(prior, on_stage, precisions)
    on_stage("comparing with torch")
    from .verify import parity

    plan.manifest["parity"] = parity(plan)
    if "mixed" not in plan.manifest:
        return plan
    on_stage(f"comparing {' and '.join(plan.manifest['mixed'])} with float32")
    from .rounding import measured

    mixed = measured(plan)
    manifest = {key: value for key, value in plan.manifest.items() if key != "members"}
    refused = [plan.manifest["mixed"][name] for name, one in mixed.items() if "refused" in one]
    left_out = {entry["member"] for one in refused for entry in one["graphs"].values()}
    members = {name: plan.member(name) for name in plan.members if name not in left_out}
    return Plan({**manifest, "mixed": mixed}, members, plan.source)


def build_plan(
    prior: Prior,
    on_stage: Callable[[str], object] = lambda stage: None,
    precisions: Sequence[str] = tuple(HALVES),
) -> Plan:
    """Return the plan of `prior`, in memory and not yet verified. `precisions`: as in `verified_plan`."""
    require_export()
    precisions = check_precisions(precisions)
    from safetensors.numpy import save

    on_stage("reading the weights")
    network = {
        "architecture": "UNet2DModel",
        "config": prior.unet,
        "pixel_unshuffle": prior.pixel_unshuffle,
        "learned_variance": prior.learned_variance,
    }
    tensors = {f"unet.{name}": tensor for name, tensor in prior.tensors().items()}
    module = build_network(network)
    load_weights(module, tensors, prior.name)
    from .graph import graphs_of

    on_stage("tracing the network and its gradient")
    weights = bytearray(save(tensors))
    shape = channels, height, width = prior.image_shape
    image = {"channels": channels, "height": height, "width": width, "range": [-1, 1]}
    outputs = ["out", "variance"] if prior.learned_variance else ["out"]
    graphs, reach = graphs_of(module, shape, outputs, weights, prior.stride if prior.any_size else None)
    if prior.any_size:
        image |= {"height": None, "width": None, "stride": prior.stride, "side": prior.size, "reach": reach}
    mixed = {precision: mixed_graphs(graphs, precision) for precision in precisions}
    manifest: dict[str, Any] = {
        "format": FORMAT,
        "format_version": ANY_SIZE if prior.any_size else ONE_SIZE,
        "prior": {"name": prior.name, "card": prior.card, "licence": prior.licence}
        | ({} if prior.framing is None else {"framing": prior.framing}),
        "image": image,
        "schedule": prior.scheduler,
        "network": network,
        "graphs": {name: entry for name, (_, entry) in graphs.items()},
        "precision": "float32",
        "tools": {name: found for name in ("frugal-rt", *EXPORT_MODULES) if (found := version(name))},
    }
    if mixed:
        manifest["mixed"] = {
            precision: {"graphs": {name: entry for name, (_, entry) in made.items()}}
            for precision, made in mixed.items()
        }
    every = [made for one in (graphs, *mixed.values()) for made in one.values()]
    return Plan(manifest, {WEIGHTS: weights, **{entry["member"]: onnx for onnx, entry in every}}, prior.name)
