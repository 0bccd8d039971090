"""A real Ray Serve application of two replicas on this machine: the service, whatever happens to one of them."""

import importlib.util
import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest
from PIL import Image
from pydantic import ValidationError

from frugal_rt import Restorer
from frugal_rt.engines.machine import THREADS
from frugal_rt.runtime.pictures.damage import Damage
from frugal_rt.runtime.pictures.decoding import decode_photo
from frugal_rt.runtime.pictures.images import to_picture
from frugal_rt.runtime.pictures.measurement import prepare

# Not by importing it: Ray reads its token once, and other tests set theirs first.
if not all(
    importlib.util.find_spec(name) for name in ("ray", "grpc_reflection")
):  # the second comes with ray[serve] alone
    pytest.skip("needs the extra [ray-serve]", allow_module_level=True)
from ..waiting import PATIENCE, wait_for

DRIVER = """
import json, pathlib, sys, time
import ray
from ray import serve
from frugal_rt.runtime.service.ray_serve import Arguments, application
asked, port = json.loads(sys.argv[1])
ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
serve.start(http_options={"host": "127.0.0.1", "port": port})
serve.run(application(Arguments(**asked)))
while True:
    (deployment,) = serve.status().applications["default"].deployments.values()
    pathlib.Path("new").write_text(str(deployment.replica_states.get("RUNNING", 0)))
    pathlib.Path("new").replace("running")
    time.sleep(0.1)
"""


def png(size: int, seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


class Replicas:
    """An application in a Ray of its own, of two CPUs."""

    def __init__(self, folder: Path, **asked: object):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        outside = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", THREADS))}
        with (folder / "log").open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", DRIVER, json.dumps([asked, port])],
                cwd=folder,
                env={**outside, "RAY_USAGE_STATS_ENABLED": "0"},
                stdout=log,
                stderr=log,
            )
        self.folder = folder
        wait_for(self.are_two)

    def are_two(self) -> bool:
        """Whether two replicas run, each with its pool's worker."""
        assert self.process.poll() is None, (self.folder / "log").read_text()[-3000:]
        running = self.folder / "running"  # as Ray sees them: those that are opened, and healthy
        return running.exists() and running.read_text() == "2" and len(self.workers()) == 2

    def workers(self) -> dict[int, psutil.Process]:
        """The worker of each replica's pool, by the replica's process id."""
        found = {}
        for process in psutil.Process(self.process.pid).children(recursive=True):
            try:
                if any("frugal_rt.runtime.pool.worker" in word for word in process.cmdline()):
                    found[process.ppid()] = process
            except psutil.Error:
                continue  # it ended while it was looked at
        return found

    def restore(self, image: bytes, timeout: float = 60, headers: dict[str, str] | None = None, **asked: object):
        files = {"image": image, "parameters": (None, json.dumps(asked))}
        return httpx.post(f"{self.url}/v1/restore", files=files, timeout=timeout, headers=headers)


@pytest.fixture(scope="module")
def replicas(tiny_plan, tmp_path_factory) -> Iterator[Replicas]:
    one = Replicas(tmp_path_factory.mktemp("replicas"), plan=str(tiny_plan), backend="cpu", least=2, replicas=2)
    yield one
    workers = one.workers()
    one.process.send_signal(signal.SIGINT)
    one.process.wait(PATIENCE)
    assert len(workers) == 2
    assert psutil.wait_procs(list(workers.values()), PATIENCE)[1] == []


@pytest.fixture(scope="module")
def alone(tiny_plan) -> Callable[[int], np.ndarray]:
    """The restored picture of a seed, by a Restorer in this process."""
    restorer = Restorer.load(tiny_plan, "cpu")

    def restore(seed: int) -> np.ndarray:
        job = prepare(decode_photo(png(16, seed), ""), restorer.image_shape, Damage(task="inpaint", hole=(6, 6)))
        result = restorer.restore(job.y, job.operator, sigma=job.sigma, steps=60, seed=seed)
        return np.asarray(to_picture(result.image))

    return restore


def ask(replicas: Replicas, seed: int) -> np.ndarray | int | None:
    """The restored picture of a seed, the status instead of one, or None where the connection broke."""
    try:
        answer = replicas.restore(png(16, seed), task="inpaint", hole=[6, 6], steps=60, seed=seed)
    except httpx.TransportError:
        return None
    return np.asarray(Image.open(io.BytesIO(answer.content))) if answer.status_code == 200 else answer.status_code


def test_replicas_answer_as_one_restorer_does(replicas, alone):
    before = {replica: sum(worker.cpu_times()[:2]) for replica, worker in replicas.workers().items()}
    with ThreadPoolExecutor(8) as clients:
        pictures = list(clients.map(lambda seed: ask(replicas, seed), range(16)))
    for seed, picture in enumerate(pictures):
        np.testing.assert_array_equal(picture, alone(seed))
    for replica, worker in replicas.workers().items():
        assert sum(worker.cpu_times()[:2]) > before[replica], "one of them did nothing"


def test_a_worker_computes_on_the_cpus_of_its_replica(replicas):
    assert [worker.environ()[THREADS] for worker in replicas.workers().values()] == ["1", "1"]


def test_nothing_is_offered_that_one_process_alone_can_answer(replicas, alone):
    answer = replicas.restore(png(16, 0), task="denoise", sigma=0.1, steps=4, headers={"Prefer": "respond-async"})
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/png")
    for path in ("/v1/jobs/1", "/", "/metrics"):
        assert httpx.get(replicas.url + path).status_code == 404


def test_a_large_picture_passes_between_a_replica_and_its_worker(replicas):
    """Ray's event loop is uvloop."""
    answer = replicas.restore(png(128, 0), task="denoise", sigma=0.2, steps=3, tile=True)
    assert Image.open(io.BytesIO(answer.content)).size == (128, 128)


def test_a_client_that_hangs_up_stops_its_restoration(replicas):
    def computed() -> float:
        return sum(sum(worker.cpu_times()[:2]) for worker in replicas.workers().values())

    with pytest.raises(httpx.ReadTimeout):
        replicas.restore(png(128, 0), 3, task="denoise", sigma=0.2, steps=1000, method="dps", tile=True)
    time.sleep(1)
    before = computed()
    time.sleep(1)
    assert computed() - before < 0.2


def test_a_replica_that_is_killed_is_replaced_while_the_other_answers(replicas, alone):
    before = replicas.workers()
    killed, worker = next(iter(before.items()))
    with ThreadPoolExecutor(6) as clients:
        asked = [clients.submit(ask, replicas, seed) for seed in range(24)]
        wait_for(lambda: sum(one.done() for one in asked) > 3)
        os.kill(killed, signal.SIGKILL)
        answers = [one.result() for one in asked]
    worker.wait(PATIENCE)  # nobody is left to kill it: it ends by itself
    pictures = {seed: answer for seed, answer in enumerate(answers) if isinstance(answer, np.ndarray)}
    assert len(pictures) >= 18, answers  # but for those that the dead one had
    for seed, picture in pictures.items():
        np.testing.assert_array_equal(picture, alone(seed))
    wait_for(replicas.are_two)
    assert killed not in replicas.workers()
    assert len(before.keys() & replicas.workers().keys()) == 1
    np.testing.assert_array_equal(ask(replicas, 3), alone(3))


def test_a_replica_whose_workers_cannot_start_is_replaced(replicas, alone):
    sick = next(iter(replicas.workers()))

    def gone() -> bool:
        if worker := replicas.workers().get(sick):
            worker.kill()
        return not psutil.pid_exists(sick)

    wait_for(gone)
    wait_for(replicas.are_two)
    np.testing.assert_array_equal(ask(replicas, 4), alone(4))


def deployed(**words: str) -> object:
    """Return the deployment that `serve run ...:application NAME=VALUE ...` asks Ray for."""
    from frugal_rt.runtime.service.ray_serve import Arguments, application

    return application(Arguments.model_validate({"plan": "celeba.plan", **words}))._bound_deployment


def test_arguments_are_what_ray_is_asked_for(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    asked = deployed(replicas="4", least="2", cpus="3", limit="32", timeout="90")
    scaling = asked._deployment_config.autoscaling_config
    assert (scaling.min_replicas, scaling.max_replicas, scaling.target_ongoing_requests) == (2, 4, 8)
    assert asked.ray_actor_options["num_cpus"] == 3
    assert asked.ray_actor_options["num_gpus"] == 0
    assert asked.max_ongoing_requests > 32
    assert asked._deployment_config.graceful_shutdown_timeout_s == 90
    assert deployed(backend="cuda").ray_actor_options["num_gpus"] == 1
    assert deployed(target="3")._deployment_config.autoscaling_config.target_ongoing_requests == 3


@pytest.mark.parametrize("words", [{"replicas": "0"}, {"cpus": "half"}, {"zoom": "2"}, {"replicas": "2", "least": "3"}])
def test_arguments_that_do_not_fit_are_refused(words):
    with pytest.raises(ValidationError, match=next(iter(words))):
        deployed(**words)
