"""The documentation: every command of docs/answers.md runs, and the tests that pages name exist."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import httpx
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from frugal_rt import Plan
from frugal_rt.cli import main
from frugal_rt.runtime.pictures.images import PORTRAIT

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "answers.md"
ROWS = re.findall(r"^\| .* \| `(frugal-rt [^`]+)` \| `([^`]+)` \|$", PAGE.read_text(), re.MULTILINE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_plan, make_prior) -> Path:
    """The files that the page speaks of; commands run one after another in it, as a reader's would."""
    folder = tmp_path_factory.mktemp("answers")
    random = np.random.default_rng(0)

    def picture(name: str, *shape: int) -> None:
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(random.integers(0, 256, shape, dtype=np.uint8)).save(path)

    for name in ("img.png", "photos/a.png", "photos/b.png", "faces/a.png"):
        picture(name, 16, 16, 3)
    picture("large.png", 20, 28, 3)
    picture("badge.png", 11, 13, 3)
    party = Image.new("RGB", (200, 150), "grey")
    party.paste(Image.open(PORTRAIT), (70, 30))
    party.save(folder / "party.png")
    picture("kernel.png", 3, 3)
    mask = np.zeros((16, 16), np.uint8)
    mask[4:9, 3:8] = 255
    Image.fromarray(mask).save(folder / "mask.png")
    matrix = random.standard_normal((20, 256))
    np.save(folder / "A.npy", matrix)
    np.save(folder / "y.npy", np.clip(matrix @ random.uniform(-1, 1, 256) / 9, -9, 9)[None, None].astype(np.float32))
    plan = Plan.open(tiny_plan)
    plan.manifest["prior"]["framing"] = {"centre": [0.5, 0.6], "side": 0.8}
    plan.save(folder / "celeba.plan")
    (folder / "prior").symlink_to(make_prior())
    return folder


def test_the_page_has_a_row_for_each_complaint():
    assert len(ROWS) == PAGE.read_text().count("\n| ") - 2  # but for the heading and the line below it


@pytest.mark.parametrize("command", [command for command, _ in ROWS])
def test_the_command_answers(folder, monkeypatch, command):
    monkeypatch.chdir(folder)
    arguments = shlex.split(command)[1:]
    if arguments[0] == "serve":
        assert served([*arguments, "--port", "0"]) == 0
        return
    if arguments[0] in ("restore", "eval") and "--params" not in arguments:
        arguments += ["--steps", "4"]
    result = CliRunner().invoke(main, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    for name in re.findall(r"-o (\S+)", command):
        assert (folder / name).exists()


def served(arguments: list[str]) -> int:
    """The exit status of a service that is stopped as soon as it takes requests."""
    command = [sys.executable, "-c", "from frugal_rt.cli import main; main()", *arguments]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        address = next(line.split(" on ")[1].strip() for line in process.stderr if " on http://" in line)
        with httpx.Client(transport=httpx.HTTPTransport(retries=5)) as client:
            assert client.get(f"{address}/readyz").json() == {"status": "ready"}
        process.terminate()
        return process.wait(30)


@pytest.mark.parametrize("named", [named for _, named in ROWS])
def test_the_test_that_holds_it_is_there(named):
    file, _, name = named.partition("::")
    assert f"def {name}(" in (Path(__file__).parent / file).read_text() or not name


@pytest.mark.parametrize(
    "page", [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))], ids=lambda page: page.name
)
def test_the_files_of_tests_that_a_page_names_are_there(page):
    named = set(re.findall(r"\btests/[\w/]+(?:\.py)?", page.read_text()))
    assert {name for name in named if not (ROOT / name).exists()} == set()
