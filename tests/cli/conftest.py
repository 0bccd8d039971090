"""A folder to work in."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def here(tmp_path, monkeypatch, tiny_plan) -> Path:
    """A folder with a clean 16x16 picture and the tiny plan, to work in."""
    monkeypatch.chdir(tmp_path)
    levels = np.random.default_rng(0).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    Image.fromarray(levels).resize((16, 16), Image.Resampling.BICUBIC).save("clean.png")
    (tmp_path / "tiny.plan").symlink_to(tiny_plan)
    return tmp_path
