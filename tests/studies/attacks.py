"""Honest requests beside malicious clients: their times, the service's memory, and whether it stops.

pip install httpx psutil
python tests/studies/attacks.py --engine celeba.plan --json attacks.json

For each attack a service is started; honest requests are made one after another without it, then beside it, as often
as --rounds says, the attack beginning anew each time; and SIGTERM is sent while it goes on. All come from one address,
so nothing but their kind tells honest clients from others. "own" is the service's own time on a processor, without its
workers', over the time that passed.
"""

import contextlib
import json
import math
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
from dataclasses import asdict, dataclass, field
from pathlib import Path
from urllib.parse import quote

import click
import httpx
import psutil
from attack_pictures import laden_jpeg, laden_png, large_png, odd_ppm, slow_jpeg

from frugal_rt.runtime.pictures.images import PORTRAIT

CONNECTIONS = 192
"""Connections that a holding attack opens: as many as the service accepts."""
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
                while connection.recv(1 << 16, socket.MSG_DONTWAIT):
                    pass
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
PROBE = b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
"""Not an attack: as many connections that ask what is cheapest, to compare those with that open as many."""
ATTACKS: dict[str, Callable[[Address], None]] = {
    "192 connections that say nothing": lambda at: hold(at, b""),
    "192 heads, a byte a second": lambda at: hold(at, b"GET / HTTP/1.1\r\nHost: localhost\r\nX: ", b"x"),
    "192 bodies, a byte a second": lambda at: hold(at, HEAD, b"x"),
    "192 half-closed bodies": lambda at: hold(at, HEAD, half=True),
    "192 probes a second": lambda at: hold(at, PROBE),
    "192 clients that read no answer": read_nothing,
    "60 jobs with 28 MiB of EXIF": lambda at: send(at, laden_png(64, 28 << 20), 2, 30, "respond-async"),
    "60 jobs with 15 MiB of EXIF": lambda at: send(at, laden_png(64, 15 << 20), 2, 30, "respond-async"),
    "60 jobs with 15 MiB of ICC": lambda at: send(at, laden_jpeg(64, 15 << 20), 2, 30, "respond-async"),
    "PPMs of 24 MB, 2 at a time": lambda at: send(at, odd_ppm(4000, 2000), 2),
    "PPMs of 15 MB, 2 at a time": lambda at: send(at, odd_ppm(2500, 2000), 2),
    "PNGs of 24 megapixels, 2 at a time": lambda at: send(at, large_png(6000, 4000), 2),
    "PNGs of 4 megapixels, 4 at a time": lambda at: send(at, large_png(2048, 2048), 4),
    "small JPEGs of 40,000 scans, 4 at a time": lambda at: send(at, slow_jpeg(1000, 40_000), 4),
    "large JPEGs of 40,000 scans, 4 at a time": lambda at: send(at, slow_jpeg(2000, 40_000), 4),
}


def begin(attack: str, address: Address) -> None:
    """Attack with a low priority: from another machine an attack would not use the service's processor."""
    os.nice(15)
    ATTACKS[attack](address)


def attacking(attack: str, address: Address) -> multiprocessing.process.BaseProcess:
    """Start a process that attacks."""
    process = multiprocessing.get_context("fork").Process(target=begin, args=(attack, address), daemon=True)
    process.start()
    return process


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    attack: str
    before: list[float]
    """Seconds of each honest request without the attack."""
    beside: list[float]
    """Seconds of each honest request during the attack."""
    refused: int
    """Honest requests that got no picture."""
    probe: float
    """Seconds of the slowest /readyz beside the attack; infinite where one failed."""
    own: tuple[float, float]
    """The share of a processor that the service's own process took, without the attack and beside it."""
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


def p99(seconds: list[float]) -> float:
    """The 99th percentile: of fewer than 100, the slowest."""
    return sorted(seconds)[math.ceil(0.99 * len(seconds)) - 1]


@dataclass
class Asked:
    """Honest requests of one kind of block, without an attack or beside it."""

    process: psutil.Process
    """The service's own."""
    seconds: list[float | None] = field(default_factory=list)
    """Seconds of each request; None where it was refused."""
    probe: float = 0.0
    """Seconds of the slowest /readyz; infinite where one failed."""
    own: float = 0.0
    passed: float = 0.0

    def ask(self, address: Address, number: int, steps: int) -> None:
        """Make so many requests, one after another, a probe after each."""
        began, before = time.perf_counter(), self._spent()
        for _ in range(number):
            self.seconds.append(honest(address, steps))
            probed = time.perf_counter()
            self.probe = max(self.probe, time.perf_counter() - probed if ready(address) else float("inf"))
        self.own += self._spent() - before
        self.passed += time.perf_counter() - began

    def _spent(self) -> float:
        times = self.process.cpu_times()
        return float(times.user + times.system)

    @property
    def taken(self) -> list[float]:
        return [seconds for seconds in self.seconds if seconds is not None]


def measure(plan: Path, attack: str, number: int, steps: int, timeout: float, rounds: int) -> Row:
    """One line of the table."""
    with service(plan, timeout) as (address, process, popen):
        honest(address, steps)  # warm
        without, during = Asked(process), Asked(process)
        highest, over = [0.0], threading.Event()

        def sample() -> None:
            while not over.wait(0.25):
                with contextlib.suppress(psutil.Error):
                    highest[0] = max(highest[0], memory(process))

        sampler = threading.Thread(target=sample)
        sampler.start()  # before the first request: what watches takes time as well
        without.ask(address, number, steps)
        usual, highest[0] = memory(process), 0.0
        attacker = attacking(attack, address)
        try:
            for done in range(rounds):
                if done:
                    attacker.kill()
                    time.sleep(3)
                    without.ask(address, number, steps)
                    attacker = attacking(attack, address)
                time.sleep(3)
                during.ask(address, number, steps)
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
    shares, refused = (without.own / without.passed, during.own / during.passed), during.seconds.count(None)
    grown = highest[0] - usual
    return Row(attack, without.taken, during.taken, refused, during.probe, shares, grown, stopped, status)


def line(row: Row) -> str:
    usual, worst = statistics.median(row.before), p99(row.before)
    cells = [row.attack, f"{usual:.2f}", f"{worst:.2f}"]
    if row.beside:
        median, slowest = statistics.median(row.beside), p99(row.beside)
        cells += [f"{median:.2f}", f"{slowest:.2f}", f"{median / usual:.2f}", f"{slowest / worst:.2f}"]
    else:
        cells += ["none", "none", "", ""]
    cells += [str(row.refused), f"{row.probe:.2f}", " / ".join(f"{share:.1%}" for share in row.own)]
    cells += [f"{row.grown:+.0f}", f"{row.stopped:.1f}", str(row.status)]
    return f"| {' | '.join(cells)} |"


@click.command()
@click.option("--engine", type=click.Path(path_type=Path, exists=True), required=True, help="A plan.")
@click.option("--requests", "number", default=20, show_default=True, help="Honest ones, without and beside an attack.")
@click.option("--rounds", default=1, show_default=True, help="How often each is measured, in turns.")
@click.option("--steps", default=20, show_default=True)
@click.option("--timeout", default=20.0, show_default=True, help="Of the service.")
@click.option("--only", multiple=True, help="Attacks whose names hold this. May be repeated.")
@click.option("--json", "path", type=click.Path(path_type=Path), help="All seconds of all requests.")
def main(
    engine: Path, number: int, rounds: int, steps: int, timeout: float, only: tuple[str, ...], path: Path | None
) -> None:
    """Print the table of attacks."""
    click.echo(
        "| attack | usual s | p99 | beside it s | p99 | ratio | of p99 | refused | probe s | own | MiB | stopped s | "
        f"status |\n|{' --- |' * 13}"
    )
    rows = []
    for attack in ATTACKS:
        if not only or any(part in attack for part in only):
            rows.append(measure(engine, attack, number, steps, timeout, rounds))
            click.echo(line(rows[-1]))
    if path is not None:
        path.write_text(json.dumps([asdict(row) for row in rows], indent=1))


if __name__ == "__main__":
    main()
