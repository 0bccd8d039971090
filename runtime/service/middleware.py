"""The edge that every request passes, whatever it asks: an id, a log line, a body that begins and has an end, the token
or whose page asks, HEAD as GET; and the headers that every answer carries."""

import asyncio
import contextlib
import hmac
import json
import logging
import re
import secrets
import time
from collections import deque
from collections.abc import Callable, MutableMapping
from typing import Any

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .visitors import Visitors

logger = logging.getLogger(__name__)
PROBES = ("/livez", "/readyz")
"""Paths that are answered even when all connections are taken."""
PAGES = ("/", "/page.js", "/page.css")
OPEN = (*PROBES, *PAGES)
"""Paths that need no token: the probes of an orchestrator, and the page, which asks the user for a token."""
COUNTED = (*PROBES, "/metrics")
"""Paths that monitoring may request under any host name."""
JOBS = "/v1/jobs/"
"""Paths that HEAD is not for: to fetch an outcome, or follow a job, is more than to ask."""
EARLY_SECONDS = 0.1
EARLY_BYTES = 1 << 16
"""The beginning of a body that the edge waits for: so long, or so many bytes. A request that is cut short within them,
as by a client that closes its half of the connection, is refused before anything is begun for it."""
CROWDED = "crowded"
"""Key of a connection's state: it is one too many."""
SAFE = {
    b"x-content-type-options": b"nosniff",
    b"cache-control": b"no-store",
    b"content-security-policy": b"default-src 'none'; frame-ancestors 'none'",
    b"cross-origin-resource-policy": b"same-origin",
    b"referrer-policy": b"no-referrer",
}
"""Default headers of every answer."""
_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


class Edge:
    """An ASGI middleware around the service. It answers HEAD as GET, without a body.

    most: the most bytes of a body; a longer one is answered with 413, and not read to its end. token: the token that
    `Authorization: Bearer` must carry; None where `visitors` decides. on_refusal: called with the path and status of a
    request that is refused here.
    """

    def __init__(
        self,
        app: ASGIApp,
        most: int,
        token: str | None = None,
        visitors: Visitors | None = None,
        on_refusal: Callable[[str, int], object] = lambda path, status: None,
    ):
        self._app, self._most, self._token, self._on_refusal = app, most, token, on_refusal
        self._visitors = visitors or Visitors()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        asked = headers.get(b"x-request-id", "")
        request_id = asked if _ID.fullmatch(asked) else secrets.token_hex(8)
        scope.setdefault("state", {})["request_id"] = request_id
        started, status = time.perf_counter(), 0
        bodiless, path = scope["method"] == "HEAD", path_of(scope)

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                own = {name.lower() for name, _ in message["headers"]}
                more = [(name, value) for name, value in SAFE.items() if name not in own]
                message["headers"] = [*message["headers"], *more, (b"x-request-id", request_id.encode())]
            elif bodiless:
                message = {**message, "body": b""}
            await send(message)

        try:
            refused = self._refused(scope, path, headers)
            comes = b"transfer-encoding" in headers or headers.get(b"content-length", "0") != "0"
            if refused is None and comes and b"expect" not in headers:  # that client sends once it is answered
                gone, receive = await _begun(receive)
                refused = (400, "the request was cut short") if gone else None  # told to nobody, and counted
            if refused is not None:
                await self._answer(sending, path, *refused)
            else:
                as_get = bodiless and not path.startswith(JOBS)
                inner = {**scope, "method": "GET"} if as_get else scope
                await self._app(inner, self._limited(receive), sending)
        except Exception:
            logger.exception("a request failed", extra={"facts": {"request_id": request_id}})
            if not status:
                await self._answer(
                    sending, path, 500, f"the service failed over this request; its log has {request_id}"
                )
        finally:
            _log(scope, request_id, status, time.perf_counter() - started)

    def _refused(self, scope: Scope, path: str, headers: MutableMapping[bytes, str]) -> tuple[int, str] | None:
        """Return the status and sentence of a request that is refused, or None."""
        if scope["state"].get(CROWDED) and path not in PROBES:
            return 503, "the service has all the connections it takes"
        if self._token is None and path not in COUNTED:
            opens = path in PAGES and scope["method"] in ("GET", "HEAD")
            why = self._visitors.refused_host(headers) or self._visitors.refused_origin(headers, opens)
            if why is not None:
                return 403, why
        if self._token is not None and path not in OPEN and not self._preflight(scope, headers):
            scheme, _, given = headers.get(b"authorization", "").partition(" ")
            right = hmac.compare_digest(given.strip().encode("latin-1"), self._token.encode())
            if scheme.lower() != "bearer" or not right:
                return 401, "this service needs its token: Authorization: Bearer TOKEN"
        if int(_digits(headers.get(b"content-length")) or 0) > self._most:
            return 413, self._too_long()
        return None

    def _preflight(self, scope: Scope, headers: MutableMapping[bytes, str]) -> bool:
        """Return whether the request is a CORS preflight of an allowed origin, which carries no token."""
        return scope["method"] == "OPTIONS" and headers.get(b"origin") in self._visitors.origins

    def _limited(self, receive: Receive) -> Receive:
        received = 0

        async def receiving() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._most:
                raise HTTPException(413, self._too_long())
            return message

        return receiving

    async def _answer(self, send: Send, path: str, status: int, error: str) -> None:
        self._on_refusal(path, status)
        body = json.dumps({"error": error}, separators=(",", ":")).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        if status == 401:
            headers.append((b"www-authenticate", b"Bearer"))
        if status == 503:
            headers += [
                (b"retry-after", b"1"),
                (b"connection", b"close"),
            ]  # the next one may find a place
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    def _too_long(self) -> str:
        return f"the request is longer than {self._most / (1 << 20):g} MiB"


async def _begun(receive: Receive) -> tuple[bool, Receive]:
    """Wait for the beginning of a body; return whether the client is gone, and what receives the body, whole."""
    early: deque[Message] = deque()

    async def gather() -> None:
        left = EARLY_BYTES
        while left > 0 and (not early or early[-1].get("more_body")):
            early.append(await receive())
            left -= len(early[-1].get("body", b""))

    async def receiving() -> Message:
        return early.popleft() if early else await receive()

    with contextlib.suppress(asyncio.TimeoutError):
        await asyncio.wait_for(gather(), EARLY_SECONDS)
    return bool(early) and early[-1]["type"] == "http.disconnect", receiving


def path_of(scope: Scope) -> str:
    """Return the path of a request without the root path of a proxy."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "")
    return path.removeprefix(root) if path == root or path.startswith(f"{root}/") else path


def _digits(text: str | None) -> str:
    return text if text is not None and text.isascii() and text.isdecimal() and len(text) < 20 else ""


def _log(scope: Scope, request_id: str, status: int, seconds: float) -> None:
    facts: dict[str, Any] = {
        "request_id": request_id,
        "method": scope["method"],
        "path": scope["path"],
        "status": status,
        "seconds": round(seconds, 4),
        **scope["state"].get("facts", {}),
    }
    logger.info("request", extra={"facts": facts})


class JsonLines(logging.Formatter):
    """A log record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            **getattr(record, "facts", {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)
