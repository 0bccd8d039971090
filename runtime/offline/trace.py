"""The trace of a restoration's switch: the figures that ended gradients, as a table and a small plot."""

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ...engines import MissingExtra, Plan
from ...engines.files import atomic_write
from ..result import Result
from ..sampling.guidance import STEEP, last_of, switch_of
from ..sampling.restoration import Phase
from ..sampling.schedule import Schedule
from ..sampling.switch import Switch

SUFFIXES = (".csv", ".png", ".svg")
"""Suffixes that `write_trace` takes: a table, and plots."""


@dataclass(frozen=True)
class Seen:
    """A pair of estimates that the switch compared."""

    left: int
    """Steps left after the later estimate."""
    timestep: int
    """The prior's timestep t of the later estimate."""
    psnr: float
    """PSNR between the two, in dB."""
    phase: str
    """"gradient" where the next steps may take gradients, "forward" otherwise."""


@dataclass(frozen=True)
class Explanation:
    """The switch of a row: the figures that it compared, its rule, and the resulting k."""

    seen: Sequence[Seen]
    rule: Switch
    k: int


def explain(result: Result, plan: Plan, row: int = 0) -> Explanation:
    """Return the Explanation of a row of `result`, which a method restored with `plan`."""
    steps = result.settings["steps"]
    config, start = plan.manifest["schedule"], result.settings["start"]
    schedule = Schedule.of(config, steps, start, STEEP, last_of(result.settings["operator"]["name"]))
    k = result.k[row]
    seen = [
        Seen(left, int(schedule.timesteps[left]), psnr, (Phase.GRADIENT if left > k else Phase.FORWARD).value)
        for left, psnr in zip(result.compared, result.trace[row], strict=True)
    ]
    return Explanation(seen, switch_of(result.settings["method"], steps, result.settings["switch"]), k)


def load_plots(paths: Sequence[Path]) -> None:
    """Raise MissingExtra if one of `paths` is a plot and matplotlib is not installed."""
    if all(path.suffix.lower() == ".csv" for path in paths):
        return
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise MissingExtra("A plot", "matplotlib", "plot") from error


def write_trace(path: Path, explanation: Explanation) -> None:
    """Write a table (.csv) or a plot (.png, .svg), whole or not at all. Raises FrugalError, MissingExtra."""
    load_plots([path])
    kind = path.suffix.lower()[1:]
    with atomic_write(path) as file:
        file.write(_table(explanation).encode() if kind == "csv" else _plot(explanation, kind))


def _table(explanation: Explanation) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("left", "timestep", "psnr", "threshold", "may_switch", "phase"))
    rule = explanation.rule
    threshold = f"{rule.threshold:g}" if math.isfinite(rule.threshold) else ""
    for one in explanation.seen:
        may = rule.k_min <= one.left <= rule.k_max
        writer.writerow((one.left, one.timestep, f"{one.psnr:.3f}", threshold, int(may), one.phase))
    return text.getvalue()


def _plot(explanation: Explanation, kind: str) -> bytes:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.2), layout="constrained")
    axes = figure.add_subplot()
    rule, left = explanation.rule, [one.left for one in explanation.seen]
    axes.plot(
        left, [one.psnr for one in explanation.seen], marker="o", markersize=3, label="two estimates of the image"
    )
    if rule.k_min < rule.k_max:
        axes.axvspan(rule.k_max, rule.k_min, alpha=0.12, color="grey", label="where it may switch")
        axes.axhline(rule.threshold, linestyle="--", color="grey", label="settled")
    axes.axvline(explanation.k, color="tab:red", label=f"no gradients from k = {explanation.k}")
    axes.invert_xaxis()
    axes.set_xlabel("steps left")
    axes.set_ylabel("PSNR, dB")
    axes.legend(fontsize="small")
    file = io.BytesIO()
    figure.savefig(file, format=kind, dpi=120)
    return file.getvalue()
