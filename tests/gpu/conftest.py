"""Plans of the embedded priors without an export, for CUDA machines; and measured values beside their bounds."""

from collections.abc import Callable
from pathlib import Path

import pytest
from plans import plan_file

SEEN: list[tuple[str, float, float]] = []
"""Comparisons in order: the test, its measured value, its bound."""


@pytest.fixture(scope="session")
def celeba_plan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The plan of the embedded prior of faces."""
    return plan_file("celeba", tmp_path_factory.getbasetemp())


@pytest.fixture(scope="session")
def photo_plan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The plan of the embedded prior of photographs, of any size."""
    return plan_file("photo", tmp_path_factory.getbasetemp())


@pytest.fixture
def within(request: pytest.FixtureRequest) -> Callable[[float, float], None]:
    """Assert that a value is at most its bound; the summary shows both, from which bounds are set."""

    def check(seen: float, bound: float) -> None:
        SEEN.append((request.node.nodeid, seen, bound))
        assert seen <= bound

    return check


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if SEEN:
        terminalreporter.section("seen, and its bound")
    for test, seen, bound in SEEN:
        terminalreporter.line(f"{seen:12.4g} {bound:12.4g}  {test}")
