"""JPEG files of damaged photographs, filled in together with what JPEG lost, and by other ways: PSNR and LPIPS.

    python tests/studies/scratched_jpeg.py --images ../shared/data/photos/tune-20 --every 4 --lpips lpips_alex.onnx

The damage is white: lines of 2 pixels, the strokes of `frugal-rt eval`, a square hole. The JPEG is of quality 30,
4:2:0. Means over the pictures, seed 0. "in the mask" is the PSNR of the damaged pixels alone.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from scipy.ndimage import binary_dilation

from frugal_rt.engines.onnxruntime.lpips import Lpips
from frugal_rt.runtime.evaluation.suite import scratches
from frugal_rt.runtime.operators import Jpeg, Shape
from frugal_rt.runtime.operators.masks import box_mask
from frugal_rt.runtime.pictures.damage import Damage
from frugal_rt.runtime.pictures.decoding import Photo, decode_photo
from frugal_rt.runtime.pictures.images import read_photo
from frugal_rt.runtime.pictures.measurement import Measurement, own_size, prepare
from frugal_rt.runtime.pictures.simulate import compress
from frugal_rt.runtime.restorer import Restorer
from frugal_rt.runtime.sampling.plain_estimate import filled
from frugal_rt.runtime.sampling.psnr import psnr

Way = Callable[[Photo, np.ndarray], np.ndarray]
"""Makes the picture (3, H, W) of a damaged JPEG and its mask (H, W)."""


def lines(shape: Shape) -> np.ndarray:
    """(H, W) bool: a dozen thin scratches, 2 pixels wide."""
    _, height, width = shape
    mask = Image.new("L", (width, height))
    draw, random = ImageDraw.Draw(mask), np.random.default_rng(0)
    for x0, y0, x1, y1 in random.uniform(-0.1, 1.1, (12, 4)):
        draw.line((x0 * width, y0 * height, x1 * width, y1 * height), 255, 2)
    return np.asarray(mask) > 0


MASKS: dict[str, Callable[[Shape], np.ndarray]] = {
    "lines of 2 px": lines,
    "strokes of 6 px": scratches,
    "a hole of 48x48": lambda shape: box_mask(shape, 48, 48),
}


class WithoutUnits(Jpeg):
    """The JPEG with every coefficient unknown of a unit that the mask touches."""

    lost: np.ndarray

    @classmethod
    def of(cls, whole: Jpeg, mask: np.ndarray) -> "WithoutUnits":
        operator = cls(whole.image_shape, whole.components, whole.colour)
        (h, w), (_, down, across) = whole.unit, whole.measurement_shape
        touched = mask.reshape(down, h, across, w).any((1, 3))
        operator.lost = np.kron(touched, np.ones((h, w))) > 0
        return operator

    def decoded(self, y):
        return filled(np.where(self.lost, 0, super().decoded(y)), self.lost)

    def mean(self, y, x0hat, sigma, variance):
        return np.where(self.lost, x0hat, super().mean(y, x0hat, sigma, variance))

    def finished(self, x, y):
        return x


def measured(photo: Photo, shape: Shape, mask: np.ndarray | None = None) -> Measurement:
    damage = Damage(task="jpeg", mask=mask)
    return prepare(photo, own_size(photo, damage, shape, any_size=True).image_shape, damage)


def ways(restorer: Restorer) -> dict[str, Way]:
    """Every way, by its name."""

    def restored(job: Measurement, operator: Jpeg | None = None, **asked) -> np.ndarray:
        mine = restorer.at(*job.operator.image_shape[1:])
        return job.shown(mine.restore(job.y, operator or job.operator, sigma=job.sigma, **asked).image)

    def two(photo: Photo, mask: np.ndarray, **asked) -> np.ndarray:
        whole = restored(measured(photo, restorer.image_shape))
        return np.asarray(restorer(whole, task="inpaint", mask=mask, **asked).image)

    def apart(photo: Photo, mask: np.ndarray) -> np.ndarray:
        job = measured(photo, restorer.image_shape)
        return restored(job, WithoutUnits.of(job.operator, mask))

    return {
        "the file as decoded": lambda photo, mask: photo.pixels,
        "two commands: JPEG, then --task inpaint --mask": two,
        "two commands, --aim fidelity": lambda photo, mask: two(photo, mask, aim="fidelity"),
        "two commands, --aim fidelity, a mask 3 px wider": lambda photo, mask: two(
            photo, binary_dilation(mask, iterations=3), aim="fidelity"
        ),
        "one operator, the units of the mask unknown": apart,
        "together": lambda photo, mask: restored(measured(photo, restorer.image_shape, mask)),
        "together, --aim detail": lambda photo, mask: restored(
            measured(photo, restorer.image_shape, mask), aim="detail"
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", default="photo")
    parser.add_argument("--images", required=True, type=Path, help="256x256 each")
    parser.add_argument("--lpips", required=True)
    parser.add_argument("--every", type=int, default=1, help="take every N-th picture")
    parser.add_argument("--quality", type=int, default=30)
    parser.add_argument("--only", default="", help="ways whose names hold this")
    given = parser.parse_args()
    restorer, lpips = Restorer.load(given.engine, "cpu"), Lpips(given.lpips)
    pictures = sorted(given.images.iterdir())[:: given.every]
    rows = {name: way for name, way in ways(restorer).items() if given.only in name}
    print("| damage | way | PSNR, dB | LPIPS | in the mask, dB |\n| --- | --- | ---: | ---: | ---: |")
    for damage, make in MASKS.items():
        found: dict[str, list[tuple[float, ...]]] = {name: [] for name in rows}
        for path in pictures:
            clean = read_photo(path).colour().pixels
            mask = make(clean.shape)
            hurt = Photo(np.where(mask, np.float32(1), clean))
            photo = decode_photo(compress(hurt, Damage(task="jpeg", quality=given.quality)), "y.jpg")
            for name, way in rows.items():
                image = np.asarray(way(photo, mask), np.float32)
                inside = 10 * np.log10(4 / np.mean((image - clean)[:, mask] ** 2))
                pair = image[None], clean[None]
                found[name].append((float(psnr(*pair)[0]), float(lpips(*pair)[0]), float(inside)))
        for name, figures in found.items():
            print("| {} | {} | {:.2f} | {:.4f} | {:.2f} |".format(damage, name, *np.mean(figures, axis=0)), flush=True)


if __name__ == "__main__":
    main()
