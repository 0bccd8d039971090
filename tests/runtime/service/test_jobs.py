"""Restorations that are watched, fetched and cancelled."""

from ..waiting import until
from .asking import begin, error, events


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
