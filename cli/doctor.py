"""frugal-rt doctor"""

import click

from .. import __version__
from ..engines.probe import findings


@click.command()
def command() -> None:
    """Say which backends this machine has, why the others are missing, and what would bring them."""
    click.echo(f"frugal-rt {__version__}")
    for finding in findings():
        click.echo(f"{'yes' if finding.usable else 'no':4}{finding.backend:10}{finding.detail}")
        if finding.remedy:
            click.echo(f"{'':14}to have it: {finding.remedy}")
