"""Comparisons that say what they saw: python -m pytest tests/gpu ends with a table of them."""

import subprocess
import sys
from pathlib import Path

import pytest


def test_a_value_beyond_its_bound_fails(within):
    within(0.5, 0.5)
    with pytest.raises(AssertionError):
        within(0.51, 0.5)
    with pytest.raises(AssertionError):
        within(float("nan"), 0.5)


def test_the_summary_shows_values_beside_bounds():
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", f"{__file__}::{NAME}"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    lines = [line.split()[:2] for line in done.stdout.splitlines() if line.endswith(NAME)]
    assert lines == [["0.5", "0.5"], ["0.51", "0.5"], ["nan", "0.5"]]


NAME = test_a_value_beyond_its_bound_fails.__name__
