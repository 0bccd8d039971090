"""Files that appear whole or not at all."""

import contextlib
import errno
import hashlib
import os
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from .errors import FileError, FrugalError

try:
    import fcntl
except ImportError:  # Windows, where nothing is locked
    fcntl = None  # type: ignore[assignment]

_DRAFT = re.compile(r"\..+\.[0-9a-f]{8}\.tmp", re.DOTALL)
"""The names of files that are being written."""


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """Open a binary file that takes the place of `path` only when the block ends well.

    Whatever stood at `path` survives an exception, Ctrl-C or a full disk. Raises FileError, in one sentence, when
    the system refuses.
    """
    target = Path(path)
    draft, created = target, False
    try:
        draft, file = _open_draft(target)
        with file:
            created = True
            yield file
            file.flush()
            os.fsync(file.fileno())
        draft.replace(target)
        created = False
    except FrugalError:
        raise
    except OSError as error:
        raise FileError(f"cannot write {target}: {_reason(error)}") from error
    finally:
        if created:
            draft.unlink(missing_ok=True)


def _open_draft(target: Path) -> tuple[Path, IO[bytes]]:
    """A new file beside `target`, locked as long as it is open. Raises OSError."""
    while True:
        draft = target.with_name(f".{target.name[:48]}.{secrets.token_hex(4)}.tmp")  # a character has up to 4 bytes
        file = draft.open("xb")
        if _lock(file) and os.fstat(file.fileno()).st_nlink:
            return draft, file
        file.close()  # another process took it for one that was left, before it was locked


def remove_drafts(folder: Path) -> None:
    """Remove what writers that were killed left in a folder; a file that is still being written is locked."""
    if fcntl is None or not is_folder(folder):
        return
    with contextlib.suppress(OSError):  # what may not be looked at or removed is in nobody's way
        for draft in [one for one in folder.iterdir() if _DRAFT.fullmatch(one.name)]:
            with contextlib.suppress(OSError):
                if stat.S_ISREG(draft.lstat().st_mode):
                    with draft.open("rb+") as file:
                        if _lock(file):
                            draft.unlink()


def _lock(file: IO[bytes]) -> bool:
    """Whether the file is locked now, or cannot be: other processes that ask are told no until it is closed."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return True
    return True


def is_there(path: Path) -> bool:
    """Whether there is a file or folder of that name; one that the system refuses, being too long, names none."""
    return os.path.exists(path)  # noqa: PTH110 (pathlib raises for such a name)


def is_folder(path: Path) -> bool:
    """Whether there is a folder of that name, as `is_there`."""
    return os.path.isdir(path)  # noqa: PTH112


def is_pipe(path: Path) -> bool:
    """Whether a name is of a pipe, a terminal or another thing that can be read once: neither a file nor a folder."""
    return is_there(path) and not is_folder(path) and not os.path.isfile(path)  # noqa: PTH113


def sha256_of(path: Path) -> str:
    """The hash of a file's bytes, which are never in memory at once. Raises OSError."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def make_folder(path: Path) -> None:
    """Make the folder and those above it, where they are not there. Raises FileError."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(f"cannot make the folder {path}: {error.strerror or error}") from error


def _reason(error: OSError) -> str:
    if error.errno == errno.ENOSPC:
        return "the disk is full; nothing was written, free some space and try again"
    if error.errno == errno.ENOENT:
        return "its folder does not exist"
    return error.strerror or str(error)
