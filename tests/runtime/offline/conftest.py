"""A folder of pictures to restore."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def twelve_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_plan: Path) -> Path:
    """The working directory: the tiny plan, and a folder of twelve pictures of three kinds."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.plan").symlink_to(tiny_plan)
    Path("photos").mkdir()
    random = np.random.default_rng(0)
    for i in range(12):
        shape = [(16, 16, 3), (16, 16), (4, 4, 3)][i % 3]
        Image.fromarray(random.integers(0, 256, shape, dtype=np.uint8)).save(f"photos/{i:02}.png")
    return tmp_path
