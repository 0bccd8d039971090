"""Waiting for events in another process or thread."""

import time
from collections.abc import Callable

import pytest

PATIENCE = 120
"""The most seconds that a test waits for an event."""


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
