"""The noise that is estimated in pictures, as PNG and as JPEG.

    python tests/studies/noise_levels.py --images ../shared/data/photos/report-20

Means in grey levels of 255, and how many of the pictures read as clean.
"""

import argparse
import io
from pathlib import Path

import numpy as np

from frugal_rt.runtime.pictures.damage import sigma_of
from frugal_rt.runtime.pictures.decoding import decode_photo
from frugal_rt.runtime.pictures.images import read_photo, to_picture
from frugal_rt.runtime.pictures.noise_level import CLEAN, estimate_sigma

FORMATS = {"PNG": {"format": "PNG"}} | {f"JPEG, quality {q}": {"format": "JPEG", "quality": q} for q in (95, 85, 75)}
LEVELS = (0, 5, 10, 25, 50)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", required=True, type=Path)
    clean = [read_photo(path).colour().pixels for path in sorted(parser.parse_args().images.iterdir())]
    random = np.random.default_rng(0)
    print("| picture |", " | ".join(map(str, LEVELS)), "|\n| --- |", " ---: |" * len(LEVELS))
    for name, how in FORMATS.items():
        cells = []
        for level in LEVELS:
            found = []
            for one in clean:
                file = io.BytesIO()
                to_picture(one + sigma_of(level) * random.standard_normal(one.shape)).save(file, **how)
                found.append(estimate_sigma(decode_photo(file.getvalue(), "picture").pixels))
            cells.append(f"{127.5 * np.mean(found):.2f} ({sum(one < CLEAN for one in found)})")
        print(f"| {name} |", " | ".join(cells), "|", flush=True)


if __name__ == "__main__":
    main()
