"""The connections of a service: none is waited for without an end, and none that is waited for keeps another out."""

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
"""Connections beyond the places, on which the probes are answered and everything else is refused."""


FRESH = 0.5
"""Seconds that a connection may take to begin its head, before it gives way to those that come after it."""


class Connection(H11Protocol):
    """A connection that its peer must use. uvicorn has h11 in any case, and waits for a request's head for ever.

    A peer has `seconds` for the head of a request, from the end of the answer before; and must read some of an answer
    in as long. Where all places are taken, or half of them by one peer, the connection that has waited longest for a
    request, then for a request's body, gives its place up, one that has only just come last; where none waits, the new
    one is refused all but probes.

    places: connections at once.
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
        """For a request's "head" or "body", or for nothing."""
        self._since = 0.0
        self._began = False
        """Whether something of a head has come."""
        self._fresh = False
        """Whether it has only just come; told by a timer, as a loop that is late reads what has come before it looks at
        the time."""
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
        super().on_response_complete()  # which may go on to a request that has come already
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
            self._give_up()  # nothing is taken any more
        else:
            super().shutdown()

    def _see(self) -> None:
        """Note what is waited for now."""
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
        """End a connection on which no head has come in time; `before` bytes of an answer were unread earlier."""
        unread = self.transport.get_write_buffer_size()
        if 0 < unread < before:  # the last answer is on its way
            self._head_timer = self.loop.call_later(self._seconds, self._too_slow, unread)
        elif unread:
            self._give_up()
        elif self._began and self.conn.our_state is h11.IDLE:
            self._refuse(408, f"the request's head took over {self._seconds:g} s to arrive")
        else:
            self.transport.close()

    def _watch_reader(self, before: float = math.inf) -> None:
        """End a connection whose peer reads nothing of a long answer; `before` bytes of it were unread earlier."""
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
        """When it is to give its place up, of those that wait: the lowest first."""
        return 2 if self._fresh and not self._began else int(self._waits == "body"), self._since

    def _give_up(self) -> None:
        self.connections.discard(self)
        self.transport.abort()

    def _refuse(self, status: int, error: str) -> None:
        """Answer what is no request yet, and close."""
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
