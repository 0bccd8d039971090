"""The command `frugal-rt`. Commands are imported when called, so that `--help` is quick."""

import contextlib
import copy
import difflib
import errno
import importlib
import io
import os
import re
import sys
from types import TracebackType
from typing import Any

import click
from click.core import ParameterSource

from ..engines import FrugalError
from ..engines.version import __version__
from .talk import shown

NAME = "frugal-rt"
SUSPECTS = "frugal_rt.suspects"
COMMANDS = {
    "export": "Turn a prior's weights into a plan.",
    "build": "Compile a plan for this machine's GPU, with TensorRT.",
    "restore": "Restore a damaged photograph.",
    "serve": "Restore over HTTP, with a page to try it on.",
    "degrade": "Damage a clean picture, to try things out.",
    "demo": "Damage a photograph and a face, and restore them.",
    "inspect": "Say what is in a plan, or take it apart.",
    "eval": "Measure how well a prior restores.",
    "bench": "Measure how fast this machine restores.",
    "doctor": "Say which backends this machine has.",
    "completion": "Print a shell's completion script.",
}


class Sourced(click.Context):
    """A command's context. Its errors name the environment variables that may have set the wrong value."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        if isinstance(error, click.UsageError):
            self.meta[SUSPECTS] = self._suspects(getattr(error, "param", None), error.format_message())
        elif isinstance(error, FrugalError):
            self.meta[SUSPECTS] = self._suspects(None, str(error))
        return super().__exit__(kind, error, trace)

    def _suspects(self, param: click.Parameter | None, sentence: str) -> str:
        """Return, in brackets, the environment variables that set `param`.

        Where `param` is None, these are the variables of the options that `sentence` names.
        """
        names = []
        for option in self.command.params:
            if self.get_parameter_source(option.name or "") is not ParameterSource.ENVIRONMENT:
                continue
            clues = (_word(option), str(self.params.get(option.name or "", "")))
            if option is param if param is not None else any(_speaks_of(clue, sentence) for clue in clues):
                names.append(f"${option.envvar}")
        return f" (the environment sets {', '.join(names)})" if names else ""


class Commands(click.Group):
    """The group of commands, one module of this folder each. An error is one sentence and a non-zero exit status."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        command: click.Command = copy.copy(importlib.import_module(f".{name}", __name__).command)
        command.context_class = Sourced
        command.params = [_from_environment(name, parameter) for parameter in command.params]
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        near = [] if args[0] in COMMANDS else difflib.get_close_matches(args[0], COMMANDS, 1)
        if near:
            ctx.fail(f"No such command {args[0]!r}. Did you mean {near[0]}?")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def main(self, *args: Any, **more: Any) -> Any:
        # `python -m frugal_rt` says the same name in its usage.
        try:
            return super().main(*args, **{**more, "prog_name": more.get("prog_name") or NAME})
        except OSError as error:
            if error.errno != errno.ENOSPC or error.filename is not None:
                raise
            _drop_output()
            click.echo("Error: cannot write to standard output: the disk is full", err=True)
            sys.exit(1)

    def invoke(self, ctx: click.Context) -> Any:
        if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
            sys.stdout.reconfigure(errors="surrogateescape")  # names of files are bytes, and written as such
        try:
            return super().invoke(ctx)
        except FrugalError as error:
            raise click.ClickException(shown(f"{error}{ctx.meta.get(SUSPECTS, '')}")) from error
        except click.UsageError as error:
            said = f"{error.format_message()}{ctx.meta.get(SUSPECTS, '')}"
            if shown(said) == error.format_message():
                raise
            raise click.UsageError(shown(said), error.ctx) from error
        except KeyboardInterrupt:
            click.echo("Stopped.", err=True)
            raise click.exceptions.Exit(130) from None


def variable(command: str, option: click.Parameter) -> str:
    """The variable of the environment that sets an option: FRUGAL_RT_RESTORE_ENGINE is --engine of restore."""
    return f"FRUGAL_RT_{command}_{_word(option)}".replace("-", "_").upper()


def _word(option: click.Parameter) -> str:
    """An option's long name, without its dashes."""
    return max(option.opts, key=len).lstrip("-")


def _speaks_of(clue: str, sentence: str) -> bool:
    """Return whether `sentence` contains `clue`, an option's name or value, as a word."""
    return bool(clue) and re.search(rf"(?<!\w){re.escape(clue)}(?!\w)", sentence) is not None


def _from_environment(command: str, parameter: click.Parameter) -> click.Parameter:
    """Return a copy of `parameter` that reads its environment variable.

    A copy, because --params switches the variable off for the options that it sets.
    """
    if isinstance(parameter, click.Option):
        parameter = copy.copy(parameter)
        parameter.envvar = variable(command, parameter)
    return parameter


def _drop_output() -> None:
    """Redirect standard output to the null device, so that Python does not flush to a closed pipe again at exit."""
    with contextlib.suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@click.command(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="$FRUGAL_RT_RESTORE_ENGINE in the environment is --engine of restore, and so for every option of every "
    "command.",
)
@click.version_option(__version__, prog_name=NAME)
def main() -> None:
    """Zero-shot diffusion image restoration: export a prior once, restore anything with it."""
