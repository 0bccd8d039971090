"""Tests wait for what happens in another process or thread."""

import time
from collections.abc import Callable

import pytest

PATIENCE = 120
"""Seconds in which what a test waits for must have happened."""


def wait_for(what: Callable[[], object]) -> object:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if found := what():
            return found
        time.sleep(0.01)
    pytest.fail(f"nothing of it in {PATIENCE} seconds")


def until(condition, seconds=10.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.01)
