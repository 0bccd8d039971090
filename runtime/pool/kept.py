"""The operators that a worker keeps for requests that share them."""

import pickle
import threading
from collections import OrderedDict
from hashlib import sha256
from typing import NamedTuple
from weakref import WeakValueDictionary

from ..operators import Operator


class _Key(NamedTuple):
    sha256: bytes
    """Digest of the pickled operator."""
    prepared: bool


class Kept:
    """Operators by their pickled bytes: one object for all that ask at a time, and for a while after.

    So one decomposition serves all its requests, and one evaluation all their rows of a call. Those that no request has
    any more are kept up to `most` of them and `most_bytes` bytes, those asked for last.
    """

    def __init__(self, most: int = 32, most_bytes: int = 64 << 20):
        self._most, self._most_bytes = most, most_bytes
        self._used: WeakValueDictionary[_Key, Operator] = WeakValueDictionary()
        self._last: OrderedDict[_Key, tuple[Operator, int]] = OrderedDict()
        """Kept operators, and how many bytes each was pickled in."""
        self._lock = threading.Lock()

    def get(self, pickled: bytes, prepared: bool) -> Operator:
        """The operator; where `prepared`, with what it computes beforehand. Raises what it raises."""
        key = _Key(sha256(pickled).digest(), prepared)
        with self._lock:
            operator = self._used.get(key)
        if operator is None:
            made: Operator = pickle.loads(pickled)  # noqa: S301 (the pool pickled it)
            if prepared:
                made.prepare()
            with self._lock:
                operator = self._used.setdefault(key, made)
        self._keep(key, operator, len(pickled))
        return operator

    def _keep(self, key: _Key, operator: Operator, given: int) -> None:
        with self._lock:
            self._last[key] = operator, given
            self._last.move_to_end(key)
            sizes = [(one, max(given, operator.nbytes)) for one, (operator, given) in self._last.items()]
            left = sum(size for _, size in sizes)  # measured anew: they grow as they are used
            for one, size in sizes:
                if left <= self._most_bytes and len(self._last) <= self._most:
                    break
                del self._last[one]
                left -= size
