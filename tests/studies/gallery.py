"""The pictures of docs/examples.md: each of examples/ run, its input beside its output.

python tests/studies/gallery.py -o docs

writes examples-NAME.png. Pictures are the packaged portrait (NASA) and scikit-image's cat (Chelsea, CC0); seed 0.
"""

import argparse
import ast
import contextlib
import importlib.util
import io
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from PIL import Image
from skimage import data

from frugal_rt import PORTRAIT
from frugal_rt.runtime.evaluation.contact_sheet import contact_sheet

EXAMPLES = Path(__file__).parents[2] / "examples"
Cells = list[tuple[Image.Image, str]]


def example(name: str, *arguments: str) -> ModuleType:
    """Import an example as its command line would find it."""
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.argv = [f"{name}.py", *arguments]
    return module


def cat() -> Image.Image:
    return Image.fromarray(data.chelsea()[30:222, 130:322])


def noisy(picture: Image.Image, levels: float) -> Image.Image:
    pixels = np.asarray(picture) + levels * np.random.default_rng(0).standard_normal((*picture.size[::-1], 3))
    return Image.fromarray(np.uint8(pixels.round().clip(0, 255)))


def pipeline() -> Cells:
    photo, mask = cat(), Image.new("L", (192, 192))
    for left in range(20, 180, 40):
        mask.paste(255, (left, 0, left + 5, 192))
    photo.paste((255, 255, 255), mask=mask)
    photo.save("photo.png")
    mask.save("mask.png")
    example("pipeline", "photo.png", "mask.png", "restored.png").main()
    return [(photo, "photo.jpg, mask.png"), (Image.open("restored.png"), "restored.png")]


def sampler() -> Cells:
    cat().save("photo.png")
    example("sampler", "photo.png", "restored.png").main()
    small = cat().resize((32, 32), Image.Resampling.BOX)
    return [(small, "half of 64x64"), (Image.open("restored.png"), "x_hat")]


def batch() -> Cells:
    Path("noisy").mkdir()
    noisy(Image.open(PORTRAIT).convert("RGB"), 32).save("noisy/a.png")
    example("batch", "celeba", "noisy", "restored").main()
    return [(Image.open("noisy/a.png"), "noisy/a.png"), (Image.open("restored/a.png"), "restored/a.png")]


def embedding() -> Cells:
    from fastapi.testclient import TestClient

    small = Image.open(PORTRAIT).convert("RGB").resize((16, 16), Image.Resampling.BOX)
    file = io.BytesIO()
    small.save(file, "PNG")
    os.environ["FRUGAL_RT_PLAN"] = "celeba"
    with TestClient(example("embedding").app) as client:
        answer = client.post("/upscale", content=file.getvalue())
    return [(small, "small.png"), (Image.open(io.BytesIO(answer.content)), "large.png")]


def nonlinear() -> Cells:
    cells: Cells = []
    for name in ("hdr", "jpeg", "phase"):
        example("nonlinear", "celeba", str(PORTRAIT), name).main()
        three = Image.open(f"{name}.png")
        side = three.height
        cells += [(three.crop((i * side, 0, (i + 1) * side, side)), f"{name}{', restored' * (i - 1)}") for i in (1, 2)]
    return cells


def quickstart() -> Cells:
    """Run the notebook's cells, and take the pictures that they show: clean, measured and restored side by side."""
    scope: dict[str, Any] = {}
    cells: Cells = []
    titles = iter(["super-resolution x4", "a colour filter array", "overexposed"])
    for cell in json.loads((EXAMPLES / "quickstart.ipynb").read_text())["cells"]:
        if cell["cell_type"] != "code":
            continue
        *body, last = ast.parse("".join(cell["source"])).body
        exec(compile(ast.Module(body, []), "quickstart", "exec"), scope)
        value = None
        if isinstance(last, ast.Expr):
            value = eval(compile(ast.Expression(last.value), "quickstart", "eval"), scope)
        else:
            exec(compile(ast.Module([last], []), "quickstart", "exec"), scope)
        if isinstance(value, Image.Image):
            side, title = value.height, next(titles)
            cells += [
                (value.crop((i * side, 0, (i + 1) * side, side)), title if i == 1 else "restored") for i in (1, 2)
            ]
    return cells


GALLERY: dict[str, Callable[[], Cells]] = {
    "pipeline": pipeline,
    "sampler": sampler,
    "batch": batch,
    "embedding": embedding,
    "nonlinear": nonlinear,
    "quickstart": quickstart,
}


@contextlib.contextmanager
def scratch() -> Iterator[None]:
    """An empty working directory."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            yield
        finally:
            os.chdir(before)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", required=True, type=Path)
    folder = parser.parse_args().output.resolve()
    for name, run in GALLERY.items():
        with scratch():
            sheet = contact_sheet([("", [(picture.convert("RGB"), caption) for picture, caption in run()])])
        sheet.save(folder / f"examples-{name}.png", optimize=True)
        print(name)


if __name__ == "__main__":
    main()
