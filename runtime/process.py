"""Child processes with a connection to their parent, over which both send pickles."""

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
from pathlib import Path

_BOOT = (
    "import signal; both = signal.SIGINT, signal.SIGTERM; [signal.signal(number, signal.SIG_IGN) for number in both]; "
    "signal.pthread_sigmask(signal.SIG_UNBLOCK, both); "
    "import importlib, json, sys; from multiprocessing.connection import Connection; "
    "sys.path[:] = json.loads(sys.argv[1]); "
    "importlib.import_module(sys.argv[2]).main(Connection(int(sys.argv[3])))"
)
"""Code that a child runs. multiprocessing's spawn would run the caller's script again in the child, in the caller's
environment. Signals to the process group are meant for the parent: they are blocked in the child before it starts."""

_MMAP_THRESHOLD = -3
"""M_MMAP_THRESHOLD of glibc's malloc.h."""


def launch(module: str, environment: Mapping[str, str] | None = None) -> tuple["subprocess.Popen[bytes]", Connection]:
    """Start an interpreter that calls `main(connection)` of `module`; return it and this end of the connection.

    environment: variables, besides those of this process, that are set before the child imports anything.
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
    """Return the socket of a connection, for messages that are sent without blocking; the connection is closed."""
    with connection:
        return socket.socket(fileno=os.dup(connection.fileno()))


def return_large_blocks() -> None:
    """Let the C library return blocks of a picture's size to the system as soon as they are freed.

    glibc stops doing so after the first such block is freed. Other C libraries have no such setting.
    """
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).mallopt(_MMAP_THRESHOLD, 1 << 17)


def how_it_ended(process: "subprocess.Popen[bytes] | None") -> str:
    """Return in words how a process ended, after waiting for it for at most a second."""
    try:
        return ending(0 if process is None else process.wait(1))
    except subprocess.TimeoutExpired:
        return "its connection closed"


def cpu_ticks(process: "subprocess.Popen[bytes] | None") -> int | None:
    """Return the CPU time of a running process in the system's ticks; None where the system does not tell it."""
    try:
        status = Path(f"/proc/{0 if process is None else process.pid}/stat").read_text()
    except OSError:
        return None
    user, system = status.rpartition(")")[2].split()[11:13]  # its name in brackets may hold spaces
    return int(user) + int(system)


def ending(code: int) -> str:
    """Return the words for a process's return code: a status, or if negative a signal."""
    return _signal(-code) if code < 0 else f"status {code}"


def overwritten(how: str) -> str:
    """Add an explanation to the words for a worker's end, where it is typical of a plan overwritten during its use."""
    why = "a plan of over 512 MiB is mapped, and was written over; replace such a file by renaming another to its name"
    return f"{how} ({why})" if how == "SIGBUS" else how


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal has no name
        return f"signal {number}"
