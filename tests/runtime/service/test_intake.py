"""Requests that are refused before anything is restored, or given up."""

import asyncio
import io
import threading

import numpy as np
from PIL import Image

from frugal_rt.runtime.service.jobs import Job

from ..waiting import until
from .asking import begin, error, png, restore


def test_pictures_that_cannot_be_read_are_refused(client):
    assert "no image" in error(client.post("/v1/restore"), 422)
    assert "no part 'photo'" in error(client.post("/v1/restore", files={"photo": png()}), 422)
    assert "is not a picture this can read" in error(restore(client, b"hello"), 422)
    assert "broken picture" in error(restore(client, png()[:90]), 422)
    assert "up to 90000 are read" in error(restore(client, png((400, 300))), 422)
    assert "sense with this prior starts from a .npy" in error(restore(client, png((17, 16)), keep_fraction=0.5), 422)
    objects = io.BytesIO()
    np.save(objects, np.array([{}], dtype=object), allow_pickle=True)
    assert "not a .npy array of numbers" in error(restore(client, objects.getvalue()), 422)
    assert "given twice" in error(restore(client, query="?parameters={}", steps=3), 422)


def test_a_body_that_is_too_long_is_refused_before_it_is_read(client):
    assert "longer than 1 MiB" in error(client.post("/v1/restore", content=bytes(2 << 20)), 413)

    def drip():
        for _ in range(64):
            yield bytes(1 << 16)

    assert "longer than 1 MiB" in error(client.post("/v1/restore", content=drip()), 413)


def test_a_full_pool_says_when_to_come_back(client, pool):
    jobs = [begin(client, steps=1000, method="dps") for _ in range(3)]
    answer = restore(client)
    assert "takes 3" in error(answer, 429)
    assert int(answer.headers["retry-after"]) >= 1
    for job in jobs:
        client.delete(job)
    until(lambda: pool.images == 0)
    assert restore(client, steps=3).status_code == 200


def test_a_deadline_is_kept(client, pool):
    assert "deadline" in error(restore(client, steps=1000, method="dps", timeout=0.2), 504)
    until(lambda: pool.images == 0)


def test_a_stopping_service_waits_for_a_picture_that_is_passed_on(client, monkeypatch):
    pass_on, gate, grey = Job.pass_on, threading.Event(), io.BytesIO()

    async def gated(job, measurement):
        await asyncio.to_thread(gate.wait)
        await pass_on(job, measurement)

    monkeypatch.setattr(Job, "pass_on", gated)
    Image.new("RGB", (16, 16), (20, 90, 60)).save(grey, "PNG")
    job = begin(client, image=grey.getvalue())
    busy = client.app.state.service.is_busy
    gate.set()
    assert busy
    until(lambda: not client.app.state.service.is_busy)
    assert client.get(job).json()["unchanged"]
