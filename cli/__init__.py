"""The command `frugal-rt`. Commands are imported when called, so that `--help` is quick."""

import difflib
import importlib
from typing import Any

import click

from ..engines import FrugalError
from ..engines.version import __version__

COMMANDS = {
    "export": "Turn a prior's weights into a plan.",
    "build": "Compile a plan for this machine's GPU, with TensorRT.",
    "restore": "Restore a damaged photograph.",
    "serve": "Restore over HTTP, with a page to try it on.",
    "degrade": "Damage a clean picture, to try things out.",
    "demo": "Restore a packaged portrait three ways.",
    "inspect": "Say what is in a plan, or take it apart.",
    "eval": "Measure how well a prior restores.",
    "bench": "Measure how fast this machine restores.",
    "doctor": "Say which backends this machine has.",
    "completion": "Print a shell's completion script.",
}


class Commands(click.Group):
    """A group of the modules in this folder, whose errors are one sentence and an exit status."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f".{name}", __name__).command
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

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except FrugalError as error:
            raise click.ClickException(str(error)) from error
        except KeyboardInterrupt:
            click.echo("Stopped.", err=True)
            raise click.exceptions.Exit(130) from None


@click.command(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="frugal-rt")
def main() -> None:
    """Zero-shot diffusion image restoration: export a prior once, restore anything with it."""
