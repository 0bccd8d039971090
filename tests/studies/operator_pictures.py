"""The pictures of docs/operators.md: what each operator does to the packaged portrait, and what becomes of it.

python tests/studies/operator_pictures.py --engine celeba.plan --backend openvino -o docs

writes a sheet for each part of that page, operators-NAME.png, and prints every PSNR.
"""

import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np
from PIL import Image
from scipy.ndimage import convolve

from frugal_rt import Restorer
from frugal_rt.runtime.evaluation.contact_sheet import contact_sheet
from frugal_rt.runtime.evaluation.suite import scratches
from frugal_rt.runtime.operators import Deblur, Operator, motion_kernel
from frugal_rt.runtime.pictures.damage import Damage
from frugal_rt.runtime.pictures.decoding import Photo, decode_photo
from frugal_rt.runtime.pictures.images import PORTRAIT, fit_photo, read_photo, to_picture, write_png
from frugal_rt.runtime.pictures.measurement import prepare
from frugal_rt.runtime.pictures.simulate import compress, simulate
from frugal_rt.runtime.sampling.noise import Use, generator, normal
from frugal_rt.runtime.sampling.psnr import psnr

EXAMPLES = Path(__file__).parents[2] / "examples" / "nonlinear.py"
SIGMA = 0.01
NAMES = {"dps": "DPS", "closed-form": "closed form", "frugal": "frugal"}
AIMS = {"fidelity": "for fidelity", "detail": "for detail"}
Cell = tuple[Image.Image, str]

TREMOR = np.array(
    [
        [0, 2, 3, 0, 0, 0, 0],
        [0, 3, 4, 1, 0, 0, 0],
        [0, 0, 1, 5, 3, 0, 0],
        [0, 0, 0, 2, 6, 8, 0],
        [0, 0, 0, 0, 0, 9, 4],
        [0, 0, 0, 0, 0, 7, 2],
        [0, 0, 0, 0, 0, 0, 0],
    ],
    float,
)
"""A kernel as a hand's tremor draws it."""


class Copied(Deblur):
    """The blur as DDRM's SVD file has it: singular values repeated for each channel, coefficients interleaved."""

    def spectrum(self, like: Any) -> Any:
        values = self._s.reshape(-1)
        order = np.argsort(-values, kind="stable")
        copied = np.empty((len(values), 3))
        copied[order] = np.tile(values[order], 3).reshape(-1, 3)
        return self.place("copied", copied.T.reshape(1, 3, *self.image_shape[1:]), like)


class Case(NamedTuple):
    """A measurement of the portrait, and what it is restored with."""

    title: str
    operator: Operator
    y: np.ndarray
    sigma: float = SIGMA
    shown: Cell | None = None
    """In place of the measurement."""
    methods: tuple[str, ...] = tuple(NAMES)


def damaged(clean: np.ndarray, title: str, **damage: Any) -> Case:
    """Damage it as `frugal-rt degrade` does, seed 0."""
    said = Damage(**{"sigma": SIGMA, **damage})
    y, _, operator = simulate(Photo(clean), said, seed=0)
    return Case(f"{title}, sigma {said.sigma}", operator, y, said.sigma)


def pixels(clean: np.ndarray) -> list[Case]:
    return [
        damaged(clean, "denoise", task="denoise", sigma=0.25),
        damaged(clean, "inpaint, --hole 24x24", task="inpaint", hole=(24, 24)),
        damaged(clean, "inpaint, 70% missing at random", task="inpaint", share=0.7),
        damaged(clean, "outpaint, --keep 40x40", task="outpaint", keep=(40, 40)),
        damaged(clean, "colorize", task="colorize"),
    ]


def resolution(clean: np.ndarray) -> list[Case]:
    return [
        damaged(clean, "sr, --scale 4", task="sr", scale=4),
        damaged(clean, "sr, --scale 4 --filter bicubic", task="sr", scale=4, filter="bicubic"),
        damaged(clean, "sr, --scale 4 --kernel gaussian:2", task="sr", scale=4, kernel="gaussian:2"),
    ]


def kernels(clean: np.ndarray) -> list[Case]:
    return [
        damaged(clean, "deblur, --kernel gaussian:2", task="deblur", kernel="gaussian:2"),
        damaged(clean, "deblur, --kernel gaussian:4,1,30", task="deblur", kernel="gaussian:4,1,30"),
        damaged(clean, "deblur, --kernel uniform:7", task="deblur", kernel="uniform:7"),
        damaged(clean, "deblur, --kernel motion:11,30", task="deblur", kernel="motion:11,30"),
        damaged(clean, "deblur, --kernel tremor.png", task="deblur", kernel=TREMOR),
    ]


def borders(clean: np.ndarray) -> list[Case]:
    """One photograph of a scene that goes on past the border, restored by three assumptions about it."""
    weights = motion_kernel(9, 30)
    blurred = convolve(clean, weights[None], mode="mirror")  # the portrait goes on as its own mirror image
    photo = Photo(blurred + np.float32(SIGMA) * normal(clean.shape, 0, 0, Use.MEASUREMENT))
    cases = []
    for border in ("circular", "valid", "taper"):
        job = prepare(photo, clean.shape, Damage(task="deblur", kernel=weights, border=border, sigma=SIGMA))
        title = f"deblur, --kernel motion:9,30 --border {border}, sigma {SIGMA}"
        cases.append(Case(title, job.operator, job.y, SIGMA))
    return cases


def compositions(clean: np.ndarray) -> list[Case]:
    return [
        damaged(clean, "colorize, half of the grey pixels missing", task="colorize", share=0.5),
        damaged(clean, "sr, --scale 4, a quarter of the small picture missing", task="sr", scale=4, share=0.25),
        damaged(clean, "deblur, --kernel gaussian:1.5, half missing", task="deblur", kernel="gaussian:1.5", share=0.5),
    ]


def vectors(clean: np.ndarray) -> list[Case]:
    """Measurements that are no pictures: shown as A^T y."""
    pixels = clean[0].size
    matrix = generator(0, 0, Use.MEASUREMENT, step=2).standard_normal((pixels // 4, pixels)) / pixels**0.5
    cases = [
        damaged(clean, "sense, --keep-fraction 0.25", task="sense", fraction=0.25),
        damaged(clean, "matrix, random, 1024 x 4096 for each channel", task="matrix", matrix=matrix.astype(np.float32)),
    ]
    backward = [np.asarray(case.operator.vjp(clean[None], case.y[None]))[0] for case in cases]
    return [case._replace(shown=(to_picture(back), "A^T y")) for case, back in zip(cases, backward, strict=True)]


def noisy(clean: np.ndarray) -> list[Case]:
    """Noisy deblurring by our singular values, and by the same ones in the order that is copied around."""
    ours = damaged(clean, "deblur, --kernel gaussian:2", task="deblur", kernel="gaussian:2", sigma=0.05)
    copied = Copied.gaussian(clean.shape, 2.0)
    blur = copied.U(copied.spectrum(clean[None]) * copied.Vt(clean[None]))[0]
    shown = (to_picture(blur), 'its own "blur"')
    title = "the same measurement, singular values in the copied order"
    return [ours, Case(title, copied, ours.y, ours.sigma, shown, ("closed-form", "frugal"))]


def jpeg(clean: np.ndarray) -> list[Case]:
    """Files as they are decoded, whole and with strokes over the picture before it was saved."""
    cases = []
    for quality, mask in ((10, None), (30, None), (30, scratches(clean.shape))):
        photo = Photo(clean if mask is None else np.where(mask, np.float32(1), clean))
        file = decode_photo(compress(photo, Damage(task="jpeg", quality=quality)), "y.jpg")
        job = prepare(file, clean.shape, Damage(task="jpeg", mask=mask))
        shown = to_picture(file.pixels), f"as decoded  {psnr(file.pixels[None], clean[None])[0]:.1f} dB"
        title = f"jpeg, quality {quality}" + ("" if mask is None else ", --mask of a dozen strokes")
        cases.append(Case(title, job.operator, job.y, job.sigma, shown, tuple(AIMS)))
    return cases


def nonlinear(clean: np.ndarray) -> list[Case]:
    """The examples that have no singular values, by DPS."""
    cases = []
    for name, build in runpy.run_path(str(EXAMPLES))["EXAMPLES"].items():
        operator = build(clean.shape)
        noise = normal(operator.measurement_shape, 0, 0, Use.MEASUREMENT)
        y = operator.A(clean[None])[0] + np.float32(SIGMA) * noise
        shown = None if y.shape == clean.shape else (to_picture(y * 2 - 1), "measured")
        cases.append(Case(f"examples/nonlinear.py {name}, sigma {SIGMA}", operator, y, SIGMA, shown, ("dps",)))
    return cases


SHEETS: dict[str, Callable[[np.ndarray], list[Case]]] = {
    build.__name__: build
    for build in (pixels, resolution, kernels, borders, compositions, jpeg, vectors, noisy, nonlinear)
}


def measured(case: Case, clean: np.ndarray) -> Cell:
    """The measurement as a picture; one that lost its border, in its place."""
    if case.shown is not None:
        return case.shown
    y, missing = case.y, case.operator.missing
    caption = "measured"
    if y.shape == clean.shape and missing is None:
        caption += f"  {psnr(y[None], clean[None])[0]:.1f} dB"
    lost = [full - kept for full, kept in zip(clean.shape[1:], y.shape[1:], strict=True)]
    if 0 < max(lost) < clean.shape[1] // 2:
        around = [(n // 2, n - n // 2) for n in lost]
        missing = np.pad(np.zeros(y.shape[1:], bool), around, constant_values=True)
        y = np.pad(y, [(0, 0), *around])
    return to_picture(y, missing), caption


@click.command(help=__doc__)
@click.option("--engine", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--backend", default="auto", show_default=True)
@click.option("--steps", default=100, show_default=True, help="T")
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True)
@click.argument("sheets", nargs=-1, type=click.Choice(list(SHEETS)))
def main(engine: Path, backend: str, steps: int, output: Path, sheets: tuple[str, ...]) -> None:
    restorer = Restorer.load(engine, backend)
    _, height, width = restorer.image_shape
    clean = fit_photo(read_photo(PORTRAIT), (width, height), "resize").pixels
    output.mkdir(parents=True, exist_ok=True)
    for name in sheets or SHEETS:
        rows = []
        for case in SHEETS[name](clean):
            cells = [(to_picture(clean), "clean"), measured(case, clean)]
            for method in case.methods:
                asked: dict[str, Any] = {"aim": method} if method in AIMS else {"steps": steps, "method": method}
                image = restorer.restore(case.y, case.operator, sigma=case.sigma, seed=0, **asked).image
                called = {**NAMES, **AIMS}[method]
                cells.append((to_picture(image), f"{called}  {psnr(image[None], clean[None])[0]:.1f} dB"))
            rows.append((case.title, cells))
            click.echo(f"{case.title}: {', '.join(caption for _, caption in cells[1:])}")
        write_png(output / f"operators-{name}.png", contact_sheet(rows, tile=128))


if __name__ == "__main__":
    main()
