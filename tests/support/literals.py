"""The values of a `Literal` that stands under TYPE_CHECKING, read from the source."""

from __future__ import annotations

import ast
from pathlib import Path
from types import ModuleType


def literal_values(module: ModuleType, name: str) -> tuple[str, ...]:
    """The texts of `name = Literal[…]` in a module, in their order. Raises KeyError where there is no such name."""
    assert module.__file__ is not None
    for node in ast.walk(ast.parse(Path(module.__file__).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name:
            return tuple(str(item.value) for item in ast.walk(node.value) if isinstance(item, ast.Constant))
    raise KeyError(name)
