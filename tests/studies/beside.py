"""A photograph of 512x512, damaged, beside the best plain method and ours: the picture of README.

    python tests/studies/beside.py --tasks motion --crop 110,0,256 -o docs/beside.jpg

NASA's portrait of Eileen Collins (1993, public domain), from scikit-image; seed 0. BM3D needs the package `bm3d`.
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image
from skimage.data import astronaut

from frugal_rt.runtime.evaluation.classical import PlainMethod
from frugal_rt.runtime.evaluation.contact_sheet import contact_sheet
from frugal_rt.runtime.evaluation.suite import EVERYDAY, measure, seen
from frugal_rt.runtime.pictures.images import to_picture
from frugal_rt.runtime.restorer import Restorer
from frugal_rt.runtime.sampling.psnr import psnr

BEST = {
    "denoise25": "BM3D",
    "text": "biharmonic",
    "scratches": "biharmonic",
    "sr2": "Lanczos",
    "sr4": "Lanczos",
    "blur": "Wiener",
    "motion": "Wiener",
    "jpeg10": "as decoded",
}
"""The plain method of the highest PSNR on a task (docs/plain-methods.md)."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", default="photo")
    parser.add_argument("--tasks", default="blur")
    parser.add_argument("--aim", default="detail")
    parser.add_argument("--crop", metavar="LEFT,TOP,SIDE", help="show this square; PSNR is of the whole photograph")
    parser.add_argument("-o", "--output", required=True, type=Path)
    given = parser.parse_args()
    clean = np.asarray(np.moveaxis(astronaut(), -1, 0) / 127.5 - 1, np.float32)
    restorer = Restorer.load(given.engine, "cpu").at(*clean.shape[1:])
    rows = []
    for name in given.tasks.split(","):
        task, method = EVERYDAY[name], PlainMethod(BEST[name])
        operator = task.operator(clean.shape)
        y = measure(operator, clean[None], task.sigma, 0)
        found = method.restore(y, operator, task.sigma, 0, 0, lambda event: None)
        ours = restorer.restore(y[0], operator, sigma=task.sigma, aim=given.aim).image
        cells = [
            (to_picture(seen(operator, y[0]), operator.missing), task.title(clean.shape)),
            (to_picture(found.images[0]), _caption(method.name, found.images[0], clean)),
            (to_picture(ours), _caption(f"frugal-rt, --aim {given.aim}", ours, clean)),
        ]
        print(*(caption for _, caption in cells), sep="; ")
        rows.append(("", [(_shown(picture, given.crop), caption) for picture, caption in cells]))
    side = clean.shape[1] if given.crop is None else int(given.crop.split(",")[2])
    contact_sheet(rows, tile=side).save(given.output, quality=90)


def _shown(picture: Image.Image, crop: str | None) -> Image.Image:
    """Cut the square "left,top,side" out of a picture; None shows all of it."""
    if crop is None:
        return picture
    left, top, side = map(int, crop.split(","))
    return picture.crop((left, top, left + side, top + side))


def _caption(name: str, image: np.ndarray, clean: np.ndarray) -> str:
    return f"{name}: {psnr(image[None], clean[None])[0]:.1f} dB"


if __name__ == "__main__":
    main()
