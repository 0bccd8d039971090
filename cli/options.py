"""Options that several commands share, each defined once."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from ..engines import BACKENDS, PRECISIONS
from ..engines.embedded import FOLDERS
from ..runtime.operators import GREY_WEIGHTS
from ..runtime.operators.kernels import KINDS
from ..runtime.pictures.damage import BORDERS, FILTERS, TASK_FIELDS
from ..runtime.sampling.guidance import AIMS, GUIDANCE

PATH = click.Path(path_type=Path)

engine = click.option(
    "-e",
    "--engine",
    metavar="PLAN",
    type=PATH,
    default="photo",
    show_default=True,
    help=f"The plan to run: a file, or a prior of the package by name, {' or '.join(FOLDERS)}.",
)


class Backend(click.Choice[str]):
    """Type of --backend: one of BACKENDS, with an optional precision after a colon (torch:bf16)."""

    name = "backend"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        name, colon, precision = str(value).partition(":")
        if colon:
            click.Choice(PRECISIONS).convert(precision, param, ctx)
        return f"{super().convert(name, param, ctx)}{colon}{precision}"


backend = click.option(
    "--backend",
    type=Backend(list(BACKENDS)),
    default="auto",
    show_default=True,
    help=f"The backend that runs the network. torch:bf16 names a precision too, of {', '.join(PRECISIONS)}.",
)
trust_engines = click.option(
    "--trust-engines",
    is_flag=True,
    help="Load TensorRT engines that are in the plan: native code that somebody else built.",
)
seed = click.option(
    "--seed",
    metavar="N",
    type=click.IntRange(0, 2**64 - 1),
    default=0,
    show_default=True,
    help="The seed of the noise. One seed gives one result.",
)
steps = click.option("--steps", "steps_", type=int, default=100, show_default=True, help="Sampling steps T.")
switch = click.option(
    "--switch",
    metavar="auto|K",
    help="Take no gradient in the last K steps. auto, the default, chooses K on the way. For frugal and hybrid.",
)
every = click.option(
    "--every", type=int, metavar="M", help="Take a gradient at every M-th step of frugal. Default: about 25 in all."
)
guidance = click.option(
    "--guidance",
    type=click.Choice(list(GUIDANCE)),
    help="The step sizes of hybrid, dps and dmps. own, the default, computes them at each step; official takes the "
    "papers' constants.",
)
zeta = click.option("--zeta", type=float, help="Take this constant step size for DPS, as in the paper.")
lam = click.option("--lambda", "lam", type=float, help="Take this constant step size for DMPS, as in the paper.")
aim = click.option(
    "--aim",
    type=click.Choice(list(AIMS)),
    help="detail looks sharper, and may invent; fidelity is closest on average, and softer. Default: detail for noise, "
    "fidelity for a JPEG and for thin holes such as scratches; other damage takes --preset. Not with --samples, "
    "--preset, --steps or an option of the sampler.",
)
as_json = click.option("--json", "as_json", is_flag=True, help="Print what was done as one JSON object, for scripts.")
force = click.option("--force", is_flag=True, help="Replace an output that exists.")

_DAMAGE = (
    click.option(
        "--task",
        type=click.Choice(list(TASK_FIELDS)),
        help="What was done to the picture.",
    ),
    click.option("--mask", metavar="IMAGE", type=PATH, help="The missing pixels are white in this picture."),
    click.option("--hole", metavar="WxH", help="A box of this size is missing in the middle."),
    click.option("--keep", metavar="WxH", help="Only a box of this size in the middle is kept. The rest is painted."),
    click.option("--scale", type=int, metavar="R", help="Resolution is lost: one pixel is left of RxR."),
    click.option(
        "--filter",
        type=click.Choice(list(FILTERS)),
        help="How resolution was lost: box, the default, is the mean of a block.",
    ),
    click.option(
        "--kernel",
        metavar="KERNEL",
        help=f"The blur: {', '.join(KINDS.values())}, in pixels and degrees; or a .png or .npy of its weights.",
    ),
    click.option(
        "--border",
        type=click.Choice(list(BORDERS)),
        help="The pixels assumed past a blurred picture's border. Default: valid, which assumes nothing. By a prior of "
        "one size, and to degrade: mirror, where the kernel allows it.",
    ),
    click.option(
        "--keep-fraction", type=float, metavar="F", help="This share of the Walsh-Hadamard coefficients was measured."
    ),
    click.option(
        "--matrix",
        metavar="A.npy",
        type=PATH,
        help="A matrix measured the picture: C*H*W columns, or H*W for each channel.",
    ),
    click.option(
        "--grey",
        type=click.Choice(list(GREY_WEIGHTS)),
        help="Only grey is left, by these weights of R, G and B. Default: rec601.",
    ),
    click.option(
        "--noise",
        metavar="N",
        help="The deviation of the noise, in grey levels of 255, such as 25.",
    ),
    click.option("--sigma", metavar="S", help="The same deviation on the [-1, 1] scale, such as 0.1 or 50/255."),
)


def damage(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that describe a damage; the command receives them as one mapping, for `read_damage`."""
    for option in reversed(_DAMAGE):
        command = option(command)
    return command


def batches(**more: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add the option --batch, parsed to ascending batch sizes. `1,4` and `--batch 1 --batch 4` mean the same."""

    def parsed(context: click.Context, option: click.Parameter, values: tuple[str, ...]) -> tuple[int, ...]:
        texts = [text for value in values for text in value.split(",")]
        if not all(text.isdecimal() and int(text) for text in texts):
            raise click.BadParameter(f"batches are whole numbers from 1, such as 1,4,16; got {','.join(texts)}")
        return tuple(sorted({int(text) for text in texts}))

    return click.option("--batch", "batches", metavar="N,N", multiple=True, callback=parsed, **more)
