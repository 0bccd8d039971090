"""The network at sizes beyond its own: run directly on the whole image, or in half-overlapping tiles of its own size.

    python tests/studies/beyond.py --engine celeba.plan --images ../shared/data/faces256 --lpips lpips_alex.onnx

PSNR, LPIPS and seconds, means over the pictures, each resized to every size; torch runs both, so that seconds compare.
"""

import argparse
from pathlib import Path

import numpy as np

from frugal_rt.engines import Plan
from frugal_rt.engines.onnxruntime.lpips import Lpips
from frugal_rt.engines.torch.engine import TorchEngine
from frugal_rt.runtime.operators import Denoise, Inpaint, SuperResolution
from frugal_rt.runtime.operators.masks import box_mask
from frugal_rt.runtime.pictures.images import fit_photo, read_photo
from frugal_rt.runtime.restorer import Restorer
from frugal_rt.runtime.sampling.noise import Use, normal
from frugal_rt.runtime.sampling.psnr import psnr

TASKS = {
    "denoise": (lambda shape: Denoise(shape), 0.25),
    "box": (lambda shape: Inpaint(shape, box_mask(shape, *[3 * side // 8 for side in shape[:0:-1]])), 0.01),
    "sr4": (lambda shape: SuperResolution(shape, 4), 0.01),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", required=True)
    parser.add_argument("--images", required=True, type=Path, help="a folder of square pictures")
    parser.add_argument("--lpips", required=True)
    parser.add_argument("--sizes", default="72,80,96,128")
    parser.add_argument("--steps", type=int, default=50)
    given = parser.parse_args()
    plan, lpips = Plan.open(given.engine), Lpips(given.lpips)
    restorer = Restorer(plan, TorchEngine(plan))
    photos = [read_photo(path) for path in sorted(given.images.iterdir())]
    print("| task | side | direct | tiles | direct, LPIPS | tiles, LPIPS | direct, s | tiles, s |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for name, (make, sigma) in TASKS.items():
        for side in map(int, given.sizes.split(",")):
            shape = (3, side, side)
            direct = Restorer(plan, restorer.engine)
            direct.image_shape = shape
            operator, figures = make(shape), []
            for i, photo in enumerate(photos):
                clean = fit_photo(photo, (side, side), "resize").colour().pixels[None]
                noise = normal(operator.measurement_shape, 0, i, Use.MEASUREMENT)
                y = operator.A(clean)[0] + np.float32(sigma) * noise
                for way in (direct, restorer.at(side, side)):
                    result = way.restore(y, operator, sigma=sigma, steps=given.steps, seed=0, batch=4)
                    image = result.image[None]
                    seconds = sum(result.seconds.values())
                    figures.append((float(psnr(image, clean)[0]), float(lpips(image, clean)[0]), seconds))
            pairs = np.reshape(figures, (-1, 2, 3)).mean(axis=0).T
            cells = [
                f"{value:.{2 if row == 0 else 4 if row == 1 else 1}f}"
                for row, pair in enumerate(pairs)
                for value in pair
            ]
            print(f"| {name} | {side} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
