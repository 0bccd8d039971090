"""The examples in docstrings, run."""

import doctest
import importlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]


def with_examples() -> list[str]:
    """The modules that have some."""
    files = [
        ROOT / "__init__.py",
        *(path for name in ("engines", "runtime", "export") for path in (ROOT / name).rglob("*.py")),
    ]
    names = (path.relative_to(ROOT).with_suffix("").parts for path in files if ">>>" in path.read_text())
    return [".".join(["frugal_rt", *(part for part in parts if part != "__init__")]) for parts in names]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with what examples name."""
    monkeypatch.chdir(tmp_path)
    rough = np.random.default_rng(0).integers(40, 220, (6, 8, 3), dtype=np.uint8)
    Image.fromarray(rough).resize((96, 72), Image.Resampling.BICUBIC).save("photo.jpg")


def test_the_public_face_has_examples():
    for name in ("frugal_rt", "frugal_rt.runtime.restorer", "frugal_rt.runtime.pictures.arrays"):
        assert name in with_examples()


@pytest.mark.parametrize("name", with_examples())
def test_examples_do_as_they_say(here, name):
    module = importlib.import_module(name)
    failed, tried = doctest.testmod(module, extraglobs={"np": np}, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert tried
    assert not failed
