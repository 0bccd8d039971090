"""The pool's end of the connection to a worker process. Only coroutines wait for the process."""

import asyncio
import contextlib
import pickle
import socket
import subprocess
from collections import deque
from multiprocessing.connection import Connection
from typing import Any

from ..process import ending, socket_of
from .messages import Cancel, Ping, Ready
from .pulse import Hang, Pulse
from .wire import HEADER, packed

REAP = 5.0
"""Seconds to wait for a killed process to end; after that it is left to the system."""


class Link:
    """A worker process, the messages that wait to be sent to it, and its Pulse. It belongs to one event loop.

    patience: the most beats of its start.
    """

    def __init__(self, process: "subprocess.Popen[bytes]", connection: Connection, patience: float):
        self.process = process
        self.ready: Ready | None = None
        """The worker's first answer."""
        self.pulse = Pulse(patience)
        self.hang: Hang | None = None
        """The reason why it was killed; None where it was not killed for a hang."""
        self._socket = socket_of(connection)
        self._socket.setblocking(False)
        self._loop = asyncio.get_running_loop()
        self._began = self._loop.time()
        self._outbox: deque[tuple[int | None, bytes]] = deque()
        self._more = asyncio.Event()
        self._writing = self._loop.create_task(self._write())

    @property
    def age(self) -> float:
        """Seconds since the process was started."""
        return self._loop.time() - self._began

    def send(self, message: bytes, key: int | None = None) -> None:
        """Queue a packed message, for a request under its key, until the process reads it."""
        self._outbox.append((key, message))
        self._more.set()

    def took(self, key: int) -> bool:
        """Return whether a request was sent, or is being sent."""
        return all(waiting != key for waiting, _ in self._outbox)

    def forget(self, key: int) -> None:
        """Tell the process to forget a request; remove it from the queue where it has not been sent."""
        if self.took(key):
            self.send(packed(Cancel(key)))
        else:
            self._outbox = deque(one for one in self._outbox if one[0] != key)

    def beat(self) -> None:
        """Send a ping; kill the process where it has not answered for too long."""
        if self.pulse.beat():
            self.send(packed(Ping()))
        hang = self.pulse.silent()
        if hang is not None:
            self.kill(hang)

    def kill(self, hang: Hang | None = None) -> None:
        """End the process; `receive` returns the messages that it had sent, and then None."""
        self.hang = self.hang or hang
        self.process.kill()
        with contextlib.suppress(OSError):  # the other side has closed it
            self._socket.shutdown(socket.SHUT_RDWR)  # ends `receive` even where the process does not end

    async def receive(self) -> Any:
        """Return the next complete message; None where the process has ended."""
        await asyncio.sleep(0)  # a worker that sends all the time must not keep others from being read
        try:
            (size,) = HEADER.unpack(await self._exactly(HEADER.size))
            return pickle.loads(await self._exactly(size))  # noqa: S301 (our own process pickled it)
        except (EOFError, OSError):
            return None

    async def end(self) -> str:
        """Kill the process if it runs, and free its resources; return in words how it ended."""
        self.kill()
        self._writing.cancel()
        await asyncio.wait([self._writing])
        self._socket.close()
        ends = self._loop.time() + REAP
        while (code := self.process.poll()) is None and self._loop.time() < ends:
            await asyncio.sleep(0.01)
        return "no status yet" if code is None else ending(code)

    async def _write(self) -> None:
        with contextlib.suppress(OSError):  # the process has ended; `receive` returns None
            while True:
                await self._more.wait()
                self._more.clear()
                while self._outbox:
                    _, message = self._outbox.popleft()
                    await self._loop.sock_sendall(self._socket, message)

    async def _exactly(self, size: int) -> bytearray:
        found = bytearray(size)
        left = memoryview(found)
        while left:
            count = await self._loop.sock_recv_into(self._socket, left)
            if not count:
                raise EOFError
            left = left[count:]
        return found
