"""The package's structure: its imports, their direction, and the contents of the wheel."""

import ast
import importlib
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    tomllib = None

ROOT = Path(__file__).parents[1]
LAYERS = {"engines": set(), "runtime": {"engines"}, "export": {"engines"}, "cli": {"engines", "runtime", "export"}}


@pytest.mark.parametrize(
    "statement", ["import frugal_rt", "from frugal_rt.cli import main; main(['--help'], standalone_mode=False)"]
)
def test_importing_and_help_bring_in_no_framework(statement):
    heavy = ["torch", "onnxruntime", "onnx", "diffusers", "tensorrt", "PIL"]
    check = f"{statement}\nimport sys\nprint([m for m in {heavy} if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines()[-1] == "[]"


def test_importing_and_help_are_quick():
    """Well under a second of CPU; the best of three, so that a busy machine does not fail it."""
    for statement in ("import frugal_rt", "from frugal_rt.cli import main; main(['--help'], standalone_mode=False)"):
        times = []
        for _ in range(3):
            timed = f"{statement}\nimport time\nprint(time.process_time())"
            run = subprocess.run([sys.executable, "-c", timed], check=True, capture_output=True, text=True)
            times.append(float(run.stdout.splitlines()[-1]))
        assert min(times) < 1


def test_every_public_name_can_be_imported():
    import frugal_rt

    for name in frugal_rt.__all__:
        assert getattr(frugal_rt, name) is not None
    with pytest.raises(AttributeError):
        _ = frugal_rt.nothing


@pytest.mark.parametrize("layer", LAYERS)
def test_imports_go_one_way(layer):
    for path in (ROOT / layer).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            outwards = isinstance(node, ast.ImportFrom) and node.level == len(path.relative_to(ROOT).parts)
            if outwards and node.module:
                assert node.module.split(".")[0] in LAYERS[layer], f"{path}: from {node.module}"


def test_the_runtime_names_no_framework():
    for path in (ROOT / "runtime").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            assert not {name.split(".")[0] for name in names} & {"torch", "onnxruntime", "onnx"}, path


@pytest.mark.skipif(tomllib is None, reason="needs tomllib (Python 3.11)")
def test_the_package_list_matches_the_folders():
    setup = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = {path.parent for path in ROOT.glob("*/**/__init__.py")}
    ours = {
        "frugal_rt." + ".".join(path.relative_to(ROOT).parts)
        for path in folders
        if path.parts[len(ROOT.parts)] in LAYERS
    }
    assert set(setup["packages"]) == {"frugal_rt"} | ours


OTHERS = (".git", ".venv", ".cache", ".editable", "build", "docs")
"""Folders that a wheel is not built from."""
CALLER = """import numpy as np
import torch
from frugal_rt import Pool, Result, Restorer, operators, psnr, read, to_pil, write
restorer = Restorer.load("photo")
reveal_type(restorer("photo.jpg", task="inpaint", mask="m.png").image)
reveal_type(restorer(np.zeros((8, 8, 3), np.uint8), scale=2, preset="fast").image)
reveal_type(restorer(torch.zeros(3, 8, 8), range=(0, 1)).image)
reveal_type(restorer.restore(np.zeros((3, 64, 64)), operators.Denoise((3, 64, 64)), sigma=0.1).image)
def shown(result: Result) -> None: write("x.png", to_pil(result.image))
reveal_type(psnr(read("a.png"), read("b.png", size=(64, 64))))
restorer("photo.jpg", preset="quick")
restorer.restore(np.zeros((3, 64, 64)), "denoise")
restorer.restore(np.zeros((3, 64, 64)), operators.Denoise((3, 64, 64)), preset="quick")
Pool("photo").submit(np.zeros((3, 64, 64)), operators.Denoise((3, 64, 64)), aim="best")
"""
EXPECTED = {
    5: 'Revealed type is "PIL.Image.Image"',
    6: 'Revealed type is "numpy.ndarray',
    7: 'Revealed type is "torch._tensor.Tensor"',
    8: 'Revealed type is "numpy.ndarray',
    10: 'Revealed type is "float"',
    11: 'No overload variant of "__call__" of "Restorer" matches',
    12: 'has incompatible type "str"; expected "Operator"',
    13: "has incompatible type \"Literal['quick']\"",
    14: "has incompatible type \"Literal['best']\"",
}
"""Reports of mypy --strict by line of CALLER, with errors on no other line."""


def as_installed(tmp_path: Path) -> str:
    """The Python of what is installed here: `make` installs it editable."""
    return sys.executable


def by_wheel(tmp_path: Path) -> str:
    """A Python with the package's wheel, and all else that is installed here."""
    for name in ("build", "setuptools"):
        pytest.importorskip(name, reason=f"needs {name} (pip install 'frugal-rt[test]' setuptools)")
    source, venv = tmp_path / "source", tmp_path / "venv"
    shutil.copytree(
        ROOT, source, ignore=shutil.ignore_patterns(".git", ".venv", ".cache", ".editable", "build", "docs")
    )
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(source)]
    subprocess.run(build, check=True, capture_output=True, env={**os.environ, "PYTHONPATH": ""})
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True)
    python = venv / "bin" / "python"
    where = "import sysconfig; print(sysconfig.get_path('purelib'))"
    packages = Path(subprocess.run([python, "-c", where], check=True, capture_output=True, text=True).stdout.strip())
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(packages)
    (packages / "others.pth").write_text(sysconfig.get_path("purelib"))
    return str(python)


@pytest.mark.long
@pytest.mark.parametrize("install", [as_installed, by_wheel])
def test_mypy_tells_a_caller_s_mistakes(tmp_path, install):
    caller = tmp_path / "caller.py"
    caller.write_text(CALLER)
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "MYPYPATH")}
    how = ["--strict", "--python-executable", install(tmp_path), "--cache-dir", str(tmp_path / "cache")]
    command = [sys.executable, "-m", "mypy", *how, str(caller)]
    run = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False)
    lines = run.stdout.splitlines()
    told = [line for line in lines if "caller.py" in line and "note:     def" not in line]
    for number, said in EXPECTED.items():
        assert any(f"caller.py:{number}: " in line and said in line for line in told), run.stdout + run.stderr
    errors = {int(line.split(":")[1]) for line in told if ": error: " in line}
    assert errors == {number for number, said in EXPECTED.items() if "Revealed" not in said}, run.stdout
    assert all("caller.py" in line or line.startswith("Found") for line in lines), run.stdout


def test_the_api_page_has_every_public_name():
    """Public names of the package and of its operators, by the module that defines each; errors are a module."""
    import frugal_rt
    from frugal_rt import operators
    from frugal_rt.engines import errors

    page = (ROOT / "docs" / "api.md").read_text()
    told = re.findall(r"^::: (frugal_rt[\w.]+)$", page, re.MULTILINE)
    defined = {path.rpartition(".")[2] for path in told if path != errors.__name__}
    for path in set(told) - {errors.__name__}:
        module, _, name = path.rpartition(".")
        assert hasattr(importlib.import_module(module), name), path
    public = {*frugal_rt.__all__, *operators.__all__} - {"operators", *vars(errors)}
    assert public <= defined, public - defined
    assert errors.__name__ in told


def test_a_restorer_shows_no_internals():
    from frugal_rt import Restorer

    shown = {name for name in dir(Restorer) if not name.startswith("_")}
    assert shown == {"load", "restore", "at", "close", "tile", "tiles"}
