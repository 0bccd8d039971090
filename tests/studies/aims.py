"""Tasks by their aims, which start from a plain estimate, beside a plain method and the sampler that starts from noise.

    python tests/studies/aims.py --images ../shared/data/photos/report-20 --lpips lpips_alex.onnx

PSNR and LPIPS, means over the first pictures by name, at their own size; noise of 0.01 on [-1, 1], seed 0.
"""

import argparse
from pathlib import Path

import numpy as np

from frugal_rt.engines.onnxruntime.lpips import Lpips
from frugal_rt.runtime.evaluation import demo, plain
from frugal_rt.runtime.pictures.images import read_photo
from frugal_rt.runtime.restorer import Restorer
from frugal_rt.runtime.sampling.psnr import psnr

TASKS = ("scratches", "super-resolution x2", "super-resolution x4")
WAYS = {
    "`--aim fidelity`": {"aim": "fidelity"},
    "`--aim detail`": {"aim": "detail"},
    "from noise, `--preset fast`": {"preset": "fast"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", default="photo")
    parser.add_argument("--images", required=True, type=Path)
    parser.add_argument("--lpips", required=True)
    parser.add_argument("--count", type=int, default=3)
    given = parser.parse_args()
    restorer, lpips = Restorer.load(given.engine, "cpu"), Lpips(given.lpips)
    pictures = [read_photo(path).colour() for path in sorted(given.images.iterdir())[: given.count]]
    print("| task | plain method |", " | ".join(WAYS), "|\n| --- | ---: |", " ---: |" * len(WAYS))
    for task in TASKS:
        rows: dict[str, list[tuple[float, float]]] = {}
        for picture in pictures:
            clean, y, missing, operator = demo.measure(restorer, task, 0, picture)
            mine = restorer.at(*operator.image_shape[1:])
            other = plain.lanczos(y, clean.shape[1] // y.shape[1]) if missing is None else plain.biharmonic(y, missing)
            found = {"plain": np.clip(other, -1, 1)}
            found |= {name: mine.restore(y, operator, sigma=demo.SIGMA, **how).image for name, how in WAYS.items()}
            for name, image in found.items():
                pair = image[None], clean[None]
                rows.setdefault(name, []).append((float(psnr(*pair)[0]), float(lpips(*pair)[0])))
        print(f"| {task} |", " | ".join("{:.2f} / {:.3f}".format(*np.mean(row, axis=0)) for row in rows.values()), "|")


if __name__ == "__main__":
    main()
