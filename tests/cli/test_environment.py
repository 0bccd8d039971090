"""Options from the environment."""

import os
from pathlib import Path

import click

from frugal_rt.cli import COMMANDS, main, variable
from frugal_rt.engines.machine import THREADS
from frugal_rt.runtime.pictures.formats import read_settings
from frugal_rt.runtime.service import TOKEN

from ..commands import frugal, refuses, runs


def options() -> dict[str, str]:
    """Return every option's environment variable, and the option."""
    ctx = click.Context(main)
    return {
        variable(name, option): f"{name} {option.opts[0]}"
        for name in COMMANDS
        for option in main.get_command(ctx, name).params
        if isinstance(option, click.Option)
    }


def test_every_option_has_a_variable_of_its_own_long_name():
    named = options()
    count = sum(
        isinstance(option, click.Option)
        for name in COMMANDS
        for option in main.get_command(click.Context(main), name).params
    )
    assert len(named) == count > 90
    assert {"FRUGAL_RT_RESTORE_STEPS", "FRUGAL_RT_RESTORE_LAMBDA", "FRUGAL_RT_EVAL_FETCH_LPIPS"} < set(named)
    assert not {THREADS, "FRUGAL_RT_CACHE", TOKEN, "FRUGAL_RT_PLAN", "_FRUGAL_RT_COMPLETE"} & set(named)


def test_the_command_line_goes_before_the_environment_and_that_before_the_default(here, monkeypatch):
    monkeypatch.setenv("FRUGAL_RT_RESTORE_ENGINE", "tiny.plan")
    monkeypatch.setenv("FRUGAL_RT_RESTORE_STEPS", "3")
    monkeypatch.setenv("FRUGAL_RT_RESTORE_FORCE", "1")
    assert "in 3 steps" in runs("restore", "clean.png").output
    assert "in 4 steps" in runs("restore", "clean.png", "--steps", "4").output
    monkeypatch.setenv("FRUGAL_RT_DEGRADE_STEPS", "5")  # of another command, which has no such option
    assert "in 3 steps" in runs("restore", "clean.png").output


def test_a_wrong_value_names_its_variable(here, monkeypatch):
    monkeypatch.setenv("FRUGAL_RT_RESTORE_BACKEND", "cpu")
    monkeypatch.setenv("FRUGAL_RT_RESTORE_STEPS", "many")
    asked = ("restore", "-e", "tiny.plan", "clean.png")
    refuses("'many' is not a valid integer. (the environment sets $FRUGAL_RT_RESTORE_STEPS)", *asked, status=2)
    monkeypatch.setenv("FRUGAL_RT_RESTORE_STEPS", "1001")
    refuses("got 1001 (the environment sets $FRUGAL_RT_RESTORE_STEPS)", *asked)
    monkeypatch.setenv("FRUGAL_RT_RESTORE_STEPS", "4")
    monkeypatch.setenv("FRUGAL_RT_RESTORE_SWITCH", "2")
    refuses("$FRUGAL_RT_RESTORE_SWITCH)", *asked, "--method", "dps")
    unconcerned = frugal("restore", "-e", "tiny.plan", "nothing42.png").stderr
    assert unconcerned.endswith("Error: there is no file nothing42.png\n")
    monkeypatch.setenv("FRUGAL_RT_RESTORE_ENGINE", "nothing.plan")
    refuses("make a plan with: frugal-rt export --model photo", "restore", "clean.png")
    refuses("(the environment sets $FRUGAL_RT_RESTORE_ENGINE)", "restore", "clean.png")


def test_params_go_before_the_environment(here, monkeypatch):
    runs("restore", "-e", "tiny.plan", "clean.png", "--steps", "4", "-o", "first.png")
    monkeypatch.setenv("FRUGAL_RT_RESTORE_STEPS", "3")
    monkeypatch.setenv("FRUGAL_RT_RESTORE_ENGINE", "another.plan")
    monkeypatch.setenv("FRUGAL_RT_RESTORE_FORMAT", "tif")  # not kept: it holds
    runs("restore", "--params", "first.png")
    assert read_settings(Path("clean.restored.tif"))["steps"] == 4
    assert "in 5 steps" in runs("restore", "--params", "first.png", "--steps", "5", "-o", "x.tif").output
    monkeypatch.delenv("FRUGAL_RT_RESTORE_ENGINE")
    runs("restore", "-e", "tiny.plan", "clean.png", "-o", "third.png")
    assert read_settings(Path("third.png"))["steps"] == 3  # the next call reads it again


def test_options_that_may_be_repeated_are_listed_as_in_path(here, monkeypatch):
    monkeypatch.setenv("FRUGAL_RT_RESTORE_TRACE", os.pathsep.join(("t.csv", "u.csv")))
    runs("restore", "-e", "tiny.plan", "--steps", "4", "clean.png")
    assert Path("t.csv").exists()
    assert Path("u.csv").exists()
