"""Jobs: watched, fetched, cancelled, and what is kept of them."""

import asyncio
import io
import json
import threading
from concurrent.futures import Future
from contextlib import ExitStack

import numpy as np
import pytest
from attack_pictures import laden_jpeg, laden_png
from PIL import Image

from frugal_rt import DeadlineError, WorkerError
from frugal_rt.runtime.pictures.decoding import Metadata
from frugal_rt.runtime.pool.scheduler import Moved
from frugal_rt.runtime.service import jobs
from frugal_rt.runtime.service.intake import MAX_METADATA
from frugal_rt.runtime.service.jobs import Job, Jobs

from ..waiting import stopped, until
from .asking import begin, error, events


def job(ended: float = float("inf"), size: int = 0) -> Job:
    made = Job("denoise", "as asked", 0.1, Metadata(), (slice(None), slice(None)), {}, {})
    made.ended, made.image = ended, bytes(size)
    made.state = "running" if ended == float("inf") else "done"
    return made


def kept(*made: Job) -> list[Job]:
    """Return the jobs that are still there after all were added in order."""
    all_of_them = Jobs()
    for one in made:
        all_of_them.add(one)
    return [one for one in made if all_of_them.get(one.id)]


def test_those_that_ended_first_go_first(monkeypatch):
    now = 1000.0
    monkeypatch.setattr(jobs.time, "monotonic", lambda: now)
    monkeypatch.setattr(jobs, "KEPT_BYTES", 100)
    monkeypatch.setattr(jobs, "KEPT_JOBS", 3)
    old, older, running = job(now - 5, 30), job(now - 6, 30), job()
    assert kept(old, older, running) == [old, older, running]
    newest = job(now - 1, 90)
    assert kept(old, older, running, newest) == [running, newest]
    small = [job(now - number) for number in range(5)]
    assert kept(running, *small) == [running, *small[:3]]
    assert kept(job(now - jobs.KEPT_SECONDS - 1), small[0]) == small[:1]
    assert kept(job(now, 101)) == []


@pytest.mark.parametrize("why", [DeadlineError("late"), None])
def test_a_job_that_is_over_keeps_nothing_but_its_answer(why):
    """No metadata, no frames of those that failed, no future."""
    future: Future = Future()
    made = Job("denoise", "as asked", 0.1, Metadata(exif=b"x" * 100), (slice(None), slice(None)), {}, {})

    async def run() -> None:
        running = asyncio.create_task(made.run(lambda **settings: future))
        await asyncio.sleep(0)
        if why is None:
            made.cancel(WorkerError("stopped"))
        else:
            future.set_exception(why)
        await running

    asyncio.run(run())
    assert (made.state, made.metadata, made._future) == ("failed", Metadata(), None)
    assert made.said()["error"] == ("late" if why else "stopped")
    assert made.error.__traceback__ is None


def test_metadata_is_kept_up_to_a_size(serve):
    serving = serve()

    def restored(picture: bytes) -> dict:
        answer = serving.post(picture, task="denoise", sigma=0.1, steps=3)
        assert answer.status_code == 200, answer.text
        return Image.open(io.BytesIO(answer.content)).info

    assert "exif" in restored(laden_png(16, MAX_METADATA - 1000))
    assert "icc_profile" in restored(laden_jpeg(16, MAX_METADATA))
    assert "icc_profile" not in restored(laden_jpeg(16, MAX_METADATA + 1))
    answer = serving.post(laden_png(16, MAX_METADATA + 1), task="denoise", sigma=0.1, steps=3)
    assert "exif" not in Image.open(io.BytesIO(answer.content)).info
    said = "the image: its 257 KiB of EXIF data are left out; up to 256 are kept"
    assert json.loads(answer.headers["X-Frugal-RT"])["notes"] == [said]


def test_a_frame_is_restored_and_others_are_told(serve):
    serving, file = serve(), io.BytesIO()
    pages = [Image.new("RGB", (16, 16), (level, 90, 60)) for level in (20, 220)]
    pages[0].putpixel((3, 3), (255, 255, 255))
    pages[1].putpixel((3, 3), (0, 0, 0))
    pages[0].save(file, "TIFF", save_all=True, append_images=pages[1:])
    for asked, red, told in (({}, 20, 1), ({"frame": 1}, 20, 0), ({"frame": 2}, 220, 0)):
        answer = serving.post(file.getvalue(), **asked)
        said = json.loads(answer.headers["X-Frugal-RT"])
        assert said["unchanged"]
        assert Image.open(io.BytesIO(answer.content)).getpixel((9, 9)) == (red, 90, 60)
        assert len(said["notes"]) == told
    refused = serving.post(file.getvalue(), frame=3)
    assert (refused.status_code, refused.json()["error"]) == (422, "the image holds 2 pictures, not 3: frame 1..2")


def test_what_a_picture_carries_is_not_kept_with_its_job(serve):
    import httpx

    serving = serve()
    pictures = [laden_png(16, 14 << 20), laden_jpeg(16, 14 << 20)]

    def ask(picture: bytes) -> None:
        files = {"image": picture, "parameters": (None, json.dumps({"task": "denoise", "sigma": 0.1, "steps": 3}))}
        answer = httpx.post(f"{serving.url}/v1/restore", files=files, headers={"Prefer": "respond-async"}, timeout=60)
        assert answer.status_code in (202, 422), answer.text

    for picture in pictures:
        ask(picture)
    before = serving.memory()
    for picture in pictures * 4:
        ask(picture)
    serving.wait(lambda: serving.metric("frugal_images") == 0)
    assert serving.memory() - before < 60 << 20


def test_a_job_is_watched_to_its_end_and_then_forgotten(client, pool, monkeypatch):
    changes, still = Job.changes, ExitStack()

    async def watched(job):
        still.close()  # the worker goes on when the job is watched
        async for changed in changes(job):
            yield changed

    monkeypatch.setattr(Job, "changes", watched)
    with still:
        still.enter_context(stopped(*pool.processes))
        job = begin(client, task="sr", scale=2, steps=12, fit="resize")
        seen = events(client, job)
    assert {name for name, _ in seen[:-1]} <= {"queued", "running"}
    name, last = seen[-1]
    assert name == last["state"] == "done"
    lefts = [data["left"] for name, data in seen if name == "running"]
    assert lefts == sorted(lefts, reverse=True)
    assert any(data.get("preview", "").startswith("data:image/png;base64,") for _, data in seen)
    assert len(last["trace"]) == 5
    assert {"k", "seconds", "forwards", "gradients", "because", "phase"} <= last.keys()
    assert client.get(job).json()["state"] == "done"
    assert client.get(f"{job}/image").headers["content-type"] == "image/png"
    assert [name for name, _ in events(client, job)] == ["done"]  # for who comes late
    assert client.delete(job).status_code == 204
    assert error(client.get(job), 404)


def test_a_step_is_encoded_once_for_all_who_watch_and_beside_the_event_loop():
    encoded: list[str] = []

    def shown(x0hat: np.ndarray) -> np.ndarray:
        encoded.append(threading.current_thread().name)
        return x0hat

    async def watch(one: Job) -> list[str]:
        return [await one.event() async for changed in one.changes() if changed]

    async def all_of_them() -> list[list[str]]:
        one = job()
        one.shown = shown
        watching = [asyncio.create_task(watch(one)) for _ in range(100)]
        for left in (2, 1):
            await asyncio.sleep(0)
            one._move(Moved(0, 0, left, 3, "forward", 1.0, np.zeros((3, 8, 8), np.float32)))
            while len(encoded) < 3 - left:
                await asyncio.sleep(0.001)
            watching[left].cancel()  # one that leaves takes no other's event along
        one._end("done")
        return await asyncio.gather(*watching, return_exceptions=True)

    seen = [one for one in asyncio.run(all_of_them()) if isinstance(one, list)]
    assert len(seen) >= 98
    assert len(encoded) == 2
    assert threading.main_thread().name not in encoded
    assert {one[-1] for one in seen} == {seen[0][-1]}
    assert seen[0][-1].startswith("event: done\n")


def test_a_job_is_cancelled_within_a_step(client, pool):
    job = begin(client, steps=1000, method="dps")
    assert error(client.get(f"{job}/image"), 409)
    until(lambda: client.get(job).json()["state"] == "running")
    assert client.delete(job).status_code == 204
    until(lambda: pool.images == 0)
    assert events(client, job)[-1][0] == "cancelled"
    assert error(client.get(f"{job}/image"), 410) == "the restoration was cancelled"
