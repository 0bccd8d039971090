"""Large faces with noise, restored at the prior's resolution: enlarged alone, and with the photograph's own detail.

    python tests/studies/sharp_faces.py --engine celeba.plan --images ../shared/data/faces256 --lpips lpips_alex.onnx

PSNR / LPIPS within the largest face's frame, but for its fading border, against the photograph without the noise;
means over the pictures.
"""

import argparse
from pathlib import Path

import numpy as np

from frugal_rt.engines.onnxruntime.lpips import Lpips
from frugal_rt.runtime.pictures.align import FEATHER, Aligned, align
from frugal_rt.runtime.pictures.damage import Damage
from frugal_rt.runtime.pictures.decoding import Photo
from frugal_rt.runtime.pictures.images import read_photo
from frugal_rt.runtime.restorer import Restorer
from frugal_rt.runtime.sampling.noise import Use, normal
from frugal_rt.runtime.sampling.psnr import psnr


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", required=True)
    parser.add_argument("--images", required=True, type=Path, help="a folder of photographs with a face each")
    parser.add_argument("--lpips", required=True)
    parser.add_argument("--levels", default="5,10,25", help="deviations of the noise, in grey levels")
    given = parser.parse_args()
    restorer, lpips = Restorer.load(given.engine), Lpips(given.lpips)
    print("| noise | noisy | enlarged alone | with its detail |")
    print("| ---: | ---: | ---: | ---: |")
    for level in map(float, given.levels.split(",")):
        figures = []
        for i, path in enumerate(sorted(given.images.iterdir())):
            clean = read_photo(path).colour().pixels
            noise = np.float32(level / 127.5) * normal(clean.shape, 0, i, Use.MEASUREMENT)
            photo = Photo(np.clip(clean + noise, -1, 1))
            face = align(photo, restorer.plan, Damage()).faces[0]
            found = restorer.restore(face.measurement.y[None], face.measurement.operator, sigma=face.measurement.sigma)
            blind = face._replace(sigma=np.inf)  # to it, all of the photograph's detail is noise
            pasted = [Aligned(photo, [one]).paste([found.image]) for one in (blind, face)]
            border = round(FEATHER * face.frame.side)
            _, *parts = face.frame.places(photo)
            rows, columns = (slice(part.start + border, part.stop - border) for part in parts)
            own = np.ascontiguousarray(clean[None][..., rows, columns])
            for image in (photo.pixels[None], *pasted):
                inside = np.ascontiguousarray(image[..., rows, columns])
                figures.append((float(psnr(inside, own)[0]), float(lpips(inside, own)[0])))
        means = np.reshape(figures, (-1, 3, 2)).mean(axis=0)
        print(f"| {level:g} | {' | '.join(f'{decibel:.2f} / {far:.3f}' for decibel, far in means)} |", flush=True)


if __name__ == "__main__":
    main()
