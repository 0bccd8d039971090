"""Requests as a client sends them."""

import io
import json

import numpy as np
from PIL import Image


def png(size=(16, 16), mode="RGB", seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, "PNG")
    return file.getvalue()


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
    """Return the names and data of a job's events, to the last."""
    with client.stream("GET", f"{job}/events") as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        blocks = "".join(answer.iter_text()).split("\n\n")
    pairs = [block.removeprefix("event: ").split("\ndata: ") for block in blocks if block.startswith("event")]
    return [(name, json.loads(data)) for name, data in pairs]


def error(answer, status):
    assert answer.status_code == status, answer.text
    assert list(answer.json()) == ["error"]
    return answer.json()["error"]


def counts(client):
    lines = client.get("/metrics").text.splitlines()
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))}
