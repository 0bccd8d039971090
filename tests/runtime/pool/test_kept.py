"""The operators that a worker keeps."""

import gc
import pickle
import weakref

import numpy as np

from frugal_rt import operators
from frugal_rt.runtime.pool.kept import Kept

SHAPE = (3, 16, 16)
MiB = 1 << 20


class Growing(operators.Denoise):
    """Holds so many MiB, and more once it is used."""

    def __init__(self, shape, mebibytes, name="growing"):
        super().__init__(shape)
        self.name, self.held = name, np.zeros(mebibytes * MiB, np.uint8)

    def use(self, mebibytes):
        self.found = np.zeros(mebibytes * MiB, np.uint8)


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
