"""The repository's files, for the checks beside this one."""

import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def tracked(pattern: str) -> list[str]:
    """Return the names, below ROOT and in order, of the files that git tracks, or would, and that exist."""
    names = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", pattern],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.splitlines()
    return sorted(name for name in {*names} if (ROOT / name).exists())
