"""Messages of a command beside its results: with -q errors alone, with -v also choices and timings."""

import re
from typing import Any

import click

QUIET, VERBOSE = "frugal_rt.quiet", "frugal_rt.verbose"


def _kept(ctx: click.Context, option: click.Parameter, value: bool) -> None:
    ctx.meta[f"frugal_rt.{option.name}"] = value
    if ctx.meta.get(QUIET) and ctx.meta.get(VERBOSE):
        raise click.UsageError("--quiet and --verbose ask for opposite things; leave one of them out")


_switch: Any = {"is_flag": True, "expose_value": False, "callback": _kept}
quiet = click.option("-q", "--quiet", help="Print only errors, and where the results are.", **_switch)
verbose = click.option("-v", "--verbose", help="Print also what was chosen, and how long each part took.", **_switch)


def is_quiet() -> bool:
    """Return whether -q was given: print errors and results alone."""
    return _asked(QUIET)


def is_verbose() -> bool:
    """Return whether -v was given."""
    return _asked(VERBOSE)


_OBEYED = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
"""Control characters of terminals, and the characters that change the direction of text."""


def shown(text: str) -> str:
    """Escape a text's control characters as Python writes them: names in plans and pictures may hold some."""
    return _OBEYED.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def say(text: str, **where: Any) -> None:
    """Print a text by `click.echo`, its control characters escaped."""
    click.echo(shown(text), **where)


def note(text: str) -> None:
    """Write a line to standard error, unless -q."""
    if not is_quiet():
        say(text, err=True)


def detail(text: str) -> None:
    """Write a line to standard error with -v."""
    if is_verbose():
        say(text, err=True)


def _asked(key: str) -> bool:
    ctx = click.get_current_context(silent=True)
    return ctx is not None and bool(ctx.meta.get(key))
