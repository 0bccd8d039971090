"""Write docs/cli.md from the command's own help: python .ci/write_cli.py [--check]

With --check nothing is written; the exit status is 1 where the page is not up to date.
"""

import inspect
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from frugal_rt.cli import COMMANDS, NAME, main
from frugal_rt.cli.grouped import Grouped

PAGE = Path(__file__).resolve().parents[1] / "docs" / "cli.md"
HEAD = f"""# The command line

Every command and every option, from the commands' own help (`{NAME} COMMAND --help`). This page is written by
`.ci/write_cli.py`; `make docs` fails where it is not up to date.

Each option can also be set in the environment, by the command's name and its own:
`FRUGAL_RT_RESTORE_ENGINE=celeba.plan` is `--engine` of `restore`. The command line overrides `--params`, which
overrides the environment. `python -m frugal_rt` is the same command.
"""


def prose(text: str) -> str:
    """Escape tags and footnotes in a docstring or help text for Markdown."""
    return inspect.cleandoc(text).replace("\b\n", "").replace("<", "&lt;").replace("*", "\\*").replace("[", "\\[")


def of_command(name: str, ctx: click.Context) -> Iterator[str]:
    """Yield the lines of a command's section."""
    command = ctx.command
    usage = " ".join([NAME, name, *command.collect_usage_pieces(ctx)])
    yield f"\n## {name}\n\n    {usage}\n\n{prose(command.help or '')}"
    if isinstance(command, Grouped):
        groups = command.grouped(ctx)
    else:
        options = [one for one in command.params if isinstance(one, click.Option) and not one.hidden]
        groups = {"": options}
    for title, options in groups.items():
        records = [record for one in options if (record := one.get_help_record(ctx)) is not None]
        if records:
            yield (f"\n### {title}\n" if title else "")
            yield from (f"- `{names}`: {prose(said)}" if said else f"- `{names}`" for names, said in records)
    if isinstance(command, Grouped):
        yield "\n### Examples\n"
        yield from (f"    {line}" for line in command.examples)


def page() -> str:
    """Return the whole page."""
    parts = [HEAD]
    with click.Context(main, info_name=NAME, **main.context_settings) as whole:
        parts.append("\n".join(f"- [`{name}`](#{name}): {said}" for name, said in COMMANDS.items()))
        for name in COMMANDS:
            command = main.get_command(whole, name)
            assert command is not None, name
            with click.Context(command, parent=whole, info_name=name) as ctx:
                parts.extend(of_command(name, ctx))
    return "\n".join(line.rstrip() for line in "\n".join(parts).splitlines()) + "\n"


if __name__ == "__main__":
    if sys.argv[1:] != ["--check"]:
        PAGE.write_text(page())
    elif not PAGE.exists() or PAGE.read_text() != page():
        sys.exit(f"docs/{PAGE.name} is not what the commands say: python .ci/write_cli.py")
