"""`frugal-rt serve` as a process: how it starts, goes over to another plan and ends."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import httpx
import psutil
import pytest

from frugal_rt.engines.files import lock
from frugal_rt.export import export_plan, read_prior
from frugal_rt.runtime.service.server import _listen_on_file

from ..waiting import stopped, until
from .asking import begin, counts, error, events, png, restore


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


def worker_of(process) -> psutil.Process:
    """Return the process in which the service restores."""
    children = psutil.Process(process.pid).children()
    (worker,) = (child for child in children if "frugal_rt.runtime.pool.worker" in child.cmdline())
    return worker


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
    with httpx.Client(base_url=address, timeout=60) as client:
        with stopped(worker_of(process).pid):
            for thread in asking:
                thread.start()
            job = begin(client, steps=300)
            until(lambda: counts(client)["frugal_images"] == 4)
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
    with httpx.Client(base_url=address, timeout=60) as client:
        data = {"parameters": json.dumps({"steps": 1000, "method": "dps"})}
        asked = client.build_request("POST", "/v1/restore", files={"image": png()}, data=data)
        head = "".join(f"{name}: {value}\r\n" for name, value in asked.headers.items())
        with socket.create_connection((asked.url.host, asked.url.port)) as connection:
            connection.sendall(f"POST /v1/restore HTTP/1.1\r\n{head}\r\n".encode() + asked.read())
            until(lambda: counts(client)["frugal_images"] == 1)
        until(lambda: counts(client).get('frugal_restorations_total{outcome="cancelled"}') == 1)
        assert counts(client)["frugal_images"] == 0


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


def test_a_socket_s_file_is_not_taken_for_a_dead_one_s_before_it_is_listened_on(tmp_path, monkeypatch):
    real, free = socket.socket.listen, []

    def listen(self):
        another = os.open(tmp_path, os.O_RDONLY)
        free.append(lock(another))
        os.close(another)
        real(self)

    monkeypatch.setattr(socket.socket, "listen", listen)
    with _listen_on_file(tmp_path / "s"):
        assert free == [False]


def test_a_worker_s_death_is_in_the_log_and_the_counts(server):
    address, process, log = server
    worker_of(process).kill()
    with httpx.Client(base_url=address, timeout=60) as client:
        until(lambda: counts(client)["frugal_worker_restarts"] == 1)
        assert restore(client, steps=3).status_code == 200
    assert "a worker ended with SIGKILL and is started again, with 0 requests" in log.read_text()
