"""Requests on their way to the scheduler: prepared in threads, or cancelled before their turn."""

import pickle
import threading
from queue import SimpleQueue

import numpy as np
import pytest

from frugal_rt import Restorer, operators
from frugal_rt.engines.errors import Stopped
from frugal_rt.runtime.pool.messages import Refused, Submit
from frugal_rt.runtime.pool.preparation import THREADS, Begun, Preparation
from frugal_rt.runtime.sampling.guidance import Guidance

from ..waiting import PATIENCE, until

SHAPE = (3, 16, 16)
GO = threading.Event()


class Waiting(operators.Denoise):
    def prepare(self):
        assert GO.wait(PATIENCE)


class Endless(operators.Denoise):
    """Applies itself until it is stopped."""

    def prepare(self):
        while True:
            self.A(np.zeros(SHAPE))
            GO.set()


class Leaving(operators.Denoise):
    def prepare(self):
        raise SystemExit


@pytest.fixture(scope="module")
def restorer(tiny_plan):
    return Restorer.load(tiny_plan, "cpu")


def submit(key, operator):
    y = np.zeros(operator.measurement_shape, np.float32)
    return Submit(key, pickle.dumps(operator), y, Guidance(steps=2), 0, False)


def test_a_request_that_is_cancelled_before_its_turn_is_not_prepared(restorer):
    GO.clear()
    inbox = SimpleQueue()
    preparation = Preparation(restorer, inbox)
    for key in range(THREADS + 2):
        preparation.begin(submit(key, Waiting(SHAPE)))
    until(lambda: {*preparation.running} == {*range(THREADS)}, PATIENCE)
    preparation.cancel(0)  # too late
    preparation.cancel(THREADS)
    preparation.cancel(99)
    GO.set()
    begun = [inbox.get(timeout=PATIENCE) for _ in range(THREADS + 1)]
    assert {one.key for one in begun} == {*range(THREADS), THREADS + 1}
    assert {one.key: type(one) for one in begun} == {
        0: Refused,
        **dict.fromkeys(range(1, THREADS), Begun),
        THREADS + 1: Begun,
    }
    until(lambda: not preparation.running, PATIENCE)


def test_one_that_is_given_up_ends_and_another_of_the_same_operator_goes_on(restorer):
    GO.clear()
    inbox = SimpleQueue()
    preparation = Preparation(restorer, inbox)
    for key in (1, 2):
        preparation.begin(submit(key, Endless(SHAPE)))
    assert GO.wait(PATIENCE)
    for key, left in ((1, (2,)), (2, ())):
        preparation.cancel(key)
        refused = inbox.get(timeout=PATIENCE)
        assert (refused.key, type(refused.why)) == (key, Stopped)
        until(lambda left=left: preparation.running == left, PATIENCE)


def test_whatever_a_preparation_raises_refuses_its_request(restorer):
    inbox = SimpleQueue()
    Preparation(restorer, inbox).begin(submit(7, Leaving(SHAPE)))
    refused = inbox.get(timeout=PATIENCE)
    assert isinstance(refused, Refused)
    assert "could not begin: SystemExit()" in str(refused.why)
