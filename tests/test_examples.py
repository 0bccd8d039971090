"""examples/ and the code in docs/operators.md, run."""

import importlib.util
import io
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import frugal_rt
from frugal_rt import InputError, Restorer, operators, to_pil

from .commands import frugal

ROOT = Path(__file__).parents[1]
DOCS = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
SHAPE = (3, 16, 24)


def example(name: str):
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def nonlinear():
    return example("nonlinear")


def picture(seed: int = 0) -> np.ndarray:
    """A smooth random picture of SHAPE in whole grey levels, on [-1, 1]."""
    levels = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), dtype=np.uint8)
    image = Image.fromarray(levels).resize(SHAPE[:0:-1], Image.Resampling.BICUBIC)
    return np.asarray(image).transpose(2, 0, 1) / 127.5 - 1


def png(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.uint8((image.transpose(1, 2, 0) + 1) * 127)).save(file, "PNG")
    return file.getvalue()


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)))


@pytest.mark.parametrize("name", ["hdr", "phase"])
def test_their_pullbacks_are_their_derivatives(nonlinear, name):
    operator = nonlinear.EXAMPLES[name](SHAPE)
    rng = np.random.default_rng(0)
    x, d, r = (
        picture()[None] * 0.99 + 1e-3,
        rng.normal(size=(1, *SHAPE)),
        rng.normal(size=(1, *operator.measurement_shape)),
    )
    slope = (operator.A(x + 1e-6 * d) - operator.A(x - 1e-6 * d)) / 2e-6
    assert (slope * r).sum() == pytest.approx((d * operator.vjp(x, r)).sum(), rel=1e-4)


@pytest.mark.parametrize("quality", [10, 30, 75])
def test_jpeg_is_pillow_s(nonlinear, quality):
    x, file = picture(), io.BytesIO()
    levels = np.round((x.transpose(1, 2, 0) + 1) * 127.5).astype(np.uint8)
    Image.fromarray(levels).save(file, "JPEG", quality=quality, subsampling=0)
    theirs = np.asarray(Image.open(file), float).transpose(2, 0, 1)
    for array in (np.asarray, torch.asarray):
        ours = (np.asarray(nonlinear.jpeg(SHAPE, quality).A(array(x[None])))[0] + 1) * 127.5
        lost = np.abs(ours - levels.transpose(2, 0, 1)).mean()
        assert np.abs(ours - theirs).mean() < 0.35 * lost  # theirs rounds YCbCr to whole levels first


@pytest.mark.parametrize("name", ["hdr", "jpeg", "phase"])
def test_dps_takes_them_to_the_end_and_another_method_refuses(nonlinear, name, tiny_plan):
    restorer = Restorer.load(tiny_plan)
    operator = nonlinear.EXAMPLES[name](restorer.image_shape)
    y = operator.A(np.zeros((1, *restorer.image_shape), np.float32) + np.float32(0.2))
    result = restorer.restore(y[0], operator, steps=4)
    assert result.k == (0,)
    assert result.gradients == (4,)
    with pytest.raises(InputError, match=f"{name} is not a linear operator, which closed-form needs"):
        restorer.restore(y[0], operator, steps=4, method="closed-form")


def test_an_example_runs_from_the_command_line(nonlinear, tiny_plan, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.fromarray(np.uint8((picture() + 1) * 127).transpose(1, 2, 0)).save("face.png")
    monkeypatch.setattr(sys, "argv", ["nonlinear.py", str(tiny_plan), "face.png", "phase", "--steps", "4"])
    nonlinear.main()
    assert Image.open("phase.png").size == (48, 16)


def test_the_code_of_the_operators_page_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "operators.md").read_text(), re.DOTALL)
    assert blocks
    scope: dict = {}
    for block in blocks:
        exec(compile(block, "operators.md", "exec"), scope)


def test_the_notebook_runs(tiny_plan, tmp_path, monkeypatch):
    reason = "needs nbclient, nbformat and ipykernel (pip install 'frugal-rt[test]')"
    nbformat, nbclient, _ = (pytest.importorskip(name, reason=reason) for name in ("nbformat", "nbclient", "ipykernel"))
    notebook = nbformat.read(ROOT / "examples" / "quickstart.ipynb", as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not any(cell.outputs for cell in cells), "committed with outputs"
    for name, value in (("PLAN", tiny_plan), ("STEPS", 4)):
        monkeypatch.setenv(f"FRUGAL_RT_{name}", str(value))
    for name in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR"):
        monkeypatch.setenv(name, str(tmp_path))
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = [output for cell in cells for output in cell.outputs if "image/png" in output.get("data", {})]
    assert len(shown) == 3


def test_a_pool_inside_another_application(local_plan, monkeypatch):
    reason = "needs fastapi and its test client's httpx (pip install 'frugal-rt[test]')"
    testclient = pytest.importorskip("fastapi.testclient", reason=reason, exc_type=(ImportError, RuntimeError))
    monkeypatch.setenv("FRUGAL_RT_PLAN", str(local_plan))
    small = picture()[:, :8, :12]
    embedding = example("embedding")
    with testclient.TestClient(embedding.app) as client:
        answer = client.post("/upscale", content=png(small))
        assert client.post("/upscale", content=b"no picture").status_code == 422
        monkeypatch.setattr(embedding, "LARGEST", 95)
        assert client.post("/upscale", content=png(small)).status_code == 413
    assert answer.status_code == 200, answer.text
    restorer = Restorer.load(local_plan).at(32, 48)
    operator = operators.SuperResolution(restorer.image_shape, 4)
    y = pixels(png(small)).transpose(2, 0, 1) / np.float32(127.5) - 1
    alone = restorer.restore(y, operator, sigma=0.01, preset="fast").image
    np.testing.assert_array_equal(pixels(answer.content), np.asarray(to_pil(alone)))


def test_a_folder_by_a_pool(local_plan, tmp_path, monkeypatch, capsys):
    (tmp_path / "noisy").mkdir()
    for seed in range(3):
        (tmp_path / "noisy" / f"{seed}.png").write_bytes(png(picture(seed)))
    monkeypatch.setattr(sys, "argv", ["batch.py", str(local_plan), str(tmp_path / "noisy"), str(tmp_path / "out")])
    example("batch").main()
    assert sorted(capsys.readouterr().out.split()) == ["0.png", "1.png", "2.png"]
    assert {Image.open(path).size for path in (tmp_path / "out").iterdir()} == {SHAPE[:0:-1]}


@pytest.fixture
def photographs(tmp_path, monkeypatch):
    """The working directory, with a smooth photograph and a mask."""
    monkeypatch.chdir(tmp_path)
    levels = np.random.default_rng(0).integers(30, 220, (5, 6, 3), dtype=np.uint8)
    Image.fromarray(levels).resize((72, 64), Image.Resampling.BICUBIC).save("photo.png")
    mask = np.zeros((64, 72), np.uint8)
    mask[20:30, 30:33] = 255
    Image.fromarray(mask).save("mask.png")


def test_a_pipeline_is_the_command(photographs, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["pipeline.py", "photo.png", "mask.png", "called.png"])
    example("pipeline").main()
    assert "of the pixels are missing" in capsys.readouterr().out
    options = ["--task", "inpaint", "--mask", "mask.png", "--preset", "fast", "-o", "written.png"]
    assert frugal("restore", "photo.png", *options).exit_code == 0
    np.testing.assert_array_equal(np.asarray(Image.open("called.png")), np.asarray(Image.open("written.png")))


def test_a_sampler_beats_its_measurement(photographs, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["sampler.py", "photo.png", "restored.png"])
    example("sampler").main()
    assert Image.open("restored.png").size == (64, 64)
    assert float(capsys.readouterr().out.split()[0]) > 30


def test_examples_import_public_names_alone():
    names = ROOT.glob("examples/*")
    texts = {path.name: path.read_text() for path in names if path.suffix in (".py", ".ipynb")}
    pages = {path.name: "\n".join(re.findall(r"```python\n(.*?)```", path.read_text(), re.DOTALL)) for path in DOCS}
    for name, text in {**texts, **pages}.items():
        assert not re.search(r"(from|import) frugal_rt\.", text), name
        for names in re.findall(r"from frugal_rt import ([\w, ]+)", text):
            assert {one.strip() for one in names.split(",")} <= set(frugal_rt.__all__), name


def test_the_pool_of_docs_service_runs_as_a_script(local_plan, tmp_path):
    (script,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "service.md").read_text(), re.DOTALL)
    (tmp_path / "photo").symlink_to(local_plan)  # a file of that name goes before the prior
    (tmp_path / "script.py").write_text(script)
    run = subprocess.run([sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, check=True)
    lines = run.stdout.splitlines()
    assert lines[0] == "(3, 64, 96)"
    assert sum(line.startswith("Moved(") for line in lines) == 20


def test_every_example_has_its_picture():
    page = (ROOT / "docs" / "examples.md").read_text()
    for path in ROOT.glob("examples/*.*"):
        assert f"`examples/{path.name}`" in page
        assert f"(examples-{path.stem}.png)" in page
        assert (ROOT / "docs" / f"examples-{path.stem}.png").exists()
