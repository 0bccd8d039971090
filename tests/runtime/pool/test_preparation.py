"""Requests on their way to the scheduler: prepared in threads, cancelled before their turn, their operators kept."""

import gc
import pickle
import threading
import weakref
from queue import SimpleQueue

import numpy as np
import pytest

from frugal_rt import Restorer, operators
from frugal_rt.runtime.pool.kept import Kept
from frugal_rt.runtime.pool.messages import Refused, Submit
from frugal_rt.runtime.pool.preparation import THREADS, Begun, Preparation
from frugal_rt.runtime.sampling.guidance import Guidance

SHAPE = (3, 16, 16)
GO = threading.Event()
MiB = 1 << 20


class Waiting(operators.Denoise):
    def prepare(self):
        assert GO.wait(60)


class Leaving(operators.Denoise):
    def prepare(self):
        raise SystemExit


class Growing(operators.Denoise):
    """Holds so many MiB, and more once it is used."""

    def __init__(self, shape, mebibytes, name="growing"):
        super().__init__(shape)
        self.name, self.held = name, np.zeros(mebibytes * MiB, np.uint8)

    def use(self, mebibytes):
        self.found = np.zeros(mebibytes * MiB, np.uint8)


@pytest.fixture(scope="module")
def restorer(tiny_plan):
    return Restorer.load(tiny_plan, "cpu")


def submit(key, operator):
    y = np.zeros(operator.measurement_shape, np.float32)
    return Submit(key, pickle.dumps(operator), y, Guidance(steps=2), 0, False)


def until_running(preparation, keys):
    for _ in range(6000):
        if {*preparation.running} == {*keys}:
            return
        threading.Event().wait(0.01)
    raise AssertionError(preparation.running)


def test_a_request_that_is_cancelled_before_its_turn_is_not_prepared(restorer):
    GO.clear()
    inbox = SimpleQueue()
    preparation = Preparation(restorer, inbox)
    for key in range(THREADS + 2):
        preparation.begin(submit(key, Waiting(SHAPE)))
    until_running(preparation, range(THREADS))
    preparation.cancel(0)  # too late
    preparation.cancel(THREADS)
    preparation.cancel(99)
    GO.set()
    begun = [inbox.get(timeout=60) for _ in range(THREADS + 1)]
    assert {one.key for one in begun} == {*range(THREADS), THREADS + 1}
    assert all(isinstance(one, Begun) for one in begun)
    until_running(preparation, ())


def test_whatever_a_preparation_raises_refuses_its_request(restorer):
    inbox = SimpleQueue()
    Preparation(restorer, inbox).begin(submit(7, Leaving(SHAPE)))
    refused = inbox.get(timeout=60)
    assert isinstance(refused, Refused)
    assert "could not begin: SystemExit()" in str(refused.why)


def is_kept(kept, operator):
    """Whether an operator outlives its last request."""
    pickled = pickle.dumps(operator)
    found = weakref.ref(kept.get(pickled, True))
    gc.collect()
    return found() is not None


def test_requests_of_the_same_operator_share_it_while_any_has_it():
    kept = Kept(most=1)
    pickled, other = pickle.dumps(Growing(SHAPE, 0, "one")), pickle.dumps(Growing(SHAPE, 0, "other"))
    operator = kept.get(pickled, True)
    assert kept.get(pickled, False) is not operator
    assert kept.get(other, True).name == "other"
    assert kept.get(pickled, True) is operator


def test_operators_that_nobody_has_are_kept_up_to_so_many_and_so_many_bytes():
    kept = Kept(most=3, most_bytes=10 * MiB)
    names = "abcd"
    alive = [weakref.ref(kept.get(pickle.dumps(Growing(SHAPE, 1, name)), True)) for name in names]
    gc.collect()
    assert [one() is not None for one in alive] == [False, True, True, True]
    assert is_kept(kept, Growing(SHAPE, 7))
    assert [one() is not None for one in alive] == [False, False, True, True]
    assert not is_kept(kept, Growing(SHAPE, 11))  # alone too large
    assert not any(one() for one in alive)


def test_what_an_operator_computes_later_counts():
    kept = Kept(most_bytes=10 * MiB)
    first = weakref.ref(kept.get(pickle.dumps(Growing(SHAPE, 1, "first")), True))
    first().use(9)
    assert is_kept(kept, Growing(SHAPE, 1, "second"))
    gc.collect()
    assert first() is None
