"""Claims on the pictures of an output folder that several processes fill, so that only one restores each picture."""

import contextlib
import os
from hashlib import sha256
from pathlib import Path
from typing import IO

from ...engines.files import is_at, is_there, make_folder

try:
    import fcntl
except ImportError:  # Windows, where each process has the folder to itself
    fcntl = None  # type: ignore[assignment]

NAME = ".frugal-rt.lock"
TRIES = 100
"""The most times that the file is opened, each time just before another process removes it."""


class Claims:
    """Locks on bytes of a file in the folder, a byte for each name; the system frees a process's locks when it ends.

    The folder is made if it is missing. On a file system without locks every claim succeeds. Raises FileError.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        self._made = [one for one in (folder, *folder.parents) if not is_there(one)]
        self._file: IO[bytes] | None = None
        with contextlib.suppress(OSError):  # writing the results will raise the same error
            self._open()

    def take(self, name: str, wait: bool = False) -> bool:
        """Claim a name; return whether that succeeded. With `wait`, wait until no other process holds it."""
        return self._lock(_byte_of(name), wait)

    def give_back(self, name: str) -> None:
        """Release a name."""
        self._unlock(_byte_of(name))

    def close(self) -> None:
        """Release all names. The last process removes the file, and empty folders that it made."""
        if self._file is None:
            return
        self._unlock(0)  # before it tries to be the last, so that of several one is
        with contextlib.suppress(OSError):
            if self._lock(0) and is_at(self._file, self._folder / NAME):
                (self._folder / NAME).unlink()
        self._file.close()
        self._file = None
        with contextlib.suppress(OSError):  # the folder is not empty
            for folder in self._made:
                folder.rmdir()

    def _open(self) -> None:
        """Make the folder, open the file and share it; again where its last process removed either in between.

        Raises FileError for the folder, OSError for the file.
        """
        for _ in range(TRIES):
            make_folder(self._folder)
            with contextlib.suppress(FileNotFoundError):
                self._file = (self._folder / NAME).open("a+b")
                self._lock(0, wait=True, shared=True)
                if is_at(self._file, self._folder / NAME):
                    return
                self._file.close()
            self._file = None

    def _lock(self, byte: int, wait: bool = False, shared: bool = False) -> bool:
        if fcntl is None or self._file is None:
            return True
        how = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        try:
            fcntl.lockf(self._file, how | (0 if wait else fcntl.LOCK_NB), 1, byte, os.SEEK_SET)
        except (BlockingIOError, PermissionError):  # POSIX allows either for a held lock
            return False
        except OSError:
            return True
        return True

    def _unlock(self, byte: int) -> None:
        if fcntl is not None and self._file is not None:
            with contextlib.suppress(OSError):
                fcntl.lockf(self._file, fcntl.LOCK_UN, 1, byte, os.SEEK_SET)


def _byte_of(name: str) -> int:
    """Return the byte of a name's lock. Byte 0 is shared by all processes that use the folder."""
    return 1 + int.from_bytes(sha256(name.encode(errors="surrogateescape")).digest()[:6], "big")
