"""Make the tables of a page anew, by the commands that stand above them.

    python tests/studies/tables.py docs/plain-methods.md --only photo --jobs 2 -o tables

runs every command of the page with the given text in it, from the folder at hand, in one thread each and --jobs at a
time. `frugal-rt eval --vs classical` is run task by task. A row that a command printed is put in the place of the one
with the same words, in a table with the same columns between that command and the next. Rows without a place are
printed. What has finished is kept in the output folder, so that an interrupted run goes on; after a change of the code
or the weights take another folder.
"""

import hashlib
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import click

from frugal_rt.engines.files import atomic_write
from frugal_rt.runtime.evaluation.suite import EVERYDAY

BEGINS = re.compile(r"(?:[A-Z_]+=\S+ )*(?:python|frugal-rt) ")
"""BEGINS matches the beginning of a command, with variables of the environment."""


@dataclass(frozen=True)
class Block:
    """A command of a page and the lines below it, up to the next."""

    command: str
    lines: range


def blocks(lines: list[str]) -> Iterator[Block]:
    """Yield the indented commands of a page; one that ends in a backslash goes on in the next line."""
    starts = [i for i, line in enumerate(lines) if line.startswith("    ") and BEGINS.match(line.strip())]
    for i, following in zip(starts, [*starts[1:], len(lines)], strict=True):
        last = i
        while lines[last].endswith("\\"):
            last += 1
        command = " ".join(line.strip().removesuffix("\\").strip() for line in lines[i : last + 1])
        yield Block(command, range(last + 1, following))


def jobs_of(command: str) -> list[list[str]]:
    """Return the words of the processes that make up a command, without variables and outputs.

    An evaluation of every task beside plain methods is a process for each task, any other command is one.
    """
    words = [word for word in shlex.split(command, comments=True) if not re.match(r"[A-Z_]+=", word)]
    for option in ("-o", "--output"):
        if option in words:
            del words[words.index(option) : words.index(option) + 2]
    words[:1] = [sys.executable] if words[0] == "python" else [sys.executable, "-m", "frugal_rt"]
    if "eval" not in words or "classical" not in words or "--tasks" in words:
        return [words]
    return [[*words, "--tasks", task] for task in EVERYDAY]


def finished(words: list[str], folder: Path) -> str:
    """Return what the command prints, by a run of it or from the folder. Raises ClickException where it fails."""
    readable = re.sub(r"[^a-zA-Z0-9.]+", "-", " ".join(words[1:]))[-80:].strip("-")
    name = f"{readable}-{hashlib.sha256(shlex.join(words[1:]).encode()).hexdigest()[:12]}"
    kept = folder / f"{name}.txt"
    if not kept.exists():
        into = ["-o", str(folder / name)] if "eval" in words else []
        one_thread = dict.fromkeys(("OMP_NUM_THREADS", "FRUGAL_RT_THREADS"), "1")
        done = subprocess.run([*words, *into], capture_output=True, text=True, env=os.environ | one_thread)
        if done.returncode:
            raise click.ClickException(f"{shlex.join(words)}\n{done.stderr}")
        with atomic_write(kept) as file:
            file.write(done.stdout.encode())
        click.echo(f"{len(list(folder.glob('*.txt')))}: {name}", err=True)
    return kept.read_text()


@dataclass(frozen=True)
class Row:
    """A row of a table: the line that holds it, and its cells by the names of the columns."""

    line: int
    cells: dict[str, str]

    @property
    def words(self) -> list[str]:
        """Return what the row is about: its first cell, and all others without a digit."""
        first, *rest = self.cells.values()
        return [first, *(cell for cell in rest if not re.search(r"\d", cell) and cell not in ("", "as fidelity"))]

    def holds(self, other: "Row") -> bool:
        """Tell whether the row has a place for every cell of another."""
        return self.cells.keys() >= other.cells.keys()


def rows(lines: list[str], within: range) -> Iterator[Row]:
    """Yield the rows of the tables within some lines. An option is named by its last word: `--aim detail` is detail."""
    columns: list[str] = []
    for i in within:
        cells = [cell.strip() for cell in lines[i].strip().removeprefix("|").removesuffix("|").split("|")]
        if not lines[i].startswith("|"):
            columns = []
        elif not columns:
            columns = [cell.strip("`").split(" ")[-1] if "`" in cell else cell for cell in cells]
        elif not lines[i].startswith("| ---"):
            yield Row(i, dict(zip(columns, cells, strict=True)))


def place(lines: list[str], within: range, made: Iterator[Row]) -> list[Row]:
    """Put rows that were made into the page's tables; return those whose words are nowhere in a table for them."""
    old, lost = list(rows(lines, within)), []
    for new in made:
        tables = [row for row in old if row.holds(new)]
        places = [row for row in tables if row.words == new.words]
        for row in places:
            fresh = {name: cell.removesuffix(" (0)") for name, cell in new.cells.items() if cell}
            if row.cells.get("detail") == "as fidelity" and "detail" in fresh:  # one result, printed once
                fresh["fidelity"] = fresh.pop("detail")
            row.cells.update(fresh)
            lines[row.line] = f"| {' | '.join(row.cells.values())} |"
        if tables and not places:
            lost.append(new)
    return lost


@click.command(help=__doc__)
@click.argument("page", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--only", default="", help="Text that a command must have.")
@click.option("--jobs", default=2, show_default=True)
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True)
def main(page: Path, only: str, jobs: int, output: Path) -> None:
    output.mkdir(parents=True, exist_ok=True)
    lines = page.read_text(encoding="utf-8").split("\n")
    found = [(block, jobs_of(block.command)) for block in blocks(lines) if only in block.command]
    with ThreadPoolExecutor(jobs) as pool:
        printed = [[pool.submit(finished, words, output) for words in each] for _, each in found]
        texts = ["\n".join(one.result() for one in each).split("\n") for each in printed]
    for (block, _), text in zip(found, texts, strict=True):
        for row in place(lines, block.lines, rows(text, range(len(text)))):
            click.echo(f"no place: {' | '.join(row.cells.values())}")
    with atomic_write(page) as file:
        file.write("\n".join(lines).encode())


if __name__ == "__main__":
    main()
