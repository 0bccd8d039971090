"""Simulated engines for an H200, of four bytes each."""

import hashlib
from dataclasses import replace

import pytest

from frugal_rt import Plan
from frugal_rt.engines import nvidia
from frugal_rt.engines.tensorrt import library, store
from frugal_rt.engines.tensorrt.store import ENGINES, Built, Here, Record

H200 = nvidia.Device(0, "NVIDIA H200", "9.0", 141 << 30)
HERE = Here("tensorrt", "11.4.0.12", "9.0", "NVIDIA H200", store.system())
needs_rtx = pytest.mark.skipif(
    "tensorrt-rtx" not in library.installed(), reason="tensorrt-rtx is not installed; pip install 'frugal-rt[rtx]'"
)


def kept(plan: Plan, here: Here = HERE, precision="fp32", batches=(1, 4), **changes) -> Built:
    """Put engines of four bytes into the cache."""
    data = {name: f"{name:4}"[:4].encode() for name in ENGINES}
    files = {name: {"bytes": 4, "sha256": hashlib.sha256(one).hexdigest()} for name, one in data.items()}
    record = Record(store.plan_hash(plan), here, precision, batches, 3, files)
    with store.building() as root:
        return store.keep(replace(record, **changes), data, root)
