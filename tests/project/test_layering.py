"""Which package may import, start or name what: read from the source, and once from a running `save`."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from gitstate.agents.registry import agent_names
from gitstate.bundle import NOT_HELD
from tests.states import STATES, dirty, make
from tests.support.environment import ROOT
from tests.support.repositories import Templates

#: The packages by storey, from the bottom up. The picture in docs/architecture.md is drawn from it.
STOREYS = {
    "ground": ("system", "git", "objects", "format"),
    "agents": ("agents",),
    "core": ("workspace", "conversation", "snapshot", "save", "restore", "recover"),
    "callers": ("orders", "holding", "run", "agent_hooks", "integrations", "history", "fleet", "loops"),
    "face": ("cli",),
}
#: The packages in their order: each imports only from those that stand before it.
LAYERS = ("bundle", "errors", *(package for storey in STOREYS.values() for package in storey), "__main__")
#: `__init__` holds the version and `guard`, which it imports when somebody asks for it.
OUTSIDE = "__init__"

PACKAGE = ROOT / "gitstate"
MODULES = {
    path.relative_to(PACKAGE).with_suffix("").as_posix(): path.read_text(encoding="utf-8")
    for path in PACKAGE.rglob("*.py")
    if path.relative_to(PACKAGE).parts[0] != "hooks"
}


@cache
def imports(name: str, *, lazy: bool = True) -> tuple[str, ...]:
    """What a module imports: foreign modules by their first name, ours as `.package/module`."""
    tree = ast.parse(MODULES[name])
    return tuple(imported(name, ast.walk(tree) if lazy else tree.body))


def imported(name: str, nodes: Iterable[ast.AST]) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield str(node.module).split(".")[0]
        elif isinstance(node, ast.ImportFrom):
            above = name.split("/")[: -node.level]
            stem = "/".join([*above, *(node.module or "").split(".")]).strip("/")
            for alias in node.names:
                inside = f"{stem}/{alias.name}".strip("/")
                yield "." + next(found for found in (inside, stem, f"{stem}/__init__", OUTSIDE) if found in MODULES)


def layer(name: str) -> str:
    return name.split("/")[0]


def importers(what: str, *, lazy: bool = True) -> set[str]:
    return {name for name in MODULES if what in imports(name, lazy=lazy)}


def test_package_imports_only_packages_before_it() -> None:
    upward = {
        f"{name} imports {found[1:]}"
        for name in MODULES
        for found in imports(name)
        if found.startswith(".")
        and OUTSIDE not in (name, found[1:])
        and LAYERS.index(layer(found[1:])) > LAYERS.index(layer(name))
    }
    assert not upward


def test_no_module_imports_one_that_imports_it() -> None:
    graph = {name: {found[1:] for found in imports(name) if found.startswith(".")} for name in MODULES}
    list(TopologicalSorter(graph).static_order())


def test_each_package_says_in_one_sentence_what_it_holds() -> None:
    for name in MODULES:
        if name.endswith("/__init__"):
            body = ast.parse(MODULES[name]).body
            assert len(body) == 1 and MODULES[name].startswith('"""') and MODULES[name].endswith('."""\n'), name


def test_only_the_command_line_imports_click() -> None:
    assert {layer(name) for name in importers("click")} == {"cli"}


def test_gitpython_is_imported_by_history_alone_and_only_when_needed() -> None:
    assert {layer(name) for name in importers("git")} <= {"history"}
    assert not importers("git", lazy=False)


def starts_processes(text: str) -> bool:
    names = {ast.unparse(node.func) for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)}
    starters = ("subprocess.", "os.system", "os.popen", "os.exec", "os.spawn", "os.posix_spawn", "os.fork")
    return any(name.startswith(starters) for name in names)


def test_only_these_start_processes() -> None:
    """`child` starts git, `supervisor` the agent, `channel` the keeper, `demo` its own commands, `scheduler` those of
    the system; `loops` runs of agents and the command that names a task; `forkpool` forks once for each workspace.
    """
    starting = {name for name, text in MODULES.items() if starts_processes(text)}
    expected = {
        "system/child",
        "system/forkpool",
        "run/supervisor",
        "run/channel",
        "run/hold",
        "integrations/scheduler",
        "loops/command",
        "loops/loop",
        "loops/start",
    }
    assert starting == expected | {"cli/commands/demo"}


def test_no_module_uses_a_private_name_of_another() -> None:
    private = re.compile(r"_[^_]")
    used = set()
    for name, text in MODULES.items():
        tree = ast.parse(text)
        ours = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level]
        imported = {alias.asname or alias.name for node in ours for alias in node.names}
        used |= {(name, word) for word in imported if private.match(word)}
        # `_replace`, `_fields`: public names of a named tuple.
        used |= {
            (name, ast.unparse(node))
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute)
            and private.match(node.attr)
            and isinstance(node.value, ast.Name)
            and node.value.id in imported
            and node.attr not in ("_replace", "_fields", "_asdict", "_make")
        }
    assert not used


#: Types whose fields need explaining: what each holds, and when it is empty.
EXPLAINED = {
    "format/context": ("Context",),
    "format/manifest": ("Manifest", "Save", "Nested", "LeftOut", "Reason"),
    "git/repository": ("Repository",),
    "workspace/peek": ("WorkspacePeek", "SharedPeek"),
}


def test_every_field_of_a_central_type_has_a_docstring() -> None:
    bare = []
    for name, types in EXPLAINED.items():
        bodies = {node.name: node.body for node in ast.parse(MODULES[name]).body if isinstance(node, ast.ClassDef)}
        for kind in types:
            for field, after in zip(bodies[kind], [*bodies[kind][1:], None], strict=True):
                is_text = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
                if isinstance(field, ast.AnnAssign) and not is_text:
                    bare.append((kind, ast.unparse(field.target)))
    assert not bare


#: `restore/index` compares two listings as they are.
LISTING = {"git/entries", "restore/index"}


def test_only_entries_parses_what_git_lists() -> None:
    """The lines of `ls-files -s`, `ls-tree` and of raw diffs."""
    commands = re.compile(r'"ls-tree"|"diff-tree"|"ls-files", "-z", "-s"|"ls-files", "--stage"')
    assert {name for name, text in MODULES.items() if commands.search(text)} <= LISTING


def test_only_names_knows_the_name_of_a_ref() -> None:
    constants = {
        (name, node.value)
        for name, text in MODULES.items()
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Constant) and isinstance(node.value, str | bytes)
    }
    ours = ("refs/gitstate/", "refs/notes/")
    named = {name for name, value in constants if os.fsdecode(value).startswith(ours)}
    assert named == {"format/names"}


def test_only_agents_knows_the_name_of_an_agent() -> None:
    word = re.compile(rf"\b({'|'.join(agent_names())})\b", re.IGNORECASE)
    naming = {name for name, text in MODULES.items() if word.search(text)}
    assert {layer(name) for name in naming} == {"agents"}
    # One agent's file does not name another.
    for name in agent_names():
        assert set(map(str.lower, word.findall(MODULES[f"agents/known/{name}"]))) == {name}


def needed_by(name: str, *, lazy: bool) -> set[str]:
    """Every module that `name` imports, directly or by way of others; with `lazy` also inside functions."""
    found: set[str] = set()
    left = [name]
    while left:
        module = left.pop()
        if module not in found:
            found.add(module)
            left += [item[1:] for item in imports(module, lazy=lazy) if item.startswith(".")]
    return found


def test_keeper_has_loaded_all_that_its_last_save_may_need() -> None:
    """The agent may have changed or removed the files of gitstate by then."""
    assert not needed_by("save/save", lazy=True) - needed_by("run/keeper", lazy=False)


#: How many modules of ours a save, or checkpoint, of a plain repository loads: each costs a fraction of a millisecond.
MOST_MODULES = 59


@pytest.mark.parametrize("command", ["save", "checkpoint"])
def test_the_crash_path_imports_little(command: str, templates: Templates, tmp_path: Path) -> None:
    ws = make(STATES["clean"], templates, tmp_path)
    dirty(ws)
    ws.gitstate("set", "task_id=T-1")
    loaded = _loaded("from gitstate.__main__ import main; main()", "-C", str(ws.path), command) - _loaded("pass")
    assert "gitstate.save.save" in loaded
    slow = {"git", "click", "gitdb", "typing", "subprocess", "re", "enum", "json", "contextlib", "signal"}
    assert not {name for name in loaded if name.split(".")[0] in slow}
    ours = {name for name in loaded if name.split(".")[0] == "gitstate"}
    assert not {name for name in ours if name.startswith("gitstate.agents")}
    assert len(ours) <= MOST_MODULES, sorted(ours)


#: What takes memory for as long as an agent works, and has a stand-in.
HEAVY = {"click", "typing", "re", "enum", "json", "subprocess", "socket", "selectors", "contextlib", "signal", "shlex"}
#: These have a stand-in, or are needed for types alone.
STAND_INS = {"collections", "dataclasses", "functools", "hashlib", "pickle", "tempfile", "shutil"}
#: How many modules of ours the front of a run, and its keeper, hold.
MOST_OF_FRONT, MOST_OF_KEEPER = 130, 110


#: What only commands load that take their time: packages, and modules of others. `history.receipt` is for `status`.
UNHURRIED = {"cli", "loops", "integrations", "history"}
UNHURRIED_MODULES = {
    *("__init__", "run/guard", "agents/known/opencode"),
    *("agent_hooks/briefing", "agent_hooks/install", "agent_hooks/json_edit", "agent_hooks/settings"),
    *("fleet/damage", "fleet/doctor", "fleet/prometheus", "fleet/stop"),
}
HURRIED_MODULES = {"history/receipt", "cli/options", "cli/quick", "cli/recovering", "cli/running"}


@pytest.mark.parametrize("name", sorted(MODULES))
def test_only_commands_that_take_their_time_import_slow_modules(name: str) -> None:
    """Hooks, `status` and `recover` load modules that others do not, depending on the state of a workspace."""
    hurries = (layer(name) not in UNHURRIED and name not in UNHURRIED_MODULES) or name in HURRIED_MODULES
    slow = {item for item in imports(name, lazy=False) if item.split(".")[0] in {*HEAVY, *STAND_INS}}
    ours = {item[1:] for item in imports(name, lazy=False) if item.startswith(".")}
    assert not hurries or not slow
    assert not hurries or not ours & UNHURRIED_MODULES


def test_front_and_keeper_of_a_run_load_little(templates: Templates, tmp_path: Path) -> None:
    ws = make(STATES["clean"], templates, tmp_path)
    start = "from gitstate.__main__ import main; main()"
    front = _loaded(start, "-C", str(ws.path), "run", "--", "true") - _loaded("pass")
    # A keeper that is started anew begins as every command.
    keeper = _loaded(_KEEPER) - _loaded("import gitstate.bundle")
    for loaded, most in ((front, MOST_OF_FRONT), (keeper, MOST_OF_KEEPER)):
        assert "gitstate.run.keeper" in loaded
        assert ("gitstate.holding.window" in loaded) == (loaded is keeper)
        assert not {name for name in loaded if name.split(".")[0] in {*HEAVY, "tempfile", "shutil", "inotify_simple"}}
        ours = {name for name in loaded if name.split(".")[0] == "gitstate"}
        assert len(ours) <= most, (len(ours), sorted(ours))


#: What a keeper loads until its first checkpoint was taken.
_KEEPER = """\
import gitstate.run.keeper as keeper
keeper.load()
from gitstate.holding.watch import Inotify
Inotify()
"""


def _loaded(script: str, *arguments: str) -> set[str]:
    """The modules that a fresh interpreter imports for a script."""
    argv = [sys.executable, "-X", "importtime", "-c", script, *arguments]
    done = subprocess.run(argv, capture_output=True, encoding="utf-8", check=True)
    return {line.rsplit("|", 1)[1].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}


def test_what_stands_above_a_run_is_all_that_is_not_held_for_its_end() -> None:
    assert set(NOT_HELD) == {*LAYERS[LAYERS.index("run") + 1 :]} - {"__main__"}
