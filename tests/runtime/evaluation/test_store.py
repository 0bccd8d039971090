"""An evaluation's folder: what it keeps and resumes, what it refuses."""

import csv
import io
import json
from pathlib import Path

import numpy as np
from PIL import Image

from frugal_rt import Restorer

from ...commands import frugal, refuses, runs

QUICK = ("eval", "-e", "tiny.plan", "--images", "faces", "--steps", "3")


def test_a_finished_run_is_not_run_again_and_more_may_be_added(here, restored):
    first = runs(*QUICK, "--tasks", "sr4,denoise", "--methods", "dps", "-o", "out")
    rows = Path("out/rows.csv").read_text()
    assert len(restored) == 2
    assert sorted(p.name for p in Path("out").iterdir()) == [
        "pictures",
        "results.json",
        "rows.csv",
        "run.json",
        "sheet.png",
        "summary.md",
    ]
    sheet = Path("out/sheet.png").read_bytes()
    again = runs(*QUICK, "--tasks", "sr4,denoise", "--methods", "dps", "-o", "out", "--json", "r.json")
    assert len(restored) == 2
    assert Path("out/rows.csv").read_text() == rows
    assert Path("out/sheet.png").read_bytes() == sheet
    assert again.stdout == first.stdout == Path("out/summary.md").read_text()
    assert Path("r.json").read_text() == Path("out/results.json").read_text()
    runs(*QUICK, "--tasks", "sr4", "--methods", "dps,dmps", "--seeds", "2", "-o", "out")
    assert restored[2:] == [("sr", "dmps", 0), ("sr", "dps", 1), ("sr", "dmps", 1)]
    assert Path("out/rows.csv").read_text().startswith(rows)
    found = json.loads(Path("out/results.json").read_text())["rows"]
    assert [(row["task"], row["method"], row["seeds"]) for row in found] == [
        ("denoise", "dps", 1),
        ("sr4", "dps", 2),
        ("sr4", "dmps", 2),
    ]


def test_an_interrupted_run_loses_the_group_under_way_only(here, restored, monkeypatch):
    real = Restorer.restore
    arguments = (*QUICK, "--tasks", "box,sr4", "--methods", "dps", "--seeds", "2", "-o", "out")

    def interrupted(self, y, operator, **settings):
        if (operator.name, settings["seed"]) == ("sr", 0):
            raise KeyboardInterrupt
        return real(self, y, operator, **settings)

    monkeypatch.setattr(Restorer, "restore", interrupted)
    assert frugal(*arguments).exit_code == 130
    assert restored == [("inpaint", "dps", 0), ("inpaint", "dps", 1)]
    assert not Path("out/results.json").exists()
    monkeypatch.setattr(Restorer, "restore", real)
    runs(*arguments)
    assert restored[2:] == [("sr", "dps", 0), ("sr", "dps", 1)]
    resumed = Path("out/rows.csv").read_text()
    runs(*arguments[:-1], "whole")
    figures = [
        [row[name] for row in csv.DictReader(io.StringIO(text)) for name in ("image", "psnr", "ssim")]
        for text in (resumed, Path("whole/rows.csv").read_text())
    ]
    assert figures[0] == figures[1]


def test_another_run_is_refused_and_replaced_by_force(here, restored):
    arguments = (*QUICK, "--tasks", "sr4", "--methods", "dps", "-o", "out")
    runs(*arguments)
    for other, name in (
        (("--steps", "4"), "settings"),
        (("--zeta", "1"), "settings"),
        (("--sigma", "0.1"), "sigma"),
        (("--count", "2"), "images"),
        (("--samples", "2"), "samples"),
        (("--backend", "torch"), "backend"),
    ):
        refuses(f"out holds a run of another {name}; name another folder, or --force to start over", *arguments, *other)
    levels = np.asarray(Image.open("faces/b.png")).copy()
    levels[0, 0] ^= 1
    Image.fromarray(levels).save("faces/b.png")
    refuses("a run of another images", *arguments)
    runs(*arguments, "--steps", "4", "--force")
    assert json.loads(Path("out/run.json").read_text())["settings"] == {"steps": 4}
    assert len(Path("out/rows.csv").read_text().splitlines()) == 4
    Path("out/rows.csv").write_text("task,method\nsr4\n")
    refuses("out is damaged", *arguments, "--steps", "4")
    Path("mine").mkdir()
    Path("mine/thesis.txt").write_text("precious")
    refuses("mine holds thesis.txt and no evaluation", *arguments[:-1], "mine")
