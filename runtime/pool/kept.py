"""Cache of the operators that a worker's requests share."""

import pickle
import threading
from collections import OrderedDict
from hashlib import sha256
from typing import NamedTuple
from weakref import WeakValueDictionary

from ..operators import Operator


class _Key(NamedTuple):
    sha256: bytes
    """SHA-256 of the pickled operator."""
    prepared: bool


class Kept:
    """Cache of operators by their pickled bytes: requests with the same operator share an object.

    So one decomposition serves all its requests, and one evaluation serves all their rows in a call. Operators without
    a request are kept, the ones used last, up to `most` of them and `most_bytes` bytes.
    """

    def __init__(self, most: int = 32, most_bytes: int = 64 << 20):
        self._most, self._most_bytes = most, most_bytes
        self._used: WeakValueDictionary[_Key, Operator] = WeakValueDictionary()
        self._last: OrderedDict[_Key, tuple[Operator, int]] = OrderedDict()
        """Kept operators, and the bytes of their pickles."""
        self._lock = threading.Lock()

    def get(self, pickled: bytes, prepared: bool) -> Operator:
        """Return the operator, with `prepared` after its `prepare`. Raises what it raises."""
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
            left = sum(size for _, size in sizes)  # measured again, as operators grow in use
            for one, size in sizes:
                if left <= self._most_bytes and len(self._last) <= self._most:
                    break
                del self._last[one]
                left -= size
