"""How much a command says beside its results: with -q errors alone, with -v also what was chosen, and timings."""

from typing import Any

import click

QUIET, VERBOSE = "frugal_rt.quiet", "frugal_rt.verbose"


def _kept(ctx: click.Context, option: click.Parameter, value: bool) -> None:
    ctx.meta[f"frugal_rt.{option.name}"] = value
    if ctx.meta.get(QUIET) and ctx.meta.get(VERBOSE):
        raise click.UsageError("--quiet and --verbose ask for opposite things; leave one of them out")


_switch: Any = {"is_flag": True, "expose_value": False, "callback": _kept}
quiet = click.option("-q", "--quiet", help="Say nothing but errors, and where the results are.", **_switch)
verbose = click.option("-v", "--verbose", help="Say what was chosen, and how long each part took.", **_switch)


def is_quiet() -> bool:
    """Whether the running command was asked to say nothing but errors and results."""
    return _asked(QUIET)


def is_verbose() -> bool:
    """Whether the running command was asked to say more."""
    return _asked(VERBOSE)


def note(text: str) -> None:
    """Write a line to standard error, unless -q."""
    if not is_quiet():
        click.echo(text, err=True)


def detail(text: str) -> None:
    """Write a line to standard error with -v."""
    if is_verbose():
        click.echo(text, err=True)


def _asked(key: str) -> bool:
    ctx = click.get_current_context(silent=True)
    return ctx is not None and bool(ctx.meta.get(key))
