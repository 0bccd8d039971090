"""JPEG files restored by both aims, beside the file as viewers show it: PSNR, LPIPS, and whether they re-encode to it.

    python tests/studies/jpeg.py --images ../shared/data/photos/report-20 --lpips lpips_alex.onnx

Means over the pictures at their own size, 4:2:0 by libjpeg, seed 0. "differ" counts the coefficients of all pictures
that are others when the result, 8 bits a value, is encoded with the file's own tables and sampling.
"""

import argparse
import io
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from frugal_rt.engines.onnxruntime.lpips import Lpips
from frugal_rt.runtime.pictures.damage import Damage
from frugal_rt.runtime.pictures.decoding import decode_photo
from frugal_rt.runtime.pictures.images import read_photo, to_picture
from frugal_rt.runtime.pictures.measurement import Measurement, own_size, prepare
from frugal_rt.runtime.pictures.simulate import compress
from frugal_rt.runtime.restorer import Restorer
from frugal_rt.runtime.sampling.psnr import psnr

AIMS = ("fidelity", "detail")
JPEG = Damage(task="jpeg")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", default="photo")
    parser.add_argument("--images", required=True, type=Path)
    parser.add_argument("--lpips", required=True)
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--every", type=int, default=1, help="take every N-th picture")
    parser.add_argument("--qualities", default="10,30,75", help="libjpeg's")
    given = parser.parse_args()
    restorer, lpips = Restorer.load(given.engine, "cpu"), Lpips(given.lpips)
    pictures = sorted(given.images.iterdir())[:: given.every][: given.count]
    print("| quality | as decoded |", " | ".join(f"`--aim {aim}`" for aim in AIMS), "| differ |")
    print("| --- | ---: |", " ---: |" * len(AIMS), "---: |")
    for quality in map(int, given.qualities.split(",")):
        rows: dict[str, list[tuple[float, float]]] = {}
        differ = total = 0
        for path in pictures:
            clean = read_photo(path).colour()
            photo = decode_photo(compress(clean, Damage(task="jpeg", quality=quality)), "y.jpg")
            shape = own_size(photo, JPEG, restorer.image_shape, any_size=True).image_shape
            job = prepare(photo, shape, JPEG)
            found = {"decoded": photo.pixels}
            for aim in AIMS:
                found[aim] = job.shown(
                    restorer.at(*shape[1:]).restore(job.y, job.operator, sigma=job.sigma, aim=aim).image
                )
                differ += _differing(job, found[aim], photo.jpeg.data)
                total += job.y.size
            for name, image in found.items():
                pair = image[None], clean.pixels[None]
                rows.setdefault(name, []).append((float(psnr(*pair)[0]), float(lpips(*pair)[0])))
        cells = ["{:.2f} / {:.4f}".format(*np.mean(row, axis=0)) for row in rows.values()]
        print(f"| {quality} |", " | ".join(cells), f"| {differ} of {total} |", flush=True)


def _differing(job: Measurement, image: np.ndarray, given: bytes) -> int:
    """Coefficients of a result that are not the file's, once Pillow has encoded it as the file was."""
    with Image.open(io.BytesIO(given)) as picture:
        assert isinstance(picture, JpegImageFile)
        tables = picture.quantization
    file = io.BytesIO()
    to_picture(image).save(file, "JPEG", qtables=tables, subsampling="4:2:0")
    again = decode_photo(file.getvalue(), "again.jpg")
    return int(np.count_nonzero(np.abs(prepare(again, job.operator.image_shape, JPEG).y - job.y) > 0.5))


if __name__ == "__main__":
    main()
