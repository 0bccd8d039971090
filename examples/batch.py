"""Restore every picture of a folder, each as a request of its own. Requests share network calls.

Every picture is restored at its own size. A failure is printed and stops no other.

python examples/batch.py photo noisy restored
"""

import sys
from concurrent.futures import as_completed
from pathlib import Path

from frugal_rt import FrugalError, Pool, operators, read, write


def main() -> None:
    plan, folder, out = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    out.mkdir(exist_ok=True)
    paths = sorted(folder.glob("*.png"))
    with Pool(plan, limit=max(1, len(paths))) as pool:
        names = {}
        for path in paths:
            try:
                y = read(path)
                operator = operators.Denoise(y.shape)
                names[pool.submit(y, operator, sigma=0.25, preset="fast")] = path.name  # 32 grey levels
            except FrugalError as error:  # it concerns this picture alone
                print(f"{path.name}: {error}", file=sys.stderr)
        for future in as_completed(names):
            try:
                image = future.result().image
            except FrugalError as error:
                print(f"{names[future]}: {error}", file=sys.stderr)
                continue
            write(out / names[future], image)
            print(names[future])


if __name__ == "__main__":
    main()
