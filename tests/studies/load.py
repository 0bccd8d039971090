"""Restorations a second, and their latencies, with many concurrent clients.

The service, one process that restores one after another, and LitServe around the same engine, for the same requests at
the same times. Every answer is compared with the restoration alone.

pip install litserve httpx
python tests/studies/load.py --engine celeba.plan --json load.json

Clients think for an exponential time, seeded, ask, wait for the answer, and think again. `busy`: they hardly think, so
something always waits. `random`: they think so long that they ask for a share of what one process restores.
"""

import asyncio
import base64
import contextlib
import io
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click
import httpx
import numpy as np
from PIL import Image

from frugal_rt import Restorer
from frugal_rt.runtime.pictures.decoding import Photo, decode_photo
from frugal_rt.runtime.pictures.images import PORTRAIT, encode_png, fit_photo, read_photo, to_picture
from frugal_rt.runtime.pictures.measurement import prepare
from frugal_rt.runtime.pictures.simulate import simulate
from frugal_rt.runtime.service.parameters import Parameters

THINK = 0.02
"""Mean seconds between an answer and the next request of a busy client."""
COLUMNS = (
    "clients",
    "arrivals",
    "server",
    "a second",
    "p50, s",
    "p99, s",
    "answers",
    "rows a call",
    "of the curve",
    "as called",
    "own",
)
SERVERS = Path(__file__).parent / "load_servers.py"


def tasks(shape: tuple[int, int, int]) -> tuple[dict[str, Any], ...]:
    """Parameters of requests for images of `shape`; the hole is 24x24 of 64x64."""
    _, height, width = shape
    return (
        {"task": "denoise", "sigma": 0.25},
        {"task": "sr", "scale": 4, "sigma": 0.01},
        {"task": "inpaint", "hole": [3 * width // 8, 3 * height // 8], "sigma": 0.01},
        {"task": "colorize", "sigma": 0.01},
        {"task": "deblur", "kernel": "gaussian:1.5", "sigma": 0.02},
    )


@dataclass(frozen=True)
class Request:
    """A client's request, and the answer that must come back."""

    png: bytes
    text: str
    pixels: np.ndarray
    """Pixels of the restoration alone."""


@dataclass(frozen=True)
class Answer:
    """One request of one client."""

    began: float
    ended: float
    seconds: float


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    clients: int
    arrivals: str
    server: str
    rate: float
    """Restorations a second."""
    p50: float
    p99: float
    answers: int
    curve: float | None = None
    """The seconds that the cost curve allows at best for the calls made, over those that passed."""
    called: float | None = None
    """The seconds that it gives for calls of the sizes made, over those that passed."""
    own: float | None = None
    """The scheduler's share of a step."""
    rows: float | None = None
    """Mean rows of a call."""


def make_requests(restorer: Restorer, number: int, steps: int) -> tuple[list[Request], list[float]]:
    """The portrait damaged by each task in turn, with other noise each time; and the seconds that each takes alone."""
    _, height, width = restorer.image_shape
    clean = Photo(fit_photo(read_photo(PORTRAIT), (width, height), "resize").pixels)
    mixed, made, taken = tasks(restorer.image_shape), [], []
    for seed in range(number):
        asked = {**mixed[seed % len(mixed)], "steps": steps, "seed": seed}
        text = json.dumps(asked)
        parameters = Parameters.read(text)
        y, _, _ = simulate(clean, parameters.damage(None), seed)
        png = encode_png(to_picture(y))
        began = time.perf_counter()
        restored = alone(restorer, png, parameters)
        taken.append(time.perf_counter() - began)
        made.append(Request(png, text, pixels(restored)))
    return made, taken


def alone(restorer: Restorer, png: bytes, parameters: Parameters) -> bytes:
    """Restore a picture's bytes to a picture's bytes in this process."""
    photo = decode_photo(png, "the image")
    job = prepare(photo, restorer.image_shape, parameters.damage(None))
    result = restorer.restore(job.y, job.operator, sigma=job.sigma, **parameters.settings())
    return encode_png(to_picture(result.image), result.settings, photo.metadata)


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)))


@contextlib.contextmanager
def running(*arguments: str) -> Iterator[str]:
    """Run a server of load_servers.py during the block; yield its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryFile() as log:
        command = [sys.executable, str(SERVERS), *arguments, "--port", str(port)]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
        try:
            path = "/readyz" if arguments[0] == "ours" else "/health"
            ends = time.monotonic() + 180
            while True:
                if process.poll() is not None or time.monotonic() > ends:
                    log.seek(0)
                    raise click.ClickException(f"{arguments[0]} did not start: {log.read().decode()[-2000:]}")
                with contextlib.suppress(httpx.TransportError):
                    if httpx.get(url + path).status_code == 200:
                        break
                time.sleep(0.1)
            yield url
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(30)
                os.killpg(process.pid, signal.SIGKILL)  # LitServe's workers


async def ask(client: httpx.AsyncClient, server: str, request: Request) -> bytes:
    if server == "ours":
        files = {"image": request.png, "parameters": (None, request.text)}
        answer = await client.post("/v1/restore", files=files)
    else:
        body = {"image": base64.b64encode(request.png).decode(), "parameters": request.text}
        answer = await client.post("/predict", json=body)
    if answer.status_code != 200:
        raise click.ClickException(f"{server} answered {answer.status_code}: {answer.text[:300]}")
    return answer.content if server == "ours" else base64.b64decode(answer.json()["image"])


async def load(
    url: str, server: str, requests: list[Request], clients: int, think: float, ramp: float, seconds: float, seed: int
) -> tuple[list[Answer], float, float]:
    """The answers that came between `ramp` and `ramp + seconds` seconds from the start, and those two moments."""
    began = time.monotonic()
    first, last = began + ramp, began + ramp + seconds
    got: list[tuple[Answer, int, bytes]] = []
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=clients)
    async with httpx.AsyncClient(base_url=url, timeout=None, limits=limits) as client:

        async def one(number: int) -> None:
            random = np.random.default_rng([seed, number])
            while True:
                await asyncio.sleep(random.exponential(think))
                which = int(random.integers(len(requests)))
                asked = time.monotonic()
                if asked > last:
                    return
                png = await ask(client, server, requests[which])
                ended = time.monotonic()
                got.append((Answer(asked, ended, ended - asked), which, png))

        await asyncio.gather(*map(one, range(clients)))
    for _, which, png in got:
        if not np.array_equal(pixels(png), requests[which].pixels):
            raise click.ClickException(f"{server} answered request {which} with another image than it has alone")
    return [answer for answer, _, _ in got if first <= answer.ended <= last], first, last


def row_of(clients: int, arrivals: str, server: str, taken: list[float], seconds: float, **more: Any) -> Row:
    if not taken:
        raise click.ClickException("nothing was answered in the time; give more --seconds")
    p50, p99 = np.percentile(taken, [50, 99])
    return Row(clients, arrivals, server, len(taken) / seconds, float(p50), float(p99), len(taken), **more)


def read_calls(path: Path) -> tuple[dict[bool, dict[int, float]], list[list[Any]]]:
    """The cost curves by whether a call takes a gradient, and what each call did: when, pulls, rows, seconds, own,
    steps."""
    head, *calls = [json.loads(line) for line in path.read_text().splitlines() if line.endswith(("]", "}"))]
    curves = {pulls: {int(size): cost for size, cost in head[name].items()} for pulls, name in
              ((False, "forward"), (True, "pullback"))}  # fmt: skip
    return curves, calls


def of_calls(path: Path, first: float, last: float) -> dict[str, float]:
    """Figures of the service's calls in a stretch of time."""
    curves, calls = read_calls(path)
    calls = [call for call in calls if first <= call[0] <= last]
    best = {pulls: min(cost / size for size, cost in curve.items()) for pulls, curve in curves.items()}
    ideal = sum(rows * best[pulls] for _, pulls, rows, *_ in calls)
    called = sum(curves[pulls][rows] for _, pulls, rows, *_ in calls)
    network, own = (sum(call[place] for call in calls) for place in (3, 4))
    rows = sum(call[2] for call in calls) / len(calls)
    passed = last - first
    return {"curve": ideal / passed, "called": called / passed, "own": own / (own + network), "rows": rows}


async def cancelled(url: str, requests: list[Request], path: Path, times: int) -> list[int]:
    """For each of `times` jobs cancelled while four clients ask: the calls it was in after its cancellation."""
    marks: dict[int, float] = {}

    async with httpx.AsyncClient(base_url=url, timeout=None) as client:

        async def other(number: int) -> None:
            while True:
                await ask(client, "ours", requests[number])

        others = [asyncio.create_task(other(number)) for number in range(4)]
        for number in range(times):
            steps = 500 + number  # what tells its rows from others
            text = json.dumps({**json.loads(requests[number].text), "steps": steps})
            files = {"image": requests[number].png, "parameters": (None, text)}
            job = (await client.post("/v1/restore", files=files, headers={"Prefer": "respond-async"})).json()["id"]
            while (await client.get(f"/v1/jobs/{job}")).json()["state"] == "queued":
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.2)
            await client.delete(f"/v1/jobs/{job}")
            marks[steps] = time.monotonic()
        await asyncio.sleep(1)
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
    _, calls = read_calls(path)
    return [sum(when > mark and steps in call for when, *_, call in calls) for steps, mark in marks.items()]


@click.command(help=__doc__)
@click.option("--engine", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--backend", default="cpu", help="One whose results do not depend on the batch.")
@click.option("--clients", "levels", type=int, multiple=True, default=(1, 8, 32), help="Busy clients. May be repeated.")
@click.option("--random", "randoms", type=int, default=16, help="Clients that arrive at random, and as many busy ones.")
@click.option("--share", default=0.7, help="What those at random ask for, of what one process restores.")
@click.option("--steps", default=20)
@click.option("--seconds", default=60.0, help="Of each measurement, after a fifth more to get going.")
@click.option("--pictures", default=20, help="Different requests.")
@click.option("--batch", "batches", type=int, multiple=True, default=(8,), help="LitServe's. May be repeated.")
@click.option("--wait", default=0.05, help="Seconds that LitServe's batches wait for more.")
@click.option("--seed", default=0)
@click.option("--json", "out", type=click.Path(path_type=Path))
def main(
    engine: Path,
    backend: str,
    levels: tuple[int, ...],
    randoms: int,
    share: float,
    steps: int,
    seconds: float,
    pictures: int,
    batches: tuple[int, ...],
    wait: float,
    seed: int,
    out: Path | None,
) -> None:
    restorer = Restorer.load(engine, backend)
    make_requests(restorer, 5, 2)  # warm
    requests, taken = make_requests(restorer, pictures, steps)
    rows = [row_of(1, "one by one", "Restorer", taken, sum(taken))]
    think = randoms / (share * rows[0].rate)
    plans = [(clients, "busy", THINK) for clients in (*levels, randoms)] + [(randoms, "random", think)]
    del restorer
    with tempfile.TemporaryDirectory() as scratch:
        calls = Path(scratch) / "calls.jsonl"
        servers: dict[str, tuple[str, ...]] = {
            "frugal-rt": ("ours", str(engine), "--backend", backend, "--calls", str(calls))
        }
        if find_spec("litserve"):
            for batch in batches:
                words = ("--batch", str(batch), "--wait", str(wait))
                servers[f"LitServe, {batch}"] = ("litserve", str(engine), "--backend", backend, *words)
        else:
            click.echo("LitServe is not installed and is left out: pip install litserve", err=True)
        after: list[int] = []
        for name, words in servers.items():
            with running(*words) as url:
                for clients, arrivals, mean in plans:
                    asked = load(url, words[0], requests, clients, mean, seconds / 5, seconds, seed)
                    answers, first, last = asyncio.run(asked)
                    more = of_calls(calls, first, last) if words[0] == "ours" else {}
                    rows.append(row_of(clients, arrivals, name, [a.seconds for a in answers], seconds, **more))
                    click.echo(line(rows[-1]), err=True)
                if words[0] == "ours":
                    after = asyncio.run(cancelled(url, requests, calls, 5))
        curves, _ = read_calls(calls)
    order = {(clients, arrivals): place for place, (clients, arrivals, _) in enumerate(plans)}
    rows.sort(key=lambda row: order.get((row.clients, row.arrivals), -1))
    click.echo(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}")
    click.echo("\n".join(map(line, rows)))
    found = {
        "calls of a job after its cancellation": after,
        "seconds of a step by rows, without a gradient": curves[False],
        "seconds of a step by rows, with one": curves[True],
        **targets(rows, randoms),
    }
    click.echo("\n" + "\n".join(f"- {name}: {said}" for name, said in found.items()))
    if out is not None:
        out.write_text(json.dumps({"rows": [vars(row) for row in rows], **found}, indent=1) + "\n")


def line(row: Row) -> str:
    shares = [f"{value:.1%}" if value is not None else "" for value in (row.curve, row.called, row.own)]
    cells = [row.clients, row.arrivals, row.server, f"{row.rate:.3g}", f"{row.p50:.3g}", f"{row.p99:.3g}", row.answers]
    return f"| {' | '.join(map(str, [*cells, '' if row.rows is None else f'{row.rows:.2f}', *shares]))} |"


def targets(rows: list[Row], clients: int) -> dict[str, str]:
    """Return each target, and what was reached."""
    found: dict[str, str] = {}
    for arrivals in ("busy", "random"):
        of = {row.server: row for row in rows if (row.clients, row.arrivals) == (clients, arrivals)}
        ours = of.pop("frugal-rt")
        if arrivals == "busy":
            found["throughput of what the curve allows (0.9 or more)"] = f"{ours.curve:.3f}"
            found["the scheduler's share of a step (0.03 at most)"] = f"{ours.own:.4f}"
        for name, other in of.items():
            said = f"{ours.p99 / other.p99:.2f}, throughput {ours.rate / other.rate:.2f}"
            found[f"p99 against {name}, {arrivals} (0.7 at most, 1 or more)"] = said
    return found


if __name__ == "__main__":
    main()
