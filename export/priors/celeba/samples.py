"""Draw samples of the prior from noise alone, and measure whether they repeat its training photographs.

python export/priors/celeba/samples.py --engine celeba.plan --data DIR -o samples.png

It writes a sheet of samples. It prints the distance (root mean square on [-1, 1]) of each sample to the nearest
training photograph or its mirror image, and the same for photographs that were not trained on. A prior that has
memorised its training photographs comes closer to them than those do.
"""

from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np
from PIL import Image

from frugal_rt import Restorer, operators
from frugal_rt.export.priors.training.pictures import read_pictures
from frugal_rt.runtime.pictures.images import to_picture, write_png

COLUMNS = 8


def distances(images: np.ndarray, data: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return the distance (N,) of images (N, 3, H, W) on [-1, 1] to the nearest photograph, and that photograph.

    Photographs are those of `data`'s train-*.tar. Distances are root mean squares.
    """
    flat = images.reshape(len(images), -1).astype(np.float32)
    best, nearest = np.full(len(images), np.inf), np.zeros_like(images)
    for chunk in _photographs(data):
        other = chunk.reshape(len(chunk), -1)
        square = (flat**2).sum(1)[:, None] - 2 * flat @ other.T + (other**2).sum(1)
        i = square.argmin(1)
        closer = square[np.arange(len(images)), i] < best
        best = np.where(closer, square[np.arange(len(images)), i], best)
        nearest[closer] = chunk[i[closer]]
    return np.sqrt(np.maximum(best, 0) / flat.shape[1]), nearest


def _photographs(data: Path) -> Iterator[np.ndarray]:
    for path in sorted(data.glob("train-*.tar")):
        shard = _shard(path)
        for first in range(0, len(shard), 2000):
            chunk = shard[first : first + 2000]
            yield chunk
            yield np.ascontiguousarray(chunk[..., ::-1])


def _shard(path: Path) -> np.ndarray:
    """Read the photographs of a tar file, (N, 3, H, W) on [-1, 1]."""
    pictures = np.stack([picture for _, picture in read_pictures(path)])
    return pictures.transpose(0, 3, 1, 2).astype(np.float32) / 127.5 - 1


def sheet(images: np.ndarray) -> Image.Image:
    """Place the images in rows of COLUMNS."""
    _, _, height, width = images.shape
    page = Image.new("RGB", (COLUMNS * width, -(-len(images) // COLUMNS) * height))
    for i, image in enumerate(images):
        page.paste(to_picture(image), (i % COLUMNS * width, i // COLUMNS * height))
    return page


@click.command(help=__doc__)
@click.option("--engine", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--data", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--count", default=32, show_default=True)
@click.option("--steps", default=250, show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("-o", "--output", type=click.Path(path_type=Path), default="samples.png", show_default=True)
@click.option(
    "--neighbours", type=click.Path(path_type=Path), help="A sheet of samples above what they are nearest to."
)
def main(engine: Path, data: Path, count: int, steps: int, seed: int, output: Path, neighbours: Path | None) -> None:
    restorer = Restorer.load(engine)
    nothing = np.zeros((count, *restorer.image_shape), np.float32)
    operator = operators.Denoise(restorer.image_shape)
    drawn = restorer.restore(nothing, operator, sigma=2.0, steps=steps, method="dmps", lam=0.0, seed=seed).image
    write_png(output, sheet(drawn))
    held_out = _shard(data / "tune-100.tar")
    ours, nearest = distances(drawn, data)
    theirs, _ = distances(held_out, data)
    for name, values in ((f"{count} samples", ours), (f"{len(held_out)} held-out photographs", theirs)):
        low, middle = values.min(), np.median(values)
        click.echo(f"{name}: to the nearest training photograph {middle:.3f} in the median, {low:.3f} at least")
    if neighbours:
        whole = range(0, count - count % COLUMNS, COLUMNS)
        pairs = [np.concatenate([drawn[i : i + COLUMNS], nearest[i : i + COLUMNS]]) for i in whole]
        write_png(neighbours, sheet(np.concatenate(pairs)))


if __name__ == "__main__":
    main()
