"""Photographs by aim and preset, beside a plain method.

    python tests/studies/aims.py --images ../shared/data/photos/report-20 --lpips lpips_alex.onnx

PSNR and LPIPS, means over the first pictures by name, at their own size; seed 0. `--drawn` is the share of V with which
the estimate is drawn, DRAWN of `runtime/sampling/equations.py`.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from frugal_rt import Restorer
from frugal_rt.engines.onnxruntime.lpips import Lpips
from frugal_rt.runtime.evaluation import demo, plain
from frugal_rt.runtime.evaluation.suite import scratches
from frugal_rt.runtime.operators import Deblur, Denoise, Inpaint, Linear, Shape, SuperResolution
from frugal_rt.runtime.operators.masks import box_mask
from frugal_rt.runtime.pictures.damage import sigma_of
from frugal_rt.runtime.pictures.images import read_photo
from frugal_rt.runtime.sampling import equations
from frugal_rt.runtime.sampling.plain_estimate import plain_estimate
from frugal_rt.runtime.sampling.psnr import psnr

WAYS: dict[str, dict[str, Any]] = {
    "fidelity": {"aim": "fidelity"},
    "detail": {"aim": "detail"},
    "balanced": {"preset": "balanced"},
}


def written(shape: Shape) -> np.ndarray:
    """(H, W) bool: lines of text over an image."""
    _, height, width = shape
    mask = Image.new("L", (width, height))
    for top in range(6, height, 26):
        line = "the quick brown fox jumps over the lazy dog again and"
        ImageDraw.Draw(mask).text((3, top), line, 255, font_size=max(8, height // 14))
    return np.asarray(mask) > 127


TASKS = {
    "noise of 10": lambda shape: (Denoise(shape), sigma_of(10)),
    "noise of 25": lambda shape: (Denoise(shape), sigma_of(25)),
    "text": lambda shape: (Inpaint(shape, written(shape)), demo.SIGMA),
    "scratches": lambda shape: (Inpaint(shape, scratches(shape)), demo.SIGMA),
    "a hole of 96": lambda shape: (Inpaint(shape, box_mask(shape, 96, 96)), demo.SIGMA),
    "x2": lambda shape: (SuperResolution(shape, 2), demo.SIGMA),
    "x4": lambda shape: (SuperResolution(shape, 4), demo.SIGMA),
    "blur of 2 px": lambda shape: (Deblur.gaussian(shape, 2.0), sigma_of(2)),
}


def by_plain(operator: Linear, y: np.ndarray, sigma: float) -> np.ndarray:
    """Restore a measurement by the plain method for its damage; a blur by least squares with a ridge."""
    if operator.missing is not None:
        return plain.biharmonic(y, operator.missing)
    if isinstance(operator, SuperResolution):
        return plain.lanczos(y, operator.image_shape[1] // y.shape[1])
    return plain.non_local_means(y, sigma) if isinstance(operator, Denoise) else plain_estimate(operator, y, sigma)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", default="photo")
    parser.add_argument("--images", required=True, type=Path)
    parser.add_argument("--lpips", required=True)
    parser.add_argument("--count", type=int, default=4)
    parser.add_argument("--every", type=int, default=1, help="take every N-th picture")
    parser.add_argument("--tasks", default=",".join(TASKS))
    parser.add_argument("--ways", default=",".join(WAYS))
    parser.add_argument("--drawn", type=float, default=equations.DRAWN)
    given = parser.parse_args()
    equations.DRAWN, ways = given.drawn, {name: WAYS[name] for name in given.ways.split(",")}
    restorer, lpips = Restorer.load(given.engine, "cpu"), Lpips(given.lpips)
    pictures = [
        read_photo(path).colour().pixels for path in sorted(given.images.iterdir())[:: given.every][: given.count]
    ]
    print("| task | plain method |", " | ".join(ways), "|\n| --- | ---: |", " ---: |" * len(ways))
    for task in given.tasks.split(","):
        rows: dict[str, list[tuple[float, float, int]]] = {}
        for clean in pictures:
            operator, sigma = TASKS[task](clean.shape)
            noise = np.random.default_rng(0).standard_normal(operator.measurement_shape, np.float32)
            y = operator.observed(np.asarray(operator.A(clean[None])[0]) + np.float32(sigma) * noise)
            mine = restorer.at(*clean.shape[1:])
            found = {"plain": (np.clip(by_plain(operator, y, sigma), -1, 1), 0)}
            for name, how in ways.items():
                if isinstance(operator, Denoise) and "preset" in how:
                    continue
                result = mine.restore(y, operator, sigma=sigma, **how)
                found[name] = result.image, result.forwards[0] + result.gradients[0]
            for name, (image, calls) in found.items():
                pair = np.asarray(image, np.float32)[None], clean[None]
                rows.setdefault(name, []).append((float(psnr(*pair)[0]), float(lpips(*pair)[0]), calls))
        cells = [
            "{:.2f} / {:.4f} ({:.0f})".format(*np.mean(rows[name], axis=0)) if name in rows else "" for name in rows
        ]
        print(f"| {task} |", " | ".join(cells), "|", flush=True)


if __name__ == "__main__":
    main()
