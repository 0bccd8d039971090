"""The bodies of requests, held in memory up to a limit, of which each peer may use a half."""

import asyncio
import contextlib
import io
import sys
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import dataclass
from typing import IO

from fastapi import HTTPException, Request
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect

from ...engines import BusyError, InputError
from .peers import peer_of

FREE = 256 << 10
"""Bytes of each body that are not counted, so that small pictures are always accepted."""
MAX_PARAMETERS = 1 << 16
"""The most bytes of the part `parameters`, sent as a field or as a file."""
AGAIN = 2.0
"""Seconds of Retry-After for a request that found no room."""


@dataclass(frozen=True)
class Upload:
    """The parts of a request: files in memory, which are read in pieces to avoid copies."""

    picture: IO[bytes]
    mask: IO[bytes] | None
    parameters: bytes | str | None


class Uploads:
    """The bodies that are held.

    each: bytes of the longest body; all together are twice as much. seconds: for a body to arrive.
    """

    def __init__(self, each: int, seconds: float):
        self._each, self._seconds = each, seconds
        self._held: Counter[str] = Counter()

    @contextlib.asynccontextmanager
    async def receive(self, request: Request) -> AsyncIterator[Upload]:
        """Receive a request's parts, whose bytes count until the block ends.

        Raises HTTPException, InputError, and BusyError where there is no room for them.
        """
        peer, counted = peer_of(request.client), 0

        def count(more: int) -> None:
            nonlocal counted
            if self._held[peer] + more > self._each or self._held.total() + more > 2 * self._each:
                raise BusyError("the service holds as many bytes of requests as it can; ask again later", AGAIN)
            self._held[peer] += more
            counted += more

        try:
            yield await self._read(request, count)
        finally:
            self._held[peer] -= counted
            self._held += Counter()  # drops peers without any

    async def _read(self, request: Request, count: Callable[[int], None]) -> Upload:
        try:
            parts = await asyncio.wait_for(_parts(request, count), self._seconds)
        except asyncio.TimeoutError:
            raise HTTPException(408, f"the request took over {self._seconds:g} s to arrive") from None
        except ClientDisconnect:
            raise HTTPException(400, "the request was cut short") from None  # told to nobody, and counted
        unknown = sorted(parts.keys() - {"image", "mask", "parameters"})
        if unknown:
            raise InputError(f"there is no part {unknown[0]!r}; send image, and mask and parameters if need be")
        picture, mask, asked = (parts.get(name) for name in ("image", "mask", "parameters"))
        if picture is None or not size_of(picture):
            raise InputError("the request has no image; send it as the part `image`, or as the body")
        if len(request.query_params.getlist("parameters")) + (asked is not None) > 1:
            raise InputError("parameters are given twice; send the part or the query, once")
        if asked is not None and size_of(asked) > MAX_PARAMETERS:
            raise InputError(f"parameters are longer than {MAX_PARAMETERS >> 10} KiB")
        text = request.query_params.get("parameters") if asked is None else asked.read()
        return Upload(picture, mask if mask is not None and size_of(mask) else None, text)


def size_of(file: IO[bytes]) -> int:
    """Return the number of bytes of a file, and rewind it."""
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    return size


async def _parts(request: Request, count: Callable[[int], None]) -> dict[str, IO[bytes]]:
    """Return the parts of a form, or the body as the part `image`."""
    stream = _counted(request, count)
    if not request.headers.get("content-type", "").strip().lower().startswith("multipart/form-data"):
        body = io.BytesIO()
        async for chunk in stream:
            body.write(chunk)
        return {"image": body}
    try:
        form = await _InMemory(request.headers, stream, max_files=4, max_fields=4, max_part_size=MAX_PARAMETERS).parse()
    except MultiPartException as error:
        raise HTTPException(400, error.message) from None
    except UnicodeError:  # of a codec that is for no text of forms, as punycode and undefined
        raise HTTPException(400, "the form's names are not of the charset that its content type names") from None
    items = form.multi_items()
    twice = sorted(name for name, count in Counter(name for name, _ in items).items() if count > 1)
    if twice:
        raise InputError(f"the part {twice[0]!r} is given twice; send each part once")
    return {
        name: value.file if isinstance(value, UploadFile) else io.BytesIO(value.encode("utf-8", "surrogatepass"))
        for name, value in items
    }


async def _counted(request: Request, count: Callable[[int], None]) -> AsyncGenerator[bytes, None]:
    """Yield the chunks of a body, each counted first. `Request.body` would keep them for the request's lifetime."""
    received = 0
    async for chunk in request.stream():
        beyond = max(0, received - FREE)
        received += len(chunk)
        count(max(0, received - FREE) - beyond)
        yield chunk


class _InMemory(MultiPartParser):
    """Parser that keeps a form's files in memory, within the middleware's limit, as the disk may be full."""

    spool_max_size = sys.maxsize
