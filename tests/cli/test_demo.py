"""`frugal-rt demo`."""

import json
from pathlib import Path

from PIL import Image

from ..commands import frugal, refuses


def test_demo_writes_the_sheet_and_prints_its_figures(here):
    result = frugal("demo", "-e", "tiny.plan", "--steps", "4", "-o", "shown")
    assert result.exit_code == 0, result.output
    for word in ("super-resolution x4", "box inpainting", "noise of 25", "non-local means", "biharmonic", "Lanczos"):
        assert word in result.output
    assert result.output.splitlines()[-1].startswith("your own picture: ")
    assert result.output.splitlines()[-1].endswith(" restore PICTURE")
    assert Image.open("shown/sheet.png").width > 900


def test_demo_shows_a_photograph_and_a_face_by_the_embedded_priors(tmp_path, monkeypatch):
    """Each restoration has a higher PSNR than its measurement, and the sheet grows with each."""
    monkeypatch.chdir(tmp_path)
    result = frugal("demo", "--steps", "2", "--json")
    assert result.exit_code == 0, result.output
    rows = json.loads(result.stdout)["rows"]
    assert [row["picture"] for row in rows] == ["a photograph"] * 3 + ["a face"] * 3
    assert result.stderr.count("demo/sheet.png") == 6
    assert all(row["plain"]["psnr"] > 10 for row in rows)


def test_demo_leaves_no_folder_where_the_plan_is_broken(here):
    Path("bad.plan").write_bytes(b"no plan")
    assert frugal("demo", "-e", "bad.plan", "-o", "shown").exit_code == 1
    assert not Path("shown").exists()
    refuses("bad.plan is a file; name a folder", "demo", "-e", "tiny.plan", "-o", "bad.plan")
