"""frugal-rt completion"""

import click
from click.shell_completion import get_completion_class


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def command(ctx: click.Context, shell: str) -> None:
    """Print the script that completes commands, options and files in SHELL.

    bash: frugal-rt completion bash >> ~/.bashrc; zsh: the same into ~/.zshrc; fish: into
    ~/.config/fish/completions/frugal-rt.fish
    """
    found = get_completion_class(shell)
    assert found is not None  # click knows these three
    click.echo(found(ctx.find_root().command, {}, "frugal-rt", "_FRUGAL_RT_COMPLETE").source())
