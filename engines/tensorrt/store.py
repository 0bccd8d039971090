"""Store of built TensorRT engines. An engine is matched to the plan and the machine before it is read.

An engine is native code for one version of TensorRT, one kind of GPU and one system. The user's own engines lie in the
cache, in a folder that nobody else may write. A plan may hold engines too, which are loaded only where the user trusts
them.
"""

import contextlib
import errno
import hashlib
import json
import logging
import mmap
import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from .. import cache
from ..base import PRECISIONS
from ..errors import BackendError, InputError, MissingExtra, PlanError
from ..files import make_folder
from ..nvidia import Device
from ..plan import Buffer, Plan

logger = logging.getLogger(__name__)
ENGINES = ("predict", "forward", "pullback")
"""Engines built from a plan: the forward graph with its answers alone, the forward graph with the activations that the
pullback reads, and the pullback graph."""
MEMBERS = "engines"
"""The folder of engines among a plan's members, and their key in its manifest."""
RECORD = "record.json"
LIMIT = 16 << 30
"""The most bytes of engines kept in the cache; those used longest ago are removed first."""
REMEDY = "delete it, or build again with: frugal-rt build --force"


@dataclass(frozen=True)
class Here:
    """The TensorRT, GPU and system of this machine, or of the one to build for."""

    flavour: str
    version: str
    """TensorRT's version, with all four parts."""
    capability: str
    gpu: str
    """The GPU's name; empty for any GPU of that compute capability."""
    system: str

    @classmethod
    def of(cls, flavour: str, version: str, device: Device) -> "Here":
        return cls(flavour, version, device.capability, device.name, system())


@dataclass(frozen=True)
class Record:
    """Record of a set of ENGINES: the plan, the builder and the GPU."""

    plan: str
    """The hash of the plan's contents."""
    here: Here
    precision: str
    batches: tuple[int, ...]
    """Batch sizes of the profiles, ascending. A call takes the first that is large enough; a larger call is split."""
    level: int
    """TensorRT's optimisation level, 0..5."""
    files: Mapping[str, Mapping[str, Any]]
    """Bytes and SHA-256 of each of ENGINES."""
    sides: tuple[int, ...] = ()
    """For images of any size: the longest side in pixels for each of `batches`, descending."""

    @property
    def key(self) -> str:
        """The name of the set's folder."""
        here = self.here
        parts = here.flavour, here.version, here.capability, here.gpu, here.system, self.precision, str(self.batches)
        sides = (str(self.sides),) if self.sides else ()
        return hashlib.sha256("\0".join((self.plan, *parts, *sides)).encode()).hexdigest()[:40]

    def profile(self, rows: int, height: int, width: int) -> int:
        """Return the index of the first profile that takes such a call. Raises StopIteration where none does."""
        longest = self.sides or (max(height, width),) * len(self.batches)
        sizes = enumerate(zip(self.batches, longest, strict=True))
        return next(i for i, (most, side) in sizes if most >= rows and side >= max(height, width))

    def most_rows(self, height: int, width: int) -> int:
        """Return the most rows of a call with images of these sides; 0 where the sides are too long."""
        longest = self.sides or (max(height, width),) * len(self.batches)
        fit = [most for most, side in zip(self.batches, longest, strict=True) if side >= max(height, width)]
        return max(fit, default=0)

    def data(self) -> dict[str, Any]:
        """Return the record in JSON's types."""
        data = {**asdict(self), "batches": list(self.batches), "sides": list(self.sides)}
        return data if self.sides else {key: value for key, value in data.items() if key != "sides"}

    @classmethod
    def parse(cls, data: Any) -> "Record":
        """Return the record that `data` was made from. Raises ValueError for anything else."""
        try:
            files = {
                name: {"bytes": int(data["files"][name]["bytes"]), "sha256": str(data["files"][name]["sha256"])}
                for name in ENGINES
            }
            here = Here(**{name: str(value) for name, value in data["here"].items()})
            batches = tuple(int(size) for size in data["batches"])
            sides = tuple(int(side) for side in data.get("sides", ()))
            record = cls(str(data["plan"]), here, str(data["precision"]), batches, int(data["level"]), files, sides)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError("no record of an engine") from error
        if not batches or list(batches) != sorted(set(batches)) or batches[0] < 1 or record.precision not in PRECISIONS:
            raise ValueError("no record of an engine")
        if sides and (len(sides) != len(batches) or list(sides) != sorted(sides, reverse=True) or sides[-1] < 1):
            raise ValueError("no record of an engine")
        return record


@dataclass(frozen=True)
class Built:
    """A set of built engines."""

    record: Record
    where: str
    """The set's name in messages."""
    own: bool
    """Whether the set lies in this user's cache."""
    read: Callable[[str], Buffer]
    """Returns the bytes of one of ENGINES, checked against their SHA-256. Raises BackendError or PlanError."""


def plan_hash(plan: Plan) -> str:
    """Hash everything that engines are built from: the plan's other members, and which graph each is."""
    held = {name: one["sha256"] for name, one in plan.manifest["members"].items() if not name.startswith(f"{MEMBERS}/")}
    mixed = {precision: one.get("graphs") for precision, one in plan.manifest.get("mixed", {}).items()}
    parts = json.dumps([held, plan.manifest["graphs"], mixed], sort_keys=True)
    return hashlib.sha256(parts.encode()).hexdigest()


def system() -> str:
    return f"{platform.system()} {platform.machine()}"


def find(plan: Plan, here: Here, precision: str | None = None, trust: bool = False) -> Built:
    """Return the best set of the plan's engines that runs `here`.

    The user's own come before the plan's, those for this GPU's name before those for its compute capability, then by
    the order of PRECISIONS unless one is given, then by the largest batch. The plan's are taken only with `trust`.
    Raises BackendError, with the value that does not match and the command that helps.
    """
    there = sorted(built(plan), key=lambda one: _rank(one, here))
    reasons = [mismatch(one, here, precision) for one in there]
    fitting = [one for one, reason in zip(there, reasons, strict=True) if reason is None]
    for one in fitting:
        if one.own or trust:
            return one
    remedy = f"run: {command(plan, here, precision)}"
    if fitting:
        raise BackendError(
            f"{fitting[0].where} is native code that was not built by you on this machine: --trust-engines loads it if "
            f"you trust where it came from, or build your own: {remedy.removeprefix('run: ')}"
        )
    if reasons:
        raise BackendError(f"{reasons[0]}; {remedy}")
    raise BackendError(f"{plan.source} has no TensorRT engine yet for the {here.gpu} of this machine; {remedy}")


def mismatch(built: Built, here: Here, precision: str | None) -> str | None:
    """Return why these engines do not run here, with both values; None where they do."""
    record, there = built.record, built.record.here
    if precision not in (None, record.precision):
        return f"{built.where} computes in {record.precision}, and {precision} is asked for"
    if (there.flavour, there.version) != (here.flavour, here.version):
        return f"{built.where} was built by {there.flavour} {there.version}, and {here.flavour} {here.version} is here"
    if there.capability != here.capability:
        return (
            f"{built.where} was built for compute capability {there.capability} ({there.gpu or 'any GPU of it'}), and "
            f"the {here.gpu} has {here.capability}"
        )
    if there.system != here.system:
        return f"{built.where} was built on {there.system}, and this is {here.system}"
    return None


def command(plan: Plan, here: Here, precision: str | None) -> str:
    """Return the command that builds the wanted engine."""
    wanted = f" --precision {precision}" if precision else ""
    flavour = f" --flavour {here.flavour}" if here.flavour != "tensorrt" else ""
    return f"frugal-rt build {plan.source}{flavour}{wanted}"


def built(plan: Plan) -> Iterator[Built]:
    """Yield the built sets of this plan's engines, the user's own first. Raises PlanError."""
    wanted, root = plan_hash(plan), folder()
    for path in sorted(root.glob(f"*/{RECORD}")) if root else ():
        found = _cached(path.parent)
        if found is not None and found.record.plan == wanted:
            yield found
    for record in bundled(plan):
        if record.plan == wanted:
            yield Built(record, f"the engine in {plan.source}", False, partial(_of_plan, plan, record))


def bundled(plan: Plan) -> list[Record]:
    """Return the records of the engines in the plan. Raises PlanError where its manifest's list is invalid."""
    listed = plan.manifest.get(MEMBERS, [])
    try:
        if not isinstance(listed, list):
            raise ValueError("no list")
        return [Record.parse(data) for data in listed]
    except ValueError as error:
        raise PlanError(
            f"{plan.source}: its manifest has no valid {MEMBERS}; it was not written by frugal-rt"
        ) from error


def folder() -> Path | None:
    """Return the folder of the user's engines, or None where caching is off."""
    root = cache.folder()
    return None if root is None else root / MEMBERS


@contextmanager
def building() -> Iterator[Path]:
    """Yield the engines' folder and hold its lock: one build runs at a time, as builds time kernels.

    Raises InputError where caching is off, MissingExtra without filelock, FrugalError where the folder cannot be made.
    """
    root = folder()
    if root is None:
        raise InputError("engines are kept in the cache, which is off; let FRUGAL_RT_CACHE name a folder")
    try:
        from filelock import FileLock
    except ImportError as error:
        raise MissingExtra("Building engines", "filelock", "gpu") from error
    make_folder(root)
    with FileLock(root / "lock"):
        yield root


def keep(record: Record, engines: Mapping[str, Buffer], root: Path) -> Built:
    """Put engines into the cache, whole or not at all; the caller holds the lock of `building`. Raises BackendError."""
    target = root / record.key
    try:
        with tempfile.TemporaryDirectory(dir=root, prefix="tmp") as scratch:
            draft = Path(scratch) / "new"
            draft.mkdir(0o700)  # nobody else may write code that this user will run
            for name, data in engines.items():
                with (draft / f"{name}.engine").open("xb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
            (draft / RECORD).write_text(json.dumps(record.data(), indent=2))
            old = Path(scratch) / "old"
            if target.exists():
                target.rename(old)
            try:
                draft.rename(target)
            except OSError:
                old.rename(target)
                raise
        entries = (path.parent for path in root.glob(f"*/{RECORD}"))
        cache.prune(root, entries, LIMIT, partial(_forget, target))
    except OSError as error:
        why = "the disk is full" if error.errno == errno.ENOSPC else error.strerror or error
        raise BackendError(f"the engines cannot be kept in {root}: {why}") from error
    found = _cached(target)
    if found is None:
        raise BackendError(f"the engines in {root} were changed by another while they were written; build them again")
    return found


def bundle(plan: Plan, built: Built) -> Plan:
    """Return `plan` with these engines among its members, replacing those of the same key.

    Raises BackendError or PlanError.
    """
    record = built.record
    others = [one for one in bundled(plan) if one.key != record.key]
    manifest = {**plan.manifest, MEMBERS: [one.data() for one in (*others, record)]}
    del manifest["members"]
    members = {name: plan.member(name) for name in plan.members}
    members |= {_member(record, name): memoryview(built.read(name)) for name in ENGINES}
    return Plan(manifest, members, plan.source)


def _member(record: Record, name: str) -> str:
    return f"{MEMBERS}/{record.key}/{name}.engine"


def _of_plan(plan: Plan, record: Record, name: str) -> Buffer:
    return plan.member(_member(record, name))


def _rank(one: Built, here: Here) -> tuple[Any, ...]:
    record = one.record
    there = record.here
    alike = [there.flavour != here.flavour, there.version != here.version, there.capability != here.capability]
    return not one.own, *alike, there.gpu != here.gpu, PRECISIONS.index(record.precision), -record.batches[-1]


def _forget(new: Path, entry: Path) -> None:
    if entry != new:  # the new one stays, however large
        shutil.rmtree(entry, ignore_errors=True)


def _cached(path: Path) -> Built | None:
    """Return the engines in a folder of the cache; None where their record cannot be read."""
    try:
        record = Record.parse(json.loads((path / RECORD).read_bytes()))
    except (OSError, ValueError):
        logger.warning("%s holds no engines that can be read; it may be deleted", path)
        return None
    return Built(record, "the engine in the cache", _is_own(path), _InCache(path, record))


def _is_own(path: Path) -> bool:
    """Return whether the folder is this user's, and nobody else may write into it."""
    if not hasattr(os, "geteuid"):
        return True  # Windows: the cache folder belongs to the user
    status = path.stat()
    return status.st_uid == os.geteuid() and not status.st_mode & 0o022


class _InCache:
    """Reader of the engines in a folder of the cache.

    The first read opens all of them, so that a build that replaces the folder leaves this set whole.
    """

    def __init__(self, path: Path, record: Record):
        self._path, self._record = path, record
        self._opened: dict[str, memoryview] = {}

    def __call__(self, name: str) -> Buffer:
        self._opened = self._opened or {one: self._open(one) for one in ENGINES}
        if hashlib.sha256(self._opened[name]).hexdigest() != self._record.files[name]["sha256"]:
            raise self._damaged(name)
        with contextlib.suppress(OSError):  # a read-only cache removes nothing
            os.utime(self._path)
        return self._opened[name]

    def _open(self, name: str) -> memoryview:
        """Map a file of the size that the record says. Raises BackendError."""
        try:
            with self._file(name).open("rb") as file:
                if os.fstat(file.fileno()).st_size != self._record.files[name]["bytes"]:
                    raise self._damaged(name)
                return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        except OSError as error:
            raise BackendError(f"{self._file(name)} cannot be read: {error.strerror or error}; {REMEDY}") from error

    def _damaged(self, name: str) -> BackendError:
        return BackendError(f"{self._file(name)} is damaged: it does not match its SHA-256; {REMEDY}")

    def _file(self, name: str) -> Path:
        return self._path / f"{name}.engine"
