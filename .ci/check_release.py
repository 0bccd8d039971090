"""Check the files of a release: python .ci/check_release.py dist

The wheel holds every module and file of the package and nothing else, has the version of the code, and is small enough
for a package index.
"""

import ast
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OUTSIDE = (".ci/", ".github/", "docs/", "examples/", "tests/")
"""Folders of the repository that are no part of the package."""
DATA = (".py", ".typed", ".safetensors", ".json", ".csv", ".zip", ".html", ".css", ".js", ".png", ".md", "LICENSE")
MOST = 100 << 20
"""The most bytes of a file on a package index."""


def expected() -> set[str]:
    """Return the files of the package that git tracks, by their names in a wheel."""
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True).stdout.split()
    inner = [name for name in tracked if not name.startswith(OUTSIDE) and name.endswith(DATA)]
    return {f"frugal_rt/{name}" for name in inner if "/" in name or name.endswith((".py", ".typed"))}


def version() -> str:
    """Return the version in the code."""
    tree = ast.parse((ROOT / "engines/version.py").read_text())
    values = [node.value for node in tree.body if isinstance(node, ast.Assign) and node.targets[0].id == "__version__"]
    return ast.literal_eval(values[0])


def main(folder: str) -> None:
    """Exit with a sentence for each thing that is wrong."""
    (wheel,), (sdist,) = Path(folder).glob("*.whl"), Path(folder).glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
    wrong = [f"{wheel.name} lacks {name}" for name in sorted(expected() - held)]
    wrong += [f"{wheel.name} holds {name}, which is no part of the package" for name in sorted(held - expected())]
    for file in (wheel, sdist):
        if not file.name.startswith(f"frugal_rt-{version()}"):
            wrong.append(f"{file.name} is not of version {version()}")
        if file.stat().st_size > MOST:
            wrong.append(f"{file.name} has {file.stat().st_size >> 20} MiB; an index takes {MOST >> 20}")
    if wrong:
        sys.exit("\n".join(wrong))
    print(f"{wheel.name} and {sdist.name}: version {version()}, {len(held)} files, all of the package and no others")


if __name__ == "__main__":
    main(sys.argv[1])
