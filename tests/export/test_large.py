"""256x256: exporting and restoring with random weights of the published architectures, and what it takes."""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from frugal_rt.export.priors.random_prior import random_prior

FFHQ = {
    "channels": 128,
    "mult": (1, 1, 2, 2, 4, 4),
    "blocks": 1,
    "attention": (4,),
    "updown": True,
    "shift": True,
    "out": 6,
}
"""The checkpoint of DPS: attention at 16x16, heads of 64 channels; 93.6 M parameters."""
IMAGENET = {**FFHQ, "channels": 256, "blocks": 2, "attention": (3, 4, 5)}
"""OpenAI's unconditional 256x256 one of ImageNet, and the LSUN ones of the same shape: attention at 32, 16 and 8;
552.8 M parameters."""
ADM = {"adm-ffhq-256": FFHQ, "adm-imagenet-256": IMAGENET}


def run(folder: Path, *command: str) -> tuple[float, float, float]:
    """Seconds, seconds of all cores together, and peak resident GB of one `frugal-rt` command, which must succeed."""
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-c", "from frugal_rt.cli import main; main()", *command],
        cwd=folder,
        env={**os.environ, "FRUGAL_RT_CACHE": "off"},
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, command
    return time.perf_counter() - start, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024 / 1e9


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "wait4"), reason="needs wait4 for the peak memory")
@pytest.mark.parametrize("kind", ["celebahq-256", *ADM])
def test_exporting_and_restoring_at_256x256(adm_checkpoint, tmp_path, capsys, kind):
    if kind == "celebahq-256":
        (tmp_path / "prior").mkdir()
        random_prior(kind, tmp_path / "prior")
        source = ["--weights", "prior"]
    else:
        source = ["--weights", str(adm_checkpoint(**ADM[kind])), "--arch", "adm"]
    picture = np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8)
    Image.fromarray(picture).save(tmp_path / "clean.png")
    run(tmp_path, "degrade", "clean.png", "--task", "sr", "--scale", "4", "-o", "y.png")
    taken = {
        "export": run(tmp_path, "export", *source, "-o", "large.plan"),
        "restore": run(
            tmp_path, "restore", "-e", "large.plan", "y.png", "--backend", "cpu", "--steps", "3", "-o", "x.png"
        ),
    }
    with Image.open(tmp_path / "x.png") as restored:
        assert restored.size == (256, 256)
    with capsys.disabled():
        print(f"\n{kind}: a plan of {(tmp_path / 'large.plan').stat().st_size / 1e6:.0f} MB")
        for command, (seconds, busy, peak) in taken.items():
            print(f"{kind}: {command}: {seconds:.0f} s ({busy:.0f} s of CPU), {peak:.2f} GB at the peak")
