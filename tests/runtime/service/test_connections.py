"""Clients that hold connections and give nothing for them: nobody else is kept out."""

import asyncio
import contextlib
import json
import signal
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from frugal_rt.runtime.service.connections import FRESH, Connection
from frugal_rt.runtime.service.peers import peer_of

LIMIT = 1
PLACES = 64 + 2 * LIMIT
"""As of server.serve."""
SILENT = b""
HALF_A_HEAD = b"GET /livez HTTP/1.1\r\nHost: localhost\r\nX-Long: "
STALLED = b"POST /v1/restore HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5000\r\n\r\n" + b"\x89PNG"
CHUNKED = b"POST /v1/restore HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n\x89PNG\r\r\n"


@pytest.fixture(scope="module")
def patient(serve):
    """A service that waits longer than any test for a head, a body, and an answer to be read."""
    return serve(limit=LIMIT, upload_seconds=600.0, idle_seconds=600.0)


@pytest.fixture(scope="module")
def impatient(serve):
    return serve(limit=LIMIT, upload_seconds=600.0, idle_seconds=0.5)


def connect(serving, host: str = "127.0.0.1", sent: bytes = b"") -> socket.socket:
    """A connection from an address of this machine, on which something was sent."""
    connection = socket.create_connection(serving.address, timeout=20, source_address=(host, 0))
    connection.sendall(sent)
    return connection


@contextmanager
def held(serving, number: int, sent: bytes, *hosts: str) -> Iterator[list[socket.socket]]:
    """So many connections from each host, on which something was sent, until the block ends."""
    with ExitStack() as stack:
        yield [stack.enter_context(connect(serving, host, sent)) for host in hosts for _ in range(number)]


def ask(serving, path: str, host: str = "127.0.0.1") -> tuple[int, bytes]:
    """The status and the body of an answer, on a connection of its own."""
    with connect(
        serving, host, f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()
    ) as connection:
        answer = b"".join(iter(lambda: connection.recv(1 << 16), b""))
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), body


def restore(serving, picture: bytes, **asked) -> int:
    answer = serving.post(picture, **{"task": "denoise", "sigma": 0.1, "steps": 3, **asked})
    return answer.status_code


def elsewhere() -> list[str]:
    """Addresses of this machine besides 127.0.0.1, where it has them without being asked for."""
    if sys.platform != "linux":
        pytest.skip("only Linux has all of 127.0.0.0/8")
    return [f"127.0.0.{number}" for number in range(2, 8)]


@pytest.mark.parametrize("sent", [SILENT, HALF_A_HEAD, STALLED, CHUNKED], ids=["silent", "head", "body", "chunks"])
def test_connections_that_wait_give_their_places_up(patient, png, sent):
    with held(patient, 3 * PLACES, sent, "127.0.0.1"):
        assert ask(patient, "/livez")[0] == ask(patient, "/readyz")[0] == 200
        assert restore(patient, png) == 200


def test_a_burst_does_not_end_one_whose_request_has_come(patient):
    """All of them are there before the service looks again, the one that asks first."""
    patient.process.send_signal(signal.SIGSTOP)
    try:
        asking = connect(patient, sent=b"GET /v1/service HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        with asking, held(patient, 3 * PLACES, SILENT, "127.0.0.1"):
            patient.process.send_signal(signal.SIGCONT)
            assert asking.recv(12) == b"HTTP/1.1 200"
    finally:
        patient.process.send_signal(signal.SIGCONT)


def test_many_peers_that_wait_keep_nobody_out(patient, png):
    with held(patient, PLACES // 2, SILENT, *elsewhere()):
        assert ask(patient, "/readyz")[0] == 200
        assert restore(patient, png) == 200


def test_heads_give_way_before_bodies_and_the_longest_first(patient):
    with held(patient, PLACES // 2 - 1, STALLED, "127.0.0.1"):
        assert ask(patient, "/livez")[0] == 200  # in the last place: so they are all seen
        with connect(patient, sent=HALF_A_HEAD) as slow:
            time.sleep(FRESH)  # or it would have only just come
            assert ask(patient, "/livez")[0] == 200
            assert ended(slow)
    with held(patient, PLACES // 2, STALLED, "127.0.0.1") as stalled:
        assert ask(patient, "/livez")[0] == 200
        assert ended(stalled[0])
        stalled[1].settimeout(0.3)
        with pytest.raises(TimeoutError):
            stalled[1].recv(1)


def test_one_that_has_only_just_come_gives_way_last():
    """Else those that come and go without end would end it before its head is there."""

    def waits(what: str, since: float, began: bool, fresh: bool = False) -> Connection:
        one = Connection.__new__(Connection)
        one._waits, one._since, one._began, one._fresh = what, since, began, fresh
        return one

    head, idle, body, later, fresh = (
        waits("head", 9.9, True, fresh=True),
        waits("head", 5.0, False),
        waits("body", 1.0, True),
        waits("body", 9.8, True),
        waits("head", 9.9, False, fresh=True),
    )
    assert sorted([fresh, later, body, head, idle], key=Connection.turn) == [idle, head, body, later, fresh]
    fresh._grow_stale()
    assert sorted([body, fresh], key=Connection.turn) == [fresh, body]


def test_one_whose_head_a_late_loop_has_not_read_is_still_fresh():
    """Else a burst of others', which takes the loop longer than that, ends whoever came in it."""

    async def late() -> tuple[int, int]:
        one = Connection.__new__(Connection)
        one.loop, one.cycle, one._seconds = asyncio.get_running_loop(), None, 60.0
        one._waits, one._began, one._fresh_timer, one._head_timer = "", False, None, None
        one._see()
        time.sleep(FRESH + 0.1)
        before = one.turn()[0]
        await asyncio.sleep(0.05)
        return before, one.turn()[0]

    assert asyncio.run(late()) == (2, 0)


def ended(connection: socket.socket) -> bool:
    """Whether the other end closes a connection on which it has said nothing."""
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


def test_whoever_watches_keeps_places_and_the_probes_are_answered(serve, png):
    """Half of them at most, until the others watch as well."""
    serving = serve(limit=LIMIT, idle_seconds=600.0)
    one, two, three = elsewhere()[:3]
    watch = f"GET {begin(serving, png)}/events HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    with ExitStack() as stack:

        def watched(host: str) -> None:
            for connection in stack.enter_context(held(serving, PLACES // 2, watch, host)):
                assert connection.recv(12) == b"HTTP/1.1 200"

        watched(one)
        status, body = ask(serving, "/v1/service", one)
        assert (status, json.loads(body)) == (503, {"error": "the service has all the connections it takes"})
        assert ask(serving, "/readyz", one)[0] == 200
        assert ask(serving, "/v1/service", two)[0] == 200
        watched(two)
        assert ask(serving, "/v1/service", three)[0] == 503
        with held(serving, PLACES, SILENT, three, two):
            assert ask(serving, "/livez", three)[0] == ask(serving, "/livez", two)[0] == 200
    serving.wait(lambda: ask(serving, "/v1/service", three)[0] == 200)
    assert 'frugal_rejections_total{cause="503"}' not in ask(serving, "/metrics")[1].decode()  # none was to restore
    assert '"path": "/v1/service", "status": 503' in serving.log.read_text()


def begin(serving, png: bytes) -> str:
    """The address of a job that lasts longer than a test."""
    import httpx

    text = json.dumps({"task": "denoise", "steps": 1000, "method": "dps"})
    files = {"image": png, "parameters": (None, text)}
    answer = httpx.post(f"{serving.url}/v1/restore", files=files, headers={"Prefer": "respond-async"}, timeout=30)
    assert answer.status_code == 202, answer.text
    return answer.headers["location"]


def test_a_head_that_does_not_come_is_given_up(impatient):
    with held(impatient, 3, SILENT, "127.0.0.1") as silent:
        for connection in silent:
            assert connection.recv(1 << 16) == b""


def test_a_head_that_trickles_is_told_so(impatient):
    with connect(impatient, sent=HALF_A_HEAD) as slow:
        answer = trickle(slow)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert json.loads(answer.partition(b"\r\n\r\n")[2]) == {"error": "the request's head took over 0.5 s to arrive"}


def test_a_second_head_is_waited_for_no_longer_than_the_first(impatient):
    """The body of a request that was answered before it came counts for nothing."""
    for first in (
        b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\nG",
        b"GET /livez HTTP/1.1\r\nHost: localhost\r\nContent-Length: 900\r\n\r\n",
    ):
        with connect(impatient, sent=first) as slow:
            answer = trickle(slow)
        assert answer.startswith(b"HTTP/1.1 200 ")


def trickle(connection: socket.socket) -> bytes:
    """Return the answer to a byte sent now and then, until the other end closes."""
    connection.settimeout(0.05)
    answer, ends = b"", time.monotonic() + 60
    while time.monotonic() < ends:
        try:
            connection.sendall(b"a")
            more = connection.recv(1 << 16)
        except TimeoutError:
            continue
        except OSError:
            return answer
        if not more:
            return answer
        answer += more
    pytest.fail("the connection is still open")


def test_an_answer_that_is_not_read_is_given_up(impatient):
    import psutil

    def connections() -> int:
        return len(psutil.Process(impatient.process.pid).net_connections("tcp"))

    before = connections()
    with socket.socket() as reader:
        reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        reader.connect(impatient.address)
        with contextlib.suppress(OSError):  # the service reads no more either
            reader.settimeout(1)
            while True:
                reader.sendall(b"GET /page.js HTTP/1.1\r\nHost: localhost\r\n\r\n" * 100)
        impatient.wait(lambda: connections() <= before)


def test_a_stop_waits_for_nobody_who_waits(serve, png):
    serving = serve(limit=LIMIT, upload_seconds=600.0, idle_seconds=600.0)
    with (
        held(serving, 8, SILENT, "127.0.0.1"),
        held(serving, 8, HALF_A_HEAD, "127.0.0.1"),
        held(serving, 8, STALLED, "127.0.0.1"),
    ):
        assert restore(serving, png) == 200
        assert serving.stop() == 0
    assert "Traceback" not in serving.log.read_text()


def test_peers_are_addresses_and_networks():
    assert peer_of(("10.0.0.1", 80)) == "10.0.0.1"
    assert peer_of(("2001:db8::1:2:3:4", 80)) == peer_of(("2001:db8::9", 80, 0, 0)) != peer_of(("2001:db8:1::9", 80))
    assert peer_of(("fe80::1%eth0", 80)) == "fe80::/64"
    assert peer_of(None) == ""
    assert peer_of(("testclient", 50000)) == "testclient"
