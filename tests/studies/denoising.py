"""Denoising from the picture itself, by each aim, beside the closed form from noise.

    frugal-rt export --model photo --size 256x256 --output photo.plan
    python tests/studies/denoising.py --engine photo.plan --images ../shared/data/photos/report-20 \\
        --lpips lpips_alex.onnx

PSNR, LPIPS, network calls and CPU seconds, means over the first pictures by name, whose size is the plan's.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from frugal_rt.engines.onnxruntime.lpips import Lpips
from frugal_rt.runtime.operators import Denoise
from frugal_rt.runtime.pictures.images import read_photo
from frugal_rt.runtime.restorer import Restorer
from frugal_rt.runtime.result import Result
from frugal_rt.runtime.sampling.noise import Use, normal
from frugal_rt.runtime.sampling.psnr import psnr

WAYS = {
    "`fidelity`": {"aim": "fidelity"},
    "`fidelity`, the mean over 8 flips and turns": {"aim": "fidelity"},
    "`detail`": {"aim": "detail"},
    "from noise, 20 steps": {"method": "closed-form", "preset": "fast"},
}


def once(restore: Callable[[np.ndarray], Result], y: np.ndarray) -> tuple[np.ndarray, int]:
    """The restoration of y, and its calls: a gradient is one more."""
    result = restore(y)
    return result.image, result.forwards[0] + result.gradients[0]


def over_flips(restore: Callable[[np.ndarray], Result], y: np.ndarray) -> tuple[np.ndarray, int]:
    """The mean of the restorations of a square y as it is, flipped and turned, each brought back, and their calls."""
    images, calls = [], 0
    for turned in (False, True):
        for flipped in ((), (1,), (2,), (1, 2)):
            image, more = once(restore, np.flip(y.swapaxes(1, 2) if turned else y, flipped))
            image, calls = np.flip(image, flipped), calls + more
            images.append(image.swapaxes(1, 2) if turned else image)
    return np.mean(images, axis=0), calls


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", required=True)
    parser.add_argument("--images", required=True, type=Path)
    parser.add_argument("--lpips", required=True)
    parser.add_argument("--count", type=int, default=4)
    parser.add_argument("--noise", default="10,25", help="in grey levels of 255")
    parser.add_argument("--backend", default="cpu")
    given = parser.parse_args()
    restorer, lpips = Restorer.load(given.engine, given.backend), Lpips(given.lpips)
    operator = Denoise(restorer.image_shape)
    clean = [read_photo(path).colour().pixels for path in sorted(given.images.iterdir())[: given.count]]
    print("| noise | | PSNR, dB | LPIPS | calls | CPU s |\n| ---: | --- | ---: | ---: | ---: | ---: |")
    for level in map(float, given.noise.split(",")):
        sigma = 2 * level / 255
        noises = [normal(operator.measurement_shape, 0, i, Use.MEASUREMENT) for i in range(len(clean))]
        noisy = [one + np.float32(sigma) * noise for one, noise in zip(clean, noises, strict=True)]
        for name, how in WAYS.items():
            rows = []
            for one, y in zip(clean, noisy, strict=True):
                started = time.process_time()
                restore = partial(restorer.restore, operator=operator, sigma=sigma, **how)
                image, calls = (over_flips if "flips" in name else once)(restore, y)
                seconds = time.process_time() - started
                pair = image[None], one[None]
                rows.append((float(psnr(*pair)[0]), float(lpips(*pair)[0]), calls, seconds))
            quality, distance, calls, seconds = np.mean(rows, axis=0)
            print(f"| {level:g} | {name} | {quality:.2f} | {distance:.4f} | {calls:.0f} | {seconds:.1f} |", flush=True)


if __name__ == "__main__":
    main()
