"""frugal-rt inspect"""

import json
from pathlib import Path

import click

from ..engines import Plan, open_plan
from ..engines.betas import UNSAID
from ..engines.files import is_there
from ..engines.tensorrt.store import Record, bundled
from ..export.mixed import say_mixed
from . import options, talk


@click.command()
@click.argument("plan", type=options.PATH)
@click.option("--json", "as_json", is_flag=True, help="Print the manifest, as JSON.")
@click.option("--extract", metavar="DIR", type=options.PATH, help="Write every member into DIR.")
def command(plan: Path, as_json: bool, extract: Path | None) -> None:
    """Describe PLAN, after checking every member against its hash, and that its graphs read its own weights alone."""
    opened = open_plan(plan)
    opened.check()
    if extract is not None:
        for path in opened.extract(extract):
            click.echo(str(path), err=as_json)
    if as_json:
        click.echo(json.dumps(opened.manifest, indent=2, sort_keys=True))
    elif extract is None:
        _describe(plan, opened)


def _engine(record: Record) -> str:
    """Describe one of the plan's TensorRT engines in a few words."""
    gpu = record.here.gpu or "any GPU"
    by = f"{record.here.flavour} {record.here.version}"
    return f"{record.precision} by {by} for {gpu} of compute capability {record.here.capability}"


def _describe(path: Path, plan: Plan) -> None:
    manifest = plan.manifest
    size = path.stat().st_size if is_there(path) else sum(len(plan.member(name)) for name in plan.members)
    prior, image, schedule = manifest["prior"], manifest["image"], {**UNSAID, **manifest["schedule"]}
    parity = ", ".join(f"{what} {error:.1e}" for what, error in manifest.get("parity", {}).items())
    lines = {
        "plan": f"{path}, format {manifest['format_version']}, {size / 1e6:.1f} MB, all hashes match, "
        "graphs read nothing but its weights",
        "prior": f"{prior['name']}, {plan.size} on {image['range']}",
        "licence": prior["licence"],
        "schedule": f"{schedule['beta_schedule']}, {schedule['num_train_timesteps']} steps, "
        f"predicts {schedule['prediction_type']}, variance {schedule['variance_type']}",
        "graphs": ", ".join(f"{name} ({graph['member']})" for name, graph in manifest["graphs"].items())
        + f", {manifest['precision']}",
        "engines": "; ".join(map(_engine, bundled(plan))) or "none",
        "parity": f"largest relative error against torch: {parity or 'not measured'}",
        "in half": "; ".join(f"{name}: {say_mixed(one)}" for name, one in manifest.get("mixed", {}).items())
        or "no graphs",
        "made with": ", ".join(f"{name} {version}" for name, version in manifest["tools"].items()),
    }
    for heading, text in lines.items():
        talk.say(f"{heading + ':':10} {text}")
    for name, member in manifest["members"].items():
        talk.say(f"{'member:':10} {name}, {member['bytes']} bytes, SHA-256 {member['sha256']}")
    if prior["card"]:
        talk.say(f"\n{prior['card'].strip()}")
