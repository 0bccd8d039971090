"""Preparation of requests in processes that can be ended.

There are two processes with a request at a time each, so that small pictures never wait for large ones. A process that
dies or hangs, or is ended at a deadline or a disconnect, is started again.
"""

import asyncio
import contextlib
import io
import logging
import subprocess
import time
from multiprocessing.connection import Connection
from typing import IO, Any
from weakref import WeakValueDictionary

from ...engines import DeadlineError, FrugalError, InputError, WorkerError
from ..pictures.damage import Damage
from ..pictures.decoding import Limits
from ..process import cpu_ticks, how_it_ended, launch
from .preparer import Ask, Larger, Prepared, Setup
from .uploads import size_of

QUICK_BYTES = 1 << 20
QUICK_PIXELS = 1 << 20
"""The most pixels of a small picture."""
QUICK_SECONDS = 1.0
SLOW_SECONDS = 5.0
"""Seconds of CPU time: for a small picture, after which it counts as a large one; and for a large one."""
PATIENCE = 60.0
"""Seconds after which a process that neither answers nor ends, and used no CPU time in them, counts as hanging."""
BYTES_A_PIXEL = 64
SPARE_BYTES = 128 << 20
"""Bytes of memory of a process for its largest picture: decoding alone takes 16 bytes a pixel."""
PIECE = 1 << 18
"""Bytes of a picture in one message."""
CRASHES = ("SIGSEGV", "SIGABRT", "SIGBUS", "SIGFPE", "SIGILL")
"""Signals by which a decoder dies over a broken picture, and which nobody sends from outside."""
ENVIRONMENT = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
"""Environment variables of the processes, which use one core each."""

Answer = Prepared | Larger | FrugalError

logger = logging.getLogger(__name__)


class Preparers:
    """The processes that prepare a service's requests.

    limits: of pictures. max_bytes: of a request's body.
    """

    def __init__(self, limits: Limits, max_bytes: int):
        def memory(pixels: int, size: int) -> int:
            return BYTES_A_PIXEL * pixels + 3 * size + SPARE_BYTES

        small, large = min(QUICK_PIXELS, limits.max_pixels), 2 * limits.max_pixels
        self._quick = _Lane(Setup(limits, small, QUICK_SECONDS, memory(small, QUICK_BYTES), 0))
        self._slow = _Lane(Setup(limits, large, SLOW_SECONDS, memory(large, max_bytes), 10))

    async def start(self) -> None:
        """Start the processes; wait for the one for small pictures. Raises WorkerError where it cannot start."""
        self._slow.start()
        try:
            await self._quick.ask("", Ask(Damage(), None, (1, 1, 1), False, False), io.BytesIO(), None)
        except _Ended as error:
            raise WorkerError(f"the process that decodes pictures cannot start ({error.how})") from None

    def close(self) -> None:
        """End the processes."""
        self._quick.close()
        self._slow.close()

    async def prepare(
        self, ask: Ask, picture: IO[bytes], mask: IO[bytes] | None, peer: str, deadline: float
    ) -> Prepared:
        """Decode a picture and make its measurement.

        deadline: a time of time.monotonic(). Raises InputError, DeadlineError, and WorkerError where the process ends
        for another reason than the picture.
        """
        try:
            wait = max(0.0, deadline - time.monotonic())
            answer = await asyncio.wait_for(self._prepare(peer, ask, picture, mask), wait)
        except asyncio.TimeoutError:
            raise DeadlineError("the restoration was not begun by its deadline and was stopped") from None
        if isinstance(answer, FrugalError):
            raise answer
        return answer

    async def _prepare(self, peer: str, ask: Ask, picture: IO[bytes], mask: IO[bytes] | None) -> Prepared | FrugalError:
        if size_of(picture) + (0 if mask is None else size_of(mask)) <= QUICK_BYTES:
            try:
                answer = await self._quick.ask(peer, ask, picture, mask)
            except _Ended as error:
                logger.warning("a process ended with %s over a small picture, which has another try", error.how)
            else:
                if not isinstance(answer, Larger):
                    return answer
        try:
            answer = await self._slow.ask(peer, ask, picture, mask)
        except _Ended as error:
            logger.warning("a process ended with %s over a picture", error.how)
            if error.how == "SIGPROF":
                return InputError(
                    f"the image takes over {SLOW_SECONDS:g} s of a processor to be prepared; save it as a plain PNG, "
                    "or make it smaller"
                )
            if error.how in CRASHES:
                return InputError(f"the image is a broken picture: its decoder ended with {error.how}")
            return WorkerError(f"the process that decodes pictures ended ({error.how}); ask again")
        assert not isinstance(answer, Larger)  # the second process has room for every picture within the limits
        return answer


class _Ended(Exception):
    """The process of a lane ended during a request."""

    def __init__(self, how: str):
        super().__init__(how)
        self.how = how


class _Lane:
    """A process and its waiting requests, in order of arrival; each peer has at most one request in the queue."""

    def __init__(self, setup: Setup):
        self._setup = setup
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None
        self._closed = False
        self._turn = asyncio.Lock()
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def start(self) -> None:
        """Start the process, if none is running and the lane is open."""
        if self._process is not None and self._process.poll() is not None:
            logger.warning(
                "a process that decodes pictures ended with %s and is started again", how_it_ended(self._process)
            )
            self._end()
        if self._process is None and not self._closed:
            self._process, self._connection = launch(f"{__package__}.preparer", ENVIRONMENT)
            with contextlib.suppress(OSError):  # it has died, which the next request finds
                self._connection.send(self._setup)

    def close(self) -> None:
        """End the process, and start no other."""
        self._closed = True
        self._end()

    def _end(self) -> None:
        """End the process, if there is one; a waiting request gets an error."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._process = self._connection = None  # the connection is closed when no thread waits on it any more

    async def ask(self, peer: str, *message: Any) -> Answer:
        """Have the process prepare a request. Raises _Ended."""
        turn = self._turns.setdefault(peer, asyncio.Lock())
        async with turn, self._turn:
            return await self._ask(*message)

    async def _ask(self, *message: Any) -> Answer:
        self.start()
        process, connection = self._process, self._connection
        answering = asyncio.get_running_loop().run_in_executor(None, _exchange, connection, *message)
        answering.add_done_callback(lambda done: done.cancelled() or done.exception())  # `wait_for` raises it
        try:
            return await _answered(answering, process)
        except asyncio.TimeoutError:
            raise _Ended("no answer") from None
        except (EOFError, OSError):
            raise _Ended(await asyncio.to_thread(how_it_ended, process)) from None
        finally:
            if not answering.done() or answering.exception() is not None:  # it has died, or has not answered
                self._end()
                self.start()


async def _answered(answering: "asyncio.Future[Answer]", process: "subprocess.Popen[bytes] | None") -> Answer:
    """Wait for an answer for as long as the process works, which a busy machine may let it do seldom.

    Raises TimeoutError, and EOFError and OSError when the process has ended.
    """
    while True:
        before = cpu_ticks(process)
        try:
            return await asyncio.wait_for(asyncio.shield(answering), PATIENCE)
        except asyncio.TimeoutError:
            if cpu_ticks(process) in (None, before):
                raise


def _exchange(connection: Connection | None, ask: Ask, picture: IO[bytes], mask: IO[bytes] | None) -> Answer:
    """Send a request and wait for its answer, in a thread. Raises EOFError and OSError when the process has ended."""
    if connection is None:
        raise EOFError("the lane is closed")
    connection.send(ask)
    for part in (picture, mask):
        if part is not None:
            connection.send(size_of(part))
            while piece := part.read(PIECE):
                connection.send_bytes(piece)
    answer: Answer = connection.recv()
    return answer
