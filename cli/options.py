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
    help=f"The plan to run: a file, or {' or '.join(FOLDERS)}, whose priors are in the package.",
)


class Backend(click.Choice[str]):
    """Type of --backend: one of BACKENDS, and after a colon a precision."""

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
    help=f"What runs the network; torch:bf16 names a precision too, of {', '.join(PRECISIONS)}.",
)
trust_engines = click.option(
    "--trust-engines", is_flag=True, help="Load TensorRT engines that the plan brings along: native code of another's."
)
seed = click.option("--seed", type=click.IntRange(0, 2**64 - 1), default=0, show_default=True)
steps = click.option("--steps", "steps_", type=int, default=100, show_default=True, help="Sampling steps T.")
switch = click.option("--switch", metavar="auto|K", help="How many steps at the end take no gradient: auto, or K.")
every = click.option(
    "--every", type=int, metavar="M", help="frugal takes a gradient at every M-th step; default: about 25 in all."
)
guidance = click.option(
    "--guidance",
    type=click.Choice(list(GUIDANCE)),
    help="Step sizes of hybrid, dps and dmps: own, found on the fly (the default), or official, the papers' constants.",
)
zeta = click.option("--zeta", type=float, help="A constant step size for DPS, as in the paper.")
lam = click.option("--lambda", "lam", type=float, help="A constant step size for DMPS, as in the paper.")
aim = click.option(
    "--aim",
    type=click.Choice(list(AIMS)),
    help="For detail, or for fidelity (PSNR). Denoising takes 8 network calls for the one, its default, and one for "
    "the other; any other task 12 and 8, without gradients, and a JPEG the latter by default. Leave it "
    "out with --samples and the options from --method to --lambda.",
)
as_json = click.option("--json", "as_json", is_flag=True, help="Say what was done as one JSON object, for scripts.")
force = click.option("--force", is_flag=True, help="Replace the output if it exists.")

_DAMAGE = (
    click.option("--task", type=click.Choice(list(TASK_FIELDS)), help="What was done to the picture."),
    click.option("--mask", metavar="IMAGE", type=PATH, help="White marks the pixels that are missing."),
    click.option("--hole", metavar="WxH", help="A missing box in the middle."),
    click.option("--keep", metavar="WxH", help="The kept box in the middle; the rest is invented."),
    click.option("--scale", type=int, metavar="R", help="Lost resolution: one pixel of RxR is left."),
    click.option("--filter", type=click.Choice(list(FILTERS)), help="How it was lost; default box, the block's mean."),
    click.option(
        "--kernel",
        metavar="KERNEL",
        help=f"The blur: {', '.join(KINDS.values())}, in pixels and degrees, or a .png or .npy of its weights.",
    ),
    click.option(
        "--border",
        type=click.Choice(list(BORDERS)),
        help="What lies past a blurred picture's border; default mirror, or circular where the kernel is lopsided.",
    ),
    click.option("--keep-fraction", type=float, metavar="F", help="Share of Walsh-Hadamard coefficients measured."),
    click.option(
        "--matrix", metavar="A.npy", type=PATH, help="Measured by a matrix: C*H*W columns, or H*W for each channel."
    ),
    click.option("--grey", type=click.Choice(list(GREY_WEIGHTS)), help="Weights of R, G, B; default rec601."),
    click.option("--noise", metavar="N", help="Noise deviation in grey levels of 255, such as 25."),
    click.option("--sigma", metavar="S", help="The same on the [-1, 1] scale, such as 0.1 or 50/255."),
)


def damage(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that describe a degradation; the command takes them as one mapping, for `read_damage`."""
    for option in reversed(_DAMAGE):
        command = option(command)
    return command


def batches(**more: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The option --batch, of ascending batch sizes: 1,4 and --batch 1 --batch 4 alike."""

    def parsed(context: click.Context, option: click.Parameter, values: tuple[str, ...]) -> tuple[int, ...]:
        texts = [text for value in values for text in value.split(",")]
        if not all(text.isdecimal() and int(text) for text in texts):
            raise click.BadParameter(f"batches are whole numbers from 1, such as 1,4,16; got {','.join(texts)}")
        return tuple(sorted({int(text) for text in texts}))

    return click.option("--batch", "batches", metavar="N,N", multiple=True, callback=parsed, **more)
