"""The server process of a service. At its end every accepted request has been answered."""

import asyncio
import errno
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Coroutine, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import uvicorn

from ...engines import FrugalError
from ...engines.files import lock
from ..pool import Pool
from ..process import return_large_blocks
from .app import create_app
from .connections import Connection
from .intake import Options, Service
from .metrics import Metrics
from .middleware import JsonLines
from .visitors import Visitors

logger = logging.getLogger(__name__)
STALE = 30.0
"""Seconds that a stopping service waits for its finished jobs to be fetched."""
LAST = 10
"""Seconds, after all else, for its last answers to be read."""
AT_ONCE = 8
"""Connections that are taken before what has come on others is read, so that a burst ends none of them unread."""
WAITING = 2048
"""Connections that wait to be taken, at most."""
CONNECTIONS = 64
"""Connections for polling and watching, besides two for each image."""


@dataclass(frozen=True)
class Address:
    """Address of a service: a host and port, or a Unix socket."""

    host: str
    port: int
    uds: Path | None = None
    """The Unix socket's file, instead of both; users who may write to it may send requests."""

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}" if self.uds is None else f"unix:{self.uds}"


class _Server(uvicorn.Server):
    """Server that drains on SIGTERM or SIGINT: it refuses new requests, answers those taken, and then stops listening.

    Restorations that are not done after `Options.timeout` are given up, so that it ends within STALE + LAST after that.

    On SIGHUP it loads the plan's file again and changes to it; a plan that cannot be loaded changes nothing.
    """

    def __init__(self, config: uvicorn.Config, service: Service):
        super().__init__(config)
        self._service = service
        self._tasks: set[asyncio.Task[None]] = set()

    def handle_exit(self, sig: int, frame: Any) -> None:
        if self._service.draining:  # the second signal ends it at once
            super().handle_exit(sig, frame)
            return
        self._service.draining = True
        logger.info("draining")
        self._loop.call_soon_threadsafe(self._begin, self._stop_when_done())

    async def startup(self, sockets: Any = None) -> None:
        self._loop = asyncio.get_running_loop()
        if hasattr(signal, "SIGHUP"):
            self._loop.add_signal_handler(signal.SIGHUP, lambda: self._begin(self._swap()))
        await super().startup(sockets)
        for one in sockets or ():
            one.listen(WAITING)  # asyncio takes as many at once as it lets wait

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _swap(self) -> None:
        pool = self._service.pool
        logger.info("loading %s", pool.plan)
        try:
            await asyncio.to_thread(pool.swap, pool.plan)
        except FrugalError as error:
            logger.error("the plan is not swapped: %s", error)
        else:
            _, height, width = pool.image_shape
            logger.info("restoring with %s, %dx%d, from %s", pool.prior, width, height, pool.plan)

    async def _stop_when_done(self) -> None:
        service = self._service
        given_up = self._loop.time() + service.options.timeout
        while (service.is_busy or len(self._tasks) > 1) and self._loop.time() < given_up:  # this task is one of them
            await asyncio.sleep(0.05)
        service.give_up()
        fetched = self._loop.time() + STALE
        while service.jobs.unfetched(STALE) and self._loop.time() < fetched:
            await asyncio.sleep(0.1)
        self.should_exit = True


def serve(
    pool_of: Callable[[Metrics], Pool],
    options: Options,
    address: Address,
    on_ready: Callable[[Pool, Address], object],
    root_path: str = "",
) -> None:
    """Serve until a signal. `pool_of` opens the pool, given the metrics for its reports; it is closed here.

    on_ready: called with the pool and the address, which has the port that the system chose instead of 0. root_path:
    the prefix that a proxy in front removes from paths.

    Raises what opening the pool raises, and FrugalError where the address is not available.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    return_large_blocks()  # uploads are large blocks
    metrics = Metrics()
    with pool_of(metrics) as pool:
        visitors = Visitors(origins=options.origins)
        if address.uds is None:
            visitors = Visitors.at(address.host, options.hosts, options.origins)
        app = create_app(pool, options, metrics, visitors)
        places = CONNECTIONS + 2 * pool.limit  # each may hold a request's body
        config = uvicorn.Config(
            app,
            # uvicorn calls it like a class
            http=cast(type[Connection], partial(Connection, places=places, seconds=options.idle_seconds)),
            ws="none",  # websockets would bypass the limits
            host=address.host,
            port=address.port,
            root_path=root_path,
            backlog=AT_ONCE,
            log_config=None,
            access_log=False,  # the middleware's log has the request's id
            server_header=False,
            timeout_graceful_shutdown=LAST,
        )
        logging.getLogger("uvicorn").setLevel(logging.WARNING)
        server = _Server(config, app.state.service)
        listening = _listen(address)
        made = None if address.uds is None else _identity(address.uds)
        on_ready(pool, address if address.uds else replace(address, port=listening.getsockname()[1]))
        before = signal.getsignal(signal.SIGTERM)
        try:
            server.run(sockets=[listening])
        finally:
            signal.signal(signal.SIGTERM, before)
            if address.uds is not None:
                _remove(address.uds, made)
            pool.close(drain=False)  # its requests are answered, or given up


def _listen(address: Address) -> socket.socket:
    """Return a socket that listens on the address. Raises FrugalError where that is not possible."""
    if address.uds is not None:
        return _listen_on_file(address.uds)
    try:
        family = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)[0][0]
        listening = socket.socket(family, socket.SOCK_STREAM)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((address.host, address.port))
        listening.listen()  # early clients wait until the service has started
    except OSError as error:
        raise FrugalError(
            f"cannot listen on {address.host}:{address.port}: {error.strerror}; choose another --host or --port"
        ) from error
    return listening


def _listen_on_file(path: Path) -> socket.socket:
    """Return a socket that listens on a file; a file on which nobody listens is replaced. Raises FrugalError."""
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with _turn(path.parent):  # another service's file is not looked at between its binding and its listening
            if path.is_socket():
                with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as other:
                    if other.connect_ex(str(path)) == errno.ECONNREFUSED:
                        path.unlink()
            listening.bind(str(path))
            listening.listen()
    except OSError as error:
        listening.close()
        raise FrugalError(
            f"cannot listen on {path}: {error.strerror or error}; choose another --uds or remove it"
        ) from error
    return listening


def _remove(path: Path, made: tuple[int, ...] | None) -> None:
    """Remove a socket's file, unless its successor has taken the name since it was `made`."""
    with _turn(path.parent):
        if _identity(path) == made:
            path.unlink(missing_ok=True)


def _identity(path: Path) -> tuple[int, ...] | None:
    """Return what tells a file from a later one of its name, even of the same inode; None where there is none."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino, status.st_mtime_ns


@contextmanager
def _turn(folder: Path) -> Iterator[None]:
    """Lock the folder: one service at a time makes or removes a socket's file in it."""
    with ExitStack() as turn:
        with suppress(OSError):  # a folder that may not be read has no turns
            descriptor = os.open(folder, os.O_RDONLY)
            turn.callback(os.close, descriptor)
            lock(descriptor, wait=True)
        yield
