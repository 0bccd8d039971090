"""Measure what leaving torch out saves: install a wheel twice, [cpu] and [cpu,torch], into fresh environments.

Then the same restoration in fresh processes, the two in turn: onnxruntime alone in one, --backend torch in the other.

python -m build --wheel
python tests/studies/footprint.py --wheel dist/*.whl --engine celeba.plan --json footprint.json
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import numpy as np

from frugal_rt.engines.files import atomic_write
from frugal_rt.engines.machine import cores, processor

PATHS = {"lean": ("cpu", "cpu"), "torch": ("cpu,torch", "torch")}
"""By name: the extras installed, and the backend that restores."""
NOT_OURS = ("pip", "pip-*", "setuptools", "setuptools-*", "_distutils_hack", "distutils-precedence.pth")
"""Files of an environment before anything is installed."""

RESTORE = """
import json, resource, sys, time
started = time.perf_counter()
import frugal_rt
imported = time.perf_counter()
from frugal_rt import Restorer
from frugal_rt.runtime import demo
ready = time.perf_counter()
plan, backend, method, steps, image = sys.argv[1:]
restorer = Restorer.load(plan, backend)
restorer.engine.prepare(gradients=method != "dmps")
loaded = time.perf_counter()
measured = demo.measure(restorer, "super-resolution x4", 0)
result = restorer.restore(measured.y, measured.operator, steps=int(steps), method=method)
restored = time.perf_counter()
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
print(json.dumps({
    "import_frugal_rt": imported - started,
    "import_to_restore": ready - started,
    "load": loaded - ready,
    "restore": restored - loaded,
    "peak_rss": peak,
    "torch": "torch" in sys.modules,
    "engine": restorer.engine.name,
}), flush=True)
import numpy
numpy.save(image, result.image)
"""
TOOLS = ("frugal-rt", "numpy", "onnxruntime", "torch", "diffusers")
"""Distributions that the page names."""
FIGURES = {
    "import_frugal_rt": ("import frugal_rt", "ms", 1e3),
    "import_to_restore": ("import what restoring needs, before a backend", "ms", 1e3),
    "load": ("open the plan, load the engine and its gradient", "s", 1),
    "restore": ("restore, once loaded", "s", 1),
    "first_image": ("process start to first restored image", "s", 1),
    "peak_rss": ("peak resident memory", "MB", 1e-6),
}
"""By key of a run: what it is, its unit, and what brings the raw value (seconds, bytes) there."""


@click.command(help=__doc__)
@click.option("--wheel", type=click.Path(exists=True, dir_okay=False, path_type=Path), required=True)
@click.option("--engine", type=click.Path(exists=True, dir_okay=False, path_type=Path), required=True)
@click.option("--method", type=click.Choice(["frugal", "dps", "dmps"]), default="frugal")
@click.option("--steps", default=20)
@click.option("--runs", type=click.IntRange(1), default=5)
@click.option("--constraint", type=click.Path(exists=True, path_type=Path), help="For pip: torch's CPU build, say.")
@click.option("--json", "json_", type=click.Path(path_type=Path), help="Write every run.")
def main(
    wheel: Path, engine: Path, method: str, steps: int, runs: int, constraint: Path | None, json_: Path | None
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        pythons = {name: install(root / name, wheel, extras, constraint) for name, (extras, _) in PATHS.items()}
        taken: dict[str, list[dict[str, Any]]] = {name: [] for name in PATHS}
        for number in range(runs + 1):  # the first run warms the disk's cache and is not counted
            for name, (_, backend) in PATHS.items():
                click.echo(f"run {number} of {runs}: {name}", err=True)
                arguments = (str(engine.resolve()), backend, method, str(steps), str(root / f"{name}.npy"))
                taken[name].append(restore(pythons[name], root, *arguments))
        if taken["lean"][0]["torch"]:
            raise click.ClickException("the lean environment imported torch; its figures would mean nothing")
        lean, torch = (np.load(root / f"{name}.npy") for name in PATHS)
        report = {
            "machine": f"{cores()} cores of {processor()}",
            "settings": {"wheel": wheel.name, "plan": engine.name, "method": method, "steps": steps, "runs": runs},
            "difference": float(np.abs(lean - torch).max()),
            "paths": {
                name: {
                    "extras": PATHS[name][0],
                    "engine": taken[name][0]["engine"],
                    "versions": versions(pythons[name]),
                    "installed_bytes": installed_bytes(pythons[name]),
                    "first_run": taken[name][0],
                    "runs": taken[name][1:],
                }
                for name in PATHS
            },
        }
    click.echo("\n".join(markdown(report)))
    if json_ is not None:
        with atomic_write(json_) as file:
            file.write((json.dumps(report, indent=1) + "\n").encode())


def install(folder: Path, wheel: Path, extras: str, constraint: Path | None) -> Path:
    """A fresh environment with the wheel and its extras; the path of its interpreter."""
    click.echo(f"installing [{extras}]", err=True)
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    held = [] if constraint is None else ["--constraint", str(constraint)]
    done = subprocess.run([*pip, *held, f"{wheel.resolve()}[{extras}]"], capture_output=True, text=True)
    if done.returncode:
        raise click.ClickException(f"pip cannot install [{extras}]: {done.stderr.strip()}")
    return python


def restore(python: Path, cwd: Path, *arguments: str) -> dict[str, Any]:
    """One restoration in a fresh process: its own figures, and the seconds from its start until it answered."""
    started = time.perf_counter()
    command = [str(python), "-I", "-c", RESTORE, *arguments]
    with subprocess.Popen(command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None  # a pipe, as asked for above
        answer = process.stdout.readline()
        seconds = time.perf_counter() - started
        _, errors = process.communicate()
    if process.returncode:
        raise click.ClickException(f"the restoration failed: {errors.strip().splitlines()[-1]}")
    return {**json.loads(answer), "first_image": seconds}


def site_packages(python: Path) -> Path:
    """Where an environment's packages lie."""
    ask = "import sysconfig; print(sysconfig.get_path('purelib'))"
    return Path(
        subprocess.run([str(python), "-I", "-c", ask], check=True, capture_output=True, text=True).stdout.strip()
    )


def installed_bytes(python: Path) -> int:
    """The bytes of all files in site-packages, bytecode included, but for what every environment holds."""
    entries = [
        entry for entry in site_packages(python).iterdir() if not any(entry.match(pattern) for pattern in NOT_OURS)
    ]
    files = (file for entry in entries for file in ([entry] if entry.is_file() else entry.rglob("*")))
    return sum(file.lstat().st_size for file in files if not file.is_dir())


def versions(python: Path) -> dict[str, str]:
    """Every distribution of an environment."""
    ask = "import importlib.metadata as m, json; print(json.dumps({d.name: d.version for d in m.distributions()}))"
    return dict(sorted(json.loads(_ask(python, ask)).items()))


def _ask(python: Path, program: str) -> str:
    done = subprocess.run([str(python), "-I", "-c", program], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def markdown(report: dict[str, Any]) -> list[str]:
    """Medians with least..most of both paths, and lean over torch."""
    settings, paths = report["settings"], report["paths"]
    lean, torch = paths["lean"], paths["torch"]
    lines = [
        f"{settings['method']}, T = {settings['steps']}, {settings['plan']}; {report['machine']}; "
        f"medians (least..most) of {settings['runs']} fresh processes, after one that is not counted.",
        "",
        *(
            f"- {name}: frugal-rt[{path['extras']}], {path['engine']}: "
            + ", ".join(f"{tool} {path['versions'][tool]}" for tool in TOOLS if tool in path["versions"])
            for name, path in paths.items()
        ),
        f"- the two images differ by at most {report['difference']:.1e} on [-1, 1]",
        "",
        "| | lean | torch | lean / torch |",
        "| --- | ---: | ---: | ---: |",
        f"| installed, without pip and setuptools | {lean['installed_bytes'] / 1e6:.0f} MB "
        f"| {torch['installed_bytes'] / 1e6:.0f} MB | {lean['installed_bytes'] / torch['installed_bytes']:.2f} |",
    ]
    for key, (name, unit, scale) in FIGURES.items():
        samples = [[scale * run[key] for run in path["runs"]] for path in (lean, torch)]
        cells = [f"{_median(s)} {unit} ({min(s):.3g}..{max(s):.3g})" for s in samples]
        ratio = statistics.median(samples[0]) / statistics.median(samples[1])
        lines.append(f"| {name} | {' | '.join(cells)} | {ratio:.2f} |")
    return lines


def _median(samples: list[float]) -> str:
    return f"{statistics.median(samples):.3g}"


if __name__ == "__main__":
    main()
