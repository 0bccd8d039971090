"""Plans of the embedded priors for a CUDA machine, where none may be exported: ready ones, or those of the package."""

from pathlib import Path

import pytest
from plans import plan_file


@pytest.fixture(scope="session")
def celeba_plan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The plan of the embedded prior of faces."""
    return plan_file("celeba", tmp_path_factory.getbasetemp())


@pytest.fixture(scope="session")
def photo_plan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The plan of the embedded prior of photographs, of any size."""
    return plan_file("photo", tmp_path_factory.getbasetemp())
