"""The bar of a restoration."""

from PIL import Image

from ..commands import frugal

RESTORE = ("restore", "-e", "tiny.plan", "--steps", "4")


def test_the_bar_says_how_many_tiles_of_the_step_are_done(here, monkeypatch):
    for name, value in {"FORCE_COLOR": "1", "TERM": "xterm", "COLUMNS": "140"}.items():
        monkeypatch.setenv(name, value)
    Image.new("RGB", (40, 24), "red").save("large.png")
    assert "tile 8 of 8" in frugal(*RESTORE, "large.png", "--method", "dmps").stderr
