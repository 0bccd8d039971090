"""Photographs as people have them: grey ones with noise, and parts of scenes that a camera blurred.

    python tests/studies/photographs.py --images ../shared/data/photos/report-20 --lpips lpips_alex.onnx

PSNR in dB / LPIPS, means over the pictures, seed 0, 8 bits. A grey picture is the lightness of the photograph with
noise; "as colours" takes its three equal channels for colours with noise of their own. Of a scene, which is blurred
whole, the middle is given, with noise of 2 grey levels; columns are borders that are assumed.
"""

import argparse
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from frugal_rt.engines.onnxruntime.lpips import Lpips
from frugal_rt.runtime.operators import GREY_WEIGHTS, Circular, Denoise, is_mirrored, parse_kernel
from frugal_rt.runtime.pictures.images import read_photo
from frugal_rt.runtime.restorer import Restorer
from frugal_rt.runtime.sampling.psnr import psnr

NOISES = (8, 25)
KERNELS = ("gaussian:2", "uniform:7", "motion:11,30")
CUT = 32
"""Pixels of a scene that are cut off on each side."""
AIMS = ("fidelity", "detail")


def eight_bits(image: np.ndarray) -> np.ndarray:
    """Round an image on [-1, 1] to the levels of 8 bits."""
    return np.asarray(((image.clip(-1, 1) + 1) * 127.5).round() / 127.5 - 1, np.float32)


def grey_pictures(restorer: Restorer, photo: np.ndarray, noise: int, aim: Any) -> dict[str, np.ndarray]:
    """Restore a photo's lightness with noise in both ways, (1, H, W)."""
    clean = np.tensordot(np.asarray(GREY_WEIGHTS["rec601"], np.float32), photo, 1)[None]
    given = eight_bits(clean + noise / 127.5 * np.random.default_rng(0).standard_normal(clean.shape))
    y = np.repeat(given, 3, axis=0)
    coloured = restorer.at(*y.shape[1:]).restore(y, Denoise(y.shape), sigma=noise / 127.5, aim=aim).image
    grey = restorer(given, task="denoise", noise=noise, aim=aim).image
    return {"clean": clean, "given": given, "as colours": coloured.mean(axis=0, keepdims=True), "as grey": grey}


def parts_of_scenes(restorer: Restorer, photo: np.ndarray, kernel: str, aim: Any) -> dict[str, np.ndarray]:
    """Restore the middle of a blurred photo by the border that its kernel allows, and by its surroundings."""
    middle, weights = slice(CUT, -CUT), parse_kernel(kernel)
    blurred = np.asarray(Circular(photo.shape, weights).A(photo[None])[0])[:, middle, middle]
    given = eight_bits(blurred + 2 / 127.5 * np.random.default_rng(0).standard_normal(blurred.shape))
    assumed = "mirror" if is_mirrored(weights) else "circular"
    ways = {f"--border {assumed}": assumed, "without --border": None}
    found = {way: restorer(given, kernel=kernel, border=one, noise=2, aim=aim).image for way, one in ways.items()}
    return {"clean": photo[:, middle, middle], "given": given, **found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", default="photo")
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--every", type=int, default=1, help="every so many pictures")
    parser.add_argument("--lpips", type=Path, required=True)
    options = parser.parse_args()
    restorer, distance = Restorer.load(options.engine, backend="cpu"), Lpips(options.lpips)
    rows: dict[str, dict[str, list[tuple[float, float]]]] = defaultdict(lambda: defaultdict(list))
    for path in sorted(options.images.iterdir())[:: options.every]:
        photo = read_photo(path).colour().pixels
        for aim in AIMS:
            made = {f"grey, noise of {noise}, {aim}": grey_pictures(restorer, photo, noise, aim) for noise in NOISES}
            made |= {f"{kernel} of a scene, {aim}": parts_of_scenes(restorer, photo, kernel, aim) for kernel in KERNELS}
            for task, images in made.items():
                clean = images.pop("clean")
                for way, image in images.items():
                    shown = eight_bits(image)
                    pair = (np.broadcast_to(one, (3, *one.shape[1:]))[None] for one in (shown, clean))
                    rows[task][way].append((float(psnr(shown[None], clean[None])[0]), float(distance(*pair)[0])))
    for task, ways in rows.items():
        means = {way: np.mean(figures, axis=0) for way, figures in ways.items()}
        print(f"| {task} | {' | '.join(f'{way}: {one[0]:.2f} / {one[1]:.4f}' for way, one in means.items())} |")


if __name__ == "__main__":
    main()
