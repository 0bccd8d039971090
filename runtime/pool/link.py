"""The pool's end of one worker process. Nothing here waits for the process but a coroutine."""

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
"""Seconds for a killed process to be gone; one that the system keeps longer is left to it."""


class Link:
    """A worker process, what waits to be sent to it, and its pulse. Made in an event loop, and used in no other.

    patience: beats that its start may take.
    """

    def __init__(self, process: "subprocess.Popen[bytes]", connection: Connection, patience: float):
        self.process = process
        self.ready: Ready | None = None
        """The worker's first answer."""
        self.pulse = Pulse(patience)
        self.hang: Hang | None = None
        """The reason why it was killed, if it was for one."""
        self._socket = socket_of(connection)
        self._socket.setblocking(False)
        self._loop = asyncio.get_running_loop()
        self._began = self._loop.time()
        self._outbox: deque[tuple[int | None, bytes]] = deque()
        self._more = asyncio.Event()
        self._writing = self._loop.create_task(self._write())

    @property
    def age(self) -> float:
        """Seconds since it was started."""
        return self._loop.time() - self._began

    def send(self, message: bytes, key: int | None = None) -> None:
        """Send a packed message, a request's by its key, when the process takes it."""
        self._outbox.append((key, message))
        self._more.set()

    def took(self, key: int) -> bool:
        """Whether a request was sent, or is being sent."""
        return all(waiting != key for waiting, _ in self._outbox)

    def forget(self, key: int) -> None:
        """Tell the process to forget a request, or do not send it: what waits here does not outlive its caller."""
        if self.took(key):
            self.send(packed(Cancel(key)))
        else:
            self._outbox = deque(one for one in self._outbox if one[0] != key)

    def beat(self) -> None:
        """Ask whether it lives, and kill it where it has not said so for too long."""
        if self.pulse.beat():
            self.send(packed(Ping()))
        hang = self.pulse.silent()
        if hang is not None:
            self.kill(hang)

    def kill(self, hang: Hang | None = None) -> None:
        """End the process; `receive` gives what it had sent, and then None."""
        self.hang = self.hang or hang
        self.process.kill()
        with contextlib.suppress(OSError):  # it was closed from the other side
            self._socket.shutdown(socket.SHUT_RDWR)  # also where the system does not let it go

    async def receive(self) -> Any:
        """The next message, once all of it is there; None where the process is gone."""
        await asyncio.sleep(0)  # where one worker has something to say at any time, others are heard too
        try:
            (size,) = HEADER.unpack(await self._exactly(HEADER.size))
            return pickle.loads(await self._exactly(size))  # noqa: S301 (our own process pickled it)
        except (EOFError, OSError):
            return None

    async def end(self) -> str:
        """Kill the process if it lives, and let go of it. How it ended, in words."""
        self.kill()
        self._writing.cancel()
        await asyncio.wait([self._writing])
        self._socket.close()
        ends = self._loop.time() + REAP
        while (code := self.process.poll()) is None and self._loop.time() < ends:
            await asyncio.sleep(0.01)
        return "no status yet" if code is None else ending(code)

    async def _write(self) -> None:
        with contextlib.suppress(OSError):  # it is gone, which `receive` tells
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
