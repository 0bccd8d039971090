"""Whether a backend can run on this machine."""

import pytest

from frugal_rt.engines import doctor


def runnable(backend: str) -> bool:
    """Tell whether `frugal-rt doctor` calls `backend` usable."""
    return any(finding.backend == backend and finding.usable for finding in doctor.findings())


def needs(backend: str) -> None:
    """Skip the test where `backend` is not installed, or the machine lacks what it needs."""
    if not runnable(backend):
        pytest.skip(f"{backend} cannot run here")
