"""Decoder of the Huffman-coded scans of a JPEG: ITU-T T.81, F.2 (sequential) and G.2 (progressive)."""

from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

LONGEST = 16
"""The most bits of a code."""
PAST = 16
"""Bytes of zeros appended to a segment, so that its last code is read like any other."""
MASK = [(1 << size) - 1 for size in range(16)]
LEAST = [0, *(1 << (size - 1) for size in range(1, 16))]
"""By number of bits: values below it stand for negative ones (T.81, F.2.2.1)."""

Codes = list[int]
"""By the next 16 bits: 256 times the length of the code that they begin with, plus its symbol; 0 for no code."""


class BrokenScan(Exception):
    """The bits of a scan cannot be decoded."""


@dataclass
class Coefficients:
    """The quantised coefficients of a component, which scans fill in."""

    columns: int
    """Blocks in a row, including those that pad the last coded unit."""
    across: int
    down: int
    values: "array[int]"
    """64 for each block, in zigzag order."""
    dc: Codes = field(default_factory=list)
    ac: Codes = field(default_factory=list)
    previous: int = 0
    """The previous block's DC coefficient, to which the next difference is added."""


@dataclass(frozen=True)
class Scan:
    """A scan of the coefficients `first` to `last` of some components, from bit `low` up."""

    components: Sequence[Coefficients]
    columns: int
    """Coded units in a row; these are blocks where the scan has one component."""
    units: int
    first: int
    last: int
    high: int
    """The lowest bit of these coefficients in earlier scans; 0 where there was none."""
    low: int
    progressive: bool


class Bits:
    """The bits of a segment between two restart markers, and the current position."""

    def __init__(self, segment: bytes):
        plain = segment.replace(b"\xff\x00", b"\xff") + bytes(PAST)
        octets = np.frombuffer(plain, np.uint8).astype(np.uint64)
        count = len(octets) - 7
        windows = np.zeros(count, np.uint64)
        for i in range(8):
            windows |= octets[i : count + i] << np.uint64(56 - 8 * i)
        self.windows = array("Q", windows.tobytes())
        """The 64 bits from each byte on, in the order of bytes."""
        self.place = 0
        self.run = 0
        """Blocks left in an end-of-band run."""
        self.end = 8 * (len(plain) - PAST)

    def take(self, count: int) -> int:
        """Read the next `count` bits, at most 16."""
        place = self.place
        self.place = place + count
        return (self.windows[place >> 3] >> (64 - (place & 7) - count)) & ((1 << count) - 1)

    def symbol(self, codes: Codes) -> int:
        """Read the next code; return its symbol. Raises BrokenScan."""
        place = self.place
        found = codes[(self.windows[place >> 3] >> (48 - (place & 7))) & 0xFFFF]
        if not found:
            raise BrokenScan
        self.place = place + (found >> 8)
        return found & 255

    def value(self, size: int) -> int:
        """Read the next number, of `size` bits (T.81, F.2.2.1)."""
        bits = self.take(size)
        return bits if bits >= LEAST[size] else bits - MASK[size]


def make_codes(counts: bytes, symbols: bytes) -> Codes:
    """Make the codes of a table, in which `counts[i]` symbols have codes of i + 1 bits (T.81, C). Raises BrokenScan."""
    lengths = np.repeat(np.arange(1, LONGEST + 1), np.frombuffer(counts, np.uint8))
    shares = 1 << (LONGEST - lengths)
    if len(lengths) != len(symbols) or shares.sum() > 1 << LONGEST:
        raise BrokenScan
    found = np.repeat(lengths << 8 | np.frombuffer(symbols, np.uint8), shares)
    codes: Codes = np.pad(found, (0, (1 << LONGEST) - len(found))).tolist()
    return codes


def decode(scan: Scan, segments: Sequence[bytes], interval: int) -> None:
    """Decode `scan` into its components; a segment has `interval` coded units. Raises BrokenScan."""
    if len(segments) != -(-scan.units // interval):
        raise BrokenScan
    block = _decoder(scan)
    for number, segment in enumerate(segments):
        bits, start = Bits(segment), number * interval
        for one in scan.components:
            one.previous = 0
        try:
            for unit in range(start, min(start + interval, scan.units)):
                row, column = divmod(unit, scan.columns)
                for one in scan.components:
                    across, down = (one.across, one.down) if len(scan.components) > 1 else (1, 1)
                    for y in range(row * down, (row + 1) * down):
                        at = 64 * (y * one.columns + column * across)
                        for place in range(at, at + 64 * across, 64):
                            block(bits, one, place, scan)
        except (IndexError, OverflowError):  # past the end; beyond 16 bits
            raise BrokenScan from None
        if bits.place > bits.end:
            raise BrokenScan


Decoder = Callable[[Bits, Coefficients, int, Scan], None]
"""Decodes a scan's part of a block, into the values from an index on. Raises BrokenScan."""


def _decoder(scan: Scan) -> Decoder:
    if not scan.progressive:
        return _sequential
    if scan.first == 0:
        return _refine_dc if scan.high else _first_dc
    return _refine_ac if scan.high else _first_ac


def _sequential(bits: Bits, one: Coefficients, at: int, scan: Scan) -> None:
    """Decode a whole block; written for speed, as most files are sequential."""
    values, codes, windows = one.values, one.ac, bits.windows
    one.previous += bits.value(bits.symbol(one.dc))
    values[at] = one.previous
    place, k = bits.place, 1
    while k < 64:
        window, left = windows[place >> 3], 64 - (place & 7)
        found = codes[(window >> (left - 16)) & 0xFFFF]
        if not found:
            raise BrokenScan
        size, length = found & 15, found >> 8
        if size:
            k += (found >> 4) & 15
            number = (window >> (left - length - size)) & MASK[size]
            if k > 63:
                raise BrokenScan
            values[at + k] = number if number >= LEAST[size] else number - MASK[size]
            place += length + size
            k += 1
        else:
            place += length
            if found & 255 != 0xF0:
                break
            k += 16
    bits.place = place


def _first_dc(bits: Bits, one: Coefficients, at: int, scan: Scan) -> None:
    one.previous += bits.value(bits.symbol(one.dc))
    one.values[at] = one.previous << scan.low


def _refine_dc(bits: Bits, one: Coefficients, at: int, scan: Scan) -> None:
    one.values[at] |= bits.take(1) << scan.low


def _first_ac(bits: Bits, one: Coefficients, at: int, scan: Scan) -> None:
    if bits.run:
        bits.run -= 1
        return
    k = scan.first
    while k <= scan.last:
        symbol = bits.symbol(one.ac)
        run, size = symbol >> 4, symbol & 15
        if size:
            k += run
            if k > scan.last:
                raise BrokenScan
            one.values[at + k] = bits.value(size) << scan.low
        elif run < 15:
            bits.run = (1 << run) - 1 + bits.take(run)
            return
        else:
            k += 15
        k += 1


def _refine_ac(bits: Bits, one: Coefficients, at: int, scan: Scan) -> None:
    values, low, k = one.values, 1 << scan.low, scan.first
    while not bits.run and k <= scan.last:
        symbol = bits.symbol(one.ac)
        run, size = symbol >> 4, symbol & 15
        if size > 1:
            raise BrokenScan
        new = (low if bits.take(1) else -low) if size else 0
        if not size and run < 15:
            bits.run = (1 << run) + bits.take(run)
            break
        k = _refine(bits, values, at, k, scan.last, low, run)
        if size:
            if k > scan.last:
                raise BrokenScan
            values[at + k] = new
        k += 1
    if bits.run:
        if any(values[at + k : at + scan.last + 1]):  # else there is nothing to refine
            _refine(bits, values, at, k, scan.last, low, 64)
        bits.run -= 1


def _refine(bits: Bits, values: "array[int]", at: int, k: int, last: int, low: int, zeros: int) -> int:
    """Refine the nonzero coefficients from `k` on by a bit each; return the index of the zero after `zeros` zeros."""
    while k <= last:
        value = values[at + k]
        if value:
            if bits.take(1) and not abs(value) & low:
                values[at + k] = value + (low if value > 0 else -low)
        elif zeros:
            zeros -= 1
        else:
            break
        k += 1
    return k
