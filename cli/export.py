"""frugal-rt export"""

import json
from pathlib import Path

import click

from ..engines import BackendError, InputError, Plan, open_plan
from ..engines.embedded import embedded_plan
from ..engines.extras import missing_export
from ..engines.files import remove_drafts
from ..engines.tensorrt.build import build, can_build
from ..engines.tensorrt.store import Built
from ..export import EMBEDDED, HALVES, PUBLISHED, Prior, export_plan, find_prior, open_prior, verified_plan
from ..export.mixed import parse_precisions, say_mixed
from ..export.triton import check_repository, write_repository
from ..runtime.pictures.damage import parse_size
from ..runtime.pictures.images import check_output
from . import options, talk
from .build import say
from .progress import building, stages


@click.command()
@click.option(
    "--model",
    metavar="NAME",
    help=f"A prior that ships in the package ({', '.join(EMBEDDED)}) or is downloaded ({', '.join(PUBLISHED)}).",
)
@click.option(
    "--weights",
    metavar="DIR|PT",
    type=click.Path(path_type=Path),
    help="A prior of your own: a folder as diffusers saves a DDPM, or a .pt checkpoint with --arch.",
)
@click.option(
    "--arch",
    metavar="ARCH",
    help="The architecture of a .pt: adm, guided-diffusion's UNetModel with linear betas over 1000 steps, or "
    "adm:size=64,head_channels=32,qkv=new,noise=cosine where it is not a published 256x256 one.",
)
@click.option(
    "--size",
    metavar="WxH",
    help="Make a plan for images of this size. It may be up to 4 times the size that the prior was trained on.",
)
@click.option(
    "--plan",
    "source",
    metavar="PLAN",
    type=click.Path(path_type=Path),
    help="Start from this plan, with --format triton.",
)
@click.option(
    "--format",
    "kind",
    type=click.Choice(["plan", "triton"]),
    default="plan",
    show_default=True,
    help="Write a plan, or a model repository for Triton, which serves the network's calls.",
)
@click.option(
    "--precision",
    metavar="LIST",
    help=f"Add graphs in half precision to those in float32, over the same weights: "
    f"{','.join(HALVES)} (the default), one of them, or fp32 for none.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="Write to this file or folder. Default: NAME.plan, or the folder NAME.triton.",
)
@click.option(
    "--build/--no-build",
    "compiled",
    default=True,
    help="Compile the plan for this machine's GPU too, where TensorRT is installed: see frugal-rt build.",
)
@options.as_json
@options.force
@talk.quiet
@talk.verbose
def command(
    model: str | None,
    weights: Path | None,
    arch: str | None,
    size: str | None,
    source: Path | None,
    kind: str,
    precision: str | None,
    output: Path | None,
    compiled: bool,
    as_json: bool,
    force: bool,
) -> None:
    """Turn a prior's weights into a plan: one file with the weights, the compiled graphs and a manifest.

    The plan's answers are compared with torch's, and a plan that differs is not written. Without torch, a prior of the
    package becomes the plan that was compared when the package was made.
    """
    if (model is not None) + (weights is not None) + (source is not None) != 1:
        raise InputError("say which prior: --model celeba, or --weights DIR (one of the two)")
    if arch is not None and weights is None:
        raise InputError("--arch is for a .pt checkpoint: --weights x.pt --arch adm")
    if size is not None and source is not None:
        raise InputError("a plan's size is fixed; --size goes with --model or --weights")
    if precision is not None and (source is not None or kind == "triton"):
        raise InputError("--precision is for a plan that is exported; a repository for Triton is in float32")
    precisions = parse_precisions(",".join(HALVES) if precision is None else precision)
    sides = None if size is None else parse_size(size)
    suffix = "" if sides is None else "-{}x{}".format(*sides)
    if source is not None:
        if kind == "plan":
            raise InputError("--plan names a plan that is exported already; it goes with --format triton only")
        plan = open_plan(source)
        target = _target(output, source.stem, kind, force)
        with stages() as on_stage:
            on_stage("writing")
            names = write_repository(plan, target, force)
        _say_repository(target, names, plan.manifest["prior"]["licence"], as_json)
        return
    prior: Prior
    if model is not None:
        target = _target(output, model + suffix, kind, force)  # before anything is downloaded
        prior = find_prior(model)
    else:
        prior = open_prior(weights or "", arch)
        target = _target(output, prior.name + suffix, kind, force)
    if sides is not None:
        prior = prior.at(*reversed(sides))
    if kind == "triton":
        with stages() as on_stage:
            plan = verified_plan(prior, on_stage, precisions=())
            on_stage("writing")
            names = write_repository(plan, target, force)
        _say_repository(target, names, prior.licence, as_json)
        return
    with stages() as on_stage:
        if model in EMBEDDED and sides is None and precision is None and missing_export():
            on_stage("writing")
            plan = embedded_plan(model)
            plan.save(target)
        else:
            plan = export_plan(prior, target, on_stage, precisions)
    built, why = _build(target) if compiled and can_build() else (None, "")
    parity, mixed = plan.manifest["parity"], plan.manifest.get("mixed", {})
    if as_json:
        shape = [plan.manifest["image"][name] for name in ("channels", "height", "width")]
        said = {"output": str(target), "shape": shape, "parity": parity, "licence": prior.licence}
        halves = {name: {key: one[key] for key in ("parity", "refused") if key in one} for name, one in mixed.items()}
        click.echo(json.dumps({**said, "mixed": halves, "engines": built and built.record.data()}))
        return
    if talk.is_quiet():
        click.echo(str(target))
        return
    talk.say(f"{target}: {plan.size}, {target.stat().st_size / 1e6:.1f} MB")
    talk.say(f"largest relative error against torch: {', '.join(f'{what} {e:.1e}' for what, e in parity.items())}")
    for name, one in mixed.items():
        talk.say(f"{name}: {say_mixed(one)}")
    talk.say(f"licence of the weights: {prior.licence}")
    if built is not None:
        say(built, None, as_json)
    elif why:
        talk.say(f"no TensorRT engines were built: {why}", err=True)


def _build(target: Path) -> tuple[Built | None, str]:
    """Build the plan's engines for this GPU; return them, or None and the reason. The plan is kept either way."""
    try:
        with building() as on_progress:
            return build(Plan.open(target), on_progress=on_progress), ""
    except BackendError as error:
        return None, str(error)


def _target(output: Path | None, name: str, kind: str, force: bool) -> Path:
    if kind == "triton":
        return check_repository(output or Path(f"{name}.triton"), force)
    target = check_output(output or f"{name}.plan", force, (".plan",))
    remove_drafts(target.parent)
    return target


def _say_repository(target: Path, names: list[str], licence: str, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({"output": str(target), "models": names, "licence": licence}))
        return
    if talk.is_quiet():
        click.echo(str(target))
        return
    talk.say(f"{target}: {', '.join(names)}")
    talk.say(f"licence of the weights: {licence}")
