"""Cache, on disk, of results that are slow to compute: onnxruntime's optimised graphs, decompositions of matrices.

It lies in $FRUGAL_RT_CACHE, by default frugal-rt/ in the user's cache folder; "off" keeps nothing. Its files may be
deleted at any time. An entry is used only if it matches the SHA-256 written beside it. Each kind of entry has its own
limit in bytes, so that entries of one kind never displace those of another.
"""

import contextlib
import hashlib
import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from .errors import FrugalError
from .files import atomic_write
from .machine import instructions, processor

logger = logging.getLogger(__name__)
LIMITS = {"graph": 2 << 30, "svd": 1 << 30, "kernels": 1 << 28, "speed": 1 << 20}
"""The most bytes kept of each kind; the entries used longest ago are removed first."""
LARGEST = LIMITS["graph"] // 4
"""The most bytes of weights whose optimised graph is kept: a larger entry would soon displace all others."""


def folder() -> Path | None:
    """Return the folder of the entries, or None where caching is off."""
    chosen = os.environ.get("FRUGAL_RT_CACHE")
    if chosen is not None:
        return None if chosen in ("", "off") else Path(chosen)
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "frugal-rt"
    except RuntimeError:  # a user without a home
        return None


def key(kind: str, *parts: str | Sequence[str]) -> str:
    """Return the name of the entry that was computed from `parts`, in order, on this kind of CPU.

    `parts` are all contents, versions and settings that decide it, so that two inputs never share an entry. `kind` is
    one of LIMITS.
    """
    digest = hashlib.sha256(json.dumps([*parts, processor(), instructions()]).encode()).hexdigest()
    return f"{kind}-{digest[:40]}"


def find(name: str) -> bytes | None:
    """Return the entry, or None where there is none or its bytes do not match their hash."""
    root = folder()
    if root is None:
        return None
    try:
        data, digest = (root / name).read_bytes(), (root / f"{name}.sha256").read_bytes()
    except OSError:
        return None
    if hashlib.sha256(data).hexdigest().encode() != digest:
        logger.warning("the cache entry %s is damaged and is made again", name)
        return None
    with contextlib.suppress(OSError):  # a read-only cache removes nothing
        os.utime(root / name)
    return data


def keep(name: str, write: Callable[[Path], object]) -> None:
    """Let `write` write the entry's file. A cache that cannot be written is no error: the next start is slower."""
    root = folder()
    if root is None:
        return
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=root) as scratch:
            made = Path(scratch) / name
            write(made)
            digest = hashlib.sha256(made.read_bytes()).hexdigest()
            made.replace(root / name)
        with atomic_write(root / f"{name}.sha256") as file:
            file.write(digest.encode())
        kind = name.partition("-")[0]
        alike = (path for path in root.glob(f"{kind}-*") if path.is_file() and path.suffix != ".sha256")
        prune(root, alike, LIMITS[kind], _remove)
    except (OSError, FrugalError) as error:
        logger.info("%s was not kept in the cache: %s", name, error)


def _remove(entry: Path) -> None:
    """Remove an entry and its digest, the digest first."""
    entry.with_name(f"{entry.name}.sha256").unlink(missing_ok=True)
    entry.unlink(missing_ok=True)


def prune(root: Path, entries: Iterable[Path], limit: int, remove: Callable[[Path], object]) -> None:
    """Remove the entries (files or folders) used longest ago until the rest has at most `limit` bytes.

    Remove also what an interrupted process left in `root` a day ago or earlier.
    """
    for left in root.glob("tmp*"):
        if time.time() - left.stat().st_mtime > 86400:
            shutil.rmtree(left, ignore_errors=True)
    total = 0
    for entry in sorted(entries, key=lambda path: path.stat().st_mtime, reverse=True):
        total += sum(file.stat().st_size for file in (entry.iterdir() if entry.is_dir() else [entry]))
        if total > limit:
            remove(entry)
