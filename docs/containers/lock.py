"""Pin every package that the containers install, with its version and its wheels' SHA-256, and write an SBOM.

    python docs/containers/lock.py

asks pip for the wheels of Python 3.12 for Linux, on x86-64 and on Arm, that the requirements of pyproject.toml resolve
to. It writes requirements-NAME.txt, for `pip install --require-hashes`, and sbom-NAME.json (CycloneDX 1.6) beside this
file. The names are cpu and cuda, for running, and build, for building frugal-rt's wheel. `--sbom` writes the SBOMs
alone, from the existing requirements. Hashes are the package index's, each checked by pip against the wheel; compare
them with another index's before you trust a single one.
"""

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import tomllib

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PYTHON = "3.12"
MACHINES = ("x86_64", "aarch64")
GLIBC = 36
"""The minor version of glibc in Debian bookworm; Ubuntu 24.04 has a later one, which runs the same wheels."""
LINE = re.compile(r"(?P<name>[\w.-]+)==(?P<version>\S+)(?P<hashes>(?: \\\n    --hash=sha256:[0-9a-f]{64})+)\n")


class Pinned(NamedTuple):
    """A package with its version and hashes."""

    name: str
    version: str
    hashes: tuple[str, ...]
    """SHA-256 of its wheels, one for each machine with its own wheel."""


def asked() -> dict[str, list[str]]:
    """Return the requirements of each set, from pyproject.toml."""
    said = tomllib.loads((ROOT / "pyproject.toml").read_text())
    base, extras = said["project"]["dependencies"], said["project"]["optional-dependencies"]
    onnxruntime_gpu = next(one for one in extras["gpu"] if one.startswith("onnxruntime-gpu"))
    return {
        "cpu": [*base, *extras["cpu"], *extras["serve"]],
        "cuda": [*base, onnxruntime_gpu, *extras["serve"]],
        "build": said["build-system"]["requires"],
    }


def resolve(requirements: list[str], machine: str) -> dict[str, Pinned]:
    """Return, by name, the packages that pip would install for `requirements` on a machine. Raises SystemExit."""
    tags = [f"manylinux_2_{minor}_{machine}" for minor in range(GLIBC, 16, -1)] + [f"manylinux2014_{machine}"]
    words = [word for tag in tags for word in ("--platform", tag)]
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch, "report.json")
        pip = [sys.executable, "-m", "pip", "install", "--dry-run", "--quiet", "--disable-pip-version-check"]
        pip += ["--ignore-installed", "--target", scratch, "--report", str(report), "--only-binary", ":all:"]
        pip += ["--implementation", "cp", "--python-version", PYTHON, *words, *requirements]
        if subprocess.run(pip, check=False).returncode:
            sys.exit(f"pip finds no wheels for Python {PYTHON} on {machine}")
        found = {}
        for one in json.loads(report.read_text())["install"]:
            name = re.sub(r"[-_.]+", "-", one["metadata"]["name"]).lower()
            digest = one["download_info"]["archive_info"]["hashes"]["sha256"]
            found[name] = Pinned(name, one["metadata"]["version"], (digest,))
    return found


def lock(requirements: list[str], machines: tuple[str, ...]) -> list[Pinned]:
    """Return the packages of all machines, sorted by name. Raises SystemExit where their versions differ."""
    of_each = [resolve(requirements, machine) for machine in machines]
    pinned = []
    for name in sorted({name for found in of_each for name in found}):
        same = [found[name] for found in of_each if name in found]
        if len({one.version for one in same}) > 1:
            sys.exit(f"{name} is {' and '.join(one.version for one in same)} on {' and '.join(machines)}; pin it")
        pinned.append(Pinned(name, same[0].version, tuple(sorted({one.hashes[0] for one in same}))))
    return pinned


def as_requirements(pinned: list[Pinned]) -> str:
    """Return the text of a requirements file."""
    head = "# Written by docs/containers/lock.py; not to be changed by hand.\n"
    hashed = (
        f"{one.name}=={one.version}" + "".join(f" \\\n    --hash=sha256:{digest}" for digest in one.hashes)
        for one in pinned
    )
    return head + "\n".join(hashed) + "\n"


def read(text: str) -> Iterator[Pinned]:
    """Yield the packages of a requirements file of `as_requirements`. Raises SystemExit for any other line."""
    body = text.split("\n", 1)[1]
    if LINE.sub("", body):
        sys.exit(f"this is no line of a package with its hashes: {LINE.sub('', body).splitlines()[0]}")
    for found in LINE.finditer(body):
        yield Pinned(found["name"], found["version"], tuple(re.findall("[0-9a-f]{64}", found["hashes"])))


def as_sbom(name: str, pinned: list[Pinned]) -> str:
    """Return a set as CycloneDX 1.6, without a time or serial number, so that the same packages give the same file."""
    components: list[Mapping[str, Any]] = [
        {
            "type": "library",
            "bom-ref": f"pkg:pypi/{one.name}@{one.version}",
            "name": one.name,
            "version": one.version,
            "purl": f"pkg:pypi/{one.name}@{one.version}",
            "hashes": [{"alg": "SHA-256", "content": digest} for digest in one.hashes],
        }
        for one in pinned
    ]
    about = {"type": "application", "bom-ref": "frugal-rt", "name": "frugal-rt", "description": f"its packages: {name}"}
    said = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": about},
        "components": components,
    }
    return json.dumps(said, indent=1) + "\n"


def main() -> None:
    if sys.argv[1:] not in ([], ["--sbom"]):
        sys.exit(__doc__)
    for name, requirements in asked().items():
        file = HERE / f"requirements-{name}.txt"
        if not sys.argv[1:]:
            machines = MACHINES[:1] if name == "cuda" else MACHINES  # onnxruntime-gpu has wheels for x86-64 alone
            file.write_text(as_requirements(lock(requirements, machines)))
        (HERE / f"sbom-{name}.json").write_text(as_sbom(name, [*read(file.read_text())]))


if __name__ == "__main__":
    main()
