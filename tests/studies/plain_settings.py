"""Settings of the plain methods over a grid, for choosing the constants of runtime/evaluation/plain.py.

    python tests/studies/plain_settings.py --images ../shared/data/photos/tune-20 --lpips lpips_alex.onnx

PSNR, LPIPS and CPU seconds, means over every fourth picture by name, on the tasks of `frugal-rt eval --vs classical`.
BM3D's rows need the package `bm3d` (non-commercial licence), Telea's and Navier-Stokes's `opencv-python-headless`.
"""

import argparse
import importlib.util
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np

from frugal_rt.engines.onnxruntime.lpips import Lpips
from frugal_rt.runtime.evaluation import plain
from frugal_rt.runtime.evaluation.suite import EVERYDAY, measure
from frugal_rt.runtime.operators import Linear
from frugal_rt.runtime.pictures.images import read_photo
from frugal_rt.runtime.sampling.psnr import psnr

Way = Callable[[np.ndarray, Linear, float], np.ndarray]
"""Makes an image (C, H, W) of a measurement, its operator and sigma."""
DENOISING = ("denoise10", "denoise25", "denoise50")
INPAINTING = ("text", "scratches", "missing70")
DEBLURRING = ("blur", "motion")


def ways() -> Iterator[tuple[str, tuple[str, ...], Way]]:
    """Yield each setting in words, the tasks that it is tried on, and what it does."""
    for patch, distance, strength in product((3, 5), (6, 11), (0.3, 0.4, 0.5, 0.6)):
        settings = {"patch": patch, "distance": distance, "strength": strength}
        name = f"non-local means, patch {patch}, distance {distance}, strength {strength}"
        yield name, DENOISING, lambda y, operator, sigma, s=settings: plain.non_local_means(y, sigma, **s)
    yield "biharmonic", INPAINTING, lambda y, operator, sigma: plain.biharmonic(y, operator.missing)
    for balance in (1, 3, 5, 7, 10, 20, 100):
        yield f"Wiener, balance {balance}", DEBLURRING, partial(plain.wiener, balance=balance)
    for count in (10, 20, 50, 100, 200):
        yield (
            f"Richardson-Lucy, {count} iterations",
            DEBLURRING,
            lambda y, operator, sigma, n=count: plain.richardson_lucy(y, operator, n),
        )
    if importlib.util.find_spec("cv2") is not None:
        for radius in (1, 2, 3, 5):
            for flag in ("INPAINT_TELEA", "INPAINT_NS"):
                yield f"OpenCV's {flag}, radius {radius}", INPAINTING, partial(_by_opencv, flag=flag, radius=radius)
    if importlib.util.find_spec("bm3d") is not None:
        for believed in (0.9, 1.0, 1.1):
            name = f"BM3D, sigma x {believed}"
            yield name, DENOISING, lambda y, operator, sigma, b=believed: plain.bm3d(y, sigma, b)


def _by_opencv(y: np.ndarray, operator: Linear, sigma: float, flag: str, radius: int) -> np.ndarray:
    """y with its holes filled, which OpenCV does in 8 bits."""
    import cv2

    levels = np.clip(np.rint((np.moveaxis(y, 0, -1) + 1) * 127.5), 0, 255).astype(np.uint8)
    found = cv2.inpaint(levels, operator.missing.astype(np.uint8), radius, getattr(cv2, flag))
    return np.where(operator.missing, np.moveaxis(found, -1, 0) / 127.5 - 1, y)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", required=True, type=Path)
    parser.add_argument("--lpips", required=True)
    parser.add_argument("--only", default="", help="settings whose words begin so")
    parser.add_argument("--every", type=int, default=4, help="take every N-th picture")
    given = parser.parse_args()
    lpips = Lpips(given.lpips)
    clean = np.stack([read_photo(path).colour().pixels for path in sorted(given.images.iterdir())[:: given.every]])
    shape = clean.shape[1:]
    made = {}
    for name in (*DENOISING, *INPAINTING, *DEBLURRING):
        task = EVERYDAY[name]
        operator = task.operator(shape)
        made[name] = operator, task.sigma, measure(operator, clean, task.sigma, 0)
    print(f"PSNR in dB / LPIPS (CPU seconds a picture) of {len(clean)} pictures\n")
    for tasks in (DENOISING, INPAINTING, DEBLURRING):
        print("| |", " | ".join(tasks), "|\n| --- |", " ---: |" * len(tasks))
        for name, of, way in ways():
            if of is tasks and name.startswith(given.only):
                print(
                    f"| {name} |", " | ".join(_cell(way, *made[task], clean, lpips) for task in tasks), "|", flush=True
                )
        print()


def _cell(way: Way, operator: Linear, sigma: float, y: np.ndarray, clean: np.ndarray, lpips: Lpips) -> str:
    started = time.process_time()
    found = [np.clip(way(one, operator, sigma), -1, 1) for one in y]
    seconds = (time.process_time() - started) / len(y)
    images = np.asarray(found, np.float32)
    return f"{psnr(images, clean).mean():.2f} / {lpips(images, clean).mean():.4f} ({seconds:.2f})"


if __name__ == "__main__":
    main()
