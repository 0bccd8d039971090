"""The service's answers, and what it has to say."""

import asyncio
import importlib
import io
import json
import sys

import httpx
import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from frugal_rt import MissingExtra, Restorer
from frugal_rt.runtime.pictures.damage import Damage
from frugal_rt.runtime.pictures.decoding import decode_photo
from frugal_rt.runtime.pictures.images import SETTINGS_KEY, to_picture
from frugal_rt.runtime.pictures.measurement import prepare
from frugal_rt.runtime.service.app import create_app
from frugal_rt.runtime.service.intake import Options

from ..waiting import until
from .asking import error, png, restore


def test_the_image_is_the_restorers_own_and_says_how_it_came_about(client, tiny_plan):
    answer = restore(client, task="inpaint", hole=[6, 6], steps=9, seed=4)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "image/png"
    restorer = Restorer.load(tiny_plan, "cpu")
    job = prepare(decode_photo(png(), "the image"), restorer.image_shape, Damage(task="inpaint", hole=(6, 6)))
    alone = restorer.restore(job.y, job.operator, sigma=job.sigma, steps=9, seed=4)
    picture = Image.open(io.BytesIO(answer.content))
    np.testing.assert_array_equal(np.asarray(picture), np.asarray(to_picture(alone.image)))
    settings = json.loads(picture.text[SETTINGS_KEY])
    assert (settings["steps"], settings["seed"], settings["task"], settings["k"]) == (9, 4, "inpaint", alone.k[0])
    said = json.loads(answer.headers["x-frugal-rt"])
    assert (said["task"], said["k"], said["forwards"], said["sigma"]) == ("inpaint", alone.k[0], 9, 0.01)


def test_a_body_alone_is_the_image_and_the_query_its_parameters(client):
    answer = client.post("/v1/restore", content=png((8, 8)), params={"parameters": '{"steps": 4}'})
    assert answer.status_code == 200
    assert Image.open(io.BytesIO(answer.content)).size == (16, 16)
    assert json.loads(answer.headers["x-frugal-rt"])["task"] == "sr"


def test_a_mask_marks_what_is_missing(client):
    mask = np.zeros((16, 16), np.uint8)
    mask[3:9, 5:12] = 255
    file = io.BytesIO()
    Image.fromarray(mask).save(file, "PNG")
    answer = restore(client, mask=file.getvalue(), steps=6, sigma=0)
    before, after = (np.asarray(Image.open(io.BytesIO(data)).convert("RGB")) for data in (png(), answer.content))
    changed = (before != after).any(axis=2)
    assert not changed[mask == 0].any()
    assert changed[mask > 0].mean() > 0.9


def test_tiles_take_a_larger_picture(client):
    answer = restore(client, png((24, 20)), task="denoise", sigma=0.2, steps=3)
    assert Image.open(io.BytesIO(answer.content)).size == (24, 20)
    assert "up to 16384 are restored in tiles" in error(restore(client, png((200, 200)), task="sr", scale=8), 422)


def smooth():
    """A PNG of 16x16 in which there is next to no noise, and its pixels."""
    ramp = np.linspace(40, 200, 16)
    levels = np.uint8(np.stack([np.add.outer(ramp, weight * ramp) / 2 for weight in (0.2, 0.5, 0.9)], axis=-1))
    file = io.BytesIO()
    Image.fromarray(levels).save(file, "PNG")
    return file.getvalue(), levels


def test_a_clean_picture_goes_through_unchanged_and_that_is_said(client):
    sent, levels = smooth()
    answer = restore(client, sent)
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(answer.content))), levels)
    said = json.loads(answer.headers["x-frugal-rt"])
    assert said["unchanged"] is True
    assert "nothing was found wrong" in said["because"]
    asked = restore(client, sent, noise=5)
    assert json.loads(asked.headers["x-frugal-rt"])["unchanged"] is False
    assert not np.array_equal(np.asarray(Image.open(io.BytesIO(asked.content))), levels)


def test_a_job_of_a_clean_picture_is_done_at_once(client):
    taken = restore(client, smooth()[0], headers={"Prefer": "respond-async"})
    until(lambda: client.get(taken.headers["location"]).json()["state"] == "done")
    assert client.get(taken.headers["location"]).json()["unchanged"] is True
    assert client.get(f"{taken.headers['location']}/image").status_code == 200


def test_denoising_has_aims_over_http(client):
    for aim, calls in (("detail", 8), ("fidelity", 1)):
        said = json.loads(restore(client, task="denoise", noise=40, aim=aim).headers["x-frugal-rt"])
        assert (said["aim"], said["forwards"], said["gradients"], said["k"]) == (aim, calls, 0, 0)
        assert said["sigma"] == pytest.approx(80 / 255)
    assert "an aim says how to restore" in error(restore(client, task="denoise", aim="detail", preset="fast"), 422)
    assert "noise and sigma say the same" in error(restore(client, noise=40, sigma=0.1), 422)


def test_a_smaller_picture_is_restored_at_its_own_size(client):
    answer = restore(client, png((13, 9)), task="denoise", sigma=0.2, steps=3)
    assert Image.open(io.BytesIO(answer.content)).size == (13, 9)
    answer = restore(client, png((20, 9)), task="denoise", sigma=0.2, steps=3, fit="pad")
    assert Image.open(io.BytesIO(answer.content)).size == (20, 9)


def test_nothing_but_the_page_is_served_from_disk(client):
    for path in ("/../pool.py", "/app.py", "/page/index.html", "/%2e%2e/app.py", "/etc/passwd"):
        assert client.get(path).status_code == 404
    page = client.get("/")
    assert "default-src 'self'" in page.headers["content-security-policy"]
    assert client.get("/sample.png").headers["content-type"] == "image/png"
    about = client.get("/v1/service").json()
    assert (about["prior"], about["image"]) == ("tiny", {"channels": 3, "height": 16, "width": 16, "any_size": False})


def test_a_replica_offers_nothing_that_it_alone_can_answer(pool):
    with TestClient(create_app(pool, Options(replicated=True))) as client:
        answer = restore(client, steps=3, headers={"Prefer": "respond-async"})
        assert (answer.status_code, answer.headers["content-type"]) == (200, "image/png")
        paths = client.get("/openapi.json").json()["paths"].keys()
        assert paths == {"/v1/restore", "/v1/service", "/livez", "/readyz"}
        for path in ("/", "/page.js", "/metrics", "/v1/jobs/1"):
            assert error(client.get(path), 404)


def test_without_ray_serve_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "frugal_rt.runtime.service.ray_serve", raising=False)
    with pytest.raises(MissingExtra, match=r"pip install 'frugal-rt\[ray-serve\]'"):
        importlib.import_module("frugal_rt.runtime.service.ray_serve")


def test_a_server_that_cancels_a_request_stops_its_restoration(pool):
    async def ask():
        transport = httpx.ASGITransport(create_app(pool))
        async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
            parameters = {"task": "denoise", "sigma": 0.2, "steps": 1000, "method": "dps", "tile": True}
            files = {"image": png((128, 128)), "parameters": (None, json.dumps(parameters))}
            asked = asyncio.create_task(client.post("/v1/restore", files=files))
            while not pool.images:
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.3)
            asked.cancel()
            await asyncio.wait({asked})
            await asyncio.to_thread(until, lambda: pool.images == 0, 3)

    asyncio.run(ask())
