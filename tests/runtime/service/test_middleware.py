"""Request ids, tokens and other pages' origins; bodies that begin, and those that are cut short."""

import asyncio

import pytest
from fastapi.testclient import TestClient

from frugal_rt.runtime.service import middleware
from frugal_rt.runtime.service.app import create_app
from frugal_rt.runtime.service.intake import Options

from .asking import error, restore


def test_every_answer_carries_its_request_id(client, caplog):
    assert client.get("/livez", headers={"X-Request-ID": "abc-1"}).headers["x-request-id"] == "abc-1"
    forged = client.get("/livez", headers={"X-Request-ID": 'a"\r\nx: b'.replace("\r\n", " ")}).headers["x-request-id"]
    assert len(forged) == 16


def test_a_token_guards_everything_but_the_probes(pool):
    with TestClient(create_app(pool, Options(token="secret"))) as client:
        assert "needs its token" in error(restore(client), 401)
        assert client.get("/v1/service").status_code == 401
        assert client.get("/").status_code == 200  # the page asks for it
        assert restore(client, headers={"Authorization": "Bearer secrets"}).status_code == 401
        assert restore(client, steps=3, headers={"Authorization": "Bearer secret"}).status_code == 200
        assert client.get("/livez").status_code == client.get("/readyz").status_code == 200


def test_other_pages_may_ask_only_where_they_are_named(pool):
    with TestClient(create_app(pool)) as client:
        assert "access-control-allow-origin" not in client.get("/livez", headers={"Origin": "https://a.test"}).headers
    with TestClient(create_app(pool, Options(origins=["https://a.test"]))) as client:
        for origin, allowed in (("https://a.test", "https://a.test"), ("https://b.test", None)):
            headers = client.get("/livez", headers={"Origin": origin}).headers
            assert headers.get("access-control-allow-origin") == allowed


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/", "/v1/service", "/nothing"])
def test_head_is_answered_as_get_is_without_a_body(client, path):
    head, get = client.head(path), client.get(path)
    assert head.status_code == get.status_code
    assert head.content == b""
    for name in ("content-type", "content-length"):
        assert head.headers[name] == get.headers[name]


def test_head_begins_nothing_and_fetches_nothing(client):
    assert client.head("/v1/restore").status_code == 405
    assert client.head("/v1/jobs/0/image").status_code == 405


END = {"type": "http.disconnect"}


def piece(body: bytes, more: bool = True) -> dict:
    return {"type": "http.request", "body": body, "more_body": more}


def passed(messages: list[dict], reads: int = 99, expect: bool = False) -> tuple[list[bytes] | None, list, int]:
    """Send a body to an edge: the pieces that the application got, if it was begun; refusals; and the status.

    reads: pieces that the application asks for at most. expect: whether the client waits to be told to send.
    """
    got, refused, status, sent = None, [], 0, list(messages)

    async def application(scope, receive, send):
        nonlocal got
        got = []
        while len(got) < reads:
            message = await receive()
            got.append(message.get("body"))
            if not message.get("more_body"):
                break
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def receive():
        if not sent:
            await asyncio.Event().wait()
        return sent.pop(0)

    async def send(message):
        nonlocal status
        status = message.get("status", status)

    edge = middleware.Edge(application, 1 << 20, on_refusal=lambda *refusal: refused.append(refusal))
    headers = [(b"host", b"localhost"), (b"transfer-encoding", b"chunked")]
    headers += [(b"expect", b"100-continue")] * expect
    scope = {"type": "http", "method": "POST", "path": "/v1/restore", "headers": headers}
    asyncio.run(edge(scope, receive, send))
    return got, refused, status


@pytest.mark.parametrize("before", [[], [piece(b"a")], [piece(b"a"), piece(b"")]])
def test_nothing_is_begun_for_a_body_that_is_cut_short(before):
    assert passed([*before, END]) == (None, [("/v1/restore", 400)], 400)


def test_a_body_comes_whole_and_in_order():
    bodies = [b"a", b"", b"b" * middleware.EARLY_BYTES, b"c", b"d"]
    messages = [piece(body, body != b"d") for body in bodies]
    assert passed(messages) == (bodies, [], 200)
    assert passed([*messages[:-1], END]) == ([*bodies[:-1], None], [], 200)  # late: the application is told


def test_a_slow_body_is_passed_on_as_far_as_it_has_come(monkeypatch):
    monkeypatch.setattr(middleware, "EARLY_SECONDS", 0.01)
    assert passed([piece(b"a")], reads=1) == ([b"a"], [], 200)


def test_a_client_that_waits_to_be_told_is_not_told_before_the_application_asks():
    assert passed([piece(b"a"), END], reads=0, expect=True) == ([], [], 200)
