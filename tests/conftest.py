"""Fixtures: plans of tiny random priors, the embedded prior's plan, and the data folder where there is one."""

import json
import math
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from frugal_rt.engines import Engine, OnHost, Prediction
from frugal_rt.export import export_plan, find_prior, read_prior
from frugal_rt.runtime.sampling.advance import advance
from frugal_rt.runtime.sampling.restoration import Move, Restoration

TINY_UNET = {
    "_class_name": "UNet2DModel",
    "sample_size": 8,
    "in_channels": 3,
    "out_channels": 3,
    "layers_per_block": 1,
    "block_out_channels": [8, 16],
    "norm_num_groups": 4,
    "attention_head_dim": 8,
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
}
TINY_SCHEDULER = {"_class_name": "DDPMScheduler", "num_train_timesteps": 1000, "beta_schedule": "linear"}

MakePrior = Callable[..., Path]


@pytest.fixture(scope="session")
def make_prior(tmp_path_factory: pytest.TempPathFactory) -> MakePrior:
    """Writes a diffusers folder of a tiny random prior; keywords change its UNet and scheduler configs."""

    def make(unet: dict[str, Any] | None = None, scheduler: dict[str, Any] | None = None) -> Path:
        import torch
        from diffusers import UNet2DModel
        from safetensors.torch import save_file

        folder = tmp_path_factory.mktemp("prior")
        config = {**TINY_UNET, **(unet or {})}
        torch.manual_seed(0)
        weights = UNet2DModel.from_config(config).state_dict()
        for sub, name, content in (
            ("unet", "config.json", config),
            ("scheduler", "scheduler_config.json", {**TINY_SCHEDULER, **(scheduler or {})}),
        ):
            (folder / sub).mkdir()
            (folder / sub / name).write_text(json.dumps(content))
        save_file(weights, folder / "unet" / "diffusion_pytorch_model.safetensors")
        (folder / "README.md").write_text("# A tiny random prior\n")
        (folder / "LICENSE").write_text("Public domain\n")
        return folder

    return make


@pytest.fixture(scope="session")
def tiny_plan(make_prior: MakePrior, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The plan of a tiny prior of 3x16x16 behind a 2x2 pixel-unshuffle."""
    path = tmp_path_factory.mktemp("plans") / "tiny.plan"
    export_plan(read_prior(make_prior({"in_channels": 12, "out_channels": 12}), "tiny"), path, precisions=())
    return path


@pytest.fixture(scope="session")
def celeba_plan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded prior's plan."""
    path = tmp_path_factory.mktemp("plans") / "celeba.plan"
    export_plan(find_prior("celeba"), path)
    return path


@pytest.fixture
def twelve_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_plan: Path) -> Path:
    """The working directory: the tiny plan, and a folder of twelve pictures of three kinds."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.plan").symlink_to(tiny_plan)
    Path("photos").mkdir()
    random = np.random.default_rng(0)
    for i in range(12):
        shape = [(16, 16, 3), (16, 16), (4, 4, 3)][i % 3]
        Image.fromarray(random.integers(0, 256, shape, dtype=np.uint8)).save(f"photos/{i:02}.png")
    return tmp_path


def adm_tensors(
    channels: int, mult: tuple[int, ...], blocks: int, attention: tuple[int, ...], updown: bool, shift: bool, out: int
) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes of the parameters, a bias beside each weight, of guided-diffusion's UNetModel.

    mult: channel multipliers by level. blocks: residual blocks a level. attention: the levels with it. updown: residual
    blocks resample, not convolutions. shift: scale and shift by the timestep. out: channels that come out, 3 go in.
    """

    def residual(name: str, a: int, b: int) -> Iterator[tuple[str, tuple[int, ...]]]:
        yield f"{name}.in_layers.0", (a,)
        yield f"{name}.in_layers.2", (b, a, 3, 3)
        yield f"{name}.emb_layers.1", (2 * b if shift else b, 4 * channels)
        yield f"{name}.out_layers.0", (b,)
        yield f"{name}.out_layers.3", (b, b, 3, 3)
        if a != b:
            yield f"{name}.skip_connection", (b, a, 1, 1)

    def attend(name: str, a: int) -> Iterator[tuple[str, tuple[int, ...]]]:
        yield from {f"{name}.norm": (a,), f"{name}.qkv": (3 * a, a, 1), f"{name}.proj_out": (a, a, 1)}.items()

    width = channels * mult[0]
    yield from {"time_embed.0": (4 * channels, channels), "time_embed.2": (4 * channels, 4 * channels)}.items()
    yield "input_blocks.0.0", (width, 3, 3, 3)
    skips, place = [width], 0
    for level, times in enumerate(mult):
        for _ in range(blocks):
            place += 1
            yield from residual(f"input_blocks.{place}.0", width, channels * times)
            width = channels * times
            if level in attention:
                yield from attend(f"input_blocks.{place}.1", width)
            skips.append(width)
        if level < len(mult) - 1:
            place += 1
            name = f"input_blocks.{place}.0"
            yield from residual(name, width, width) if updown else [(f"{name}.op", (width, width, 3, 3))]
            skips.append(width)
    yield from residual("middle_block.0", width, width)
    yield from attend("middle_block.1", width)
    yield from residual("middle_block.2", width, width)
    place = -1
    for level, times in reversed(list(enumerate(mult))):
        for block in range(blocks + 1):
            place += 1
            yield from residual(f"output_blocks.{place}.0", width + skips.pop(), channels * times)
            width = channels * times
            if level in attention:
                yield from attend(f"output_blocks.{place}.1", width)
            if level and block == blocks:
                name = f"output_blocks.{place}.{2 if level in attention else 1}"
                yield from residual(name, width, width) if updown else [(f"{name}.conv", (width, width, 3, 3))]
    yield from {"out.0": (width,), "out.2": (out, width, 3, 3)}.items()


@pytest.fixture(scope="session")
def adm_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Writes a guided-diffusion checkpoint of random weights (seed 0); keywords as of `adm_tensors`."""

    def make(**config: Any) -> Path:
        import torch

        random, state = torch.Generator().manual_seed(0), {}
        for name, shape in adm_tensors(**config):
            noise = torch.randn(shape, generator=random)
            norm = len(shape) == 1
            state[f"{name}.weight"] = 1 + noise / 8 if norm else noise / math.sqrt(math.prod(shape[1:]))
            state[f"{name}.bias"] = torch.randn(shape[0], generator=random) / 8
        path = tmp_path_factory.mktemp("adm") / "adm.pt"
        torch.save(state, path)
        return path

    return make


@pytest.fixture
def plan_copy(tiny_plan: Path, tmp_path: Path) -> Path:
    """A copy of the tiny plan that a test may damage."""
    return Path(shutil.copy(tiny_plan, tmp_path / "tiny.plan"))


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of photographs and LPIPS weights beside the checkout (FRUGAL_DATA overrides where)."""
    folder = Path(os.environ.get("FRUGAL_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip("the data folder (../shared/data, or FRUGAL_DATA) is absent")
    return folder


class GaussianEngine(OnHost):
    """The exact eps of a Gaussian prior N(m, C) over (c, h, w) images, in float64: an oracle for the samplers.

    E[x0 | x_t] = m + sqrt(abar) C (abar C + (1 - abar) I)^{-1} (x_t - sqrt(abar) m).
    """

    name = "gaussian"

    def __init__(self, mean: np.ndarray, covariance: np.ndarray, abar: np.ndarray):
        self.mean, self.covariance, self.abar = mean, covariance, abar
        self._jacobian = cache(self._jacobian_at)

    def asarray(self, x: Any) -> np.ndarray:
        return np.asarray(x, np.float64)

    def prepare(self, gradients: bool, batch: int = 1) -> None: ...

    def _jacobian_at(self, t: int) -> np.ndarray:
        """d eps / d x_t, symmetric."""
        a, eye = self.abar[t], np.eye(len(self.covariance))
        gain = np.sqrt(a) * self.covariance @ np.linalg.inv(a * self.covariance + (1 - a) * eye)
        return (eye - np.sqrt(a) * gain) / np.sqrt(1 - a)

    def predict(self, x: np.ndarray, t: np.ndarray) -> Prediction:
        rows = [
            self._jacobian(ti) @ (xi.reshape(-1) - np.sqrt(self.abar[ti]) * self.mean)
            for xi, ti in zip(x, t, strict=True)
        ]
        return Prediction(np.stack(rows).reshape(x.shape), None)

    def pullback(self, x: np.ndarray, t: np.ndarray) -> tuple[Prediction, Callable[[np.ndarray], np.ndarray]]:
        def pull(v: np.ndarray) -> np.ndarray:
            return np.stack([self._jacobian(ti) @ vi.reshape(-1) for vi, ti in zip(v, t, strict=True)]).reshape(x.shape)

        return self.predict(x, t), pull


@pytest.fixture
def gaussian_engine() -> type[GaussianEngine]:
    return GaussianEngine


@pytest.fixture
def finish() -> Callable[[list[Restoration], Engine], None]:
    """Advances rows until all are done, those that share a move together."""

    def finish(rows: list[Restoration], engine: Engine) -> None:
        while live := [row for row in rows if row.step >= 0]:
            moves = [row.move for row in live]
            for move in Move:
                if move in moves:
                    advance([row for row, its in zip(live, moves, strict=True) if its is move], engine)

    return finish


SERVER = """
import json, sys
from frugal_rt.runtime.pool import Pool
from frugal_rt.runtime.service.intake import Options
from frugal_rt.runtime.service.server import Address, serve
plan, port, limit, options = json.loads(sys.argv[1])
def pool_of(metrics):
    return Pool(plan, "cpu", limit=limit, on_report=metrics.report)
serve(pool_of, Options(**options), Address("127.0.0.1", port), lambda pool, address: None)
"""


class Serving:
    """A service in a process of its own; keywords of `limit` and of the service's Options."""

    def __init__(self, plan: Path, folder: Path, limit: int = 64, environment: dict[str, str] | None = None, **options):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.address, self.url, self.log = ("127.0.0.1", port), f"http://127.0.0.1:{port}", folder / f"{port}.log"
        told = json.dumps([str(plan), port, limit, options])
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
        """A restoration; keywords are its parameters."""
        import httpx

        files = {"image": picture, "parameters": (None, json.dumps(asked))}
        return httpx.post(f"{self.url}/v1/restore", files=files, timeout=120)

    def metric(self, name: str) -> float:
        """The sum of a metric over its labels."""
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

    def workers(self) -> list[Any]:
        import psutil

        return psutil.Process(self.process.pid).children(recursive=True)

    def stop(self) -> int:
        """SIGTERM, and the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(60)
        finally:
            self.process.kill()


@pytest.fixture(scope="module")
def serve(tiny_plan: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Serving]]:
    """Starts services around the tiny prior, and stops them at the end."""
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
