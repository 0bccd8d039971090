"""The delay of interrupting a network call, at a tenth to nine tenths of its time, or the preparation of a request.

python tests/studies/stopping.py --engine photo --side 768
python tests/studies/stopping.py --preparations --side 2048
"""

import os
import threading
import time
from collections.abc import Callable

import click
import numpy as np

from frugal_rt import Pool, Restorer
from frugal_rt.engines import open_engine, open_plan
from frugal_rt.engines.errors import Stopped
from frugal_rt.engines.stopping import Stop, stoppable
from frugal_rt.runtime.operators import Inpaint, Jpeg, Linear, MaskedJpeg, Matrix
from frugal_rt.runtime.operators.jpeg import Component
from frugal_rt.runtime.pictures.damage import Damage
from frugal_rt.runtime.pictures.jpeg import standard_tables
from frugal_rt.runtime.pictures.measurement import whole_operator, without
from frugal_rt.runtime.sampling.guidance import Guidance

SHARES = (0.1, 0.3, 0.5, 0.7, 0.9)
MOMENTS = (0.1, 0.4, 0.9, 1.7, 3.1, 5.3)
"""Seconds after its begin at which a preparation is told to end."""
ROWS = 3072
"""Rows and columns of a matrix that takes long to decompose."""


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


def operators(side: int) -> dict[str, Callable[[], Linear]]:
    """Return functions that make the operators whose requests take longest to prepare."""
    shape, random = (3, side, side), np.random.default_rng(0)
    scattered, strokes = random.random((side, side)) < 0.9, np.zeros((side, side), bool)
    strokes[::40] = strokes[1::40] = True
    light, chroma = standard_tables(10)
    components = Component(2, 2, light), Component(1, 1, chroma), Component(1, 1, chroma)

    def masked(task: str, damage: Damage) -> Linear:
        whole = whole_operator(task, shape, damage)
        return without(whole, task, damage, [random.random(whole.measurement_shape[1:]) < 0.5])

    return {
        "90% of the pixels missing": lambda: Inpaint(shape, scattered),
        "x2, bicubic, half of the pixels missing": lambda: masked("sr", Damage(scale=2, filter="bicubic")),
        "x4, a kernel": lambda: whole_operator("sr", shape, Damage(scale=4, kernel="gaussian:2")),
        "blur, mirrored, half missing": lambda: masked("deblur", Damage(kernel="uniform:9")),
        "blur, circular, half missing": lambda: masked("deblur", Damage(kernel="motion:15,30")),
        "blur, inside alone": lambda: whole_operator("deblur", shape, Damage(kernel="motion:15,30", border="valid")),
        "JPEG": lambda: Jpeg(shape, components),
        "JPEG, scratched": lambda: MaskedJpeg(Jpeg(shape, components), strokes),
        "JPEG, 90% damaged": lambda: MaskedJpeg(Jpeg(shape, components), scattered),
    }


def of_preparations(engine: str, side: int) -> None:
    """Print the delays of ending preparations, and of killing a worker that decomposes a matrix."""
    restorer = Restorer.load(engine, "cpu").at(side, side)
    y = np.random.default_rng(1).uniform(-1, 1, restorer.image_shape).astype(np.float32)
    click.echo("| preparation | told in time | ended after, at most |\n|---|---|---|")
    for name, make in operators(side).items():

        def prepare(operator: Linear, measured: np.ndarray) -> None:
            operator.prepare()
            restorer._begin(measured, operator, Guidance(sigma=0.05, method="frugal"))

        found = []
        for after in MOMENTS:
            operator = make()  # nothing of it is computed yet
            measured = operator.observed(np.asarray(make().A(y), np.float32))
            found.append(ended(lambda: prepare(operator, measured), after))  # noqa: B023 (called at once)
        told = [seconds for seconds in found if seconds is not None]
        worst = max(told, default=float("nan"))
        click.echo(f"| {name} | {len(told)} of {len(MOMENTS)} | {worst:.2f} |")
    killed = of_a_matrix(engine)
    click.echo(f"| a matrix of {ROWS} x {ROWS}, its worker | {len(killed)} of {len(killed)} | {max(killed):.2f} |")


def of_a_matrix(engine: str) -> list[float]:
    """Return the seconds from cancelling requests to the end of the worker that decomposes their matrix."""
    found = []
    with Pool(engine, "cpu") as pool:
        shape = pool.image_shape
        columns = shape[1] * shape[2]
        for number, after in enumerate(MOMENTS[2:] * 2):
            matrix = Matrix(shape, np.random.default_rng(number).standard_normal((ROWS, columns), np.float32))
            (process,) = pool.processes
            future = pool.submit(np.zeros(matrix.measurement_shape, np.float32), matrix, sigma=0.1, steps=2)
            time.sleep(2 + after)  # it arrives, and its SHA-256 is computed
            future.cancel()
            began = time.perf_counter()
            while os.path.exists(f"/proc/{process}"):  # noqa: PTH110
                time.sleep(0.005)
            found.append(time.perf_counter() - began)
            while not pool.is_ready:
                time.sleep(0.05)
    return found


def of_calls(engine: str, side: int, backends: tuple[str, ...]) -> None:
    """Print the delays of ending network calls."""
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


@click.command()
@click.option("--engine", default="photo", show_default=True, help="A plan for images of any size.")
@click.option("--side", default=768, show_default=True, help="Of the image, in pixels.")
@click.option("--backend", "backends", multiple=True, default=("cpu", "openvino"), show_default=True)
@click.option("--preparations", is_flag=True, help="End preparations of requests, and not calls.")
def main(engine: str, side: int, backends: tuple[str, ...], preparations: bool) -> None:
    """Print the table."""
    if preparations:
        of_preparations(engine, side)
    else:
        of_calls(engine, side, backends)


if __name__ == "__main__":
    main()
