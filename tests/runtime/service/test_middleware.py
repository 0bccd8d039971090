"""Request ids, tokens and other pages' origins."""

import pytest
from fastapi.testclient import TestClient

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
