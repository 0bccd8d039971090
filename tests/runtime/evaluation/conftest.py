"""A folder of pictures to evaluate, and a log of restorations."""

from pathlib import Path

import pytest

from frugal_rt import Restorer


@pytest.fixture
def restored(monkeypatch) -> list[tuple]:
    """Log every call of Restorer.restore: the operator's name, the method and the seed."""
    calls = []
    real = Restorer.restore

    def restore(self, y, operator, **settings):
        calls.append((operator.name, settings["method"], settings["seed"]))
        return real(self, y, operator, **settings)

    monkeypatch.setattr(Restorer, "restore", restore)
    return calls


@pytest.fixture
def here(three_faces) -> Path:
    return three_faces
