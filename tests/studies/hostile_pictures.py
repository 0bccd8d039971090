"""How long a service takes over pictures that were made to take long, from their bytes to a measurement or a sentence.

pip install psutil
python tests/studies/hostile_pictures.py

By the two processes that prepare a service's requests, with its usual limits and a prior of any size; nothing is said
about the damage, as more is looked for in the pixels then. Pictures of many frames are asked for twice, the second time
for a late frame. "of a processor" is what the processes take, which other work does not change much; "decoded" is the
command line's decoding, of a processor as well.
"""

import asyncio
import contextlib
import io
import logging
import resource
import time
import warnings

import click
import psutil
from attack_pictures import HOSTILE

from frugal_rt.engines import FrugalError
from frugal_rt.runtime.pictures.damage import Damage
from frugal_rt.runtime.pictures.decoding import Limits, decode_photo
from frugal_rt.runtime.service.intake import MAX_METADATA, SERVED, Options
from frugal_rt.runtime.service.preparer import Ask
from frugal_rt.runtime.service.preparing import Preparers

LONG = 2.0
"""Seconds that none is to take."""
LATE = 5000
"""A late frame."""


def spent() -> float:
    """Seconds of a processor that the processes took, those that were ended among them."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    living = [child.cpu_times() for child in psutil.Process().children()]
    return ended.ru_utime + ended.ru_stime + sum(one.user + one.system for one in living)


async def prepared(preparers: Preparers, data: bytes, frame: int | None) -> tuple[float, float, str]:
    """Seconds, those of a processor, and what came of it."""
    ask = Ask(Damage(), None, (3, 64, 64), True, False, frame)
    began, before = time.perf_counter(), spent()
    try:
        await preparers.prepare(ask, io.BytesIO(data), None, "", time.monotonic() + 60)
        outcome = "read"
    except FrugalError as error:
        outcome = str(error)
    return time.perf_counter() - began, spent() - before, outcome


def decoded(name: str, data: bytes, frame: int | None) -> float:
    """Seconds of a processor that the command line's decoding takes."""
    began = time.process_time()
    with contextlib.suppress(FrugalError):
        decode_photo(data, "image.npy" if name.startswith("NPY") else "the image", frame=frame)
    return time.process_time() - began


async def measure(only: str) -> None:
    options = Options()
    limits = Limits(options.max_pixels, SERVED, compiled=True, max_metadata=MAX_METADATA)
    preparers = Preparers(limits, options.max_bytes)
    await preparers.start()
    click.echo("| picture | bytes | seconds | of a processor | decoded | what came of it |")
    click.echo("| --- | ---: | ---: | ---: | ---: | --- |")
    asked = long = long_of_it = 0
    try:
        for name, make in HOSTILE.items():
            if only not in name:
                continue
            data, many = make(), any(word in name for word in ("frames", "directories"))
            assert len(data) <= options.max_bytes, name
            for frame in (None, LATE) if many else (None,):
                seconds, of_it, outcome = await prepared(preparers, data, frame)
                alone = decoded(name, data, frame)
                asked, long, long_of_it = asked + 1, long + (seconds > LONG), long_of_it + (max(of_it, alone) > LONG)
                said = name if frame is None else f"{name}: frame {frame}"
                click.echo(f"| {said} | {len(data)} | {seconds:.2f} | {of_it:.2f} | {alone:.2f} | {outcome[:90]} |")
    finally:
        preparers.close()
    click.echo(f"\nover {LONG:g} s: {long} of {asked}; over {LONG:g} s of a processor: {long_of_it}")


@click.command()
@click.option("--only", default="", help="Pictures whose names hold this.")
def main(only: str) -> None:
    """Print the table."""
    logging.disable(logging.WARNING)  # a process that ends is in the table
    warnings.simplefilter("ignore")
    asyncio.run(measure(only))


if __name__ == "__main__":
    main()
