"""The bodies of requests: how many bytes of them are held, and for how long."""

import asyncio
from types import SimpleNamespace

import pytest
from starlette.requests import Request

from frugal_rt import BusyError
from frugal_rt.runtime.service.uploads import FREE, MAX_PARAMETERS, Uploads, size_of

from ..waiting import stopped
from .asking import error
from .asking import png as picture

EACH = 4 * FREE


def request(size: int, peer: str = "a") -> Request:
    """A request with a body of so many bytes."""
    sent = iter([{"type": "http.request", "body": bytes(size), "more_body": False}])

    async def receive():
        return next(sent)

    scope = {"type": "http", "method": "POST", "path": "/", "query_string": b"", "headers": [], "client": (peer, 1)}
    return Request(scope, receive)


def hold(uploads: Uploads, *requests: Request) -> list[int]:
    """The sizes of bodies that are held at the same time, in their order. Raises what the first too many does."""

    async def all_of(left: tuple[Request, ...]) -> list[int]:
        if not left:
            return []
        async with uploads.receive(left[0]) as upload:
            return [size_of(upload.picture), *await all_of(left[1:])]

    return asyncio.run(all_of(requests))


def test_one_peer_holds_half_of_what_all_hold():
    whole = EACH + FREE
    uploads = Uploads(EACH, 10)
    assert hold(uploads, request(whole), request(whole, "b")) == [whole] * 2
    with pytest.raises(BusyError, match="ask again later") as busy:
        hold(uploads, request(whole), request(FREE + 1))
    assert busy.value.retry_after > 0
    with pytest.raises(BusyError):
        hold(uploads, request(whole), request(whole, "b"), request(FREE + 1, "c"))


def test_what_was_held_is_given_back_and_small_bodies_always_find_room():
    whole = EACH + FREE
    uploads = Uploads(EACH, 10)
    for _ in range(3):
        assert hold(uploads, request(whole), *(request(FREE) for _ in range(20)))[0] == whole
        with pytest.raises(BusyError):
            hold(uploads, request(whole + 1))
    assert not uploads._held


def test_a_body_is_let_go_of_while_its_picture_is_restored(serve, png):
    """Held as long as the request, eight bodies of 12 MiB would be there together."""
    from concurrent.futures import ThreadPoolExecutor

    serving = serve(limit=8)
    assert serving.post(png, task="denoise", steps=3).status_code == 200
    padded = png + bytes(12 << 20)
    before = serving.memory()
    with ThreadPoolExecutor(8) as clients:
        with stopped(serving.workers()[0].pid):
            for done in range(1, 9):
                clients.submit(ask_and_wait, serving, padded)
                serving.wait(lambda done=done: serving.metric("frugal_images") == done)
            assert serving.memory() - before < 60 << 20
        serving.process.kill()


def ask_and_wait(serving, picture: bytes) -> SimpleNamespace:
    """The body alone, for a restoration that takes longer than the test."""
    import httpx

    asked = {"parameters": '{"task": "denoise", "steps": 1000, "method": "dps"}'}
    try:
        return httpx.post(f"{serving.url}/v1/restore", content=picture, params=asked, timeout=60)
    except httpx.TransportError:
        return None


ASKED = b'{"steps": 2, "method": "dmps"}'


def test_every_part_may_be_sent_as_a_file(client):
    mask = picture(mode="1")
    parts = {"image": ("a.png", picture()), "mask": ("m.png", mask)}
    as_field = client.post("/v1/restore", files=parts, data={"parameters": ASKED.decode()})
    as_file = client.post("/v1/restore", files={**parts, "parameters": ("p.json", ASKED, "application/json")})
    assert (as_field.status_code, as_file.status_code) == (200, 200)
    assert as_field.content == as_file.content
    long = client.post("/v1/restore", files={**parts, "parameters": ("p.json", b" " * (MAX_PARAMETERS + 1))})
    assert "parameters are longer than 64 KiB" in error(long, 422)


@pytest.mark.parametrize("part", ["image", "mask", "parameters"])
def test_a_part_that_is_given_twice_is_refused(client, part):
    parts = {"image": picture(), "mask": picture(mode="1"), "parameters": ASKED}
    sent = [(name, (name, data)) for name, data in parts.items()]
    answer = client.post("/v1/restore", files=[*sent, (part, (part, parts[part]))])
    assert f"the part {part!r} is given twice" in error(answer, 422)
