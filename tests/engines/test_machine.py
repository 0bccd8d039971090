"""The threads that this process may use."""

import pytest

from frugal_rt.engines import InputError, machine


def test_threads_follow_what_a_process_was_given(monkeypatch):
    monkeypatch.delenv(machine.THREADS, raising=False)
    there = machine.cores()
    monkeypatch.setenv(machine.THREADS, "1")
    assert machine.cores() == 1
    monkeypatch.setenv(machine.THREADS, str(there + 1))
    assert machine.cores() == there
    monkeypatch.setenv(machine.THREADS, "many")
    with pytest.raises(InputError, match="FRUGAL_RT_THREADS is a number of threads, 1 or more; got 'many'"):
        machine.cores()
