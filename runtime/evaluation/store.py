"""The folder of an evaluation. Finished groups are kept, so that the same command continues where it was stopped."""

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ...engines import FileError, InputError
from ...engines.files import HELD, alone, atomic_write
from ..pictures.images import read_photo, to_picture, write_png
from .evaluate import Group, Key, Row

RUN, ROWS = "run.json", "rows.csv"
PICTURES = "pictures"
SHOWN = 3
"""Images on the contact sheet."""
_TEXT = ("task", "method", "image")


class Store:
    """Store of finished groups' rows in FOLDER/rows.csv, and of the run's settings in FOLDER/run.json.

    `run` holds the settings that figures depend on, in JSON's types. Tasks, methods and seeds are no part of it, so
    that a later command may add some. Nothing is written before the first group. A store that groups are added to is
    opened by `alone`, others only read. Raises InputError where the folder holds another run or other files, unless
    `force`, which starts over.
    """

    def __init__(self, folder: Path, run: Mapping[str, Any], force: bool = False):
        self.folder, self.run = folder, json.loads(json.dumps(run))
        self.rows: list[Row] = []
        try:
            there = sorted(path.name for path in folder.iterdir()) if folder.exists() else []
        except OSError as error:
            raise InputError(f"{folder} is not a folder that can be read: {error.strerror}") from error
        taken = [name for name in there if name != HELD]
        if force or not taken:
            return
        if RUN not in taken:
            raise InputError(f"{folder} holds {taken[0]} and no evaluation; name another folder, or --force to use it")
        try:
            kept = json.loads((folder / RUN).read_text())
            rows = _parse((folder / ROWS).read_text()) if ROWS in taken else []
        except (OSError, ValueError, KeyError, csv.Error) as error:
            raise InputError(f"{folder} is damaged ({error}); name another folder, or --force to start over") from error
        names = {*kept, *self.run} if isinstance(kept, dict) else {"run"}
        other = sorted(name for name in names if not isinstance(kept, dict) or kept.get(name) != self.run.get(name))
        if other:
            raise InputError(
                f"{folder} holds a run of another {', '.join(other)}; name another folder, or --force to start over"
            )
        self.rows = rows

    @classmethod
    @contextmanager
    def alone(cls, folder: Path, run: Mapping[str, Any], force: bool = False) -> Iterator["Store"]:
        """Open a store and hold its folder: each command writes all rows, and two would drop each other's.

        Raises InputError where another command holds it.
        """
        with alone(folder):
            yield cls(folder, run, force)

    @property
    def finished(self) -> set[Key]:
        """Return the keys of the stored groups."""
        return {(row["task"], row["method"], row["seed"]) for row in self.rows}

    def add(self, group: Group) -> None:
        """Store a group, its pictures before its rows, so that stored rows have their pictures. Raises FileError."""
        if not self.rows:
            self._make()
        task, method, seed = group.key
        if seed == 0:
            write_png(self._strip(task, method), to_picture(np.concatenate(list(group.images[:SHOWN]), axis=2)))
        self.rows = [*self.rows, *group.rows]
        self.write(ROWS, _format(self.rows))

    def pictures(self, task: str, method: str) -> list[Image.Image] | None:
        """Return the first images as the method restored them with seed 0; None where the files are missing."""
        try:
            strip = read_photo(self._strip(task, method)).pixels
        except InputError:
            return None
        return [to_picture(one) for one in np.split(strip, strip.shape[2] // strip.shape[1], axis=2)]

    def write(self, name: str, text: str) -> None:
        """Write FOLDER/name, whole or not at all."""
        with atomic_write(self.folder / name) as file:
            file.write(text.encode())

    def _make(self) -> None:
        """Make the folder, write the run and remove the rows of an earlier one."""
        try:
            (self.folder / PICTURES).mkdir(parents=True, exist_ok=True)
            (self.folder / ROWS).unlink(missing_ok=True)
        except OSError as error:
            raise FileError(f"cannot write {self.folder}: {error.strerror}") from error
        self.write(RUN, json.dumps(self.run, indent=1) + "\n")

    def _strip(self, task: str, method: str) -> Path:
        return self.folder / PICTURES / f"{task} {method}.png"


def _format(rows: Sequence[Row]) -> str:
    """Write rows as CSV. None is empty; floats keep all digits."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _parse(text: str) -> list[Row]:
    """Read the rows that `_format` wrote. Raises ValueError, KeyError or csv.Error for anything else."""
    rows = []
    for line in csv.DictReader(io.StringIO(text), strict=True):
        if None in line or None in line.values():
            raise ValueError(f"{ROWS} has lines of unequal length")
        rows.append({name: value if name in _TEXT else _number(value) for name, value in line.items()})
        if not {*_TEXT, "seed"} <= line.keys():
            raise ValueError(f"{ROWS} lacks columns")
    return rows


def _number(text: str) -> float | None:
    """Parse a number or an empty cell; whole numbers become int, so that rewriting a file does not change it."""
    return None if not text else int(text) if text.isdecimal() else float(text)
