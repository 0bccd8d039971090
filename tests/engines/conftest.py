"""Fixtures of engines: a cache folder, engines, and a simulated GPU."""

import pytest

from frugal_rt import Plan
from frugal_rt.engines import doctor, nvidia, open_engine

from .tensorrt.kept import H200


@pytest.fixture
def openvino(tiny_plan):
    if not any(finding.backend == "openvino" and finding.usable for finding in doctor.findings()):
        pytest.skip("openvino is not installed, or this CPU has no bfloat16")
    return open_engine(Plan.open(tiny_plan), "openvino")


@pytest.fixture
def cached(tmp_path, monkeypatch):
    """A cache folder of its own for this test."""
    monkeypatch.setenv("FRUGAL_RT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def plan(tiny_plan) -> Plan:
    return Plan.open(tiny_plan)


@pytest.fixture
def gpu(monkeypatch) -> None:
    """Simulate a driver that shows an H200. No test may call anything that needs the device."""
    monkeypatch.delenv("FRUGAL_RT_BACKEND")
    monkeypatch.setattr(nvidia, "trouble", lambda: None)
    monkeypatch.setattr(nvidia, "devices", lambda: [H200])
