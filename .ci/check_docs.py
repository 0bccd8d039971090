"""Check the Markdown that readers see: python .ci/check_docs.py

Each row of a table has as many cells as its heading, each link leads to an existing file and anchor, the Python files
and names of code that a page mentions exist, and the command accepts every `frugal-rt` command line. Commands are
parsed and not run. Records of decisions and the changelog may mention what is gone.
"""

import ast
import copy
import functools
import io
import itertools
import re
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import click
from tracked import ROOT, tracked

from frugal_rt.cli import NAME, main

ENDS = {"|", "||", "&&", ";", "&", ">", ">>", "<", "2>"}
"""Words of a shell at which a command ends."""
RULE = re.compile(r"\s*\|?\s*:?-+:?\s*(\|\s*:?-+:?\s*)*\|?\s*")
BEFORE = re.compile(r"([^#]*(&&|[|;(!]))?\s*(\w+=\S*\s+|time\s+|\$\s+)*")
"""Text that may stand in a line before a command."""
PLACEHOLDER = re.compile(r"[A-Z][A-Z_]*|.*(\.\.\.|…).*|\[.*\]|\{.*\}")
"""Placeholders such as COMMAND and `...`."""
PYTHON = re.compile(r"(?<![\w./-])[\w./-]*\w\.py\b")
"""Names of Python files."""
CODE = re.compile(r"(?<![\w./-])(?=[\w.]*(?:_|[A-Z]|\w\.\w))[A-Za-z_]\w*(?:\.\w+)*(?:\(\))?")
"""Names of code: words with a capital, an underscore or a dot, such as `Restoration.move`, but not `move`."""
NAMED = ("architecture.md", "method.md")
"""Pages whose names of code are checked, besides their files."""
OTHERS = {"DIR", "FILE", "HTTP", "M", "NAME", "ONNX", "OpenVINO", "PIL", "PNG", "POST", "frugal_rt"}
"""Words that look like names of code."""
ELSEWHERE = re.compile(r"torch\.|tool\.|.*\.(png|toml)$")
"""Names of another library, a table of pyproject.toml, or a file."""
Fault = tuple[int, str]


def plain(text: str) -> list[str]:
    """Return the lines of a page; lines of code blocks are empty."""
    lines, inside = [], False
    for line in text.splitlines():
        fence = line.lstrip().startswith("```")
        lines.append("" if fence or inside or line.startswith("    ") else line)
        inside ^= fence
    return lines


def cells(row: str) -> int:
    """Count the cells of a table's row."""
    return len(re.split(r"(?<!\\)\|", row.strip().removeprefix("|").removesuffix("|")))


def ragged(text: str, page: Path) -> Iterator[Fault]:
    """Yield rows whose number of cells differs from their heading's, and rows outside of a table."""
    lines = plain(text)
    width = 0
    for number, line in enumerate(lines, 1):
        if not line.lstrip().startswith("|"):
            width = 0
        elif not width:
            width = cells(line)
            if number == len(lines) or not RULE.fullmatch(lines[number]):
                yield number, "a row outside of a table"
        elif cells(line) != width:
            yield number, f"a row of {cells(line)} cells in a table of {width}"


def anchors(text: str) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    found: set[str] = set()
    for line in plain(text):
        if heading := re.fullmatch(r"#{1,6} (.*?)\s*", line):
            shown = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading[1])
            slug = re.sub(r"[^\w\- ]", "", shown.lower()).replace(" ", "-")
            found.add(next(one for n in itertools.count() if (one := f"{slug}-{n}" if n else slug) not in found))
    return found | set(re.findall(r'<a (?:id|name)="([^"]+)"', text))


def dead(text: str, page: Path) -> Iterator[Fault]:
    """Yield links to missing files and headings."""
    for number, line in enumerate(plain(text), 1):
        shown = re.sub(r"`[^`]*`", "", line)
        for target in re.findall(r"\]\(([^)\s]+)\)|^\[[^\]]+\]: (\S+)", shown):
            path, _, anchor = (target[0] or target[1]).partition("#")
            if re.match(r"[a-z]+:", path):
                continue
            file = (page.parent / path).resolve() if path else page
            if not file.exists():
                yield number, f"a link to {path}, which is not there"
            elif anchor.startswith("frugal_rt."):
                continue  # an anchor by mkdocstrings, which mkdocs checks
            elif anchor and file.suffix == ".md" and anchor not in anchors(file.read_text() if path else text):
                yield number, f"a link to #{anchor}, which {file.name} does not have"


@functools.cache
def names() -> set[str]:
    """Return the dotted names of all modules, classes, functions and variables, from `runtime.` or `tests.` on."""
    found: set[str] = set()

    def add(body: list[ast.stmt], path: str) -> None:
        for statement in body:
            targets: list[ast.expr] = []
            match statement:
                case ast.ClassDef() | ast.FunctionDef() | ast.AsyncFunctionDef():
                    found.add(f"{path}.{statement.name}")
                    if isinstance(statement, ast.ClassDef):
                        add(statement.body, f"{path}.{statement.name}")
                case ast.Assign():
                    targets = statement.targets
                case ast.AnnAssign():
                    targets = [statement.target]
                case ast.ImportFrom():
                    found.update(f"{path}.{one.asname or one.name}" for one in statement.names)
            found.update(f"{path}.{one.id}" for each in targets for one in ast.walk(each) if isinstance(one, ast.Name))

    for name in tracked("*.py"):
        module = name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        found.add(module)
        add(ast.parse((ROOT / name).read_text()).body, module)
    return found


def missing(text: str, page: Path) -> Iterator[Fault]:
    """Yield Python files that are not in the repository, and on pages of NAMED names that no module defines."""
    if page.name == "CHANGELOG.md" or page.parent.name == "decisions":
        return
    files = tracked("*.py")
    for number, line in enumerate(text.splitlines(), 1):
        block = line.startswith("    ")
        for code in [line] if block else re.findall(r"`([^`]+)`", line):
            for file in PYTHON.findall(code):
                inside = file.removeprefix("../")
                if "NAME" not in file and not any(f"/{one}".endswith(f"/{inside}") for one in files):
                    yield number, f"a file {file}, which is not there"
            if page.name in NAMED:
                for name in CODE.findall(PYTHON.sub("", code)):
                    bare = name.removesuffix("()").removeprefix("frugal_rt.").removeprefix("A.")
                    known = bare in OTHERS or ELSEWHERE.match(bare)
                    if not known and not any(f".{one}".endswith(f".{bare}") for one in names()):
                        yield number, f"a name {name}, which no module defines"


def commands(text: str) -> Iterator[tuple[int, str, bool]]:
    """Yield the command lines of a page: its line number, its text, and whether it stands in a code block."""
    fenced, before = False, ""
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith("```"):
            fenced = not fenced
            continue
        block = fenced or line.startswith("    ")
        if block and line.endswith("\\"):
            before += line[:-1]
            continue
        line, before = before + line, ""
        for code in [line] if block else re.findall(r"`([^`]+)`", line):
            for found in re.finditer(rf"\b{NAME} (?=\S)", code):
                if BEFORE.fullmatch(code[: found.start()]):
                    yield number, code[found.start() :].replace("\\|", "|"), block


def refused(text: str, page: Path) -> Iterator[Fault]:
    """Yield command lines that the command refuses, with the reason."""
    for number, line, whole in commands(text):
        try:
            words = shlex.split(line, comments=True)[1:]
        except ValueError:
            words = line.split()[1:]
        words = list(itertools.takewhile(lambda word: word not in ENDS, words))
        if why := why_refused(words, whole):
            yield number, f"`{line.strip()}`: {why}"


def why_refused(words: list[str], complete: bool) -> str:
    """Return why the command refuses these words; empty where it accepts them, or a word is a placeholder.

    Where the line is not `complete`, being part of a sentence, arguments may be missing.
    """
    if not words or any(PLACEHOLDER.fullmatch(word) for word in words[:1]):
        return ""
    try:
        with (
            redirect_stdout(io.StringIO()),
            redirect_stderr(io.StringIO()),
            click.Context(main, info_name=NAME, **main.context_settings) as whole,
        ):
            if words[0].startswith("-"):
                main.make_context(NAME, words)
                return ""
            command = main.get_command(whole, words[0])
            if command is None:
                return f"there is no command {words[0]!r}"
            command.params = [copy.copy(one) for one in command.params]
            for one in command.params:
                if one.name == "params":
                    one.callback = None  # reads the file that it names
                if not complete or "--params" in words:
                    one.required = False
            loose = any(PLACEHOLDER.fullmatch(word) for word in words)
            if loose:
                known = {name for one in command.params for name in (*one.opts, *one.secondary_opts)} | {"-h", "--help"}
                named = [word.split("=")[0] for word in words[1:] if word.startswith("-") and word != "-"]
                return ", ".join(f"there is no option {word}" for word in named if word not in known)
            command.make_context(words[0], words[1:], parent=whole)
    except click.exceptions.Exit:
        return ""
    except click.ClickException as error:
        return error.format_message()
    return ""


CHECKS: tuple[Callable[[str, Path], Iterator[Fault]], ...] = (ragged, dead, missing, refused)


if __name__ == "__main__":
    wrong = [
        f"{name}:{number}: {why}"
        for name in tracked("*.md")
        for check in CHECKS
        for number, why in check((ROOT / name).read_text(), ROOT / name)
    ]
    if wrong:
        sys.exit("\n".join(wrong))
