"""Waiting for events in another process or thread."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

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


def until(condition, seconds=PATIENCE):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.01)


@contextmanager
def stopped(*processes: int) -> Iterator[None]:
    """Let processes stand still in the block, so that none of their work ends in it."""
    for process in processes:
        os.kill(process, signal.SIGSTOP)
    try:
        yield
    finally:
        for process in processes:
            os.kill(process, signal.SIGCONT)
