"""The HTTP service: what it answers, and what it refuses."""

import asyncio
import importlib
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest
from click.testing import CliRunner
from fastapi.testclient import TestClient
from PIL import Image

from frugal_rt import MissingExtra, Pool, Restorer
from frugal_rt.cli import main
from frugal_rt.export import export_plan, read_prior
from frugal_rt.runtime.pictures.damage import Damage
from frugal_rt.runtime.pictures.images import SETTINGS_KEY, decode_photo, to_picture
from frugal_rt.runtime.pictures.measurement import prepare
from frugal_rt.runtime.service.app import create_app
from frugal_rt.runtime.service.intake import Options
from frugal_rt.runtime.service.metrics import Metrics

LIMITS = Options(max_bytes=1 << 20, max_pixels=90_000, timeout=30)


def png(size=(16, 16), mode="RGB", seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def metrics():
    return Metrics()


@pytest.fixture(scope="module")
def pool(tiny_plan, metrics):
    with Pool(tiny_plan, "cpu", limit=3, on_report=metrics.report) as pool:
        yield pool


@pytest.fixture(scope="module")
def client(pool, metrics):
    with TestClient(create_app(pool, LIMITS, metrics)) as client:
        yield client


def restore(client, image=None, query="", headers=None, mask=None, **parameters):
    files = {"image": ("../../etc/passwd", png() if image is None else image)}
    if mask is not None:
        files["mask"] = ("mask", mask)
    return client.post(f"/v1/restore{query}", files=files, data={"parameters": json.dumps(parameters)}, headers=headers)


def begin(client, **parameters):
    answer = restore(client, headers={"Prefer": "respond-async"}, query="?previews=true", **parameters)
    assert answer.status_code == 202
    assert answer.headers["location"] == f"/v1/jobs/{answer.json()['id']}"
    return answer.headers["location"]


def events(client, job):
    """The names and data of a job's events, to the last."""
    with client.stream("GET", f"{job}/events") as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        blocks = "".join(answer.iter_text()).split("\n\n")
    pairs = [block.removeprefix("event: ").split("\ndata: ") for block in blocks if block.startswith("event")]
    return [(name, json.loads(data)) for name, data in pairs]


def until(condition, seconds=10.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.01)


def error(answer, status):
    assert answer.status_code == status, answer.text
    assert list(answer.json()) == ["error"]
    return answer.json()["error"]


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


@pytest.mark.parametrize(
    ("parameters", "shape"),
    [
        ({"task": "inpaint", "hole": [6, 4], "seed": 4, "method": "dps"}, (16, 16)),
        ({"scale": 2, "sigma": 0.05, "switch": 3, "every": 2, "filter": "bicubic"}, (8, 8)),
        ({"fit": "crop", "preset": "fast", "guidance": "official", "lambda": 1.5, "steps": None}, (20, 24)),
        ({"tile": True, "kernel": "gaussian:1", "border": "circular"}, (20, 24)),
    ],
)
def test_the_command_repeats_what_was_served_from_its_picture(
    client, tiny_plan, tmp_path, monkeypatch, parameters, shape
):
    monkeypatch.chdir(tmp_path)
    Path("y.png").write_bytes(png(shape))
    served = restore(client, Path("y.png").read_bytes(), **{"steps": 5, **parameters})
    assert served.status_code == 200, served.text
    Path("served.png").write_bytes(served.content)
    asked = ("restore", "--params", "served.png", "-e", str(tiny_plan), "--backend", "cpu", "y.png", "-o", "again.png")
    result = CliRunner().invoke(main, asked, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    pictures = [Image.open(name) for name in ("served.png", "again.png")]
    np.testing.assert_array_equal(*map(np.asarray, pictures))
    said, again = (json.loads(picture.text[SETTINGS_KEY]) for picture in pictures)
    assert said["params"]["sha256"] == {name: again["params"]["sha256"][name] for name in ("weights", "images")}
    for settings in (said, again):
        del settings["params"], settings["batch"]
    assert said == again


def test_the_command_asks_for_the_mask_that_was_sent(client, tiny_plan, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.fromarray(np.uint8(255 * np.eye(16))).save("mask.png")
    Path("y.png").write_bytes(png())
    served = restore(client, png(), mask=Path("mask.png").read_bytes(), steps=4, kernel="gaussian:1")
    Path("served.png").write_bytes(served.content)
    asked = ("restore", "--params", "served.png", "-e", str(tiny_plan), "--backend", "cpu", "y.png", "-o", "again.png")
    refused = CliRunner().invoke(main, asked, catch_exceptions=False)
    assert refused.exit_code == 1
    assert "served.png was made with a mask that it does not name; give it: --mask FILE" in refused.stderr
    assert CliRunner().invoke(main, (*asked, "--mask", "mask.png"), catch_exceptions=False).exit_code == 0
    np.testing.assert_array_equal(np.asarray(Image.open("served.png")), np.asarray(Image.open("again.png")))


def test_tiles_take_a_larger_picture(client):
    answer = restore(client, png((24, 20)), task="denoise", sigma=0.2, steps=3, tile=True)
    assert Image.open(io.BytesIO(answer.content)).size == (24, 20)
    assert "up to 16384 are restored in tiles" in error(
        restore(client, png((200, 200)), task="sr", scale=8, tile=True), 422
    )


def test_a_smaller_picture_is_restored_at_its_own_size(client):
    answer = restore(client, png((13, 9)), task="denoise", sigma=0.2, steps=3, fit="pad")
    assert Image.open(io.BytesIO(answer.content)).size == (13, 9)
    answer = restore(client, png((20, 9)), task="denoise", sigma=0.2, steps=3, fit="pad", tile=True)
    assert Image.open(io.BytesIO(answer.content)).size == (20, 9)


def test_a_job_is_watched_to_its_end_and_then_forgotten(client):
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


def test_a_job_is_cancelled_within_a_step(client, pool):
    job = begin(client, steps=1000, method="dps")
    assert error(client.get(f"{job}/image"), 409)
    until(lambda: client.get(job).json()["state"] == "running")
    assert client.delete(job).status_code == 204
    until(lambda: pool.images == 0)
    assert events(client, job)[-1][0] == "cancelled"
    assert error(client.get(f"{job}/image"), 410) == "the restoration was cancelled"


@pytest.mark.parametrize(
    ("parameters", "says"),
    [
        ({"task": "polish"}, "task: Input should be 'denoise'"),
        ({"sigma": -1}, "sigma"),
        ({"steps": 1}, "steps"),
        ({"steps": 10**30}, "steps"),
        ({"seed": 2**64}, "seed"),
        ({"zoom": 2}, "there is no parameter 'zoom'"),
        ({"sigm": 2}, "there is no parameter 'sigm'; did you mean sigma?"),
        ({"hole": "6"}, None),
        ({"hole": "a6"}, "a size is WIDTHxHEIGHT"),
        ({"sigma": 7, "hole": [0, 1]}, "sigma: Input should be less than or equal to 2 (got 7); hole.0"),
        ({"task": "deblur", "kernel": "/etc/passwd"}, "a kernel is gaussian:STD"),
        ({"task": "deblur", "kernel": "kernel.npy"}, "a kernel is gaussian:STD"),
        ({"task": "inpaint"}, "inpainting needs to know what is missing"),
        ({"method": "dps", "switch": 3}, "switch is for the hybrid"),
        ({"task": "sr"}, "super-resolution needs its factor"),
        ({"hole": [99, 99]}, "a box of 99x99"),
    ],
)
def test_parameters_that_do_not_fit_are_named(client, parameters, says):
    if says is None:
        assert restore(client, steps=3, **parameters).status_code == 200
    else:
        assert says in error(restore(client, **parameters), 422)


@pytest.mark.parametrize("text", ["{", "[]", "null", "NaN", '{"sigma": NaN}', '{"sigma": 1e999}', "\x00", '"x"'])
def test_parameters_that_are_no_json_object_are_refused(client, text):
    answer = client.post("/v1/restore", files={"image": png()}, data={"parameters": text})
    assert error(answer, 422)


def test_pictures_that_cannot_be_read_are_refused(client):
    assert "no image" in error(client.post("/v1/restore"), 422)
    assert "no part 'photo'" in error(client.post("/v1/restore", files={"photo": png()}), 422)
    assert "is not a picture this can read" in error(restore(client, b"hello"), 422)
    assert "broken picture" in error(restore(client, png()[:90]), 422)
    assert "up to 90000 are read" in error(restore(client, png((400, 300))), 422)
    assert "starts from 16x16; give one of that size, fit crop" in error(restore(client, png((17, 16))), 422)
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


def test_every_answer_carries_its_request_id(client, caplog):
    assert client.get("/livez", headers={"X-Request-ID": "abc-1"}).headers["x-request-id"] == "abc-1"
    forged = client.get("/livez", headers={"X-Request-ID": 'a"\r\nx: b'.replace("\r\n", " ")}).headers["x-request-id"]
    assert len(forged) == 16


def test_the_counts_are_prometheus_and_add_up(client):
    before = _counts(client)
    restore(client, steps=5, switch=0)
    restore(client, task="polish")
    after = _counts(client)
    assert all(name.startswith("frugal_") for name in after)
    steps = 'frugal_step_seconds_count{phase="dps"}'
    assert after[steps] - before.get(steps, 0) == 5
    assert after['frugal_rejections_total{cause="input"}'] - before['frugal_rejections_total{cause="input"}'] == 1
    assert after['frugal_restorations_total{outcome="done"}'] > before['frugal_restorations_total{outcome="done"}']
    assert after["frugal_images"] == 0
    assert after["frugal_images_limit"] == 3


def _counts(client):
    lines = client.get("/metrics").text.splitlines()
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))}


def test_nothing_but_the_page_is_served_from_disk(client):
    for path in ("/../pool.py", "/app.py", "/page/index.html", "/%2e%2e/app.py", "/etc/passwd"):
        assert client.get(path).status_code == 404
    page = client.get("/")
    assert "default-src 'self'" in page.headers["content-security-policy"]
    assert client.get("/sample.png").headers["content-type"] == "image/png"
    about = client.get("/v1/service").json()
    assert (about["prior"], about["image"]) == ("tiny", {"channels": 3, "height": 16, "width": 16})


def test_the_openapi_description_has_examples_that_the_parameters_take(client):
    described = client.get("/openapi.json").json()
    assert {"/v1/restore", "/v1/jobs/{job_id}", "/v1/jobs/{job_id}/events"} <= described["paths"].keys()
    body = described["paths"]["/v1/restore"]["post"]["requestBody"]["content"]
    schema = body["multipart/form-data"]["schema"]["properties"]["parameters"]["contentSchema"]
    for example in schema["examples"]:
        photo = png((4, 4)) if example["task"] == "sr" else png()
        assert restore(
            client, photo, **{**example, "steps": 3} | ({"hole": [4, 4]} if "hole" in example else {})
        ).status_code in (200, 422)
    assert client.get("/docs").status_code == 404  # it would load its scripts from elsewhere


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


def test_a_token_guards_everything_but_the_probes(pool):
    with TestClient(create_app(pool, Options(token="secret"))) as client:
        assert "needs its token" in error(restore(client), 401)
        assert client.get("/v1/service").status_code == 401
        assert client.get("/").status_code == 200  # the page asks for it
        assert restore(client, headers={"Authorization": "Bearer secrets"}).status_code == 401
        assert restore(client, steps=3, headers={"Authorization": "Bearer secret"}).status_code == 200
        assert client.get("/livez").status_code == client.get("/readyz").status_code == 200


def test_other_pages_may_ask_only_where_they_are_named(pool):
    with TestClient(create_app(pool)) as client:
        assert "access-control-allow-origin" not in client.get("/livez", headers={"Origin": "https://a.test"}).headers
    with TestClient(create_app(pool, Options(origins=["https://a.test"]))) as client:
        for origin, allowed in (("https://a.test", "https://a.test"), ("https://b.test", None)):
            headers = client.get("/livez", headers={"Origin": origin}).headers
            assert headers.get("access-control-allow-origin") == allowed


@pytest.fixture
def server(plan_copy, tmp_path):
    """`frugal-rt serve` in a process of its own: its address and the process."""
    main = "from frugal_rt.cli import main; main()"
    command = [sys.executable, "-c", main, "serve", "--engine", str(plan_copy), "--backend", "cpu", "--port", "0"]
    with (tmp_path / "log").open("w+") as log:
        process = subprocess.Popen(command, stderr=log)
        try:
            until(lambda: "http://" in (tmp_path / "log").read_text() or process.poll() is not None, 60)
            address = (tmp_path / "log").read_text().split(" on ")[1].split()[0]
            until(lambda: _ready(address))
            yield address, process, tmp_path / "log"
        finally:
            process.kill()
            process.wait()


def _ready(address):
    try:
        return httpx.get(f"{address}/readyz").status_code == 200
    except httpx.TransportError:
        return False


def test_a_stopped_service_answers_what_it_took_and_nothing_more(server):
    address, process, log = server
    answers = []
    asking = [
        threading.Thread(target=lambda: answers.append(restore(httpx.Client(base_url=address, timeout=60), steps=300)))
        for _ in range(3)
    ]
    for thread in asking:
        thread.start()
    with httpx.Client(base_url=address, timeout=60) as client:
        job = begin(client, steps=300)
        until(lambda: client.get(job).json()["state"] == "running")
        os.kill(process.pid, signal.SIGTERM)
        until(lambda: client.get("/readyz").status_code == 503)
        assert client.get("/livez").status_code == 200
        assert error(restore(client), 503)
        assert events(client, job)[-1][0] == "done"
        time.sleep(1)  # it waits for its picture to be fetched
        assert client.get(f"{job}/image").status_code == 200
    for thread in asking:
        thread.join()
    assert [answer.status_code for answer in answers] == [200] * 3
    assert process.wait(60) == 0
    lines = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
    assert {"request_id", "method", "path", "status", "seconds", "task"} <= next(
        line.keys() for line in lines if line.get("path") == "/v1/restore" and line["status"] == 200
    )


def test_a_client_that_hangs_up_stops_its_restoration(server):
    address, _, _ = server
    with pytest.raises(httpx.ReadTimeout), httpx.Client(base_url=address, timeout=0.5) as client:
        restore(client, steps=1000, method="dps")
    with httpx.Client(base_url=address, timeout=10) as client:
        until(lambda: _counts(client)["frugal_images"] == 0, 2)
        assert _counts(client)['frugal_restorations_total{outcome="cancelled"}'] == 1


def test_a_hangup_signal_goes_over_to_the_plan_that_is_there_now(server, plan_copy, make_prior, tmp_path):
    address, process, log = server
    with httpx.Client(base_url=address, timeout=60) as client:
        job = begin(client, steps=300)
        (tmp_path / "broken.plan").write_bytes(b"no plan")
        (tmp_path / "broken.plan").replace(plan_copy)
        os.kill(process.pid, signal.SIGHUP)
        until(lambda: "the plan is not swapped" in log.read_text(), 30)
        assert client.get("/v1/service").json()["prior"] == "tiny"
        other = make_prior({"in_channels": 12, "out_channels": 12, "block_out_channels": [16, 16]})
        export_plan(read_prior(other, "other"), plan_copy, precisions=())
        os.kill(process.pid, signal.SIGHUP)
        until(lambda: client.get("/v1/service").json()["prior"] == "other", 30)
        assert events(client, job)[-1][0] == "done"
        assert restore(client, steps=3).status_code == 200


def test_an_address_that_is_taken_is_one_sentence(server, plan_copy):
    address, _, _ = server
    main = "from frugal_rt.cli import main; main()"
    command = [sys.executable, "-c", main, "serve", "--engine", str(plan_copy), "--port", address.rpartition(":")[2]]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 1
    assert run.stderr.splitlines()[-1].startswith("Error: cannot listen on 127.0.0.1:")
    assert "Address already in use" in run.stderr
    assert len(run.stderr.splitlines()) == 1


def test_a_worker_s_death_is_in_the_log_and_the_counts(server):
    address, process, log = server
    (worker,) = psutil.Process(process.pid).children()
    worker.kill()
    with httpx.Client(base_url=address, timeout=60) as client:
        until(lambda: _counts(client)["frugal_worker_restarts"] == 1)
        assert restore(client, steps=3).status_code == 200
    assert "a worker ended with SIGKILL and is started again, with 0 requests" in log.read_text()
