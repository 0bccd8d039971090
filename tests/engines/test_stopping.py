"""Network calls interrupted by another thread, within a call and between tiles; later calls are unaffected."""

import contextlib
import threading

import numpy as np
import pytest

from frugal_rt import Plan
from frugal_rt.engines import open_engine
from frugal_rt.engines.errors import Stopped
from frugal_rt.engines.stopping import Stop, current, stoppable
from frugal_rt.engines.tiled import Tiled

from .runnable import needs

T = np.array([500, 3])


class Late(Stop):
    """A Stop that is asked as soon as a call has begun."""

    def __init__(self, calls: int = 1):
        super().__init__()
        self._left = calls

    @contextlib.contextmanager
    def ending(self, way):
        with super().ending(way):
            self._left -= 1
            if self._left == 0:
                thread = threading.Thread(target=self.ask)
                thread.start()
                thread.join()
            yield


@pytest.fixture(scope="module", params=["cpu", "openvino"])
def engine(request, tiny_plan):
    needs(request.param)
    return open_engine(Plan.open(tiny_plan), request.param)


@pytest.fixture
def x() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(2, 3, 16, 16)).astype(np.float32)


def test_a_call_is_ended_within_and_the_next_is_as_before(engine, x):
    before = engine.predict(x, T).out
    with stoppable(Late()), pytest.raises(Stopped):
        engine.predict(x, T)
    np.testing.assert_array_equal(engine.predict(x, T).out, before)


def test_a_pullback_is_ended_in_either_half(engine, x):
    before = engine.pullback(x, T)[1](x)
    for calls in (1, 2):
        with stoppable(Late(calls)), pytest.raises(Stopped):
            engine.pullback(x, T)[1](x)
    np.testing.assert_array_equal(engine.pullback(x, T)[1](x), before)


def test_none_begins_after_it_was_asked(engine, x):
    stop = Stop()
    stop.ask()
    with stoppable(stop), pytest.raises(Stopped):
        engine.predict(x, T)
    assert current() is None


def test_a_stop_that_is_not_asked_changes_nothing(engine, x):
    with stoppable(Stop()):
        under = engine.predict(x, T).out
    np.testing.assert_array_equal(under, engine.predict(x, T).out)


def test_it_is_of_one_thread(engine, x):
    stop, found = Stop(), []
    stop.ask()
    with stoppable(stop):
        thread = threading.Thread(target=lambda: found.append(engine.predict(x, T).out))
        thread.start()
        thread.join()
    assert len(found) == 1


def test_an_image_in_tiles_ends_between_them(gaussian_engine):
    """Tiles are interrupted with any engine, also with one that does not support stopping."""
    done, stop = [], Stop()
    inner = gaussian_engine(np.zeros(64), np.eye(64), np.linspace(0.9, 0.1, 10))

    def on_tiles(number: int, total: int) -> None:
        done.append((number, total))
        if number == 2:
            stop.ask()

    tiled = Tiled(inner, (1, 8, 8), (1, 16, 16), on_tiles)
    with stoppable(stop), pytest.raises(Stopped):
        tiled.predict(np.zeros((1, 1, 16, 16)), np.array([3]))
    assert done == [(1, 9), (2, 9)]
