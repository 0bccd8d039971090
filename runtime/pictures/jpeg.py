"""Reader of the quantised coefficients, tables and sampling of a JPEG file.

It reads sequential and progressive files of 8 bits, Huffman-coded, with or without restart markers, of one or three
components.
"""

import io
import re
from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from PIL import Image

from ...engines import InputError
from ..operators.jpeg import SIDE, Component, Jpeg, unit_size
from .huffman import BrokenScan, Codes, Coefficients, Scan, decode, make_codes
from .parts import MOST_SCANS

SOI, EOI, SOS, DQT, DHT, DRI, APP0, APP14 = 0xD8, 0xD9, 0xDA, 0xDB, 0xC4, 0xDD, 0xE0, 0xEE
SEQUENTIAL, PROGRESSIVE = (0xC0, 0xC1), 0xC2
OTHERS = {
    0xC3: "lossless",
    **dict.fromkeys((0xC5, 0xC6, 0xC7), "hierarchical"),
    **dict.fromkeys((0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF), "arithmetic-coded"),
}
"""Kinds of frames that are not supported, by marker."""
BARE = (0x01, *range(0xD0, 0xD8), SOI)
"""Markers without a segment."""
MOST_OF_A_PART = 10
"""Scans that a component takes part in; libjpeg writes six. They bound the time that a small file can take."""
NEXT = re.compile(rb"(?<!\xff)\xff+[\x01-\xcf\xd8-\xfe]")
"""A marker that ends a scan's bits, looked for once in each run of fill bytes."""
RESTART = re.compile(rb"(?<!\xff)\xff+[\xd0-\xd7]")
COARSE = 25.0
"""The mean step in levels of a JPEG's first table from which the task jpeg is inferred: libjpeg's quality 78 and below,
where artefacts begin to be visible. Chosen on tune-20 (docs/method.md)."""


def _zigzag() -> np.ndarray:
    """Return (64,): the zigzag index (T.81, figure 5) of each coefficient of a block, row by row."""
    row, column = (place.reshape(-1) for place in np.mgrid[:8, :8])
    line = row + column
    return np.argsort(np.lexsort((np.where(line % 2, row, column), line)))


ZIGZAG = _zigzag()


@dataclass(frozen=True)
class JpegFile:
    """The coefficients and tables of a JPEG file."""

    size: tuple[int, int]
    """(width, height) of the picture; coded units may extend beyond."""
    components: tuple[Component, ...]
    blocks: tuple[np.ndarray, ...]
    """Coefficients (rows, columns, 8, 8) int16 of each component, in whole units; rows are vertical frequencies."""
    colour: str
    """`colour` of the operator: "ycbcr", or "plain" for grey and for components that are R, G and B."""

    def operator(self, channels: int = 3) -> Jpeg:
        """Return the operator whose measurement the file is, for images of whole coded units.

        A grey file is lightness; of an image in colour, it is as if Cb and Cr had been stored too, by the same table,
        and were 0. Raises InputError for other numbers of channels and components.
        """
        down, across = unit_size(self.components)
        width, height = self.size
        lightness = channels == 3 and len(self.components) == 1
        components, colour = (self.components * 3, "ycbcr") if lightness else (self.components, self.colour)
        return Jpeg((channels, -(-height // down) * down, -(-width // across) * across), components, colour)

    def measurement(self, operator: Jpeg) -> np.ndarray:
        """Return y of `operator`, which must be this file's."""
        colours = len(operator.components) - len(self.blocks)
        return operator.measurement((*self.blocks, *(np.zeros_like(self.blocks[0]),) * colours))


@lru_cache(100)
def standard_tables(quality: int) -> tuple[np.ndarray, np.ndarray]:
    """Return libjpeg's tables (8, 8) of lightness and chroma for a quality from 1 to 100."""
    written = io.BytesIO()
    Image.new("RGB", (SIDE, SIDE)).save(written, "JPEG", quality=quality)
    with Image.open(written) as picture:
        tables = picture.quantization  # type: ignore[attr-defined]
    light, chroma = (np.array(tables[number]).reshape(SIDE, SIDE) for number in (0, 1))
    return light, chroma


def read_jpeg(data: bytes, name: str, max_pixels: int) -> JpegFile:
    """Read a JPEG's coefficients, after checking its limits. Raises InputError for a broken or unsupported file."""
    if not data.startswith(b"\xff\xd8\xff"):
        raise InputError(f"{name} is no JPEG file; the task jpeg takes one as the camera or the site wrote it")
    try:
        return _Reader(name, max_pixels).read(data)
    except InputError:  # a ValueError too
        raise
    except (BrokenScan, IndexError, KeyError, ValueError):
        raise InputError(f"{name} is a broken JPEG: its coefficients cannot be read") from None


@dataclass
class _Part:
    """A component of the frame."""

    number: int
    across: int
    down: int
    table_number: int
    coefficients: Coefficients
    size: tuple[int, int]
    """Blocks (across, down) of the picture, without those that pad the last units."""
    table: np.ndarray | None = None
    """The quantisation table at the component's first scan."""


@dataclass
class _Reader:
    """The state of reading a file: the contents of the segments so far."""

    name: str
    max_pixels: int
    tables: dict[int, np.ndarray] = field(default_factory=dict)
    codes: dict[tuple[int, int], Codes] = field(default_factory=dict)
    """Huffman codes by class (0 for DC, 1 for AC) and number."""
    interval: int = 0
    transform: int | None = None
    """Adobe's colour transform; 0 for none."""
    is_jfif: bool = False
    size: tuple[int, int] = (0, 0)
    units: tuple[int, int] = (0, 0)
    """Coded units (across, down)."""
    progressive: bool = False
    parts: list[_Part] = field(default_factory=list)

    def read(self, data: bytes) -> JpegFile:
        self._check_scans(data)
        for marker, body, after in _segments(data):
            if marker in OTHERS:
                raise InputError(f"{self.name} is {OTHERS[marker]}, a JPEG of a kind whose coefficients are not read")
            if marker in (*SEQUENTIAL, PROGRESSIVE):
                self._frame(body, marker == PROGRESSIVE)
            elif marker == DQT:
                self._quantisation(body)
            elif marker == DHT:
                self._huffman(body)
            elif marker == DRI:
                self.interval = int.from_bytes(body[:2], "big")
            elif marker == APP0 and body.startswith(b"JFIF\0"):
                self.is_jfif = True
            elif marker == APP14 and body.startswith(b"Adobe") and len(body) >= 12:
                self.transform = body[11]
            elif marker == SOS:
                self._scan(body, after)
        if not self.parts or any(part.table is None for part in self.parts):
            raise BrokenScan
        return self._file()

    def _check_scans(self, data: bytes) -> None:
        scans = [body for marker, body, _ in _segments(data) if marker == SOS]
        of = Counter(body[1 + 2 * i] for body in scans for i in range(body[0]))
        if len(scans) > MOST_SCANS or max(of.values(), default=0) > MOST_OF_A_PART:
            most = f"{MOST_SCANS} scans, or {MOST_OF_A_PART} of a colour"
            raise InputError(f"{self.name} has more than {most}; save it again as a plain JPEG")

    def _frame(self, body: bytes, progressive: bool) -> None:
        if self.parts:
            raise BrokenScan
        bits, count = body[0], body[5]
        height, width = int.from_bytes(body[1:3], "big"), int.from_bytes(body[3:5], "big")
        if bits != 8:
            raise InputError(f"{self.name} has {bits} bits a value; JPEGs of 8 are read")
        if count not in (1, 3):
            kind = "CMYK" if count == 4 else f"of {count} components"
            raise InputError(f"{self.name} is {kind}; JPEGs of colour or grey are read: save it as RGB first")
        if not width or not height or len(body) < 6 + 3 * count:
            raise BrokenScan
        if width * height > self.max_pixels:
            raise InputError(f"{self.name} has {width * height} pixels; up to {self.max_pixels} are read")
        said = [(body[6 + 3 * i], body[7 + 3 * i] >> 4, body[7 + 3 * i] & 15, body[8 + 3 * i]) for i in range(count)]
        if count == 1:
            said = [(said[0][0], 1, 1, said[0][3])]  # with one component, units are of one block whatever its factors
        down, across = unit_size([Component(h, v, np.ones((8, 8))) for _, h, v, _ in said])
        self.size, self.progressive = (width, height), progressive
        self.units = -(-width // across), -(-height // down)
        for number, h, v, table in said:
            columns, rows = self.units[0] * h, self.units[1] * v
            empty = array("h", bytes(2 * 64 * columns * rows))
            real = -(-width * h // across), -(-height * v // down)
            self.parts.append(_Part(number, h, v, table, Coefficients(columns, h, v, empty), real))

    def _quantisation(self, body: bytes) -> None:
        while body:
            wide, number = body[0] >> 4, body[0] & 15
            length = 64 * (1 + bool(wide))
            steps = np.frombuffer(body[1 : 1 + length], ">u2" if wide else np.uint8).astype(np.uint16)
            if not steps.all():
                raise BrokenScan
            self.tables[number] = steps[ZIGZAG].reshape(8, 8)
            body = body[1 + length :]

    def _huffman(self, body: bytes) -> None:
        while body:
            kind, number, counts = body[0] >> 4, body[0] & 15, body[1:17]
            end = 17 + sum(counts)
            if kind == 0 and any(size > 15 for size in body[17:end]):
                raise BrokenScan
            self.codes[kind, number] = make_codes(counts, body[17:end])
            body = body[end:]

    def _scan(self, body: bytes, bits: bytes) -> None:
        count = body[0]
        first, last, (high, low) = body[1 + 2 * count], body[2 + 2 * count], divmod(body[3 + 2 * count], 16)
        if not self.progressive:
            first, last, high, low = 0, 63, 0, 0
        chosen = [self._choose(body[1 + 2 * i], body[2 + 2 * i], first, high) for i in range(count)]
        if not chosen or len({id(part) for part in chosen}) < count or not first <= last <= 63 or low > 13:
            raise BrokenScan
        if self.progressive and ((first == 0) != (last == 0) or (first and count > 1)):
            raise BrokenScan
        across, down = chosen[0].size if count == 1 else self.units
        of = [part.coefficients for part in chosen]
        scan = Scan(of, across, across * down, first, last, high, low, self.progressive)
        decode(scan, RESTART.split(bits) if self.interval else [bits], self.interval or scan.units)

    def _choose(self, number: int, codes: int, first: int, high: int) -> _Part:
        """Return the component of a number, with the Huffman codes that the scan selects."""
        part = {one.number: one for one in self.parts}[number]
        if part.table is None:
            part.table = self.tables[part.table_number]
        if first == 0 and not high:
            part.coefficients.dc = self.codes[0, codes >> 4]
        if first or not self.progressive:
            part.coefficients.ac = self.codes[1, codes & 15]
        return part

    def _file(self) -> JpegFile:
        components, blocks = [], []
        for part in self.parts:
            assert part.table is not None
            components.append(Component(part.across, part.down, part.table))
            values = np.frombuffer(part.coefficients.values, np.int16)
            blocks.append(
                values.reshape(-1, part.coefficients.columns, 64)[..., ZIGZAG].reshape(
                    -1, part.coefficients.columns, 8, 8
                )
            )
        return JpegFile(self.size, tuple(components), tuple(blocks), self._colour())

    def _colour(self) -> str:
        """Infer the colour transform as libjpeg does: by JFIF, then by Adobe's segment, then by components' names."""
        if len(self.parts) == 1:
            return "plain"
        named = bytes(part.number for part in self.parts) == b"RGB"
        is_rgb = not self.is_jfif and (named if self.transform is None else self.transform == 0)
        return "plain" if is_rgb else "ycbcr"


def _segments(data: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """Yield each marker, its segment, and the bits of a scan behind it, to the end of the picture."""
    at = 2
    while at < len(data):
        if data[at] != 0xFF:
            raise BrokenScan
        while data[at] == 0xFF:
            at += 1
        marker = data[at]
        at += 1
        if marker == EOI:
            return
        if marker in BARE:
            continue
        length = int.from_bytes(data[at : at + 2], "big")
        body = data[at + 2 : at + length]
        if length < 2 or len(body) != length - 2:
            raise BrokenScan
        at += length
        bits = b""
        if marker == SOS:
            found = NEXT.search(data, at)
            end = len(data) if found is None else found.start()
            bits, at = data[at:end], end
        yield marker, body, bits
