"""Fixtures of several folders: plans, pictures to work in, an exact engine, a driver."""

import json
import os
import shutil
import signal
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock
from PIL import Image

from frugal_rt.engines import OnHost, Prediction, nvidia
from frugal_rt.export import Prior, export_plan, find_prior, read_prior
from frugal_rt.export.priors import random_prior

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
TOGETHER = ("tests/runtime/pool/", "tests/runtime/service/")
"""Tests that start processes and wait for them; running in parallel they would disturb each other."""


def pytest_configure() -> None:
    """Let Ctrl-C stop commands under test, also where the tests run in a shell's background, which ignores it.

    "auto" is the backend whose results are the same everywhere, whatever is faster here.
    """
    os.environ.setdefault("FRUGAL_RT_BACKEND", "cpu" if nvidia.trouble() else "auto")
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Give the tests of a file to one process of xdist, which makes their fixtures once.

    By names, as xdist's own groups are ignored with pytest 9.2 (pytest-xdist's issue 1386).
    """
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return "processes" if file.startswith(TOGETHER) else file

    return ByFile(config, log)


@pytest.fixture(scope="session")
def make_prior(tmp_path_factory: pytest.TempPathFactory) -> MakePrior:
    """Return a function that writes a diffusers folder of a tiny random prior; keywords change its configs."""

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
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Return a function that exports a prior into a file of that name, once for all parallel processes."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent

    def export(name: str, prior: Callable[[], Prior], **how: Any) -> Path:
        path = folder / name
        with FileLock(f"{path}.lock"):
            if not path.exists():  # files are written whole or not at all
                export_plan(prior(), path, **how)
        return path

    return export


@pytest.fixture(scope="session")
def tiny_plan(make_prior: MakePrior, exported: Callable[..., Path]) -> Path:
    """The plan of a tiny prior of 3x16x16 behind a 2x2 pixel-unshuffle."""
    unet = {"in_channels": 12, "out_channels": 12}
    return exported("tiny.plan", lambda: read_prior(make_prior(unet), "tiny"), precisions=())


@pytest.fixture(scope="session")
def local_plan(make_prior: MakePrior, exported: Callable[..., Path]) -> Path:
    """The plan of a tiny prior for images of any size: convolutions alone, behind a 2x2 pixel-unshuffle; stride 4."""
    blocks = {"down_block_types": ["DownBlock2D"] * 2, "up_block_types": ["UpBlock2D"] * 2, "add_attention": False}
    unet = {"in_channels": 12, "out_channels": 12, **blocks}
    return exported("local.plan", lambda: read_prior(make_prior(unet), "local"), precisions=())


@pytest.fixture(scope="session")
def celeba_plan(exported: Callable[..., Path]) -> Path:
    """The plan of the embedded prior of faces."""
    return exported("celeba.plan", lambda: find_prior("celeba"))


@pytest.fixture(scope="session")
def photo_plan(exported: Callable[..., Path]) -> Path:
    """The plan of the embedded prior of photographs, of any size."""
    return exported("photo.plan", lambda: find_prior("photo"))


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
    """An engine with the exact eps of a Gaussian prior N(m, C) over (c, h, w) images, in float64.

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
        """The Jacobian d eps / d x_t, which is symmetric."""
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
def driver(monkeypatch) -> Callable[..., None]:
    """Return a function that replaces the NVIDIA driver by one with so many devices."""

    def shows(count: int, visible: str | None = None) -> None:
        shown = [nvidia.Device(number, "a GPU", "9.0", 1 << 30) for number in range(count)]
        monkeypatch.setattr(nvidia, "trouble", lambda: None)
        monkeypatch.setattr(nvidia, "devices", lambda: shown)
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        if visible is not None:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)

    return shows


@pytest.fixture
def small(monkeypatch):
    """Replace the large architecture of random priors by a small one."""
    config = {
        **random_prior.ARCHITECTURES["celebahq-256"],
        "sample_size": 16,
        "layers_per_block": 1,
        "block_out_channels": [8, 16],
        "norm_num_groups": 4,
        "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
        "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
    }
    monkeypatch.setitem(random_prior.ARCHITECTURES, "celebahq-256", config)


@pytest.fixture
def three_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_plan: Path) -> Path:
    """The working directory: the tiny plan, and a folder with three pictures for three tasks."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.plan").symlink_to(tiny_plan)
    Path("photos").mkdir()
    random = np.random.default_rng(0)
    for name, shape in {"a.png": (16, 16, 3), "b.png": (16, 16), "c.jpg": (4, 4, 3)}.items():
        Image.fromarray(random.integers(0, 256, shape, dtype=np.uint8)).save(Path("photos") / name)
    return tmp_path


@pytest.fixture
def three_faces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_plan: Path) -> Path:
    """The working directory: the tiny plan, and `faces`, three 16x16 pictures."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.plan").symlink_to(tiny_plan)
    (tmp_path / "faces").mkdir()
    random = np.random.default_rng(0)
    for name in ("b.png", "a.jpg", "c.webp"):
        levels = random.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(levels).resize((16, 16), Image.Resampling.BICUBIC).save(f"faces/{name}")
    Path("faces/notes.txt").write_text("not a picture")
    return tmp_path
