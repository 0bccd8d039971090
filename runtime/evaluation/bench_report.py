"""Summary of a benchmark's samples: ratios by round, figures, and Markdown."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ...engines.torch.baselines import EAGER

Report = Mapping[str, Any]


def ratios(above: Sequence[float], below: Sequence[float]) -> list[float]:
    """Return above / below by round; both of a pair were measured in the same round."""
    return [a / b for a, b in zip(above, below, strict=True)]


def figures(report: Report) -> list[dict[str, Any]]:
    """Return a report's figures, each with name, unit ("x" or "%"), median, least, most and samples.

    They are of the smallest batch measured; a figure whose rows were not measured is left out. "ours" is the reference,
    "best torch" the torch contender with the least median.
    """
    ours, rows = report["reference"], _smallest(report)
    found = []

    def add(name: str, unit: str, samples: Sequence[float]) -> None:
        found.append({"name": name, "unit": unit, "samples": list(samples), **_spread(samples)})

    def compare(name: str, above: Sequence[float] | None, below: Sequence[float] | None) -> None:
        if above and below:
            add(name, "x", ratios(above, below))

    for kind in ("forward", "dps step"):
        if kind in rows:
            where = f"{rows[kind]['name']}, batch {rows[kind]['batch']}"
            compare(f"{where}: {EAGER} / ours", _seconds(rows, kind, EAGER), _seconds(rows, kind, ours))
            best = best_torch(rows[kind])
            if best not in (None, ours):
                compare(f"{where}: best torch ({best}) / ours", _seconds(rows, kind, best), _seconds(rows, kind, ours))
    compare("DPS step / DMPS step, ours", _seconds(rows, "dps step", ours), _seconds(rows, "dmps step", ours))
    compare("DMPS step / forward, ours", _seconds(rows, "dmps step", ours), _seconds(rows, "forward", ours))
    for label in (EAGER, "deepinv"):
        for kind in ("dps", "hybrid", "frugal"):
            if kind in rows:
                other = f"{rows['dps']['name']}, by {label}"
                compare(f"{other} / our {rows[kind]['name']}", _seconds(rows, "dps", label), _seconds(rows, kind, ours))
    for kind in ("forward", "dps step", "dmps step"):
        share = [] if kind not in rows else peak_shares(report, rows[kind], ours)
        if share:
            add(f"{rows[kind]['name']}, ours: share of the measured peak", "%", [100 * value for value in share])
    for kind in ("dps step", "dmps step"):
        taken = rows.get(kind, {}).get("contenders", {}).get(ours)
        if taken and None not in taken["network_seconds"]:
            network = ratios(taken["network_seconds"], taken["seconds"])
            add(f"{rows[kind]['name']}, ours: share outside the network", "%", [100 * (1 - value) for value in network])
        elif taken and None not in taken["host_seconds"]:
            add(f"{rows[kind]['name']}, ours: the host's own time", "us", [1e6 * v for v in taken["host_seconds"]])
    return found


def best_torch(row: Mapping[str, Any]) -> str | None:
    """Return the torch contender with the least median in a row; None where torch did not run."""
    medians = {
        label: float(np.median(taken["seconds"]))
        for label, taken in row["contenders"].items()
        if label.startswith("torch")
    }
    return min(medians, key=lambda label: medians[label]) if medians else None


def flops(report: Report, row: Mapping[str, Any]) -> int | None:
    """Return the network's floating-point operations in a sample of a row; None where they could not be counted."""
    network = report["network_flops"]
    if network is None:
        return None
    total: int = row["batch"] * (row["forwards"] * network["forward"] + row["gradients"] * network["gradient"])
    return total


def peak(report: Report, label: str) -> float | None:
    """Return the best FLOP/s of matrix products on a contender's device; None where none was timed there."""
    device = _device(report["contenders"][label])
    return max((max(values) for name, values in report["peak_flops"].items() if _device(name) == device), default=None)


def peak_shares(report: Report, row: Mapping[str, Any], label: str) -> list[float]:
    """Return, for each round, the network's FLOP/s divided by the peak; empty where one of them is not known."""
    work, best, taken = flops(report, row), peak(report, label), row["contenders"].get(label)
    return [work / seconds / best for seconds in taken["seconds"]] if work and best and taken else []


def markdown(report: Report) -> str:
    """Return the report as a Markdown page."""
    return "\n".join([*_header(report), *_times(report), *_ratios(report), *_arithmetic(report), *_figures(report), ""])


def _device(name: str) -> str | None:
    """Return the device in an engine's name: cpu in `onnxruntime (cpu)`."""
    found = re.search(r"\((\w+)", name)
    return found.group(1) if found else None


def _header(report: Report) -> Iterator[str]:
    machine, prior, settings = report["machine"], report["prior"], report["settings"]
    channels, height, width = prior["shape"]
    threads = "" if machine["torch_threads"] is None else f"; torch computes with {machine['torch_threads']} threads"
    yield f"# Benchmark: {prior['name']}, {channels}x{height}x{width}"
    yield ""
    yield f"- machine: {machine['cores']} cores of {machine['processor']}, {machine['system']}{threads}"
    yield f"- GPU: {machine['gpu'] or 'none'}"
    yield "- versions: " + ", ".join(f"{name} {found}" for name, found in report["versions"].items())
    yield f"- date: {report['date']}"
    yield f"- weights: SHA-256 {prior['weights_sha256']}"
    yield f"- rounds: {settings['rounds']}, contenders in turn; measurement: {settings['measurement']}"
    for label, name in report["contenders"].items():
        yield f"- {label}{' (the reference)' if label == report['reference'] else ''}: {name}"
    for label, reason in report["left_out"].items():
        yield f"- left out: {label}: {reason}"
    for name, values in report["peak_flops"].items():
        yield f"- peak, matrix product by {name}: {max(values) / 1e9:.1f} GFLOP/s"
    if report["network_flops"] is not None:
        forward, gradient = (report["network_flops"][name] / 1e9 for name in ("forward", "gradient"))
        yield f"- network, one image: forward {forward:.2f} GFLOP, gradient in x {gradient:.2f} GFLOP more"
    first = {
        label: sum(row["contenders"][label]["first_seconds"] for row in report["rows"] if label in row["contenders"])
        for label in report["contenders"]
    }
    yield "- first calls, in no timing below (torch.compile compiles in them): " + ", ".join(
        f"{label} {seconds:.1f} s" for label, seconds in first.items()
    )


def _times(report: Report) -> Iterator[str]:
    yield from ("", "## Time", "", "Median (least..most), for the whole batch.", "")

    def cell(row: Mapping[str, Any], label: str) -> str:
        unit, scale = ("s", 1.0) if np.median(row["contenders"][label]["seconds"]) >= 1 else ("ms", 1e3)
        return _cell([scale * seconds for seconds in row["contenders"][label]["seconds"]], unit)

    yield from _table(report, cell, list(report["contenders"]))


def _ratios(report: Report) -> Iterator[str]:
    ours = report["reference"]
    if len(report["contenders"]) == 1:
        return
    yield from ("", f"## Time over that of {ours}", "", "Median (least..most) of the ratios within each round.", "")

    def cell(row: Mapping[str, Any], label: str) -> str:
        if ours not in row["contenders"]:
            return ""
        return _cell(ratios(row["contenders"][label]["seconds"], row["contenders"][ours]["seconds"]), "x")

    yield from _table(report, cell, [label for label in report["contenders"] if label != ours])


def _arithmetic(report: Report) -> Iterator[str]:
    if report["network_flops"] is None:
        return
    yield from (
        "",
        "## GFLOP/s, and the share of the measured peak",
        "",
        "Of the network's arithmetic, by medians.",
        "",
    )

    def cell(row: Mapping[str, Any], label: str) -> str:
        work, best = flops(report, row), peak(report, label)
        if work is None:
            return ""
        rate = float(work / np.median(row["contenders"][label]["seconds"]))
        return f"{rate / 1e9:.1f} ({100 * rate / best:.0f}%)" if best else f"{rate / 1e9:.1f}"

    yield from _table(report, cell, list(report["contenders"]))


def _figures(report: Report) -> Iterator[str]:
    yield from ("", "## Figures", "", "| figure | median (least..most) |", "| --- | ---: |")
    for figure in report["figures"]:
        yield f"| {figure['name']} | {_cell(figure['samples'], figure['unit'])} |"


def _table(report: Report, cell: Callable[[Mapping[str, Any], str], str], labels: Sequence[str]) -> Iterator[str]:
    """Yield a table with a row for each measurement and a column for each contender; blank where it has no sample."""
    yield f"| | batch | {' | '.join(labels)} |"
    yield "| --- | ---: |" + " ---: |" * len(labels)
    for row in report["rows"]:
        cells = [cell(row, label) if label in row["contenders"] else "" for label in labels]
        yield f"| {row['name']} | {row['batch']} | {' | '.join(cells)} |"


def _cell(samples: Sequence[float], unit: str) -> str:
    median, least, most = _spread(samples).values()
    return f"{_digits(median)}{'' if unit in 'x%' else ' '}{unit} ({_digits(least)}..{_digits(most)})"


def _digits(value: float) -> str:
    """Write a value with at least three significant digits and no exponent."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def _spread(samples: Sequence[float]) -> dict[str, float]:
    return {"median": float(np.median(samples)), "least": float(min(samples)), "most": float(max(samples))}


def _smallest(report: Report) -> dict[str, Mapping[str, Any]]:
    """Return the row of the smallest batch, by kind."""
    rows: dict[str, Mapping[str, Any]] = {}
    for row in sorted(report["rows"], key=lambda row: row["batch"]):
        rows.setdefault(row["kind"], row)
    return rows


def _seconds(rows: Mapping[str, Mapping[str, Any]], kind: str, label: str | None) -> list[float] | None:
    """Return a contender's samples in a row, one for each round; None where it has none."""
    taken = rows.get(kind, {}).get("contenders", {}).get(label)
    return None if taken is None else taken["seconds"]
