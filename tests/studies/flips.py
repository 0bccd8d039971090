"""Compare sampling with and without flips of the picture (method.md, "Flips").

    python tests/studies/flips.py --images ../shared/data/photos/tune-20 --lpips lpips_alex.onnx

PSNR in dB / LPIPS without and with flips, and the paired difference, +- standard error: means over every fourth picture
by name, its middle SIDE x SIDE pixels; seed 0. Without flips the fidelity of a noisy picture is one call, with them 4.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
from aims import TASKS as MOST
from aims import WAYS

from frugal_rt import Restorer
from frugal_rt.engines.onnxruntime.lpips import Lpips
from frugal_rt.runtime.evaluation import demo
from frugal_rt.runtime.evaluation.suite import scattered
from frugal_rt.runtime.operators import Inpaint
from frugal_rt.runtime.pictures.images import read_photo
from frugal_rt.runtime.sampling.psnr import psnr

SIDE = 256
TASKS = MOST | {"70% missing": lambda shape: (Inpaint(shape, scattered(shape, 0.7)), demo.SIGMA)}


def middle(pixels: np.ndarray) -> np.ndarray:
    """Return the middle SIDE x SIDE pixels of an image (C, H, W)."""
    top, left = ((side - SIDE) // 2 for side in pixels.shape[1:])
    return pixels[:, top : top + SIDE, left : left + SIDE]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", default="photo")
    parser.add_argument("--images", required=True, type=Path)
    parser.add_argument("--lpips", required=True)
    parser.add_argument("--every", type=int, default=4)
    parser.add_argument("--backend", default="cpu")
    parser.add_argument("--tasks", default=",".join(TASKS))
    parser.add_argument("--ways", default="fidelity,detail")
    given = parser.parse_args()
    restorer, lpips = Restorer.load(given.engine, given.backend).at(SIDE, SIDE), Lpips(given.lpips)
    scheduled = restorer._schedule
    pictures = [middle(read_photo(path).colour().pixels) for path in sorted(given.images.iterdir())[:: given.every]]
    print("| task | | without | with | dB | LPIPS |\n| --- | --- | ---: | ---: | ---: | ---: |")
    for task in given.tasks.split(","):
        for way in given.ways.split(","):
            found = []
            for i, clean in enumerate(pictures):
                operator, sigma = TASKS[task](clean.shape)
                noise = np.random.default_rng(i).standard_normal(operator.measurement_shape, np.float32)
                y = operator.observed(np.asarray(operator.A(clean[None])[0]) + np.float32(sigma) * noise)
                for flips in (False, True):
                    restorer._schedule = lambda *how, flips=flips: replace(scheduled(*how), flips=flips)
                    image = restorer.restore(y, operator, sigma=sigma, range=(-1, 1), **WAYS[way]).image
                    found.append((float(psnr(image[None], clean[None])[0]), float(lpips(image[None], clean[None])[0])))
            values = np.reshape(found, (len(pictures), 2, 2))
            means, change = values.mean(0), values[:, 1] - values[:, 0]
            error = change.std(0, ddof=1) / len(pictures) ** 0.5
            said = [f"{one[0]:.2f} / {one[1]:.4f}" for one in means]
            said += [f"{change[:, 0].mean():+.2f} +- {error[0]:.2f}", f"{change[:, 1].mean():+.4f} +- {error[1]:.4f}"]
            print(f"| {task} | {way} | " + " | ".join(said) + " |", flush=True)


if __name__ == "__main__":
    main()
