"""Honest requests beside clients that mean harm: how long they take, what memory the service takes, whether it stops.

pip install httpx psutil
python tests/studies/attacks.py --engine celeba.plan --json attacks.json

For each attack a service is started; honest requests are made one after another without it, then beside it; and SIGTERM
is sent while it goes on. All come from one address, so nothing but their kind tells honest clients from others.
"""

import contextlib
import json
import multiprocessing
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import quote

import click
import httpx
import psutil
from attack_pictures import laden_jpeg, laden_png, large_png, odd_ppm, slow_jpeg

from frugal_rt.runtime.pictures.images import PORTRAIT

CONNECTIONS = 192
"""Held by an attack that holds them: all that the service takes."""
DRAIN = 40
"""Seconds beyond --timeout within which a service that is told to stop does."""
Address = tuple[str, int]


def hold(address: Address, first: bytes, then: bytes = b"", half: bool = False) -> None:
    """Keep so many connections on which something was sent, and a byte more a second; `half` closed, nothing more."""
    held: list[socket.socket] = []
    while True:
        for connection in list(held):
            try:
                connection.sendall(then)
                if connection.recv(1 << 10, socket.MSG_DONTWAIT) == b"":
                    raise OSError("closed")
            except BlockingIOError:
                continue
            except OSError:
                connection.close()
                held.remove(connection)
        for _ in range(CONNECTIONS - len(held)):
            with contextlib.suppress(OSError):
                connection = socket.create_connection(address, timeout=5)
                connection.sendall(first)
                if half:
                    connection.shutdown(socket.SHUT_WR)
                held.append(connection)
        time.sleep(1)


def read_nothing(address: Address) -> None:
    """Ask for megabytes on as many connections and read none of them."""
    held = []
    for _ in range(CONNECTIONS):
        with contextlib.suppress(OSError):
            connection = socket.socket()
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.connect(address)
            connection.settimeout(0.1)
            held.append(connection)
            connection.sendall(b"GET /page.js HTTP/1.1\r\nHost: localhost\r\n\r\n" * 500)
    time.sleep(3600)


def send(address: Address, picture: bytes, clients: int, number: int | None = None, prefer: str = "") -> None:
    """Post a picture from so many clients: `number` times each, or for ever with half a second between."""
    asked = quote(json.dumps({"task": "denoise", "sigma": 0.1, "steps": 3, "fit": "resize"}))
    head = (
        f"POST /v1/restore?parameters={asked} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nPrefer: {prefer}\r\n"
    )
    request = f"{head}Content-Length: {len(picture)}\r\n\r\n".encode() + picture

    def client() -> None:
        made = 0
        while number is None or made < number:
            with contextlib.suppress(OSError), socket.create_connection(address, timeout=120) as connection:
                connection.sendall(request)
                while connection.recv(1 << 16):
                    pass
            made += 1
            time.sleep(0 if number else 0.5)

    threads = [threading.Thread(target=client) for _ in range(clients)]
    for thread in threads:
        thread.start()


HEAD = b"POST /v1/restore HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9999999\r\n\r\n\x89PNG"
ATTACKS: dict[str, Callable[[Address], None]] = {
    "192 connections that say nothing": lambda at: hold(at, b""),
    "192 heads, a byte a second": lambda at: hold(at, b"GET / HTTP/1.1\r\nHost: localhost\r\nX: ", b"x"),
    "192 bodies, a byte a second": lambda at: hold(at, HEAD, b"x"),
    "192 half-closed bodies": lambda at: hold(at, HEAD, half=True),
    "192 clients that read no answer": read_nothing,
    "60 jobs with 28 MiB of EXIF": lambda at: send(at, laden_png(64, 28 << 20), 2, 30, "respond-async"),
    "60 jobs with 15 MiB of EXIF": lambda at: send(at, laden_png(64, 15 << 20), 2, 30, "respond-async"),
    "60 jobs with 15 MiB of ICC": lambda at: send(at, laden_jpeg(64, 15 << 20), 2, 30, "respond-async"),
    "PPMs of 24 MB, 2 at a time": lambda at: send(at, odd_ppm(4000, 2000), 2),
    "PPMs of 15 MB, 2 at a time": lambda at: send(at, odd_ppm(2500, 2000), 2),
    "PNGs of 24 megapixels, 2 at a time": lambda at: send(at, large_png(6000, 4000), 2),
    "PNGs of 4 megapixels, 4 at a time": lambda at: send(at, large_png(2048, 2048), 4),
    "small JPEGs that take minutes, 4 at a time": lambda at: send(at, slow_jpeg(1000, 40_000), 4),
    "large JPEGs that take minutes, 4 at a time": lambda at: send(at, slow_jpeg(2000, 40_000), 4),
}


def begin(attack: str, address: Address) -> None:
    """Attack, standing back: from a machine of its own it would take no processor from the service."""
    os.nice(15)
    ATTACKS[attack](address)


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    attack: str
    before: list[float]
    """Seconds of each honest request without the attack."""
    beside: list[float]
    """Beside it."""
    refused: int
    """Honest requests that got no picture."""
    probe: float
    """Seconds of the slowest /readyz beside the attack; infinite where one failed."""
    grown: float
    """MiB that the service took at most beside the attack, above what it took before."""
    stopped: float
    """Seconds from SIGTERM to its end."""
    status: int


@contextlib.contextmanager
def service(
    plan: Path, timeout: float, *more: str
) -> Iterator[tuple[Address, psutil.Process, subprocess.Popen[bytes]]]:
    """`frugal-rt serve`, until the block ends."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = free.getsockname()
    main = "from frugal_rt.cli import main; main()"
    options = ["--engine", str(plan), "--backend", "cpu", "--port", str(address[1]), "--timeout", str(timeout), *more]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen([sys.executable, "-c", main, "serve", *options], stdout=log, stderr=log)
        try:
            ends = time.monotonic() + 180
            while not ready(address):
                if process.poll() is not None or time.monotonic() > ends:
                    log.seek(0)
                    raise click.ClickException(f"the service did not start: {log.read().decode()[-2000:]}")
                time.sleep(0.1)
            yield address, psutil.Process(process.pid), process
        finally:
            process.kill()
            process.wait()


def ready(address: Address) -> bool:
    try:
        return httpx.get(f"http://{address[0]}:{address[1]}/readyz", timeout=30).status_code == 200
    except httpx.HTTPError:
        return False


def honest(address: Address, steps: int) -> float | None:
    """The seconds of one restoration, from the connection to the picture; None without one."""
    asked = json.dumps({"fit": "resize", "task": "denoise", "sigma": 0.1, "steps": steps})
    began = time.perf_counter()
    try:
        files = {"image": PORTRAIT.read_bytes(), "parameters": (None, asked)}
        answer = httpx.post(f"http://{address[0]}:{address[1]}/v1/restore", files=files, timeout=120)
    except httpx.HTTPError:
        return None
    return time.perf_counter() - began if answer.status_code == 200 else None


def memory(process: psutil.Process) -> float:
    """Resident MiB of a process and its children."""
    total = 0
    for one in (process, *process.children(recursive=True)):
        with contextlib.suppress(psutil.Error):
            total += one.memory_info().rss
    return total / 2**20


def measure(plan: Path, attack: str, number: int, steps: int, timeout: float) -> Row:
    """One line of the table."""
    with service(plan, timeout) as (address, process, popen):
        honest(address, steps)  # warm
        before = [seconds for _ in range(number) if (seconds := honest(address, steps)) is not None]
        usual, highest, over = memory(process), [0.0], threading.Event()

        def sample() -> None:
            while not over.wait(0.05):
                with contextlib.suppress(psutil.Error):
                    highest[0] = max(highest[0], memory(process))

        sampler = threading.Thread(target=sample)
        sampler.start()
        attacker = multiprocessing.get_context("fork").Process(target=begin, args=(attack, address), daemon=True)
        attacker.start()
        try:
            time.sleep(3)
            beside, probe = [], 0.0
            for _ in range(number):
                beside.append(honest(address, steps))
                began = time.perf_counter()
                probe = max(probe, time.perf_counter() - began if ready(address) else float("inf"))
            if "jobs" in attack:
                attacker.join(120)
            over.set()
            sampler.join()
            began = time.perf_counter()
            popen.send_signal(signal.SIGTERM)
            try:
                status = popen.wait(timeout + DRAIN + 20)
            except subprocess.TimeoutExpired:
                status = -signal.SIGKILL
            stopped = time.perf_counter() - began
        finally:
            over.set()
            attacker.kill()
    taken = [seconds for seconds in beside if seconds is not None]
    return Row(attack, before, taken, number - len(taken), probe, highest[0] - usual, stopped, status)


def line(row: Row) -> str:
    usual, worst = statistics.median(row.before), max(row.before)
    cells = [row.attack, f"{usual:.2f}", f"{worst:.2f}"]
    if row.beside:
        median = statistics.median(row.beside)
        cells += [f"{median:.2f}", f"{max(row.beside):.2f}", f"{median / usual:.2f}"]
    else:
        cells += ["none", "none", ""]
    cells += [str(row.refused), f"{row.probe:.2f}", f"{row.grown:+.0f}", f"{row.stopped:.1f}", str(row.status)]
    return f"| {' | '.join(cells)} |"


@click.command()
@click.option("--engine", type=click.Path(path_type=Path, exists=True), required=True, help="A plan.")
@click.option("--requests", "number", default=20, show_default=True, help="Honest ones, without and beside an attack.")
@click.option("--steps", default=20, show_default=True)
@click.option("--timeout", default=20.0, show_default=True, help="Of the service.")
@click.option("--only", multiple=True, help="Attacks whose names hold this. May be repeated.")
@click.option("--json", "path", type=click.Path(path_type=Path), help="All seconds of all requests.")
def main(engine: Path, number: int, steps: int, timeout: float, only: tuple[str, ...], path: Path | None) -> None:
    """Print the table of attacks."""
    click.echo(
        "| attack | usual s | worst | beside it s | worst | ratio | refused | probe s | MiB | stopped s | status |\n"
        f"|{' --- |' * 11}"
    )
    rows = []
    for attack in ATTACKS:
        if not only or any(part in attack for part in only):
            rows.append(measure(engine, attack, number, steps, timeout))
            click.echo(line(rows[-1]))
    if path is not None:
        path.write_text(json.dumps([asdict(row) for row in rows], indent=1))


if __name__ == "__main__":
    main()
