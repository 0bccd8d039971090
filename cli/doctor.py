"""frugal-rt doctor"""

import json

import click

from ..engines.doctor import findings
from ..engines.version import __version__
from . import options


@click.command()
@options.as_json
def command(as_json: bool) -> None:
    """Say which backends this machine has, why the others are missing, and which commands install them."""
    if as_json:
        backends = [finding._asdict() for finding in findings()]
        click.echo(json.dumps({"frugal_rt": __version__, "backends": backends}))
        return
    click.echo(f"frugal-rt {__version__}")
    for finding in findings():
        click.echo(f"{'yes' if finding.usable else 'no':4}{finding.backend:14}{finding.detail}")
        if finding.remedy:
            click.echo(f"{'':18}to have it: {finding.remedy}")
