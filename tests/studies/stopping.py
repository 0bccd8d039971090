"""The delay of interrupting a network call, at a tenth to nine tenths of its time.

python tests/studies/stopping.py --engine photo --side 768
"""

import threading
import time
from collections.abc import Callable

import click
import numpy as np

from frugal_rt.engines import open_engine, open_plan
from frugal_rt.engines.errors import Stopped
from frugal_rt.engines.stopping import Stop, stoppable

SHARES = (0.1, 0.3, 0.5, 0.7, 0.9)


def ended(call: Callable[[], object], after: float) -> float | None:
    """Return the seconds from the request to stop to the call's end; None where the call had ended before."""
    stop, told = Stop(), []

    def tell() -> None:
        told.append(time.perf_counter())
        stop.ask()

    timer = threading.Timer(after, tell)
    timer.start()
    try:
        with stoppable(stop):
            call()
    except Stopped:
        return time.perf_counter() - told[0]
    finally:
        timer.cancel()
    return None


@click.command()
@click.option("--engine", default="photo", show_default=True, help="A plan for images of any size.")
@click.option("--side", default=768, show_default=True, help="Of the image, in pixels.")
@click.option("--backend", "backends", multiple=True, default=("cpu", "openvino"), show_default=True)
def main(engine: str, side: int, backends: tuple[str, ...]) -> None:
    """Print the table."""
    click.echo("| backend | call | seconds | told in time | ended after, at most |\n|---|---|---|---|---|")
    x, t = np.zeros((1, 3, side, side), np.float32), np.array([500])
    for backend in backends:
        opened = open_engine(open_plan(engine), backend)
        calls: dict[str, Callable[[], object]] = {
            "forward": lambda opened=opened: opened.predict(x, t),
            "with a gradient": lambda opened=opened: opened.pullback(x, t)[1](x),
        }
        for name, call in calls.items():
            call()  # warm
            began = time.perf_counter()
            call()
            whole = time.perf_counter() - began
            found = [seconds for share in SHARES if (seconds := ended(call, share * whole)) is not None]
            worst = max(found, default=float("nan"))
            click.echo(f"| {backend} | {name} | {whole:.2f} | {len(found)} of {len(SHARES)} | {worst:.2f} |")


if __name__ == "__main__":
    main()
