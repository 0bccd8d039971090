"""A service under what goes wrong in production: workers killed, disks full, clients that stall, stops under load.

FRUGAL_RT_SOAK=2000 makes the soak so many requests.
"""

import asyncio
import io
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from frugal_rt import Restorer
from frugal_rt.runtime.pictures.damage import Damage
from frugal_rt.runtime.pictures.decoding import decode_photo
from frugal_rt.runtime.pictures.images import to_picture
from frugal_rt.runtime.pictures.measurement import prepare

from ..waiting import stopped

SOAK = int(os.environ.get("FRUGAL_RT_SOAK", 100))
LIMIT = 12
LONG = 900
"""Steps of a restoration that is not done before the test is."""


def picture(seed: int = 0, size: int = 16) -> bytes:
    """A PNG of random pixels, as large as the tiny prior's."""
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size, size, 3), np.uint8)).save(file, "PNG")
    return file.getvalue()


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)))


@pytest.fixture(scope="module")
def serving(serve):
    """One service for all that it must survive; the next test asks the same."""
    return serve(limit=LIMIT, upload_seconds=1.0)


@pytest.fixture(scope="module")
def alone(tiny_plan: Path) -> Callable[..., np.ndarray]:
    """The pixels of a restoration that nothing else shares."""
    restorer = Restorer.load(tiny_plan, "cpu")

    def restore(png: bytes, seed: int, steps: int) -> np.ndarray:
        job = prepare(decode_photo(png, "image"), restorer.image_shape, Damage(task="denoise", sigma=0.1))
        result = restorer.restore(job.y, job.operator, sigma=job.sigma, seed=seed, steps=steps, method="closed-form")
        return np.asarray(to_picture(result.image))

    return restore


def ask(serving, seed: int, steps: int, **more):
    return serving.post(picture(seed), task="denoise", sigma=0.1, seed=seed, steps=steps, method="closed-form", **more)


def begin(serving, seed: int = 0, steps: int = LONG, previews: bool = False) -> str:
    """The address of a job that was just taken."""
    import httpx

    text = json.dumps({"task": "denoise", "sigma": 0.1, "seed": seed, "steps": steps, "method": "closed-form"})
    files = {"image": picture(seed), "parameters": (None, text)}
    headers = {"Prefer": "respond-async"}
    answer = httpx.post(f"{serving.url}/v1/restore?previews={previews}", files=files, headers=headers, timeout=30)
    assert answer.status_code == 202, answer.text
    return answer.headers["location"]


def send(serving, body: bytes, length: int | None = None) -> socket.socket:
    """A connection on which a request was sent, or the beginning of one that says it has `length` bytes."""
    length = len(body) if length is None else length
    connection = socket.create_connection(serving.address, timeout=20)
    head = (
        f"POST /v1/restore HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\nContent-Length: {length}\r\n\r\n"
    )
    connection.sendall(head.encode() + body)
    return connection


def is_idle(serving) -> Callable[[], bool]:
    return lambda: serving.metric("frugal_images") == 0


def test_a_worker_killed_under_load_loses_no_request(serving, alone):
    with ThreadPoolExecutor(8) as clients:
        (worker,) = serving.workers()
        with stopped(worker.pid):
            before = serving.metric("frugal_call_seconds_total")
            asked = [clients.submit(ask, serving, seed, 200) for seed in range(8)]
            serving.wait(lambda: serving.metric("frugal_images") == 8)
        serving.wait(lambda: serving.metric("frugal_call_seconds_total") > before)
        worker.kill()
        answers = [one.result() for one in asked]
    assert [answer.status_code for answer in answers] == [200] * 8
    for seed, answer in enumerate(answers):
        np.testing.assert_array_equal(pixels(answer.content), alone(picture(seed), seed, 200))
    serving.wait(lambda: [one for one in serving.workers() if one.pid != worker.pid])


def test_a_worker_killed_twice_is_told_of_and_serves_on(serving, alone):
    with ThreadPoolExecutor(1) as client:
        asked = client.submit(ask, serving, 0, LONG)
        killed = set()
        for _ in range(2):
            serving.wait(lambda: serving.metric("frugal_images") == 1, 60)
            before = serving.metric("frugal_call_seconds_total")
            serving.wait(lambda: bool(serving.workers()) and serving.workers()[0].pid not in killed)
            serving.wait(lambda before=before: serving.metric("frugal_call_seconds_total") > before)
            (worker,) = serving.workers()
            killed.add(worker.pid)
            worker.kill()
        answer = asked.result()
    assert answer.status_code == 503
    assert "died over this restoration, and again" in answer.json()["error"]
    serving.wait(lambda: serving.get("/readyz").status_code == 200, 60)
    after = ask(serving, 3, 4)
    assert after.status_code == 200, after.text
    np.testing.assert_array_equal(pixels(after.content), alone(picture(3), 3, 4))


def test_a_stopped_worker_leaves_nobody_without_an_answer(serve, alone):
    """Requests of more bytes than a socket takes are answered by their deadlines, others by the worker's successor."""
    serving, seen, done = serve(limit=LIMIT), set(), threading.Event()

    def watch() -> None:
        while not done.wait(0.1):
            seen.add(serving.get("/readyz").status_code)

    (worker,) = serving.workers()
    worker.suspend()
    with ThreadPoolExecutor(12) as clients:
        watching = clients.submit(watch)
        honest = clients.submit(ask, serving, 7, 20)
        hurried = [clients.submit(large, serving, seed, timeout=3) for seed in range(10)]
        try:
            answers = [one.result().status_code for one in hurried]
            assert answers[0] == 504
            assert {*answers} <= {200, 504}  # the last may come when there is a worker again
            np.testing.assert_array_equal(pixels(honest.result().content), alone(picture(7), 7, 20))
        finally:
            done.set()
        watching.result()
    assert seen == {200, 503}
    assert serving.get("/readyz").status_code == 200
    assert not worker.is_running()
    serving.wait(is_idle(serving))


def test_sigterm_ends_a_service_whose_worker_is_stopped(serve, alone):
    serving = serve(limit=LIMIT)
    (worker,) = serving.workers()
    worker.suspend()
    with ThreadPoolExecutor(8) as clients:
        honest = [clients.submit(ask, serving, seed, 200) for seed in range(3)]
        serving.wait(lambda: serving.metric("frugal_images") == 3)
        hurried = [clients.submit(large, serving, seed, timeout=3) for seed in range(4)]
        serving.wait(lambda: serving.metric("frugal_images") > 3)
        serving.process.send_signal(signal.SIGTERM)
        assert {one.result().status_code for one in hurried} <= {200, 503, 504}
        for seed, one in enumerate(honest):
            np.testing.assert_array_equal(pixels(one.result().content), alone(picture(seed), seed, 200))
    assert serving.process.wait(60) == 0
    assert not worker.is_running()


def large(serving, seed: int, **more):
    """A restoration in tiles, whose measurement a socket does not take at once."""
    return serving.post(picture(seed, 128), task="denoise", sigma=0.1, tile=True, steps=2, method="dmps", **more)


def test_a_full_disk_is_no_error(serve, tmp_path):
    """A service whose cache cannot be written starts, and writes nothing but its log."""
    import psutil

    (tmp_path / "taken").write_bytes(b"")
    serving = serve(environment={"FRUGAL_RT_CACHE": str(tmp_path / "taken" / "cache")})
    for process in (psutil.Process(serving.process.pid), *serving.workers()):
        process.rlimit(psutil.RLIMIT_FSIZE, (1 << 16, 1 << 16))  # a write beyond it fails, as on a full disk
    answer = serving.post(picture(0, 1024), task="denoise", fit="resize", steps=3)
    assert answer.status_code == 200, answer.text
    assert [path.name for path in serving.log.parent.iterdir()] == [serving.log.name]


def test_an_upload_that_stalls_is_given_up_and_disturbs_nobody(serving):
    began = time.monotonic()
    with send(serving, picture()[:100], 5000) as stalled:
        assert ask(serving, 0, 3).status_code == 200
        answer = b"".join(iter(lambda: stalled.recv(1 << 16), b"")).decode()
    assert answer.startswith("HTTP/1.1 408 ")
    assert "took over 1 s to arrive" in answer
    assert time.monotonic() - began > 0.8


def test_an_upload_cut_short_leaves_nothing_behind(serving):
    for cut in (0, 1, 100):
        send(serving, picture()[:cut], 5000).close()
    form = b'--x\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n' + picture()
    with socket.create_connection(serving.address) as connection:
        head = b"POST /v1/restore HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=x\r\n"
        connection.sendall(head + b"Content-Length: 90000\r\n\r\n" + form)
    assert ask(serving, 0, 3).status_code == 200
    serving.wait(is_idle(serving))
    assert "Traceback" not in serving.log.read_text()


def test_a_client_that_hangs_up_stops_its_restoration(serving):
    text = json.dumps({"task": "denoise", "steps": LONG, "method": "dps"})
    from urllib.parse import quote

    body = picture()
    head = (
        f"POST /v1/restore?parameters={quote(text)} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    before = serving.metric("frugal_step_seconds_count")
    with socket.create_connection(serving.address) as connection:
        connection.sendall(head.encode() + body)
        serving.wait(lambda: serving.metric("frugal_step_seconds_count") > before)
    serving.wait(is_idle(serving))
    steps = serving.metric("frugal_step_seconds_count")
    assert steps - before < LONG
    time.sleep(0.3)
    assert serving.metric("frugal_step_seconds_count") <= steps + 1  # a step that was under way


def test_a_reader_of_events_that_never_reads_costs_no_memory(serving):
    memory = serving.memory()
    readers = []
    for seed in range(4):
        job = begin(serving, seed, 400, previews=True)
        reader = socket.create_connection(serving.address)
        reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        reader.sendall(f"GET {job}/events HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        readers.append(reader)
    serving.wait(is_idle(serving), 60)
    assert serving.memory() - memory < 40 << 20
    for reader in readers:
        reader.close()
    assert ask(serving, 0, 3).status_code == 200


def test_the_limit_and_the_deadline_are_told(serving):
    import httpx

    jobs = [begin(serving, seed) for seed in range(LIMIT)]
    refused = ask(serving, 3, 3)
    assert refused.status_code == 429
    assert int(refused.headers["retry-after"]) >= 1
    for job in jobs:
        assert httpx.delete(serving.url + job).status_code == 204
    serving.wait(is_idle(serving))
    late = ask(serving, 0, LONG, timeout=0.2)
    assert late.status_code == 504, late.text
    assert ask(serving, 0, 3).status_code == 200


def test_sigterm_under_load_answers_what_was_taken_and_refuses_the_rest(serve, alone):
    """No process is left behind."""
    import httpx

    serving = serve()
    processes = serving.children()
    with ThreadPoolExecutor(8) as clients:
        with stopped(serving.workers()[0].pid):
            asked = [clients.submit(ask, serving, seed, 200) for seed in range(6)]
            jobs = [begin(serving, seed, 200) for seed in (6, 7)]
            serving.wait(lambda: serving.metric("frugal_images") == 8)
            serving.process.send_signal(signal.SIGTERM)
            serving.wait(lambda: serving.get("/readyz").status_code == 503)
            assert ask(serving, 9, 3).status_code == 503
        images = {6 + i: clients.submit(fetch, serving, job) for i, job in enumerate(jobs)}
        answers = [one.result() for one in asked]
        answers += [images[seed].result() for seed in (6, 7)]
    assert [answer.status_code for answer in answers] == [200] * 8
    for seed, answer in enumerate(answers):
        np.testing.assert_array_equal(pixels(answer.content), alone(picture(seed), seed, 200))
    assert serving.process.wait(60) == 0
    assert not any(process.is_running() for process in processes)
    with pytest.raises(httpx.TransportError):
        serving.get("/livez")


def fetch(serving, job: str):
    """The image of a job, when it is done."""
    import httpx

    while True:
        answer = httpx.get(f"{serving.url}{job}/image", timeout=30)
        if answer.status_code != 409:
            return answer
        time.sleep(0.02)


@pytest.mark.long
def test_memory_is_flat(serving):
    clients = 8

    async def soak(first: int, last: int) -> None:
        import httpx

        seeds = iter(range(first, last))
        limits = httpx.Limits(max_connections=clients)
        async with httpx.AsyncClient(base_url=serving.url, timeout=60, limits=limits) as client:

            async def one() -> None:
                for seed in seeds:
                    task = [{"task": "denoise"}, {"task": "inpaint", "hole": [4 + seed % 8, 4]}][seed % 2]
                    files = {"image": picture(seed), "parameters": (None, json.dumps({**task, "steps": 2}))}
                    answer = await client.post("/v1/restore", files=files)
                    assert answer.status_code == 200, answer.text

            await asyncio.gather(*(one() for _ in range(clients)))

    asyncio.run(soak(0, SOAK // 2))
    half = serving.memory()
    asyncio.run(soak(SOAK // 2, SOAK))
    grown = serving.memory() - half
    print(f"{SOAK} requests: {half >> 20} MiB at half of them, {grown / 2**20:+.1f} MiB at the end")
    assert grown < (16 << 20)
    serving.wait(is_idle(serving))
    assert threading.active_count() < 50
