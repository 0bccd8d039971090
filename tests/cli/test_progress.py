"""Progress of a restoration: the bar of a terminal, lines elsewhere, how long it takes; less and more."""

import re
import threading
from pathlib import Path

import pytest
from PIL import Image

from frugal_rt.cli import progress
from frugal_rt.runtime.offline import folder

from ..commands import refuses, runs

RESTORE = ("restore", "-e", "tiny.plan", "--steps", "4")


@pytest.fixture
def told(monkeypatch):
    """After every report of progress a line comes, where lines come."""
    move, line, written = progress._Bar.move, progress._Bar.line, threading.Event()

    def moved(self, *arguments, **named):
        move(self, *arguments, **named)
        written.clear()
        written.wait(5)  # for one that began before, and for the next
        written.clear()
        written.wait(5)

    def said(self):
        written.set()
        return line(self)

    monkeypatch.setattr(progress._Bar, "move", moved)
    monkeypatch.setattr(progress._Bar, "line", said)
    monkeypatch.setattr(progress, "EVERY", 0.005)


@pytest.fixture
def terminal(monkeypatch):
    for name, value in {"FORCE_COLOR": "1", "TERM": "xterm", "COLUMNS": "160"}.items():
        monkeypatch.setenv(name, value)


def test_the_bar_says_how_many_tiles_of_the_step_are_done(here, terminal):
    Image.new("RGB", (40, 24), "red").save("large.png")
    assert "tile 8 of 8" in runs(*RESTORE, "large.png", "--noise", "10", "--method", "dmps").stderr


def test_the_bar_says_the_time_left(here, terminal):
    assert re.search(r"\d:\d\d:\d\d.* left", runs(*RESTORE, "clean.png", "--steps", "40").stderr)


def test_where_there_is_no_terminal_a_line_now_and_then_says_how_far_it_is(here, told):
    lines = runs(*RESTORE, "clean.png").stderr.splitlines()
    assert "restoring: 25%, 1 of 4" in lines
    assert [line for line in lines if re.fullmatch(r"restoring: 50%, 2 of 4, about \d+ s left", line)]


def test_a_folder_s_steps_are_counted_together(here, told):
    for name in ("a.png", "b.png"):
        Image.open("clean.png").save(name)
    lines = runs(*RESTORE, "a.png", "b.png", "-o", "out").stderr
    assert "2 pictures by tiny, 4 steps each" in lines
    assert re.search(r"^restoring: 75%, 6 of 8, about \d+ s left$", lines, re.MULTILINE)


def test_before_it_starts_it_says_what_it_does_and_once_timed_about_how_long(here, monkeypatch):
    Image.new("RGB", (40, 24), "red").save("large.png")
    asked = (*RESTORE, "large.png", "--sigma", "0.1", "--force")
    result = runs(*asked)
    assert "large.png: denoise (nothing is missing from the picture); 40x24, in 8 tiles, by tiny in 4 steps" in (
        result.stdout
    )
    assert "takes about" not in result.stderr
    monkeypatch.setattr(progress, "WORTH_SAYING", 0)
    assert re.search(r"^restoring takes about \d+ s$", runs(*asked).stderr, re.MULTILINE)
    assert "16x16, whole, by tiny in 4 steps" in runs(*RESTORE, "clean.png").stdout


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.2, "1 s"), (89, "89 s"), (90, "2 min"), (601, "11 min"), (5400, "1 h 30 min"), (36_000, "10 h 0 min")],
)
def test_a_duration_in_words(seconds, words):
    assert progress.in_words(seconds) == words


def test_quiet_says_where_the_results_are_and_errors(here, terminal):
    for name in ("a.png", "b.png"):
        Image.open("clean.png").save(name)
    result = runs(*RESTORE, "a.png", "-q")
    assert (result.stdout, result.stderr) == ("a.restored.png\n", "")
    result = runs(*RESTORE, "a.png", "b.png", "-o", "out", "--quiet")
    assert (result.stdout, result.stderr) == ("out/a.png\nout/b.png\n", "")
    assert runs("degrade", "a.png", "--task", "sr", "--scale", "4", "-o", "y.png", "-q").output == "y.png\n"
    assert runs("demo", "-e", "tiny.plan", "--steps", "4", "-o", "shown", "-q").output == "shown/sheet.png\n"
    refuses("there is no file nothing.png", *RESTORE, "nothing.png", "-q")
    refuses("--quiet and --verbose ask for opposite things", *RESTORE, "a.png", "-q", "-v", status=2)


def test_verbose_says_what_was_chosen_and_how_long_parts_took(here, monkeypatch):
    monkeypatch.setenv("FRUGAL_RT_CACHE", "off")
    said = runs(*RESTORE, "clean.png", "-v", "--backend", "cpu").stderr
    assert re.search(r"^reading the plan: \d+\.\d s$", said, re.MULTILINE)
    assert re.search(r"^tiny\.plan: tiny, 3x16x16, by onnxruntime", said, re.MULTILINE)
    assert "cache: off" in said
    assert "cache: " not in runs(*RESTORE, "clean.png", "--force").output
    Path("photos").mkdir()
    for name in ("a.png", "b.png"):
        Image.open("clean.png").save(Path("photos", name))
    monkeypatch.setattr(folder, "TOGETHER", 1)
    assert "a.png: denoise (" in runs(*RESTORE, "photos", "-o", "out", "--verbose").stderr


def test_an_export_is_told_by_its_stages(here, make_prior, monkeypatch):
    monkeypatch.setattr(progress, "EVERY", 0.01)
    result = runs("export", "--weights", str(make_prior()), "-o", "mine.plan", "-v", "--precision", "fp32")
    assert re.search(r"^[a-z ]+: \d+\.\d s$", result.stderr, re.MULTILINE)
    assert re.search(r"^[a-z ]+: \d+ s so far$", result.stderr, re.MULTILINE)
    asked = ("export", "--weights", str(make_prior()), "-o", "mine.plan", "-q", "--precision", "fp32", "--force")
    result = runs(*asked)
    assert (result.stdout, "so far" in result.stderr) == ("mine.plan\n", False)
