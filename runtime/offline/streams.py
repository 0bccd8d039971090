"""The name "-": standard input as a picture, and standard output for its restoration."""

import sys
from pathlib import Path

from ...engines import FileError, InputError
from ...engines.files import is_pipe
from ..pictures.images import MAX_BYTES, read_bytes

STREAM = Path("-")


def is_stream(path: Path) -> bool:
    """Return whether a picture's name is "-", or a pipe such as the shell makes for <(command)."""
    return path == STREAM or is_pipe(path)


def read(path: Path) -> bytes:
    """Read a picture's file, or standard input, of at most MAX_BYTES. Raises InputError."""
    if path != STREAM:
        return read_bytes(path)
    if sys.stdin.isatty():
        raise InputError("standard input is a terminal; send a picture into it: < IMAGE")
    data = sys.stdin.buffer.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise InputError(f"standard input has more than {MAX_BYTES >> 20} MiB, up to which pictures are read")
    return data


def check_output() -> None:
    """Raise InputError where standard output is a terminal."""
    if sys.stdout.isatty():
        raise InputError("a picture is not written to a terminal; send it elsewhere: > FILE, or -o FILE")


def write(data: bytes) -> None:
    """Write to standard output. Raises FileError, or BrokenPipeError where its reader has closed it."""
    sys.stdout.flush()
    stream = getattr(sys.stdout.buffer, "raw", sys.stdout.buffer)  # unbuffered: Python does not flush again at exit
    rest = memoryview(data)
    try:
        while rest:
            rest = rest[stream.write(rest) :]
    except BrokenPipeError:
        raise
    except OSError as error:
        raise FileError(f"cannot write to standard output: {error.strerror or error}") from error
