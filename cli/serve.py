"""frugal-rt serve."""

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..engines import InputError, MissingExtra
from ..runtime.service import TOKEN
from . import options, talk
from .progress import stages

if TYPE_CHECKING:
    from ..runtime.pool import Pool
    from ..runtime.service.metrics import Metrics
    from ..runtime.service.server import Address


@click.command()
@options.engine
@options.backend
@options.trust_engines
@click.option(
    "--device",
    "devices",
    type=int,
    multiple=True,
    help="Use this CUDA device, by a worker of its own. May be repeated.",
)
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Listen on this address. 0.0.0.0 is every interface of this machine.",
)
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True)
@click.option("--uds", type=options.PATH, help="Listen on this Unix socket, in place of --host and --port.")
@click.option("--root-path", default="", metavar="/PATH", help="The prefix that a proxy in front removes from paths.")
@click.option(
    "--limit",
    type=click.IntRange(1),
    default=64,
    show_default=True,
    help="Take this many images at once, and refuse more.",
)
@click.option(
    "--max-mib", type=click.IntRange(1), default=16, show_default=True, help="Refuse a request whose body has more MiB."
)
@click.option(
    "--max-pixels", type=click.IntRange(1), default=1 << 22, show_default=True, help="Refuse a picture of more pixels."
)
@click.option(
    "--timeout",
    type=click.FloatRange(0.1),
    default=300.0,
    show_default=True,
    help="Give a restoration up after these seconds.",
)
@click.option(
    "--token-file", type=options.PATH, help=f"Requests must carry the token in this file. {TOKEN} sets it too."
)
@click.option("--allow-anonymous", is_flag=True, help="Listen beyond this machine without a token.")
@click.option(
    "--allow-host", "hosts", multiple=True, help="Answer to this host name too, without a token. May be repeated."
)
@click.option(
    "--allow-origin", "origins", multiple=True, help="Let web pages of this origin send requests. May be repeated."
)
def command(
    engine: Path,
    backend: str,
    trust_engines: bool,
    devices: tuple[int, ...],
    host: str,
    port: int,
    uds: Path | None,
    root_path: str,
    limit: int,
    max_mib: int,
    max_pixels: int,
    timeout: float,
    token_file: Path | None,
    allow_anonymous: bool,
    hosts: tuple[str, ...],
    origins: tuple[str, ...],
) -> None:
    """Serve restorations over HTTP with the prior in PLAN, and a page to try them on."""
    try:
        from ..runtime.pool import Pool
        from ..runtime.service.intake import Options
        from ..runtime.service.server import Address, serve
        from ..runtime.service.visitors import is_local
    except ImportError as error:
        raise MissingExtra("A service", error.name or "fastapi", "serve") from error
    token = _token(token_file)
    if token is None and uds is None and not is_local(host) and not allow_anonymous:
        raise InputError(
            f"on {host} anyone who reaches this machine may send requests: give --token-file or {TOKEN}, or say "
            "--allow-anonymous"
        )
    if root_path and not re.fullmatch(r"(/[\w.~-]+)+", root_path):
        raise InputError(f"--root-path is a path such as /restore, without a slash at its end; got {root_path!r}")
    settings = Options(
        max_bytes=max_mib << 20, max_pixels=max_pixels, timeout=timeout, token=token, origins=origins, hosts=hosts
    )

    def pool_of(metrics: "Metrics") -> "Pool":
        with stages() as on_stage:
            on_stage("warming up")
            return Pool(
                engine,
                backend,
                devices=devices or (None,),
                limit=limit,
                trust_engines=trust_engines,
                on_report=metrics.report,
            )

    def on_ready(pool: "Pool", address: "Address") -> None:
        talk.say(f"{pool.prior} by {pool.backend} on {address}", err=True)

    serve(pool_of, settings, Address(host, port, uds), on_ready, root_path)


def _token(path: Path | None) -> str | None:
    """The token that requests must carry, from a file or the environment. Raises InputError."""
    if path is None:
        return os.environ.get(TOKEN) or None
    try:
        token = path.read_text().strip()
    except OSError as error:
        raise InputError(f"cannot read the token in {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} holds no token: it is not UTF-8 text") from error
    if not token:
        raise InputError(f"{path} holds no token")
    return token
