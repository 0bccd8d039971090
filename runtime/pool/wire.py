"""Messages between a pool and a worker on a socket: 8 bytes of length, then the pickle.

Only this package's own processes pickle messages for each other.
"""

import pickle
import socket
import struct
import threading
from typing import Any

HEADER = struct.Struct("!Q")
"""The length of the pickle in bytes."""


def packed(message: object) -> bytes:
    """Return a message as it is sent. Raises what pickling its parts raises."""
    body = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
    return HEADER.pack(len(body)) + body


class Wire:
    """A worker's end of the socket. Any thread may send and one receives; both block until a message is complete."""

    def __init__(self, ours: socket.socket):
        self._socket = ours
        self._sending = threading.Lock()

    def send(self, message: object) -> None:
        """Send a message. Raises OSError where the pool has closed the socket."""
        data = packed(message)
        with self._sending:
            self._socket.sendall(data)

    def receive(self) -> Any:
        """Return the next message. Raises EOFError or OSError where the pool has closed the socket."""
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
