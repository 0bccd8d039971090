"""A cache folder for the engines of each test."""

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def cache_folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("FRUGAL_RT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "engines"
