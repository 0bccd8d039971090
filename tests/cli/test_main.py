"""The whole command: help, versions and errors of each part."""

import json
import subprocess
import sys
from pathlib import Path

import click
import pytest

from frugal_rt.cli import COMMANDS

from ..commands import frugal


@pytest.fixture
def here(three_pictures) -> Path:
    return three_pictures


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command):
    result = frugal(command, "--help")
    assert result.exit_code == 0
    assert "Usage: " in result.output


def test_the_module_is_the_command(here):
    run = subprocess.run([sys.executable, "-m", "frugal_rt", "restore", "--help"], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith("Usage: frugal-rt restore [OPTIONS] IMAGE...")


RESTORE = ("restore", "-e", "tiny.plan", "--steps", "4")


def test_every_answer_can_be_had_as_json(here, make_prior):
    exported = json.loads(frugal("export", "--weights", str(make_prior()), "-o", "mine.plan", "--json").stdout)
    assert (exported["output"], exported["shape"]) == ("mine.plan", [3, 8, 8])
    assert [one["backend"] for one in json.loads(frugal("doctor", "--json").stdout)["backends"]]
    said = json.loads(frugal("degrade", "photos/a.png", "--task", "sr", "--scale", "4", "-o", "y.png", "--json").stdout)
    assert said == {"output": "y.png", "operator": {"name": "sr", **said["operator"]}, "shape": [3, 4, 4]}
    one = json.loads(frugal(*RESTORE, "y.png", "--json").stdout)["restored"][0]
    assert (one["task"], one["outputs"], one["forwards"]) == ("sr", ["y.restored.png"], [4])
    shown = json.loads(frugal("demo", "-e", "tiny.plan", "--steps", "4", "-o", "shown", "--json").stdout)["rows"]
    assert [row["plain"]["method"] for row in shown] == ["non-local means", "biharmonic", "Lanczos"]
    for row in (one, shown[0], shown[1]):
        assert row["forwards"] == [4]
        assert row["seconds"] > 0
    assert [row["gradients"] for row in shown[:2]] == [[0], [2]]  # denoising sees every pixel


def test_every_option_of_restore_is_in_one_group():
    from frugal_rt.cli import main
    from frugal_rt.cli.restore import GROUPS

    with click.Context(main) as ctx:
        command = main.get_command(ctx, "restore")
        grouped = command.grouped(click.Context(command, info_name="restore"))
    assert [option.opts[-1] for option in grouped.pop("Other options")] == ["--help"]
    names = [name for names in GROUPS.values() for name in names]
    assert len(names) == len(set(names))
    assert {title: tuple(option.name for option in options) for title, options in grouped.items()} == GROUPS
    assert frugal("restore", "--help").stdout.count("frugal-rt restore ") >= 6  # usage and examples, as they are


def test_a_group_of_an_option_that_there_is_not_is_refused():
    from frugal_rt.cli.grouped import Grouped

    with pytest.raises(ValueError, match=r"no parameters \['exact'\]"):
        Grouped("name", groups={"A": ["exact"]})
