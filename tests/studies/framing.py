"""The place of the face detector's box in a prior's training images, and the rate of detection in larger pictures.

    python tests/studies/framing.py --faces tune.tar --check report-20 --backgrounds ood

The first line is a framing.json: medians over the faces of `--faces`, each pasted into the middle of a background.
Then, for those of `--check`, in random places of backgrounds of several sizes, clean and noisy: the faces found where
they are, by the box that most of the detector's boxes agree on, and what was found elsewhere instead.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np

from frugal_rt.runtime.evaluation.picture_set import read_pictures
from frugal_rt.runtime.pictures.decoding import Photo
from frugal_rt.runtime.pictures.faces import find_faces
from frugal_rt.runtime.pictures.images import fit_photo, read_photo

NEAR = 0.15
"""How far a face's centre and its box's may lie apart, in shares of the face's side."""


def pasted(face: np.ndarray, background: Photo, side: int, left: int, top: int) -> Photo:
    canvas = fit_photo(background, (side, side), "crop").colour().pixels.copy()
    canvas[:, top : top + face.shape[1], left : left + face.shape[2]] = face
    return Photo(canvas)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("faces", "check", "backgrounds"):
        parser.add_argument(f"--{name}", required=True, type=Path)
    parser.add_argument("--size", type=int, default=64, help="side of the prior's images")
    given = parser.parse_args()
    size, random = given.size, np.random.default_rng(0)
    shape = (3, size, size)
    backgrounds = [read_photo(path) for path in sorted(given.backgrounds.iterdir())]
    boxes = []
    for i, face in enumerate(read_pictures(given.faces, shape).images):
        found = find_faces(pasted(face, backgrounds[i % len(backgrounds)], 2 * size, size // 2, size // 2))
        if found:
            boxes.append(np.array(found[0][:3]) / size - (0.5, 0.5, 0))
    x, y, side = np.median(boxes, axis=0)
    spread = np.std(boxes, axis=0)
    print(f'{{"centre": [{x:.3f}, {y:.3f}], "side": {side:.3f}}}')
    print(f"of {len(boxes)} faces found; deviations {spread[0]:.3f}, {spread[1]:.3f}, {spread[2]:.3f}")
    checked = read_pictures(given.check, shape).images
    print("| canvas | sigma | found | elsewhere | nowhere |")
    print("| --- | --- | ---: | ---: | ---: |")
    for side in (3 * size // 2, 3 * size, 5 * size):
        for sigma in (0, 0.1, 0.25):
            right = wrong = 0
            for i, face in enumerate(checked):
                left, top = random.integers(0, side - size + 1, 2)
                photo = pasted(face, backgrounds[i % len(backgrounds)], side, left, top)
                noise = sigma * random.standard_normal(photo.pixels.shape)
                found = find_faces(replace(photo, pixels=np.float32(photo.pixels + noise)))
                if found:
                    off = np.abs(np.array(found[0][:2]) / size - (left / size + x, top / size + y)).max()
                    right, wrong = right + (off < NEAR), wrong + (off >= NEAR)
            print(f"| {side}x{side} | {sigma} | {right} | {wrong} | {len(checked) - right - wrong} |", flush=True)


if __name__ == "__main__":
    main()
