"""The pool's end of a worker: messages whole, none for who gave up, no wait for a process that does not read."""

import asyncio
import pickle
import socket
import subprocess
import sys
from multiprocessing.connection import Connection

import pytest

from frugal_rt.runtime.pool.link import Link
from frugal_rt.runtime.pool.messages import Cancel, Pong
from frugal_rt.runtime.pool.wire import HEADER, Wire, packed

LARGE = b"x" * (8 << 20)
"""More than a socket takes at once."""


@pytest.fixture
def on_a_link():
    """Runs a coroutine function of a link and of the process's end of its socket."""

    def run(check):
        async def whole():
            ours, theirs = socket.socketpair()
            process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
            link = Link(process, Connection(ours.detach()), 10)
            theirs.settimeout(30)
            try:
                await asyncio.wait_for(check(link, theirs), 60)
            finally:
                theirs.close()
                assert await link.end() == "SIGKILL"

        asyncio.run(whole())

    return run


def test_a_message_that_comes_in_parts_is_waited_for_without_holding_the_loop(on_a_link):
    async def check(link, theirs):
        message = packed(Pong(None, ()))
        for cut in (3, HEADER.size, HEADER.size + 5):
            theirs.sendall(message[:cut])
            receiving = asyncio.create_task(link.receive())
            await asyncio.sleep(0.05)  # and the loop lives
            assert not receiving.done()
            theirs.sendall(message[cut:])
            assert await receiving == Pong(None, ())

    on_a_link(check)


def test_sending_to_a_process_that_does_not_read_holds_nothing(on_a_link):
    async def check(link, theirs):
        for key in range(3):
            link.send(packed((key, LARGE)), key)
        await asyncio.sleep(0.05)
        assert [link.took(key) for key in range(3)] == [True, False, False]
        link.forget(0)  # which is on its way, and is told of
        link.forget(1)  # which is not sent any more
        wire = Wire(theirs)
        told = [await asyncio.to_thread(wire.receive) for _ in range(3)]
        assert told[0] == (0, LARGE)
        assert told[1] == (2, LARGE)
        assert told[2] == Cancel(0)

    on_a_link(check)


def test_what_a_process_said_before_it_was_killed_is_heard(on_a_link):
    async def check(link, theirs):
        theirs.sendall(packed("its last word") + HEADER.pack(100))
        link.kill()
        assert await link.receive() == "its last word"
        assert await link.receive() is None
        assert await link.receive() is None

    on_a_link(check)


def test_a_pickle_is_read_by_its_length():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        body = pickle.dumps(LARGE[:1000])
        ours.sendall(HEADER.pack(len(body)) + body + packed(2))
        wire = Wire(theirs)
        assert [wire.receive(), wire.receive()] == [LARGE[:1000], 2]
        ours.close()
        with pytest.raises(EOFError):
            wire.receive()
