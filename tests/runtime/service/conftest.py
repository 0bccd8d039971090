"""Services in processes of their own."""

import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from frugal_rt import Pool
from frugal_rt.runtime.service.app import create_app
from frugal_rt.runtime.service.intake import Options
from frugal_rt.runtime.service.metrics import Metrics


@pytest.fixture(scope="session")
def png() -> bytes:
    """A PNG of random pixels, as large as the tiny prior's images."""
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)).save(file, "PNG")
    return file.getvalue()


SERVER = """
import functools, json, sys
from frugal_rt.runtime.pool import Pool
from frugal_rt.runtime.service.intake import Options
from frugal_rt.runtime.service import intake
from frugal_rt.runtime.service.server import Address, serve
plan, port, limit, scans, options = json.loads(sys.argv[1])
intake.Limits = functools.partial(intake.Limits, **({"max_scans": scans} if scans else {}))
def pool_of(metrics):
    return Pool(plan, "cpu", limit=limit, on_report=metrics.report)
serve(pool_of, Options(**options), Address("127.0.0.1", port), lambda pool, address: None)
"""


class Serving:
    """A service in a process of its own; keywords of `limit`, of scans that a JPEG may have, and of the service's
    Options."""

    def __init__(
        self,
        plan: Path,
        folder: Path,
        limit: int = 64,
        environment: dict[str, str] | None = None,
        scans: int | None = None,
        **options,
    ):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.address, self.url, self.log = ("127.0.0.1", port), f"http://127.0.0.1:{port}", folder / f"{port}.log"
        told = json.dumps([str(plan), port, limit, scans, options])
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", SERVER, told],
                cwd=folder,
                env={**os.environ, **(environment or {})},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self.wait(lambda: self.get("/readyz").status_code == 200, 60)

    def get(self, path: str) -> Any:
        import httpx

        return httpx.get(self.url + path, timeout=30)

    def post(self, picture: bytes, **asked: Any) -> Any:
        """Ask for a restoration; keywords are its parameters."""
        import httpx

        files = {"image": picture, "parameters": (None, json.dumps(asked))}
        return httpx.post(f"{self.url}/v1/restore", files=files, timeout=120)

    def metric(self, name: str) -> float:
        """Return the sum of a metric over its labels."""
        lines = [line for line in self.get("/metrics").text.splitlines() if line.partition("{")[0].split()[0] == name]
        return sum(float(line.rpartition(" ")[2]) for line in lines)

    def wait(self, until: Callable[[], bool], seconds: float = 20) -> None:
        import httpx

        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            assert self.process.poll() is None, f"the service ended: {self.log.read_text()[-3000:]}"
            try:
                if until():
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.02)
        raise AssertionError(f"waited {seconds} s; the service said {self.log.read_text()[-3000:]}")

    def children(self) -> list[Any]:
        """Return the processes that the service started."""
        import psutil

        return psutil.Process(self.process.pid).children(recursive=True)

    def workers(self) -> list[Any]:
        """Return the pool's workers."""
        return self._running("frugal_rt.runtime.pool.worker")

    def preparers(self) -> list[Any]:
        """Return the processes that decode pictures."""
        return self._running("frugal_rt.runtime.service.preparer")

    def _running(self, module: str) -> list[Any]:
        import psutil

        found = []
        for child in self.children():
            try:
                if module in child.cmdline():
                    found.append(child)
            except psutil.Error:
                continue  # it ended meanwhile
        return found

    def memory(self) -> int:
        """Return the resident bytes of the service and of its processes."""
        import psutil

        return sum(one.memory_info().rss for one in (psutil.Process(self.process.pid), *self.children()))

    def stop(self) -> int:
        """Send SIGTERM; return the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(60)
        finally:
            self.process.kill()


@pytest.fixture(scope="module")
def serve(tiny_plan: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Serving]]:
    """Return a function that starts services with the tiny prior; they are stopped at the end."""
    begun: list[Serving] = []

    def start(**options: Any) -> Serving:
        for name in ("httpx", "psutil"):
            pytest.importorskip(name)
        begun.append(Serving(tiny_plan, tmp_path_factory.mktemp("service"), **options))
        return begun[-1]

    yield start
    for serving in begun:
        serving.process.kill()  # it would wait for jobs that nobody fetches
        serving.process.wait()


LIMITS = Options(max_bytes=1 << 20, max_pixels=90_000, timeout=30)


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
