"""The plan: one file that holds a prior's weights (once), its graphs, and the manifest that describes them.

A plan is a zip archive of uncompressed members, each starting on a 64-byte boundary. Any zip tool opens it, and this
module maps it: weights are views into the file, never unpacked. `docs/plan-format.md` is the specification.
"""

import hashlib
import io
import json
import lzma
import mmap
import os
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .errors import FileError, MissingPlan, PlanError, UnreadablePlan
from .files import atomic_write
from .graphs import check_graph
from .manifest import ANY_SIZE, FORMAT, ONE_SIZE, WEIGHTS, fault, graph_entries, has_attention, parse
from .weights import read_safetensors

__all__ = ["ALIGNMENT", "ANY_SIZE", "FORMAT", "MANIFEST", "ONE_SIZE", "WEIGHTS", "Plan"]

ALIGNMENT = 64
MANIFEST = "manifest.json"
IN_MEMORY = 512 << 20
"""Bytes up to which a file is read into memory. A larger one is mapped, and must not be overwritten while it is
open."""

_NAME = re.compile(r"[a-z0-9_][a-z0-9_.-]*(/[a-z0-9_][a-z0-9_.-]*)*")
_MANIFEST_LIMIT = 4 << 20
"""The most bytes of a manifest, and of a zip archive's directory."""
_LOCAL_HEADER = struct.Struct("<4s5H3L2H")  # APPNOTE.TXT 4.3.7
_LARGE = 1 << 30
"""Bytes from which a member's size is written in 64 bits. The 32-bit field ends at 4 GiB, zipfile's use of it at 2."""
_ZIP64_EXTRA = 20
"""Bytes that a 64-bit size adds to the local header (APPNOTE.TXT 4.5.3)."""

_REMEDY = "make a plan with: frugal-rt export --model celeba"
_DAMAGE: tuple[type[Exception], ...] = (
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, EOFError, OSError),
    *(LookupError, TypeError, ValueError, ArithmeticError, RuntimeError),
)
"""Errors that zipfile and struct raise for damaged bytes."""

Buffer = memoryview | bytes | bytearray


class Plan:
    """A manifest and its members, in memory or mapped from a file.

    `manifest` is the parsed JSON. Members are read by name; each is checked against its SHA-256 at its first read. Make
    a plan from buffers to save it, or open a file by `Plan.open`.
    """

    def __init__(self, manifest: Mapping[str, Any], members: Mapping[str, Buffer], source: str = "the plan"):
        self.source = source
        held = {name: memoryview(data) for name, data in members.items()}
        self._members: dict[str, memoryview] | None = held
        self.manifest: dict[str, Any] = dict(manifest)
        if "members" not in self.manifest:
            self.manifest["members"] = {
                name: {"bytes": len(data), "sha256": _sha256(data)} for name, data in held.items()
            }
        self._checked: set[str] = set()

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> "Plan":
        """Read the plan at `path`, or map it where it is large.

        Raises PlanError, which says what the file is or where it is damaged.
        """
        source = Path(path).name
        data = _read(Path(path), source)
        _refuse_other_formats(data, source)
        try:
            with zipfile.ZipFile(_Reader(data)) as archive:
                manifest = _read_manifest(archive, source)
                members = dict(_locate(archive, manifest, data, source))
        except PlanError:
            raise
        except _DAMAGE as error:
            raise PlanError(
                f"{source} is damaged: its table of contents does not hold together; copy or export it again"
            ) from error
        return cls(manifest, members, source)

    @property
    def members(self) -> tuple[str, ...]:
        """Names of the members, without the manifest."""
        return tuple(self._held())

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the prior's images; for a prior of any size, the shape with which it is measured."""
        image = self.manifest["image"]
        side = image.get("side")
        return image["channels"], image["height"] or side, image["width"] or side

    @property
    def attends(self) -> bool:
        """Whether the network has attention, so that each pixel of its answer depends on its whole image."""
        return has_attention(self.manifest["network"]["config"])

    @property
    def stride(self) -> int | None:
        """Pixels that the sides of images must be multiples of; None where all images have one size."""
        stride: int | None = self.manifest["image"].get("stride")
        return stride

    @property
    def size(self) -> str:
        """The size of the prior's images as it is shown."""
        channels, height, width = self.image_shape
        if self.stride is None:
            return f"{channels}x{height}x{width}"
        return f"{channels} channels of any size, the network's in multiples of {self.stride}"

    @property
    def reach(self) -> int:
        """The network's reach: pixels from an output pixel to the farthest input pixel it depends on.

        Normalisation layers, which depend on all pixels, are left aside. Only plans for images of any size have it.
        """
        reach: int = self.manifest["image"]["reach"]
        return reach

    def member(self, name: str) -> memoryview:
        """Return the bytes of a member, checked against the manifest's SHA-256. Raises PlanError."""
        held = self._held()
        if name not in held:
            raise PlanError(f"{self.source} holds no member {name}; it has {', '.join(held)}")
        if name not in self._checked:
            if _sha256(held[name]) != self.manifest["members"][name]["sha256"]:
                raise PlanError(
                    f"{self.source} is damaged: {name} does not match its SHA-256 in the manifest; "
                    "copy or export the plan again"
                )
            self._checked.add(name)
        return held[name]

    def graph(self, entry: Mapping[str, Any]) -> bytes:
        """Return the ONNX bytes of a graph, by its entry in the manifest.

        Raises PlanError where `member` does, and for a graph that would read anything but the plan's weights.
        """
        data, weights = self.member(entry["member"]), read_safetensors(self.member(WEIGHTS), self.source)
        check_graph(data, entry, weights, WEIGHTS, f"{self.source}: {entry['member']}")
        return bytes(data)

    def check(self) -> None:
        """Check every member and every graph, of all precisions. Raises PlanError."""
        for name in self.members:
            self.member(name)
        for entry in graph_entries(self.manifest).values():
            self.graph(entry)

    def close(self) -> None:
        """Release the members, but not the manifest. A mapped file is unmapped once no array of `tensors` is left."""
        self._members = None

    def tensors(self) -> dict[str, np.ndarray]:
        """Return the weights by name, as views of the plan's memory. Raises PlanError."""
        return {name: array for name, (array, _) in read_safetensors(self.member(WEIGHTS), self.source).items()}

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the plan to `path`: to a temporary file beside it, then renamed. Raises FileError."""
        with atomic_write(path) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
            for name, data in {MANIFEST: self.manifest_bytes(), **self._held()}.items():
                entry = zipfile.ZipInfo(name)  # the fixed date of 1980 keeps plans reproducible
                entry.external_attr = 0o644 << 16
                large = len(data) >= _LARGE
                start = file.tell() + _LOCAL_HEADER.size + len(name) + 4 + large * _ZIP64_EXTRA
                padding = -start % ALIGNMENT
                entry.extra = struct.pack("<HH", 0xD935, padding) + bytes(padding)
                with archive.open(entry, "w", force_zip64=large) as member:
                    member.write(data)

    def extract(self, folder: str | os.PathLike[str]) -> list[Path]:
        """Write every member, checked, into `folder`, which is made if needed; return the files.

        Raises FileError where a file of that name exists.
        """
        root = Path(folder)
        targets = {root / MANIFEST: self.manifest_bytes(), **{root / name: self.member(name) for name in self.members}}
        taken = [str(target) for target in targets if target.exists()]
        if taken:
            raise FileError(f"{', '.join(taken)} already exists; extract into an empty folder")
        for target, data in targets.items():
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise FileError(f"cannot make the folder {target.parent}: {error.strerror}") from error
            with atomic_write(target) as file:
                file.write(data)
        return list(targets)

    def _held(self) -> dict[str, memoryview]:
        if self._members is None:
            raise PlanError(f"{self.source} has been closed; open it again")
        return self._members

    def manifest_bytes(self) -> memoryview:
        """Return the manifest as it is written."""
        return memoryview(json.dumps(self.manifest, indent=2, sort_keys=True).encode() + b"\n")


def _sha256(data: Buffer) -> str:
    return hashlib.sha256(data).hexdigest()


class _Reader(io.RawIOBase):
    """A buffer as a file for zipfile, which refuses to read more at once than _MANIFEST_LIMIT."""

    def __init__(self, data: memoryview):
        self._data, self._at = data, 0

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: len(self._data)}[whence]
        if self._at < 0:
            raise OSError("before the beginning")
        return self._at

    def tell(self) -> int:
        return self._at

    def read(self, size: int = -1) -> bytes:
        found = self._data[self._at : self._at + size if size >= 0 else None]
        if len(found) > _MANIFEST_LIMIT:
            raise zipfile.BadZipFile("a directory larger than any plan's")
        self._at += len(found)
        return bytes(found)


def _read(path: Path, source: str) -> memoryview:
    """Read or map a plan's file. Raises UnreadablePlan, or PlanError where it is no file."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise PlanError(f"{source} is a folder, a pipe or a device, and a plan is a file; {_REMEDY}")
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if not size:
                raise PlanError(f"{source} is empty; {_REMEDY}")
            if size > IN_MEMORY:
                return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY))
            held = mmap.mmap(-1, size, access=mmap.ACCESS_COPY)  # anonymous memory, aligned to a page like the file
            file.readinto(held)
            return memoryview(held)
    except FileNotFoundError:
        raise MissingPlan(
            f"there is no file {path}, nor a prior of that name in the package; make a plan with: frugal-rt export "
            "--model photo"
        ) from None
    except (OSError, ValueError) as error:  # a name with a NUL is a ValueError
        raise UnreadablePlan(f"cannot read {source}: {getattr(error, 'strerror', None) or error}") from error


def _refuse_other_formats(data: memoryview, source: str) -> None:
    """Raise PlanError for a file that is no zip archive, naming the commonest kinds."""
    head = bytes(data[:16])
    if head[:4] == b"PK\x03\x04":
        if not zipfile.is_zipfile(_Reader(data)):
            raise PlanError(f"{source} is cut short: the end of the file is missing; copy or export it again")
        return
    if head[1:4] == b"trt" or Path(source).suffix in (".engine", ".trt"):
        raise PlanError(f"{source} is a raw TensorRT engine, not a frugal-rt plan; {_REMEDY}")
    if head[0] == 0x08 and head[2:3] in (b"\x12", b"\x1a", b"\x22", b"\x2a", b"\x32", b"\x3a", b"\x42"):
        raise PlanError(f"{source} is an ONNX model, not a frugal-rt plan; export from its weights instead: {_REMEDY}")
    raise PlanError(f"{source} is not a frugal-rt plan; {_REMEDY}")


def _read_manifest(archive: zipfile.ZipFile, source: str) -> dict[str, Any]:
    if MANIFEST not in archive.namelist():
        raise PlanError(f"{source} is a zip archive without a {MANIFEST}, not a frugal-rt plan")
    entry = archive.getinfo(MANIFEST)
    try:
        if entry.file_size > _MANIFEST_LIMIT or entry.compress_type != zipfile.ZIP_STORED:
            raise ValueError
        manifest = parse(archive.read(entry))
        kind, version = manifest["format"], manifest["format_version"]
        if kind != FORMAT or type(version) is not int:
            raise ValueError
    except _DAMAGE as error:
        raise PlanError(f"{source} is damaged: its {MANIFEST} cannot be trusted; copy or export it again") from error
    if version > ANY_SIZE:
        raise PlanError(
            f"{source} is plan format {version} and this frugal-rt reads up to {ANY_SIZE}; upgrade frugal-rt"
        )
    if version < ONE_SIZE:
        raise PlanError(
            f"{source} is plan format {version}, which held no gradient; export it again: frugal-rt export --force"
        )
    if wrong := fault(manifest):
        raise PlanError(f"{source}: its {MANIFEST} has no valid {wrong}; it was not written by frugal-rt")
    checked: dict[str, Any] = manifest
    return checked


def _locate(
    archive: zipfile.ZipFile, manifest: dict[str, Any], data: memoryview, source: str
) -> Iterator[tuple[str, memoryview]]:
    """Yield the name and bytes of each member, after checking names, sizes and storage against the manifest."""
    entries = archive.infolist()
    names = sorted(entry.filename for entry in entries)
    expected = sorted([MANIFEST, *manifest["members"]])
    strange = [name for name in names if not _NAME.fullmatch(name) or name not in expected]
    if strange or len(set(names)) != len(names):
        raise PlanError(
            f"{source} has unexpected members ({', '.join(map(repr, strange)) or 'one name twice'}); "
            "it was not written by frugal-rt and is not opened"
        )
    if names != expected:
        raise PlanError(f"{source} lacks {', '.join(set(expected) - set(names))}; copy or export it again")
    for entry in entries:
        if entry.filename == MANIFEST:
            continue
        header = _LOCAL_HEADER.unpack_from(data, entry.header_offset)
        start = entry.header_offset + _LOCAL_HEADER.size + header[9] + header[10]
        size = manifest["members"][entry.filename]["bytes"]
        stored = header[0] == b"PK\x03\x04" and entry.compress_type == zipfile.ZIP_STORED
        if not stored or entry.file_size != size or start % ALIGNMENT or start + size > len(data):
            raise zipfile.BadZipFile(entry.filename)
        yield entry.filename, data[start : start + size]
