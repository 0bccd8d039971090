"""The process that decodes the pictures of requests and makes their measurements.

A malicious picture may take minutes or gigabytes to decode, or crash the decoder. That does not affect the service: the
system limits this process's CPU time and memory.
"""

import io
import math
import os
import resource
import signal
import warnings
from dataclasses import dataclass, replace
from hashlib import sha256
from multiprocessing.connection import Connection
from pathlib import Path

from PIL import Image

from ...engines import FrugalError, InputError
from ..operators import Shape
from ..pictures.damage import Damage
from ..pictures.decoding import Limits, Metadata, count_pixels, decode_photo
from ..pictures.images import as_mask
from ..pictures.measurement import Measurement, own_size, prepare, told_by_file
from ..process import return_large_blocks

MAX_TILED = 64
"""Size of the largest picture restored in tiles, as a multiple of the prior's image: a step of it is one call."""


@dataclass(frozen=True)
class Setup:
    """The first message to a preparer."""

    limits: Limits
    room: int
    """The most pixels of a request's pictures together; beyond, the answer is Larger."""
    seconds: float
    """Seconds of CPU time for a request, after which the system ends the process with SIGPROF."""
    memory: int
    """The most bytes of memory of a request, beyond those of the idle process."""
    niceness: int
    """Niceness of the process, so that the workers come first."""


@dataclass(frozen=True)
class Ask:
    """A request to prepare. The picture and, if there is one, the mask follow: the number of bytes, then the bytes."""

    damage: Damage
    """The damage without the mask, which has not been decoded yet."""
    fit: str | None
    image_shape: Shape
    any_size: bool
    """Whether the prior's images may have another size than `image_shape`."""
    masked: bool
    frame: int | None = None
    """Frame or page of the picture, from 1; None is the first."""


@dataclass(frozen=True)
class Prepared:
    """The answer to a request that can be restored."""

    measurement: Measurement
    metadata: Metadata
    """Metadata of the picture that was sent."""
    files: dict[str, list[str]]
    """The SHA-256 of each file that was sent, by the option that names it on the command line."""
    notes: tuple[str, ...]
    """Sentences about contents of the files that were left out."""


@dataclass(frozen=True)
class Larger:
    """The answer to a request whose pictures have, by their headers, too many pixels for this process."""


def main(connection: Connection) -> None:
    """Prepare what is sent over a connection, one request after another, until its other end is closed."""
    setup: Setup = connection.recv()
    os.nice(setup.niceness)
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    return_large_blocks()
    warnings.simplefilter("ignore")  # a crafted picture has a decoder write 20,000 lines to the service's log
    Image.init()  # every format's code, before any request's time runs
    _limit_memory(setup.memory)
    while True:
        try:
            ask: Ask = connection.recv()
            picture = _received(connection)
            mask = _received(connection) if ask.masked else None
        except (EOFError, OSError):
            return  # the service has ended
        signal.setitimer(signal.ITIMER_PROF, setup.seconds)
        answer = _answer(setup, ask, picture, mask)
        signal.setitimer(signal.ITIMER_PROF, 0)
        connection.send(answer)
        del picture, mask, answer  # an error's traceback refers to the picture


def _received(connection: Connection) -> bytes:
    """Receive a file that is sent in pieces. Raises EOFError and OSError when the other end is closed."""
    size, file = connection.recv(), io.BytesIO()
    while file.tell() < size:
        file.write(connection.recv_bytes())
    return file.getvalue()


def _limit_memory(beyond: int) -> None:
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except OSError:
        return  # not Linux: the mapped bytes are unknown
    limit = pages * resource.getpagesize() + beyond
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _answer(setup: Setup, ask: Ask, picture: bytes, mask: bytes | None) -> Prepared | Larger | FrugalError:
    try:
        return _prepare(setup, ask, picture, mask)
    except FrugalError as error:
        return error
    except MemoryError:
        return InputError("the image needs more memory to be prepared than there is for it; make it smaller")
    except Exception as error:  # noqa: BLE001 (the service outlives whatever a picture finds in here)
        return FrugalError(f"the image could not be prepared: {error!r}")


def _prepare(setup: Setup, ask: Ask, picture: bytes, mask: bytes | None) -> Prepared | Larger:
    """Decode a picture and make its measurement. Raises InputError."""
    limits, shape = setup.limits, ask.image_shape
    name = "image.npy" if picture.startswith(b"\x93NUMPY") else "the image"
    pixels = count_pixels(picture, name, limits)
    if mask is not None:
        pixels += count_pixels(mask, "the mask", limits)
    if pixels > setup.room:
        return Larger()
    marks = None if mask is None else decode_photo(mask, "the mask", limits=limits, counted=True)
    missing = None if marks is None else as_mask(marks, "the mask")
    photo = decode_photo(picture, name, limits=limits, frame=ask.frame, counted=True)
    damage = told_by_file(photo, replace(ask.damage, mask=missing), shape, ask.any_size, ask.fit)
    sizing = own_size(photo, damage, shape, ask.any_size, ask.fit)
    pixels, largest = math.prod(sizing.image_shape[1:]), MAX_TILED * math.prod(shape[1:])
    if ask.any_size and pixels > limits.max_pixels:
        raise InputError(f"the image has {pixels} pixels; up to {limits.max_pixels} are restored")
    if not ask.any_size and pixels > largest:
        raise InputError(f"the image has {pixels} pixels; up to {largest} are restored in tiles")
    files = {
        name: [sha256(data).hexdigest()] for name, data in (("images", picture), ("mask", mask)) if data is not None
    }
    measurement = prepare(photo, sizing.image_shape, damage, sizing.fit)
    notes = photo.notes + (() if marks is None else marks.notes)
    return Prepared(measurement, photo.metadata, files, notes)
