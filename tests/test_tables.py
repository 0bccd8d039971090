"""The script that makes the tables of a page anew."""

import sys
from pathlib import Path

import pytest
import tables
from click.testing import CliRunner

PAGE = """# Results

    OMP_NUM_THREADS=1 frugal-rt eval --images some \\
        --vs classical -o results    # all of them

| task | plain method | | detail | fidelity | dB |
| --- | --- | ---: | ---: | ---: | ---: |
| noise | BM3D | 30.1 (5.6) | 30.2 (1.5) | 30.3 (0.7) | +0.2 |
| text | biharmonic | 32.1 (0.1) | as fidelity | 34.1 (1.4) | +2.0 |
| noise | non-local means | 28.1 (0.1) | 30.2 (1.5) | 30.3 (0.7) | +2.2 |

    python tests/studies/aims.py --images some

| task | `--aim detail` | `--preset balanced` |
| --- | ---: | ---: |
| noise | 30.5 |  |
| text | 34.5 | 32.5 |
"""
PRINTED = """A line.

| task | method | PSNR, dB |
| --- | --- | --- |
| noise | detail | 31.20 |

| task | plain method | | detail | fidelity | dB |
| --- | --- | ---: | ---: | ---: | ---: |
| noise | BM3D | 30.6 (6.6) | 30.7 (2.5) | 30.8 (1.7) | +0.3 |
| blur | Wiener | 26.1 (0.1) | 27.1 (1.1) | 28.1 (1.2) | +1.0 |

| task | plain method | | detail | dB |
| --- | --- | ---: | ---: | ---: |
| text | biharmonic | 32.6 (0.2) | 34.6 (2.4) | +2.5 |
"""


def test_the_commands_of_a_page_and_the_lines_below_each() -> None:
    lines = PAGE.split("\n")
    found = list(tables.blocks(lines))
    assert [block.command for block in found] == [
        "OMP_NUM_THREADS=1 frugal-rt eval --images some --vs classical -o results    # all of them",
        "python tests/studies/aims.py --images some",
    ]
    assert (lines[found[0].lines[0]], lines[found[0].lines[-1]]) == ("", "")
    assert found[1].lines[-1] == len(lines) - 1
    jobs = tables.jobs_of(found[0].command)
    assert len({job[-1] for job in jobs}) == len(jobs) > 10
    begins = [sys.executable, "-m", "frugal_rt", "eval", "--images", "some", "--vs", "classical", "--tasks"]
    assert all(job[:-1] == begins for job in jobs)
    assert tables.jobs_of(found[1].command) == [[sys.executable, "tests/studies/aims.py", "--images", "some"]]


def test_rows_are_put_where_their_words_are() -> None:
    lines = PAGE.split("\n")
    first, second = tables.blocks(lines)
    printed = PRINTED.split("\n")
    lost = tables.place(lines, first.lines, tables.rows(printed, range(len(printed))))
    assert [row.words for row in lost] == [["blur", "Wiener"]]
    short = ["| task | detail |", "| --- | --- |", "| noise | 31.5 (0) |"]
    assert not tables.place(lines, second.lines, tables.rows(short, range(3)))
    expected = PAGE.replace(
        "30.1 (5.6) | 30.2 (1.5) | 30.3 (0.7) | +0.2", "30.6 (6.6) | 30.7 (2.5) | 30.8 (1.7) | +0.3"
    )
    expected = expected.replace(
        "32.1 (0.1) | as fidelity | 34.1 (1.4) | +2.0", "32.6 (0.2) | as fidelity | 34.6 (2.4) | +2.5"
    )
    assert "\n".join(lines) == expected.replace("| noise | 30.5 |", "| noise | 31.5 |")


@pytest.mark.parametrize(
    "prints", ["print('| task | dB |\\n| --- | --- |\\n| x2 | 27.5 |')", "raise SystemExit('no such picture')"]
)
def test_what_has_finished_is_kept_and_a_failure_leaves_the_page(tmp_path: Path, prints: str) -> None:
    script, page = tmp_path / "made.py", tmp_path / "page.md"
    before = f"    python {script}\n\n| task | dB |\n| --- | --- |\n| x2 | 27.4 |\n"
    script.write_text(prints)
    page.write_text(before)
    asked = [str(page), "-o", str(tmp_path / "out")]
    result = CliRunner().invoke(tables.main, asked)
    if "raise" in prints:
        assert "no such picture" in result.output
        assert result.exit_code == 1
        assert page.read_text() == before
        return
    assert page.read_text() == before.replace("27.4", "27.5")
    script.write_text("raise SystemExit(1)")
    assert CliRunner().invoke(tables.main, asked).exit_code == 0


def test_commands_that_end_alike_are_kept_apart(tmp_path: Path) -> None:
    for name in ("one", "two"):
        script, tail = tmp_path / f"{name}.py", "same " * 40
        script.write_text(f"print('{name}')")
        for _ in range(2):
            assert tables.finished([sys.executable, str(script), *tail.split()], tmp_path) == f"{name}\n"
