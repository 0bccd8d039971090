"""frugal-rt export"""

import json
from pathlib import Path

import click

from ..engines import InputError
from ..export import EMBEDDED, PUBLISHED, export_plan, find_prior, open_prior
from ..runtime.images import check_output
from . import options
from .progress import stages


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
    help="Or a diffusers DDPM folder, or a .pt checkpoint with --arch.",
)
@click.option(
    "--arch",
    metavar="ARCH",
    help="Of a .pt: adm (guided-diffusion's UNetModel, linear betas over 1000 steps); "
    "adm:size=64,head_channels=32,qkv=new,noise=cosine where it is not a published 256x256 one.",
)
@click.option("-o", "--output", metavar="PLAN", type=click.Path(path_type=Path), help="Default: NAME.plan.")
@options.as_json
@options.force
def command(
    model: str | None, weights: Path | None, arch: str | None, output: Path | None, as_json: bool, force: bool
) -> None:
    """Turn a prior's weights into a plan: one file that holds them, the compiled graphs, and what describes them.

    The plan is compared with torch before it is written; one that differs is not.
    """
    if (model is None) == (weights is None):
        raise InputError("say which prior: --model celeba, or --weights DIR (one of the two)")
    if model is not None and arch is not None:
        raise InputError("--arch is of a .pt checkpoint: --weights x.pt --arch adm")
    if model is not None:
        target = check_output(output or f"{model}.plan", force, (".plan",))  # before anything is downloaded
        prior = find_prior(model)
    else:
        prior = open_prior(weights or "", arch)
        target = check_output(output or f"{prior.name}.plan", force, (".plan",))
    with stages() as on_stage:
        plan = export_plan(prior, target, on_stage)
    parity = plan.manifest["parity"]
    if as_json:
        shape = [prior.channels, prior.size, prior.size]
        click.echo(json.dumps({"output": str(target), "shape": shape, "parity": parity, "licence": prior.licence}))
        return
    click.echo(f"{target}: {prior.channels}x{prior.size}x{prior.size}, {target.stat().st_size / 1e6:.1f} MB")
    click.echo(f"largest relative error against torch: {', '.join(f'{what} {e:.1e}' for what, e in parity.items())}")
    click.echo(f"licence of the weights: {prior.licence}")
