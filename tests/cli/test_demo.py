"""`frugal-rt demo`."""

from pathlib import Path

from PIL import Image

from ..commands import frugal, refuses


def test_demo_writes_the_sheet_and_prints_its_figures(here):
    result = frugal("demo", "-e", "tiny.plan", "--steps", "4", "-o", "shown")
    assert result.exit_code == 0, result.output
    for word in ("super-resolution x4", "inpainting", "colourise", " dps ", " dmps ", " hybrid ", "dB"):
        assert word in result.output
    assert Image.open("shown/sheet.png").width > 900


def test_demo_leaves_no_folder_where_the_plan_is_broken(here):
    Path("bad.plan").write_bytes(b"no plan")
    assert frugal("demo", "-e", "bad.plan", "-o", "shown").exit_code == 1
    assert not Path("shown").exists()
    refuses("bad.plan is a file; name a folder", "demo", "-e", "tiny.plan", "-o", "bad.plan")
