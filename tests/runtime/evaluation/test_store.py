"""An evaluation's folder: what it keeps and resumes, what it refuses."""

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from frugal_rt import InputError, Restorer
from frugal_rt.engines.files import HELD, alone
from frugal_rt.runtime.evaluation.evaluate import Group
from frugal_rt.runtime.evaluation.store import Store

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
    with alone(Path("out")):
        refuses("another command is writing into out; wait for its end", *arguments, "--force")
    runs(*arguments, "--steps", "4", "--force")
    assert json.loads(Path("out/run.json").read_text())["settings"] == {"steps": 4}
    assert len(Path("out/rows.csv").read_text().splitlines()) == 4
    Path("out/rows.csv").write_text("task,method\nsr4\n")
    refuses("out is damaged", *arguments, "--steps", "4")
    Path("mine").mkdir()
    Path("mine/thesis.txt").write_text("precious")
    refuses("mine holds thesis.txt and no evaluation", *arguments[:-1], "mine")


def group(task: str) -> Group:
    row = {"task": task, "method": "dps", "seed": 0, "image": "a.png", "psnr": 1.0}
    return Group((task, "dps", 0), [row], np.zeros((1, 3, 8, 8), np.float32))


def test_a_second_command_is_refused_and_no_row_is_lost(tmp_path):
    with Store.alone(tmp_path, {}) as first:
        with pytest.raises(InputError, match="another command is writing into"), Store.alone(tmp_path, {}):
            pass
        first.add(group("sr4"))
    with Store.alone(tmp_path, {}) as second:
        second.add(group("box"))
    assert Store(tmp_path, {}).finished == {("sr4", "dps", 0), ("box", "dps", 0)}


def test_a_command_that_was_killed_before_its_first_group_leaves_a_folder_that_is_free(tmp_path):
    (tmp_path / HELD).touch()
    with Store.alone(tmp_path, {}) as store:
        store.add(group("sr4"))
    assert Store(tmp_path, {}).finished == {("sr4", "dps", 0)}
