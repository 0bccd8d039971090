"""Fixtures of engines: a cache folder, engines, and a simulated GPU."""

import pytest

from frugal_rt import Plan
from frugal_rt.engines import nvidia, open_engine

from .runnable import needs
from .tensorrt.kept import H200


@pytest.fixture
def openvino(tiny_plan):
    needs("openvino")
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
