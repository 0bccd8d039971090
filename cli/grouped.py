"""A command whose --help lists its options in groups, with examples below."""

from collections.abc import Mapping, Sequence
from typing import Any

import click

OTHERS = "Other options"
"""Title of the group of options that no other group names, such as --help."""


class Grouped(click.Command):
    """A command whose help lists options in groups, and examples at the end.

    `groups` maps a title to names of parameters. `examples` are shell lines, shown as they are. Raises ValueError for a
    name that no parameter has.
    """

    def __init__(
        self, *args: Any, groups: Mapping[str, Sequence[str]], examples: Sequence[str] = (), **more: Any
    ) -> None:
        super().__init__(*args, **more)
        unknown = {name for names in groups.values() for name in names} - {one.name for one in self.params}
        if unknown:
            raise ValueError(f"{self.name} has no parameters {sorted(unknown)}")
        self.groups, self.examples = groups, examples

    def grouped(self, ctx: click.Context) -> dict[str, list[click.Option]]:
        """Return the options that the help shows, by group; OTHERS comes last."""
        options = (one for one in self.get_params(ctx) if isinstance(one, click.Option))
        shown = {one.name: one for one in options if not one.hidden}
        found = {title: [shown.pop(name) for name in names] for title, names in self.groups.items()}
        return {**found, OTHERS: list(shown.values())}

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, parameters in self.grouped(ctx).items():
            records = [record for one in parameters if (record := one.get_help_record(ctx)) is not None]
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Examples"):
            for line in self.examples:
                formatter.write(f"{'':>{formatter.current_indent}}{line}\n")
