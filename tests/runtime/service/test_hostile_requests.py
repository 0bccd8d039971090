"""Requests made up by Hypothesis: heads, forms, parameters and pictures. Each is answered, or refused by one sentence
of JSON with a status below 500; nothing hangs, and no error is logged.

FRUGAL_RT_FUZZ=100 makes it so many; a few run with every change, 10,000 in `make test-long`.
"""

import asyncio
import json
import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import h11
import pytest

pytest.importorskip("hypothesis")
from hypothesis import given
from hypothesis import strategies as st

from frugal_rt import Pool
from frugal_rt.runtime.service.app import create_app
from frugal_rt.runtime.service.intake import Options

from ...made_up import JSON, VALUES, cases, damaged
from .asking import png

FUZZ = os.environ.get("FRUGAL_RT_FUZZ")
NUMBERS = [int(FUZZ)] if FUZZ else [200, pytest.param(10_000, marks=pytest.mark.long)]
MOST = 1 << 18
HANGS = 60
"""Seconds after which a request counts as hung: far above what any takes."""


@dataclass(frozen=True)
class Asked:
    """A request."""

    method: str
    path: str
    query: bytes
    headers: list[tuple[bytes, bytes]]
    pieces: list[bytes]
    """Pieces of its body."""
    cut: bool
    """Whether its client hangs up after them."""


@dataclass(frozen=True)
class Answer:
    """An answer; the status is 0 where there was none."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes


PICTURE = png()
HEADER_BYTES = st.binary(max_size=30).map(lambda value: bytes(byte for byte in value if byte not in b"\0\r\n"))
"""Bytes that the parser of heads lets into a header's value."""
KEYS = ["task", "sigma", "noise", "hole", "keep", "scale", "filter", "kernel", "border", "grey", "keep_fraction", "fit",
        "frame", "aim", "method", "switch", "preset", "steps", "every", "guidance", "zeta", "lambda", "seed",
        "timeout", "mask", "\0"]  # fmt: skip
SOUND = b'{"task": "denoise", "sigma": 0.1, "steps": 2}'
PARAMETERS = st.one_of(
    st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=5), VALUES, max_size=4),
    JSON,
).map(lambda asked: json.dumps(asked).encode())
NAMES = [b"image", b"parameters", b"mask", b"x", b"", b"\xff", b"im\0", b"\\ud800\\n"]
DISPOSITIONS = [
    b'form-data; name="%s"', b'form-data; name="%s"; filename="f"', b"form-data; name=%s; filename=../f",
    b"Form-Data; NAME=%s", b"form-data; name*=utf-8''%s", b"attachment; filename*=utf-16''%%ff; name=%s",
    b"form-data; name=\"%s", b'form-data; name="%s"; name="image"', b"form-data; filename=%s", b"%s", b"name=%s;;;=;",
    b"form-data; name=\"%s\"; filename=\"\xff\xfe\"", b"form-data; name=%s" + b"; a=b" * 300,
]  # fmt: skip
PART_HEADERS = [
    b"", b"Content-Type: image/png\r\n", b"Content-Type: text/plain; charset=utf-16\r\n", b" folded\r\n",
    b"Content-Transfer-Encoding: base64\r\n", b"X-Long: " + b"y" * 9000 + b"\r\n", b"no colon\r\n", b": nameless\r\n",
    b"Content-Disposition: form-data; name=mask\r\n", b"X: y\r\n" * 200,
]  # fmt: skip
CHARSETS = ["utf-8", "utf-16", "utf-7", "idna", "punycode", "undefined", "unicode_escape", "hex", "rot13", "\xe9", ""]
KINDS = [
    *(f"multipart/form-data; boundary=b; charset={charset}".encode("latin-1") for charset in CHARSETS),
    b'Multipart/Form-Data; Boundary="b"', b"multipart/form-data", b"multipart/form-data; boundary=",
    b'multipart/form-data; boundary=""', b"multipart/form-data; boundary=" + b"b" * 500, b"multipart/form-data;;",
    b"multipart/form-data; boundary*=utf-8''b", b"multipart/form-data; boundary=b; boundary=c",
    b"multipart/form-data; boundary=c", b"multipart/form-data; boundary=\xff", b"multipart/mixed; boundary=b",
    b"image/png", b"application/json", b"",
]  # fmt: skip
FORM = b"multipart/form-data; boundary=b"
HEADERS = [
    (b"prefer", b"respond-async"), (b"prefer", b"\xff"), (b"x-request-id", b"a" * 5000), (b"x-request-id", b"\xff"),
    (b"authorization", b"Bearer \xff"), (b"authorization", b"Basic"), (b"origin", b"null"), (b"origin", b"http://[::1"),
    (b"sec-fetch-site", b"cross-site"), (b"host", b"[::1]:80"), (b"host", b"]["), (b"host", b""),
    (b"range", b"bytes=-1"), (b"content-encoding", b"gzip"), (b"accept", b"text/plain;q=nan"),
    (b"cookie", b"a=\"" * 99), (b"te", b"trailers"),
    (b"forwarded", b"for=\"["), (b"x-forwarded-for", b"%, ,"), (b"if-none-match", b"*"), (b"upgrade", b"websocket"),
    (b"access-control-request-method", b"\xff"), (b"content-type", b"image/png"), (b"content-length", b"\xb2"),
    (b"content-length", b"9" * 30), (b"content-length", b"-1"),
]  # fmt: skip
QUERIES = [b"parameters={}", b"parameters=%00", b"parameters", b"previews=1", b"previews=%ff", b"=&;", b"%zz=%"]
RESTORE, TEXT = "/v1/restore", st.text(max_size=9)
PATHS = [
    "/v1/jobs/x", "/v1/jobs/\0", "/v1/jobs/\ud800", "/v1/jobs/../..", "/v1/jobs//events", "/v1/jobs/x/image", "/livez",
    "/readyz", "/metrics", "/", "/page.js", "/../app.py", "//", "/v1/service", "/openapi.json", "/sample.png", "*", "",
    "/v1/restore", "/v1/restore/", "/v1/jobs/" + "a" * 3000,
]  # fmt: skip
METHODS = ["GET", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH", "BREW", "TRACE", "CONNECT"]


def mostly(sound: Any, odd: st.SearchStrategy, of: int = 8) -> st.SearchStrategy:
    """Make what is sound, but for one of so many."""
    return st.integers(1, of).flatmap(lambda number: odd if number == of else st.just(sound))


@st.composite
def part(draw, name: bytes) -> bytes:
    """A part of a form."""
    if name == b"parameters":
        content, disposition = draw(mostly(SOUND, PARAMETERS.flatmap(damaged) | PARAMETERS, 3)), DISPOSITIONS[0]
    else:
        content, disposition = draw(mostly(PICTURE, damaged(PICTURE) | st.binary(max_size=30), 4)), DISPOSITIONS[1]
    disposition = draw(mostly(disposition, st.sampled_from(DISPOSITIONS)))
    named = disposition % draw(mostly(name, st.sampled_from(NAMES))) if b"%s" in disposition else disposition
    more = draw(mostly(b"", st.sampled_from(PART_HEADERS)))
    return b"--b\r\nContent-Disposition: " + named + b"\r\n" + more + b"\r\n" + content + b"\r\n"


@st.composite
def requests(draw) -> Asked:
    """A request to restore, or now and then another."""
    method, path = draw(mostly(("POST", RESTORE), st.tuples(st.sampled_from(METHODS), st.sampled_from(PATHS) | TEXT)))
    query = b""
    if draw(st.integers(0, 3)):
        names = draw(mostly([b"image", b"parameters"], st.lists(st.sampled_from(NAMES), max_size=6), 4))
        whole = b"".join(draw(part(name)) for name in names) + b"--b--\r\n"
        body = draw(mostly(whole, damaged(whole)))
        kind = draw(mostly(FORM, st.sampled_from(KINDS) | HEADER_BYTES, 6))
    else:
        body = draw(mostly(PICTURE, damaged(PICTURE) | st.binary(max_size=30), 3))
        kind = draw(mostly(b"image/png", st.sampled_from(KINDS)))
        query = b"parameters=" + quote(draw(mostly(SOUND, PARAMETERS | st.binary(max_size=20), 2))).encode()
    query = draw(mostly(query, st.lists(st.sampled_from([query, *QUERIES]), max_size=3).map(b"&".join)))
    length = draw(st.sampled_from([(b"content-length", str(len(body)).encode()), (b"transfer-encoding", b"chunked")]))
    more = draw(mostly([], st.lists(st.sampled_from(HEADERS), max_size=2), 3))
    size = draw(st.sampled_from([1 << 20, 1 << 20, 100, 7]))
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    headers = [(b"host", b"localhost"), (b"content-type", kind), *more, length]
    return Asked(method, path, query, headers, pieces, draw(mostly(False, st.just(True), 20)))


async def answered(app: Any, asked: Asked) -> Answer:
    """The answer of an ASGI application."""
    pieces = [*asked.pieces] or [b""]
    status, headers, body, over = 0, [], b"", asyncio.Event()

    async def receive() -> dict[str, Any]:
        if pieces:
            piece = pieces.pop(0)
            return {"type": "http.request", "body": piece, "more_body": bool(pieces) or asked.cut}
        if not asked.cut:
            await over.wait()
        return {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        nonlocal status, headers, body
        if message["type"] == "http.response.start":
            assert not status
            status, headers = message["status"], [*message["headers"]]
        else:
            body += message.get("body", b"")

    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "scheme": "http",
        "method": asked.method,
        "path": asked.path,
        "raw_path": quote(asked.path, errors="surrogatepass").encode(),
        "root_path": "",
        "query_string": asked.query,
        "headers": asked.headers,
        "client": ("192.0.2.1", 1),
        "server": ("localhost", 80),
        "state": {},
    }
    await app(scope, receive, send)
    over.set()
    return Answer(status, headers, body)


@pytest.fixture(scope="module")
def ask(tiny_plan) -> Iterator[Callable[[Asked], Answer]]:
    """Asks a service; its loop runs only while it is asked."""
    with Pool(tiny_plan, "cpu", limit=8) as pool:
        app = create_app(pool, Options(max_bytes=MOST, max_pixels=90_000, timeout=20))
        loop, lifespan = asyncio.new_event_loop(), app.router.lifespan_context(app)
        loop.run_until_complete(lifespan.__aenter__())
        yield lambda asked: loop.run_until_complete(asyncio.wait_for(answered(app, asked), HANGS))
        loop.run_until_complete(lifespan.__aexit__(None, None, None))
        loop.close()


@pytest.mark.parametrize("number", NUMBERS)
def test_a_request_is_answered_or_refused_in_a_sentence(ask, number, caplog):
    caplog.set_level(logging.WARNING)
    statuses: dict[int, int] = {}

    @cases(number)
    @given(asked=requests())
    def check(asked: Asked) -> None:
        caplog.clear()
        answer = ask(asked)
        statuses[answer.status] = statuses.get(answer.status, 0) + 1
        faults = [record for record in caplog.records if record.exc_info or record.levelno >= logging.ERROR]
        assert not faults, caplog.text
        told = b"".join([asked.query, *asked.pieces])
        assert 200 <= answer.status < 500 or (answer.status == 504 and b"timeout" in told), answer
        h11.Response(status_code=answer.status, headers=answer.headers)  # raises for what cannot be sent
        if asked.method == "HEAD":
            assert not answer.body
        elif answer.status >= 400:
            said = json.loads(answer.body)
            assert list(said) == ["error"]
            assert said["error"].strip()
            assert not {*"\r\n"} & {*said["error"]}
            assert "/frugal_rt/" not in said["error"]
        elif answer.status == 200 and asked.method == "POST":
            assert answer.body.startswith(b"\x89PNG")

    check()
    print(f"{number} requests: {dict(sorted(statuses.items()))}")
    assert statuses[200], "none was sound, so that little was reached"
