"""Messages between a pool and a worker as they cross a socket: 8 bytes of length, then the pickle.

One of our own processes pickles them for the other, and nobody else.
"""

import pickle
import socket
import struct
import threading
from typing import Any

HEADER = struct.Struct("!Q")
"""The length of what follows, in bytes."""


def packed(message: object) -> bytes:
    """A message as it is sent. Raises what its parts raise when they are pickled."""
    body = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
    return HEADER.pack(len(body)) + body


class Wire:
    """A worker's end: any thread sends, one receives, and each waits until the pool has sent or taken all of it."""

    def __init__(self, ours: socket.socket):
        self._socket = ours
        self._sending = threading.Lock()

    def send(self, message: object) -> None:
        """Raises OSError where the pool is gone."""
        data = packed(message)
        with self._sending:
            self._socket.sendall(data)

    def receive(self) -> Any:
        """The next message. Raises EOFError or OSError where the pool is gone."""
        (size,) = HEADER.unpack(self._exactly(HEADER.size))
        return pickle.loads(self._exactly(size))  # noqa: S301 (the pool pickled it)

    def _exactly(self, size: int) -> bytearray:
        found = bytearray(size)
        left = memoryview(found)
        while left:
            count = self._socket.recv_into(left)
            if not count:
                raise EOFError
            left = left[count:]
        return found
