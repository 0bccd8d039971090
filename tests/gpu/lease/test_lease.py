"""The calls of a lease, tried on a CPU with a tiny plan instead of every other."""

import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

KIT = Path(__file__).parent
ROOT = KIT.parents[2]


def call(script: str, folder: Path, **settings: str) -> str:
    """Run a call's script on a CPU, its results unpacked into `folder`/SCRIPT; return what it printed."""
    environment = {
        **os.environ,
        "LEASE_KEPT": str(folder / "kept"),
        "LEASE_PACKS": str(folder / "packs"),
        "LEASE_PYTHON": sys.executable,
        "FRUGAL_RT_PLANS": str(folder / "plans"),
        "OUT": str(folder / "out"),
        **settings,
    }
    done = subprocess.run(["bash", str(KIT / script)], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    with tarfile.open(folder / "out" / "results.tgz") as archive:
        archive.extractall(folder / script, filter="data")
    return done.stdout


@pytest.mark.long
def test_the_calls_of_a_lease_run_on_a_cpu(tiny_plan, tmp_path):
    (tmp_path / "plans").mkdir()
    for name in ("celeba", "celebahq-256"):
        shutil.copy(tiny_plan, tmp_path / "plans" / f"{name}.plan")
    first = {"LEASE_PRIORS": "celeba", "LEASE_PLAN": str(tiny_plan), "LEASE_SMOKE": "--steps 3"}
    first["LEASE_SMOKE_SECONDS"] = "400"  # a busy CPU takes 100
    said = call("first.sh", tmp_path, LEASE_BACKENDS="torch:bf16", LEASE_TESTS="no", **first)
    assert "ALL PARTS PASSED" in said, said
    found = json.loads((tmp_path / "first.sh" / "smoke-celeba.json").read_text())
    assert found["torch:bf16: parity"]["small gradient"] < 0.03
    said = call("second.sh", tmp_path, LEASE_BACKENDS="torch:fp32 tensorrt", LEASE_PARTS="hybrid")
    assert "figures-hybrid: status 0" in said, said
    figures = json.loads((tmp_path / "second.sh" / "figures.json").read_text())
    assert figures["hybrid"]["torch:fp32"] > 0
    assert list(figures["not run at 256"]) == ["tensorrt"]
