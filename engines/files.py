"""Files that are written whole or not at all."""

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

from .errors import FileError, FrugalError, InputError

try:
    import fcntl
except ImportError:  # Windows, where nothing is locked
    fcntl = None  # type: ignore[assignment]

_DRAFT = re.compile(r"\..+\.[0-9a-f]{8}\.tmp", re.DOTALL)
"""Names of files that are being written."""
HELD = ".held.lock"
"""The file that a command locks in a folder that it holds alone."""


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """Open a binary file that replaces `path` when the block ends without an exception.

    After an exception, Ctrl-C or a full disk, the old file is still there. Raises FileError where the system refuses.
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
            if fcntl is not None:  # still locked, so that no other process takes it for abandoned
                draft.replace(target)
                created = False
        if created:  # on Windows, which renames no open file
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
    """Make a file beside `target`, locked while it is open. Raises OSError."""
    while True:
        draft = target.with_name(f".{target.name[:48]}.{secrets.token_hex(4)}.tmp")  # names have at most 255 bytes
        file = draft.open("xb")
        if lock(file) and os.fstat(file.fileno()).st_nlink:
            return draft, file
        file.close()  # another process removed it as abandoned, before it was locked


def remove_drafts(folder: Path) -> None:
    """Remove the unfinished files of killed processes from a folder; files still being written are locked and stay."""
    if fcntl is None or not is_folder(folder):
        return
    with contextlib.suppress(OSError):  # a file that may not be read or removed does no harm
        for draft in [one for one in folder.iterdir() if _DRAFT.fullmatch(one.name)]:
            with contextlib.suppress(OSError):
                if stat.S_ISREG(draft.lstat().st_mode):
                    with draft.open("rb+") as file:
                        if lock(file, without=False):
                            draft.unlink()


def lock(file: IO[bytes] | int, wait: bool = False, without: bool = True) -> bool:
    """Lock the file, or that of a descriptor, until it is closed; return whether this succeeded.

    wait: whether to wait until nobody else has it locked. without: what to return where locks do not exist.
    """
    if fcntl is None:
        return without
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return without
    return True


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold the folder, which is made where it is missing, until the block or the process ends.

    Raises InputError where another command holds it, and FileError where the system refuses. On a file system without
    locks it is always held.
    """
    path = folder / HELD
    while True:
        make_folder(folder)
        try:
            file = path.open("ab")
        except OSError as error:
            raise FileError(f"cannot write {path}: {_reason(error)}") from error
        with file:
            if not lock(file):
                raise InputError(f"another command is writing into {folder}; wait for its end, or name another folder")
            if not is_at(file, path):  # its last holder removed it before it was locked
                continue
            try:
                yield
            finally:
                with contextlib.suppress(OSError):
                    path.unlink()
            return


def is_at(file: IO[bytes], path: Path) -> bool:
    """Return whether the open file still has that name. Raises OSError."""
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    return False


def is_there(path: Path) -> bool:
    """Return whether a file or folder has that name; False for a name that the system refuses, such as one too long."""
    return os.path.exists(path)  # noqa: PTH110 (pathlib raises for such a name)


def is_folder(path: Path) -> bool:
    """Return whether a folder has that name; False for a name that the system refuses."""
    return os.path.isdir(path)  # noqa: PTH112


def is_pipe(path: Path) -> bool:
    """Return whether the name is of something that can be read only once: a pipe, a terminal or a device."""
    return is_there(path) and not is_folder(path) and not os.path.isfile(path)  # noqa: PTH113


def sha256_of(path: Path) -> str:
    """Hash a file in pieces, without reading it whole into memory. Raises OSError."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def make_folder(path: Path) -> None:
    """Make the folder and its parents, where they do not exist. Raises FileError."""
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
