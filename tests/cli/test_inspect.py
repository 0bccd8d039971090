"""`frugal-rt inspect`."""

import json
from pathlib import Path

from frugal_rt import Plan

from ..commands import frugal, refuses


def test_inspect_describes_checks_and_extracts(here, tiny_plan):
    described = frugal("inspect", "tiny.plan").output
    assert "licence:   Public domain" in described
    assert "3x16x16" in described
    assert "parity:" in described
    manifest = json.loads(frugal("inspect", "tiny.plan", "--json").stdout)
    assert manifest == Plan.open("tiny.plan").manifest
    assert frugal("inspect", "tiny.plan", "--extract", "out").exit_code == 0
    assert {path.name for path in Path("out").iterdir()} == {"manifest.json", *manifest["members"]}
    data = bytearray(tiny_plan.read_bytes())
    data[len(data) // 2] ^= 1
    Path("bad.plan").write_bytes(data)
    refuses("does not match its SHA-256", "inspect", "bad.plan")
