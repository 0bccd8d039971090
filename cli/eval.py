"""frugal-rt eval"""

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import click

from ..engines import InputError
from ..engines.extras import version
from ..engines.files import atomic_write
from ..engines.machine import cores, processor, versions
from ..engines.onnxruntime.lpips import Lpips
from ..engines.plan import WEIGHTS
from ..engines.version import __version__
from ..export.lpips import fetch_lpips
from ..runtime.evaluation.classical import plain_methods
from ..runtime.evaluation.contender import OURS, our_methods
from ..runtime.evaluation.deepinv import deepinv_methods
from ..runtime.evaluation.evaluate import Evaluation, Row
from ..runtime.evaluation.picture_set import PictureSet, read_pictures
from ..runtime.evaluation.report import markdown, results, sheet
from ..runtime.evaluation.ssim import load_ssim
from ..runtime.evaluation.store import Store
from ..runtime.evaluation.suite import EVERYDAY, KNOWN, TASKS, choose
from ..runtime.pictures.images import check_output, write_png
from ..runtime.pictures.options import read_sigma
from ..runtime.restorer import Restorer
from ..runtime.sampling.guidance import AIMS, METHODS, PRESET, SPELLED
from . import options, talk
from .progress import stages, steps

STEPS = 100
"""Sampling steps where --steps is left out."""
USUAL = (*AIMS, PRESET)
"""Our settings that are compared with plain methods."""


@click.command()
@click.option("-e", "--engine", metavar="PLAN", type=options.PATH, help="The plan to evaluate.")
@click.option(
    "--images", metavar="DIR|TAR", type=options.PATH, help="Damage and restore the pictures in this folder or .tar."
)
@click.option("--count", metavar="N", type=click.IntRange(1), help="Take only the first N pictures, by name.")
@click.option("--fit", type=click.Choice(["crop", "resize"]), help="Bring pictures of another size to the prior's.")
@click.option(
    "--tasks",
    help=f"Run these tasks, comma-separated. Default: {','.join(TASKS)}; with --vs classical {','.join(EVERYDAY)}.",
)
@click.option(
    "--methods",
    help=f"Run these methods, comma-separated: {', '.join(OURS)}. Default: the first five; with --vs classical "
    f"{','.join(USUAL)}.",
)
@click.option(
    "--vs",
    type=click.Choice(["deepinv", "classical"]),
    help="Run deepinv's DPS, DiffPIR and DDRM too, or the plain methods for each task.",
)
@click.option(
    "--noise",
    metavar="N",
    help="The noise of every task but JPEGs, in grey levels of 255. Default: 1.3, or the task's own.",
)
@click.option(
    "--sigma", metavar="S", help="The same noise on the [-1, 1] scale. Default: 0.01, or the task's own; denoise 0.25."
)
@click.option("--steps", "steps_", type=int, help=f"Take T sampling steps in each method. Default: {STEPS}.")
@click.option(
    "--seeds", metavar="N", type=click.IntRange(1), default=1, show_default=True, help="Repeat with the seeds 0 to N-1."
)
@click.option(
    "--samples",
    metavar="N",
    type=click.IntRange(2),
    help="Restore each picture N times, and compare their deviation with the error.",
)
@options.switch
@options.every
@options.guidance
@options.zeta
@options.lam
@options.backend
@options.trust_engines
@click.option("--lpips", metavar="FILE", type=options.PATH, help="Measure LPIPS too, by this ONNX file.")
@click.option(
    "-o",
    "--output",
    metavar="FOLDER",
    type=options.PATH,
    help="Keep rows, tables and pictures in FOLDER. The same command continues where it stopped.",
)
@click.option("--json", "json_", metavar="FILE", type=options.PATH, help="Write the means to FILE, as JSON.")
@click.option(
    "--fetch-lpips", "fetched", metavar="FILE", type=options.PATH, help="Make the file for --lpips, and nothing else."
)
@options.force
@talk.quiet
@talk.verbose
def command(
    engine: Path | None,
    images: Path | None,
    count: int | None,
    fit: str | None,
    tasks: str | None,
    methods: str | None,
    vs: str | None,
    noise: str | None,
    sigma: str | None,
    steps_: int | None,
    seeds: int,
    samples: int | None,
    backend: str,
    trust_engines: bool,
    lpips: Path | None,
    output: Path | None,
    json_: Path | None,
    fetched: Path | None,
    force: bool,
    **settings: Any,
) -> None:
    """Measure how well a prior restores: PSNR, SSIM and LPIPS of every task by every method over many pictures.

    Prints Markdown tables. A prior of any size restores all pictures at the size of the first. With -o, finished rows
    are kept in FOLDER: the same command continues where it was stopped, and more tasks, methods or seeds are added.
    """
    if fetched is not None:
        if engine or images:
            raise InputError("--fetch-lpips makes the LPIPS file and evaluates nothing; run it alone first")
        _fetch(fetched, force)
        return
    if engine is None or images is None:
        raise InputError("say what to evaluate: --engine PLAN and --images DIR")
    usual_tasks, usual_methods = (EVERYDAY, USUAL) if vs == "classical" else (TASKS, METHODS)
    ours = choose("all" if methods is None else methods, OURS, "method", list(usual_methods))
    for name, value in {"steps": None if vs == "deepinv" else steps_, **settings}.items():
        if value is not None and not any(name in ("steps", *METHODS[method]) for method in ours if method in METHODS):
            raise click.UsageError(f"none of --methods {','.join(ours)} has the setting --{SPELLED.get(name, name)}")
    target = None if json_ is None else check_output(json_, force, (".json",))
    steps_ = STEPS if steps_ is None else steps_
    asked = {"steps": steps_, **{name: value for name, value in settings.items() if value is not None}}
    with stages() as on_stage:
        on_stage("reading the plan")
        load_ssim()
        restorer = Restorer.load(engine, backend, trust_engines=trust_engines)
        on_stage("reading the pictures")
        any_size = restorer.plan.stride is not None
        pictures = read_pictures(images, restorer.image_shape, count, fit, any_size)
        if pictures.images.shape[1:] != restorer.image_shape:
            restorer = restorer.at(*pictures.images.shape[2:])
        others = {
            "deepinv": lambda: deepinv_methods(restorer.plan, steps_),
            "classical": lambda: plain_methods(talk.note),
        }
        evaluation = Evaluation(
            pictures=pictures,
            contenders=[*our_methods(restorer, ours, asked), *(others[vs]() if vs else [])],
            tasks=choose("all" if tasks is None else tasks, list(KNOWN), "task", list(usual_tasks)),
            seeds=seeds,
            sigma=read_sigma(noise, sigma),
            samples=samples,
            lpips=None if lpips is None else Lpips(lpips).for_images(restorer.image_shape),
        )
    run = _run(restorer, evaluation, asked)
    with nullcontext() if output is None else Store.alone(output, run, force) as store:
        rows = _evaluate(evaluation, store)
        judges = ("scikit-image", *{"deepinv": ["deepinv"], "classical": ["bm3d"]}.get(vs or "", []))
        tools = {**versions(), **{name: found for name in judges if (found := version(name))}}
        run["made_with"] = {"cores": cores(), "processor": processor(), "versions": tools}
        page, report = markdown(rows, run, restorer.image_shape), json.dumps(results(rows, run), indent=1) + "\n"
        click.echo(page, nl=False)
        if store is not None:
            store.write("summary.md", page)
            store.write("results.json", report)
            write_png(store.folder / "sheet.png", sheet(rows, evaluation.pictures, store.pictures, evaluation.sigma))
    if target is not None:
        with atomic_write(target) as file:
            file.write(report.encode())


def _fetch(path: Path, force: bool) -> None:
    target = check_output(path, force, (".onnx",))
    with stages() as on_stage:
        worst = fetch_lpips(target, on_stage)
    click.echo(f"{target}: largest relative error against the lpips package {worst:.1e}")


def _evaluate(evaluation: Evaluation, store: Store | None) -> list[Row]:
    """Evaluate every group that the store lacks, store each when it is done, and return all rows."""
    finished = set() if store is None else store.finished
    rows: list[Row] = [] if store is None else store.rows

    with steps("evaluation", evaluation.events(finished)) as watch:
        for group in evaluation.groups(finished, watch.on_step, talk.note):
            if store is not None:
                store.add(group)
            rows = [*rows, *group.rows]
            mean = sum(row["psnr"] for row in group.rows) / len(group.rows)
            talk.note("{} by {}, seed {}: {:.2f} dB".format(*group.key, mean))
    if not rows:
        raise InputError("nothing was left to evaluate; choose other tasks or methods")
    return rows


def _run(restorer: Restorer, evaluation: Evaluation, settings: dict[str, Any]) -> dict[str, Any]:
    """Return the settings, beside task, method and seed, that decide the figures."""
    pictures: PictureSet = evaluation.pictures
    return {
        "frugal_rt": __version__,
        "prior": restorer.plan.manifest["prior"]["name"],
        "weights_sha256": restorer.plan.manifest["members"][WEIGHTS]["sha256"],
        "backend": restorer.engine.name,
        "images": {"count": len(pictures.names), "names": list(pictures.names), "sha256": pictures.sha256},
        "settings": settings,
        "sigma": evaluation.sigma,
        "samples": evaluation.samples,
        "lpips_sha256": getattr(evaluation.lpips, "sha256", None),
    }
