"""The list of workspaces: each save updates it, any path is exact, and its failure fails no save."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from gitstate.workspace import registry

from tests.states import STATES, dirty, make
from tests.support.repositories import Templates
from tests.support.workspace import Workspace, run_git, run_gitstate

STRANGE = "a [b]*?.+^$ \\ \"'\n\u00e9 "


def listed() -> list[Path]:
    return [Path(os.fsdecode(path)) for path in registry.registered()]


@pytest.mark.parametrize("command", ["save", "checkpoint", "begin"])
def test_save_registers_a_workspace_once(command: str, ws: Workspace) -> None:
    dirty(ws)
    for _ in range(2):
        assert ws.gitstate(command).exit_status == 0
    assert listed() == [ws.path]


def test_linked_worktree_is_registered_but_a_nested_repository_is_not(templates: Templates, tmp_path: Path) -> None:
    ws = make(STATES["clean"], templates, tmp_path, linked=True)
    inner = ws.path / "inner"
    templates.copy("sha1", inner)
    (inner / "a.txt").write_text("changed\n")
    assert ws.save().exit_status == 0
    assert listed() == [ws.path]


@pytest.mark.parametrize("name", [STRANGE, os.fsdecode(b"\xff\xfe latin"), "#; section]", "-c"])
def test_odd_path_is_listed_exactly(name: str, templates: Templates, tmp_path: Path) -> None:
    paths = [tmp_path / f"{name}{end}" for end in ("", "x")]
    for path in paths:
        templates.copy("sha1", path)
        (path / "a.txt").write_text("changed\n")
        assert run_gitstate("save", cwd=path).exit_status == 0
    assert listed() == paths
    assert run_gitstate("unregister", str(paths[0]), cwd=tmp_path).exit_status == 0
    assert listed() == paths[1:]


def test_forty_parallel_saves_are_all_registered(templates: Templates, tmp_path: Path) -> None:
    places = [tmp_path / f"w{number}" for number in range(40)]
    for place in places:
        templates.copy("sha1", place)
        (place / "a.txt").write_text("changed\n")
    argv = [sys.executable, "-m", "gitstate", "save"]
    running = [subprocess.Popen(argv, cwd=place, stderr=subprocess.DEVNULL) for place in places]
    assert [process.wait(timeout=300) for process in running] == [0] * 40
    assert sorted(listed()) == sorted(places)


def test_locked_config_costs_a_save_only_its_entry(ws: Workspace, hermetic: Path) -> None:
    dirty(ws)
    (hermetic / ".gitconfig.lock").touch()
    assert ws.save().exit_status == 0
    assert listed() == []
    old = time.time() - 3600
    os.utime(hermetic / ".gitconfig.lock", (old, old))
    assert run_gitstate("register", cwd=ws.path).exit_status == 75
    (hermetic / ".gitconfig.lock").unlink()
    assert run_gitstate("register", cwd=ws.path).exit_status == 0
    assert listed() == [ws.path]


def test_unwritable_config_costs_a_save_only_its_entry(ws: Workspace, hermetic: Path) -> None:
    dirty(ws)
    ws.cli_env = {"GIT_CONFIG_GLOBAL": str(hermetic / "no" / "such" / "place")}
    run = ws.save()
    assert run.exit_status == 0, run
    assert "config" not in run.stderr


def test_gitstate_register_false_disables_registration(ws: Workspace) -> None:
    ws.git("config", "gitstate.register", "false")
    dirty(ws)
    assert ws.save().exit_status == 0
    assert listed() == []


def test_registry_respects_home_xdg_config_home_and_git_config_global(templates: Templates, tmp_path: Path) -> None:
    for number, (name, place) in enumerate(
        (("HOME", ".gitconfig"), ("XDG_CONFIG_HOME", "git/config"), ("GIT_CONFIG_GLOBAL", "g"))
    ):
        home = tmp_path / f"home{number}"
        (home / "git").mkdir(parents=True)
        path = tmp_path / f"w{number}"
        templates.copy("sha1", path)
        (path / "a.txt").write_text("changed\n")
        environment = {"HOME": str(home), "XDG_CONFIG_HOME": str(home / "none")}
        environment["GIT_CONFIG_GLOBAL"] = str(home / "g") if name == "GIT_CONFIG_GLOBAL" else ""
        if name == "XDG_CONFIG_HOME":
            environment["XDG_CONFIG_HOME"] = str(home)
            (home / "git" / "config").touch()
        clean = {key: value for key, value in {**os.environ, **environment}.items() if value}
        argv = [sys.executable, "-m", "gitstate", "save"]
        subprocess.run(argv, cwd=path, env=clean, check=True, capture_output=True)
        assert str(path) in (home / place).read_text()


def test_unregister_missing_removes_only_missing_workspaces(ws: Workspace, tmp_path: Path) -> None:
    registry.add([os.fsencode(ws.path), os.fsencode(tmp_path / "gone")])
    run = run_gitstate("unregister", "--missing", "--json", cwd=tmp_path)
    assert [item["path"] for item in run.json["changed"]] == [str(tmp_path / "gone")]
    assert listed() == [ws.path]


def test_registration_keeps_other_settings_byte_for_byte(ws: Workspace, hermetic: Path) -> None:
    before = (hermetic / ".gitconfig").read_bytes()
    registry.add([os.fsencode(ws.path)])
    assert (hermetic / ".gitconfig").read_bytes().startswith(before)
    registry.remove([os.fsencode(ws.path)])
    assert (hermetic / ".gitconfig").read_bytes() == before


# --------------------------------------------------------------------------------------------------------------------
# What a walk finds
# --------------------------------------------------------------------------------------------------------------------


def test_scan_finds_main_linked_and_nested_and_follows_no_symlink(templates: Templates, tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    root.mkdir()
    templates.copy("sha1", outside)
    templates.copy("sha1", root / "main")
    run_git(root / "main", "worktree", "add", "-q", "--detach", str(root / "main" / ".worktrees" / "one"))
    run_git(root / "main", "worktree", "add", "-q", "--detach", str(tmp_path / "linked outside"))
    templates.copy("sha1", root / "a" / "b" / "nested")
    templates.copy("sha1", root / "node_modules" / "hidden")
    run_git(tmp_path, "clone", "-q", "--bare", str(outside), str(root / "bare.git"))
    (root / "link").symlink_to(outside)
    (root / "fake").mkdir()
    (root / "fake" / ".git").write_text("not a repository\n")
    found = registry.find(os.fsencode(root))
    expected = [root / "a" / "b" / "nested", root / "main", root / "main" / ".worktrees" / "one"]
    assert [Path(os.fsdecode(path)) for path in found.paths] == expected
    assert found.complete


def test_scan_is_bounded_and_reports_it(templates: Templates, tmp_path: Path) -> None:
    templates.copy("sha1", tmp_path / "1" / "2" / "3")
    assert registry.find(os.fsencode(tmp_path), depth=3).paths
    shallow = registry.find(os.fsencode(tmp_path), depth=2)
    assert (shallow.paths, shallow.complete) == ((), False)
    assert not registry.find(os.fsencode(tmp_path), entries=2).complete
    run = run_gitstate("status", "--root", str(tmp_path / "none"), "--json", cwd=tmp_path)
    assert not run.json["complete"]
