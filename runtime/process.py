"""Processes of our own, each at the other end of a connection; what crosses it is pickled by one for the other."""

import contextlib
import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from multiprocessing.connection import Connection

_BOOT = (
    "import signal; both = signal.SIGINT, signal.SIGTERM; [signal.signal(number, signal.SIG_IGN) for number in both]; "
    "signal.pthread_sigmask(signal.SIG_UNBLOCK, both); "
    "import importlib, json, sys; from multiprocessing.connection import Connection; "
    "sys.path[:] = json.loads(sys.argv[1]); "
    "importlib.import_module(sys.argv[2]).main(Connection(int(sys.argv[3])))"
)
"""Not multiprocessing's spawn, which runs the caller's own script again in the child, and in the caller's environment.
Signals that are sent to a whole group of processes are for the one that started them: they are blocked for the child
from before it is there."""

_MMAP_THRESHOLD = -3
"""M_MMAP_THRESHOLD of glibc's malloc.h."""


def launch(module: str, environment: Mapping[str, str] | None = None) -> tuple["subprocess.Popen[bytes]", Connection]:
    """A new interpreter that calls `main(connection)` of `module`, and this end of the connection.

    environment: variables that it has from its first moment, before it imports anything, besides those of this process.
    """
    ours, theirs = socket.socketpair()
    with theirs:
        command = [sys.executable, "-I", "-c", _BOOT, json.dumps(sys.path), module, str(theirs.fileno())]
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env={**os.environ, **(environment or {})},
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return process, Connection(ours.detach())


def socket_of(connection: Connection) -> socket.socket:
    """The socket under a connection, for who frames messages without waiting. The connection is closed."""
    with connection:
        return socket.socket(fileno=os.dup(connection.fileno()))


def return_large_blocks() -> None:
    """Have the C library give memory of a picture's size back to the system as soon as it is freed.

    glibc learns not to once such a block was freed; other libraries have no such setting, and need none.
    """
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).mallopt(_MMAP_THRESHOLD, 1 << 17)


def how_it_ended(process: "subprocess.Popen[bytes] | None") -> str:
    """A dying process's status or signal, waited for up to a second."""
    try:
        return ending(0 if process is None else process.wait(1))
    except subprocess.TimeoutExpired:
        return "its connection closed"


def ending(code: int) -> str:
    """The words for a process's return code: a status or, where it is negative, a signal."""
    return _signal(-code) if code < 0 else f"status {code}"


def overwritten(how: str) -> str:
    """Add to the words for a worker's end what brings it about, where it is one that an overwritten plan brings."""
    why = "a plan of over 512 MiB is mapped, and was written over; replace such a file by renaming another to its name"
    return f"{how} ({why})" if how == "SIGBUS" else how


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal has no name
        return f"signal {number}"
