"""Which module may import, start or name what: read from the source, and once from a running `save`."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from tests.states import STATES, dirty, make
from tests.support.environment import ROOT
from tests.support.repositories import Templates

PACKAGE = ROOT / "gitstate"
MODULES = {path.stem: path.read_text(encoding="utf-8") for path in PACKAGE.glob("*.py")}


def imports(name: str, *, lazy: bool = True) -> Iterator[str]:
    """What a module imports: foreign modules by their first name, ours with a leading dot."""
    tree = ast.parse(MODULES[name])
    for node in ast.walk(tree) if lazy else tree.body:
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield str(node.module).split(".")[0]
        elif isinstance(node, ast.ImportFrom):
            ours = [node.module] if node.module else [alias.name for alias in node.names]
            yield from (f".{module}" if module in MODULES else ".__init__" for module in ours)


def importers(what: str, *, lazy: bool = True) -> set[str]:
    return {name for name in MODULES if what in imports(name, lazy=lazy)}


def test_only_the_command_line_imports_click() -> None:
    assert importers("click") == {"cli"}


def test_only_history_imports_gitpython_and_only_lazily() -> None:
    assert importers("git") <= {"history"}
    assert not importers("git", lazy=False)


def starts_processes(text: str) -> bool:
    names = {ast.unparse(node.func) for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)}
    starters = ("subprocess.", "os.system", "os.popen", "os.exec", "os.spawn", "os.posix_spawn", "os.fork")
    return any(name.startswith(starters) for name in names)


def test_only_listed_modules_start_processes() -> None:
    """`spawn` is for git alone, `supervise` runs the agent, `front` the keeper, and the demo its own commands.

    `boot` asks the system's schedulers, and `pool` forks, once for each workspace.
    """
    starting = {name for name, text in MODULES.items() if starts_processes(text)}
    assert starting == {"spawn", "demo", "front", "supervise", "boot", "pool"}
    # The others name the type of what git started for them.
    assert importers(".spawn") == {"git", "git_status", "ignore", "saving", "snapshot"}


def test_only_refs_contains_ref_names() -> None:
    constants = {
        (name, node.value)
        for name, text in MODULES.items()
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Constant) and isinstance(node.value, str | bytes)
    }
    ours = ("refs/gitstate/", "refs/notes/")
    named = {name for name, value in constants if os.fsdecode(value).startswith(ours)}
    assert named == {"refs"}


def test_module_imports_form_no_cycle() -> None:
    graph = {name: {found[1:] for found in imports(name) if found.startswith(".")} for name in MODULES}
    order = list(TopologicalSorter(graph).static_order())
    known = ["errors", "git", "model", "save", "cli"]
    assert [name for name in order if name in known] == known


@pytest.mark.parametrize("command", ["save", "checkpoint"])
def test_crash_path_imports_no_slow_module(command: str, templates: Templates, tmp_path: Path) -> None:
    ws = make(STATES["clean"], templates, tmp_path)
    dirty(ws)
    ws.gitstate("set", "task_id=T-1")
    loaded = _loaded("from gitstate.__main__ import main; main()", "-C", str(ws.path), command) - _loaded("pass")
    assert "gitstate.save.save" in loaded
    slow = {"git", "click", "gitdb", "typing", "subprocess", "re", "enum", "json", "contextlib", "signal"}
    assert not {name for name in loaded if name.split(".")[0] in slow}


def _loaded(script: str, *arguments: str) -> set[str]:
    """The modules that a fresh interpreter imports for a script."""
    argv = [sys.executable, "-X", "importtime", "-c", script, *arguments]
    done = subprocess.run(argv, capture_output=True, encoding="utf-8", check=True)
    return {line.rsplit("|", 1)[1].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
