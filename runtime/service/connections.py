"""The connections of a service, with limits on waiting: a slow or idle connection does not keep others out."""

import asyncio
import json
import math
from typing import Any

import h11
from uvicorn import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from .middleware import CROWDED, SAFE
from .peers import peer_of

SPARE = 16
"""Connections beyond the places, on which probes are answered and all other requests refused."""


FRESH = 0.5
"""Seconds within which a new connection must begin its request's head, to keep its place against newer ones."""


class Connection(H11Protocol):
    """A connection with time limits; uvicorn's own waits for a request's head forever.

    A peer has `seconds` to send a request's head, from the end of the last answer, and must read some of an answer
    within the same time. Where all places are taken, or half of them by one peer, a waiting connection is closed: the
    one that has waited longest for a request's head, then for a body, and last a connection younger than FRESH. Where
    none waits, the new connection gets answers to probes alone.

    places: the most connections.
    """

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        places: int,
        seconds: float,
    ):
        super().__init__(config, server_state, app_state, _loop)
        self._places, self._seconds = places, seconds
        self._waits = ""
        """"head" or "body" of a request that is waited for, or ""."""
        self._since = 0.0
        self._began = False
        """Whether a part of a head has arrived."""
        self._fresh = False
        """Whether the connection is younger than FRESH. A timer ends it, as a busy event loop reads data before it
        checks the time."""
        self._fresh_timer: asyncio.TimerHandle | None = None
        self._head_timer: asyncio.TimerHandle | None = None
        self._answer_timer: asyncio.TimerHandle | None = None
        self.peer = ""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.peer = peer_of(self.client)
        self._see()
        self._find_place()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        for timer in (self._fresh_timer, self._head_timer, self._answer_timer):
            if timer is not None:
                timer.cancel()

    def data_received(self, data: bytes) -> None:
        self._began = True
        super().data_received(data)
        self._see()

    def on_response_complete(self) -> None:
        self._began = False
        self._see()
        super().on_response_complete()  # it may go on with a request that has arrived already
        self._see()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_reader()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._answer_timer is not None:
            self._answer_timer.cancel()

    def send_400_response(self, msg: str) -> None:
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            self._refuse(400, "this is no HTTP request that can be read")
        else:
            self.transport.close()

    def shutdown(self) -> None:
        if self._waits == "body":
            self._give_up()  # no request is taken any more
        else:
            super().shutdown()

    def _see(self) -> None:
        """Update what the connection waits for."""
        idle = self.cycle is None or self.cycle.response_complete
        waits = "head" if idle else "body" if self.cycle.more_body else ""
        if waits == self._waits:
            return
        self._waits, self._since = waits, self.loop.time()
        for timer in (self._fresh_timer, self._head_timer):
            if timer is not None:
                timer.cancel()
        self._fresh = waits == "head"
        if waits == "head":
            self._fresh_timer = self.loop.call_later(FRESH, self._grow_stale)
            self._head_timer = self.loop.call_later(self._seconds, self._too_slow)

    def _grow_stale(self) -> None:
        self._fresh = False

    def _too_slow(self, before: float = math.inf) -> None:
        """End a connection on which no head arrived in time; `before`: bytes of the last answer unread at the last
        check.
        """
        unread = self.transport.get_write_buffer_size()
        if 0 < unread < before:  # the peer is reading the last answer
            self._head_timer = self.loop.call_later(self._seconds, self._too_slow, unread)
        elif unread:
            self._give_up()
        elif self._began and self.conn.our_state is h11.IDLE:
            self._refuse(408, f"the request's head took over {self._seconds:g} s to arrive")
        else:
            self.transport.close()

    def _watch_reader(self, before: float = math.inf) -> None:
        """End a connection whose peer does not read its answer; `before`: bytes unread at the last check."""
        unread = self.transport.get_write_buffer_size()
        if unread < before:
            self._answer_timer = self.loop.call_later(self._seconds, self._watch_reader, unread)
        else:
            self._give_up()

    def _find_place(self) -> None:
        mine = [one for one in self.connections if isinstance(one, Connection) and one.peer == self.peer]
        crowd = mine if len(mine) > self._places // 2 else self.connections
        if crowd is self.connections and len(crowd) <= self._places:
            return
        waiting = [one for one in crowd if isinstance(one, Connection) and one is not self and one._waits]
        if waiting:
            min(waiting, key=Connection.turn)._give_up()
        elif len(self.connections) > self._places + SPARE:
            self._give_up()
        else:
            self.app_state = {**self.app_state, CROWDED: True}

    def turn(self) -> tuple[int, float]:
        """Order in which waiting connections are closed, the lowest first."""
        return 2 if self._fresh and not self._began else int(self._waits == "body"), self._since

    def _give_up(self) -> None:
        self.connections.discard(self)
        self.transport.abort()

    def _refuse(self, status: int, error: str) -> None:
        """Answer a connection without a complete request, and close it."""
        body = json.dumps({"error": error}, separators=(",", ":")).encode()
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"connection", b"close"),
            *SAFE.items(),
        ]
        for event in (h11.Response(status_code=status, headers=headers), h11.Data(data=body), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event))
        self.transport.close()
