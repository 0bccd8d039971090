"""The command, called in this process."""

import sys
from pathlib import Path

from click.testing import CliRunner, Result

from frugal_rt.cli import main

FRUGAL = [sys.executable, "-c", "from frugal_rt.cli import main; main(prog_name='frugal-rt')"]


def frugal(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments, catch_exceptions=False)


def refuses(sentence: str, *arguments: str, status: int = 1) -> None:
    """Assert that the command fails with the given status and one line that holds `sentence`, and writes nothing."""
    before = sorted(Path.cwd().rglob("*"))
    result = frugal(*arguments)
    assert result.exit_code == status, result.output
    assert sentence in result.stderr.replace("\n", " "), result.output
    assert "Traceback" not in result.output
    if status == 1:
        error = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
        assert len(error) == 1
    assert sorted(Path.cwd().rglob("*")) == before


def runs(*arguments: str) -> Result:
    result = frugal(*arguments)
    assert result.exit_code == 0, result.output
    return result
