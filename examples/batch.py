"""Every picture of a folder, each a request of its own: they share the network's calls, and come as they are done.

Pictures of another size than the prior's are cut to its shape and scaled; one that fails is told and stops no other.

python examples/batch.py celeba.plan noisy restored
"""

import sys
from concurrent.futures import as_completed
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from frugal_rt import FrugalError, Pool, operators


def main() -> None:
    plan, folder, out = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    out.mkdir(exist_ok=True)
    paths = sorted(folder.glob("*.png"))
    with Pool(plan, limit=max(1, len(paths))) as pool:
        _, height, width = pool.image_shape
        operator = operators.Denoise(pool.image_shape)
        names = {}
        for path in paths:
            try:
                picture = ImageOps.fit(Image.open(path).convert("RGB"), (width, height))
            except OSError as error:  # of this picture alone
                print(f"{path.name}: {error}", file=sys.stderr)
                continue
            y = np.asarray(picture, np.float32).transpose(2, 0, 1) / 127.5 - 1
            names[pool.submit(y, operator, sigma=0.25, preset="fast")] = path.name
        for future in as_completed(names):
            try:
                image = future.result().image
            except FrugalError as error:
                print(f"{names[future]}: {error}", file=sys.stderr)
                continue
            Image.fromarray(np.uint8((image.transpose(1, 2, 0) + 1) * 127.5 + 0.5)).save(out / names[future])
            print(names[future])


if __name__ == "__main__":
    main()
