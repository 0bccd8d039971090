"""The checks of .ci/: each finds the fault it is for, and docs/cli.md is up to date."""

import ast
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / ".ci"))  # a check imports modules beside it


def check(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / ".ci" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def faults(name: str, text: str) -> list[str]:
    docs = check("check_docs")
    return [f"{number}: {why}" for number, why in getattr(docs, name)(text, ROOT / "README.md")]


@pytest.mark.parametrize(
    "source",
    [
        '"""What this does."""',
        'def f():\n    """Of the rows."""',
        'class A:\n    x: int = 0\n    """Those that are left."""',
        'SIDES = 3\n"""Which side."""',
        'class A:\n    """A thing."""\n\n    def f(self):\n        """And more."""',
    ],
)
def test_a_docstring_without_a_subject_is_found(source):
    words = check("check_words")
    assert sum(bool(words.WORDS.match(text)) for _, text in words.docstrings(ast.parse(source))) == 1


def test_a_docstring_with_one_and_another_string_are_not():
    words = check("check_words")
    source = '"""Whatever fits, and what does not."""\nprint("x")\n"""What is no docstring."""'
    assert [text for _, text in words.docstrings(ast.parse(source)) if words.WORDS.match(text)] == []


def test_a_ragged_table_is_found():
    assert faults("ragged", "| a | b |\n| --- | --- |\n| 1 | 2 |\n| 1 | 2 | 3 |") == [
        "4: a row of 3 cells in a table of 2"
    ]
    assert faults("ragged", "| a | b |\n| --- | --- |\n\n| 1 | 2 |") == ["4: a row outside of a table"]
    assert faults("ragged", "| a\\|b | c |\n| --- | ---: |\n| 1 | |\n\n```\n| x |\n```") == []


def test_a_dead_link_and_a_dead_anchor_are_found():
    text = "# A - b\n\n[a](#a---b) [b](LICENSE) [c](https://example.org/#x) `[d](no)`"
    assert faults("dead", text) == []
    assert faults("dead", f"{text}\n[e](#c)") == ["4: a link to #c, which README.md does not have"]
    assert faults("dead", "[f](docs/nothing.md)") == ["1: a link to docs/nothing.md, which is not there"]


def test_a_file_and_a_name_that_are_gone_are_found():
    docs = check("check_docs")
    page = ROOT / "docs" / "architecture.md"
    text = "See `runtime/sampling/equations.py`: `dps_step`, and `Restoration.move`; `operators.Custom`, `A.prepare()`."
    assert list(docs.missing(text, page)) == []
    assert list(docs.missing("    |  cli/restore.py   Run.here\n    V  equations.py", page)) == []
    gone = "`runtime/equations.py` and\n`dps_leap`, or `Restoration.leap` of `switch.py`"
    assert [why for _, why in docs.missing(gone, page)] == [
        "a file runtime/equations.py, which is not there",
        "a name dps_leap, which no module defines",
        "a name Restoration.leap, which no module defines",
    ]
    assert len(list(docs.missing(gone, ROOT / "README.md"))) == 1
    assert list(docs.missing(gone, ROOT / "docs" / "decisions" / "x.md")) == []


@pytest.mark.parametrize(
    "line",
    [
        "    frugal-rt restore photo.jpg --mask scratches.png --aim detail   # white is missing",
        "    frugal-rt restore - -o - < img.png > better.png",
        "    OMP_NUM_THREADS=1 frugal-rt eval --engine photo \\\n        --images faces",
        "    frugal-rt degrade x.png --task sr --scale 4 -o y.png && frugal-rt restore y.png",
        "Say `frugal-rt restore --grey mean` or `frugal-rt COMMAND --help` or `frugal-rt build --bundle`.",
        "    ssh-keygen -n frugal-rt celeba.plan",
        "    frugal-rt restore --params old.png -o new.png",
    ],
)
def test_a_command_line_that_runs_is_taken(line):
    assert faults("refused", line) == []


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("    frugal-rt restore photo.jpg --masks x.png", "No such option"),
        ("    frugal-rt restor photo.jpg", "no command"),
        ("    frugal-rt restore photo.jpg --preset quick", "'quick' is not one of"),
        ("    frugal-rt build", "Missing argument"),
        ("`frugal-rt restore --exact`", "No such option"),
        ("    true && frugal-rt degrade x.png --scale two -o y.png", "not a valid integer"),
    ],
)
def test_a_command_line_that_does_not_run_is_found(line, why):
    (fault,) = faults("refused", line)
    assert why in fault


def test_the_page_of_commands_is_what_they_say():
    cli = check("write_cli")
    assert cli.PAGE.read_text() == cli.page()


def test_the_figures_of_readme_are_those_of_the_page_that_it_names():
    """Four rows of docs/plain-methods.md, whose last cells are our PSNR minus the plain method's and LPIPS over its."""

    def rows(text: str) -> list[list[str]]:
        return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]

    page = (
        (ROOT / "docs" / "plain-methods.md").read_text().split("## Photographs")[1].split("The other plain methods")[0]
    )
    measured = {row[0]: (row[1], row[-2].partition(" +- ")[0] + " dB", row[-1]) for row in rows(page)}
    head, _, *shown = rows((ROOT / "README.md").read_text())
    assert head[:2] == ["damage", "plain method"]
    assert len(shown) == 4
    for name, *figures in shown:
        assert tuple(figures) == measured[name]
