"""The process of a service: its server, and an end that leaves no accepted request without an answer."""

import asyncio
import logging
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import uvicorn

from ...engines import FrugalError
from ..pool import Pool
from .app import Options, Service, create_app
from .edge import JsonLines
from .metrics import Metrics

STALE = 30.0
"""Seconds that a stopping service waits for the jobs it finished to be fetched."""


@dataclass(frozen=True)
class Address:
    host: str
    port: int


class _Server(uvicorn.Server):
    """On SIGTERM or SIGINT it drains: takes nothing more, answers what it took, and only then stops listening."""

    def __init__(self, config: uvicorn.Config, service: Service, on_drain: Callable[[], object]):
        super().__init__(config)
        self._service, self._on_drain = service, on_drain
        self._drain: asyncio.Task[None] | None = None

    def handle_exit(self, sig: int, frame: Any) -> None:
        if self._service.draining:  # asked twice: at once
            super().handle_exit(sig, frame)
            return
        self._service.draining = True
        self._on_drain()
        loop = self._loop
        loop.call_soon_threadsafe(lambda: setattr(self, "_drain", loop.create_task(self._stop_when_done(sig, frame))))

    async def startup(self, sockets: Any = None) -> None:
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)

    async def _stop_when_done(self, sig: int, frame: Any) -> None:
        service = self._service
        while service.tasks:
            await asyncio.wait(set(service.tasks))
        for _ in range(round(STALE / 0.1)):
            if not service.jobs.unfetched:
                break
            await asyncio.sleep(0.1)
        super().handle_exit(sig, frame)


def serve(
    pool_of: Callable[[Metrics], Pool], options: Options, address: Address, on_ready: Callable[[Pool], object]
) -> None:
    """Serve until a signal. `pool_of` opens the pool, told of the metrics that its reports go to; it is closed here.

    Raises what opening it does, and FrugalError where the address cannot be had.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    metrics = Metrics()
    with pool_of(metrics) as pool:
        app = create_app(pool, options, metrics)
        config = uvicorn.Config(
            app,
            host=address.host,
            port=address.port,
            log_config=None,
            access_log=False,  # ours has the request's id
            server_header=False,
            timeout_graceful_shutdown=int(STALE),
        )
        logging.getLogger("uvicorn").setLevel(logging.WARNING)
        server = _Server(config, app.state.service, lambda: logging.info("draining"))
        try:
            socket = config.bind_socket()
        except SystemExit:
            raise FrugalError(f"cannot listen on {address.host}:{address.port}; is it taken? try --port") from None
        on_ready(pool)
        before = signal.signal(signal.SIGTERM, lambda *_: None)  # uvicorn raises it again when all is done
        try:
            server.run(sockets=[socket])
        finally:
            signal.signal(signal.SIGTERM, before)
