"""Check the first lines of docstrings: python .ci/check_words.py

A docstring begins with a verb or a named thing, and not with a word of WORDS. Docstrings of modules, classes, functions
and attributes (a string below an assignment) are checked.
"""

import ast
import re
import sys
from collections.abc import Iterator

from tracked import ROOT, tracked

WORDS = re.compile(r"\s*(What|Those|Of|Who|Whose|Which|And)\b")


def docstrings(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield the line and the text of each docstring of a module."""
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if not isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        for before, statement in zip([node, *body], body, strict=False):
            documented = before is node or isinstance(before, (ast.Assign, ast.AnnAssign))
            value = statement.value if isinstance(statement, ast.Expr) else None
            if documented and isinstance(value, ast.Constant) and isinstance(value.value, str):
                yield statement.lineno, value.value


def found() -> list[str]:
    """Return a line for each docstring that begins with one of WORDS, in the Python files that git does not ignore."""
    return [
        f"{name}:{line}: {text.strip().splitlines()[0]}"
        for name in tracked("*.py")
        for line, text in docstrings(ast.parse((ROOT / name).read_text()))
        if WORDS.match(text)
    ]


if __name__ == "__main__":
    if wrong := found():
        sys.exit("\n".join([*wrong, f"{len(wrong)} docstrings do not begin with a verb or a named thing"]))
