"""What a person reads of an error: words, never Python's own text of an OSError."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest

from gitstate.errors import NeedsPerson, words_of
from tests.project.test_layering import MODULES

#: An exception of one of these types may be an OSError.
BROAD = {"OSError", "Exception", "BaseException", "PermissionError", "FileNotFoundError", "BlockingIOError"}


def may_be_os_error(annotation: ast.expr | None) -> bool:
    names = () if annotation is None else (node.id for node in ast.walk(annotation) if isinstance(node, ast.Name))
    return not BROAD.isdisjoint(names)


def bound_errors(tree: ast.Module) -> Iterator[tuple[str, list[ast.stmt]]]:
    """The names that may hold an OSError, and the statements in which they do."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ExceptHandler) and node.name is not None and may_be_os_error(node.type):
            yield node.name, node.body
        elif isinstance(node, ast.FunctionDef):
            for argument in (*node.args.args, *node.args.kwonlyargs):
                if may_be_os_error(argument.annotation):
                    yield argument.arg, node.body


def raw_texts(text: str) -> list[str]:
    """Where an error that may be an OSError becomes text as Python writes it, whole or after an `or`."""
    found = []
    for name, body in bound_errors(ast.parse(text)):
        for node in (node for statement in body for node in ast.walk(statement)):
            parts: list[ast.expr] = []
            if isinstance(node, ast.FormattedValue):
                parts = [node.value]
            elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("str", "repr"):
                parts = node.args
            elif isinstance(node, ast.BoolOp):
                parts = node.values[1:]
            found += [f"line {part.lineno}" for part in parts if isinstance(part, ast.Name) and part.id == name]
    return sorted(set(found))


@pytest.mark.parametrize("module", sorted(MODULES))
def test_no_message_has_the_text_that_python_makes_of_an_os_error(module: str) -> None:
    if module != "errors":
        assert raw_texts(MODULES[module]) == []


@pytest.mark.parametrize(
    "line", ['f"x: {error}"', "str(error)[:3]", 'f"{error.strerror or error}"', "say(error.strerror or str(error))"]
)
def test_the_sweep_sees_each_form(line: str) -> None:
    assert raw_texts(f"try:\n    pass\nexcept (ValueError, OSError) as error:\n    {line}\n")
    assert raw_texts(f"def words(error: Exception) -> None:\n    {line}\n")
    assert not raw_texts(f"try:\n    pass\nexcept ValueError as error:\n    {line}\n")


def test_words_of_an_error() -> None:
    assert words_of(PermissionError(13, "Permission denied", "a b")) == "a b: Permission denied"
    assert words_of(PermissionError(13, "Permission denied", b"/x\xff")) == "/x\udcff: Permission denied"
    assert words_of(OSError(28, "No space left on device")) == "No space left on device"
    assert words_of(OSError(3, "No such process", 12)) == "No such process"
    assert words_of(OSError("odd")) == "odd"
    assert words_of(ValueError()) == "ValueError"
    assert words_of(NeedsPerson("said", hint="x")) == "said"
