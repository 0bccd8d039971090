"""A command whose --help lists its options in groups, with examples below."""

from collections.abc import Mapping, Sequence
from typing import Any

import click

OTHERS = "Other options"
"""The group of options that no group names: --help, mostly."""


class Grouped(click.Command):
    """A command whose help lists options by `groups`, a title and parameters' names each, and `examples` at the end.

    `examples` are lines of a shell, shown as they are. Raises ValueError for a name that is no parameter's.
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
        """The options that help shows, by group, OTHERS last."""
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
