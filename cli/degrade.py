"""frugal-rt degrade"""

import json
from pathlib import Path
from typing import Any

import click
import numpy as np

from ..engines import InputError
from ..engines.files import atomic_write
from ..runtime.pictures.damage import named_task, parse_size
from ..runtime.pictures.decoding import Photo
from ..runtime.pictures.images import check_output, fit_photo, read_photo, to_picture, write_npy, write_png
from ..runtime.pictures.options import read_damage
from ..runtime.pictures.simulate import compress, simulate
from . import options, talk


@click.command()
@click.argument("image", type=options.PATH)
@options.damage
@click.option("--random", "share", type=float, metavar="SHARE", help="Lose this share of the pixels, at random.")
@click.option("--quality", type=int, metavar="Q", help="The quality of a JPEG, 1 to 100. With --task jpeg.")
@click.option("--size", metavar="WxH", help="First bring IMAGE to this size, by cutting its middle out.")
@options.seed
@click.option(
    "-o",
    "--output",
    type=options.PATH,
    required=True,
    help="Write to this file: a .png, a .npy that is not rounded, or with --task jpeg a .jpg.",
)
@options.as_json
@options.force
@talk.quiet
def command(
    image: Path,
    share: float | None,
    quality: int | None,
    size: str | None,
    seed: int,
    output: Path,
    as_json: bool,
    force: bool,
    **damage: Any,
) -> None:
    """Damage a clean IMAGE by an operator and noise, to have a measurement to restore.

    Missing pixels come out transparent in a .png and NaN in a .npy, which `restore` understands.
    """
    is_jpeg = damage["task"] == "jpeg"
    target = check_output(output, force, (".jpg", ".jpeg") if is_jpeg else (".png", ".npy"))
    photo = read_photo(image)
    for line in photo.notes:
        talk.note(line)
    if size is not None:
        photo = fit_photo(photo, parse_size(size), "crop")
    described = read_damage(damage, talk.note, share=share, quality=quality)
    if not described.is_picture and target.suffix.lower() != ".npy":
        raise InputError(
            f"{target.name}: a measurement of {named_task(described)} is not a picture; the output must end in .npy"
        )
    if is_jpeg:
        _write_jpeg(target, compress(photo, described), photo, as_json)
        return
    y, missing, operator = simulate(photo, described, seed)
    if target.suffix.lower() == ".npy":
        write_npy(target, y if missing is None else np.where(missing, np.float32(np.nan), y))
    else:
        write_png(target, to_picture(y, missing), metadata=photo.metadata)
    if as_json:
        described_as = {"name": operator.name, **operator.settings}
        click.echo(json.dumps({"output": str(target), "operator": described_as, "shape": operator.measurement_shape}))
        return
    click.echo(
        str(target)
        if talk.is_quiet()
        else f"{target}: {operator.name}, {operator.measurement_shape[2]}x{operator.measurement_shape[1]}"
    )


def _write_jpeg(target: Path, data: bytes, photo: Photo, as_json: bool) -> None:
    width, height = photo.size
    with atomic_write(target) as file:
        file.write(data)
    if as_json:
        click.echo(
            json.dumps(
                {"output": str(target), "operator": {"name": "jpeg"}, "shape": [len(photo.pixels), height, width]}
            )
        )
    else:
        click.echo(str(target) if talk.is_quiet() else f"{target}: jpeg, {width}x{height}, {len(data)} bytes")
