"""The list of workspaces: kept by every save, exact for any path, never a reason for a save to fail."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gitstate.fleet import find
from gitstate.system import files
from gitstate.workspace import registry
from tests.states import STATES, dirty, make
from tests.support.permissions import why_permissions_cannot_be_tested
from tests.support.repositories import Templates
from tests.support.workspace import Run, Workspace, run_git

STRANGE = "a [b]*?.+^$ \\ \"'\n\u00e9 "


@pytest.fixture
def ws(templates: Templates, tmp_path: Path) -> Workspace:
    return make(STATES["clean"], templates, tmp_path)


def listed() -> list[Path]:
    return [Path(os.fsdecode(path)) for path in registry.registered()]


def gitstate(*args: str, cwd: Path, **env: str) -> Run:
    argv = [sys.executable, "-m", "gitstate", *args]
    done = subprocess.run(argv, capture_output=True, cwd=cwd, timeout=120, env={**os.environ, **env})
    return Run(done.returncode, done.stdout, done.stderr.decode("utf-8", "replace"))


@pytest.mark.parametrize("command", ["save", "checkpoint", "begin"])
def test_it_is_registered_once(command: str, ws: Workspace) -> None:
    dirty(ws)
    for _ in range(2):
        assert ws.gitstate(command).exit_status == 0
    assert listed() == [ws.path]


def test_a_linked_worktree_registers_itself_and_a_nested_repository_does_not(
    templates: Templates, tmp_path: Path
) -> None:
    ws = make(STATES["clean"], templates, tmp_path, linked=True)
    inner = ws.path / "inner"
    templates.copy("sha1", inner)
    (inner / "a.txt").write_text("changed\n")
    assert ws.save().exit_status == 0
    assert listed() == [ws.path]


@pytest.mark.sample(2)
@pytest.mark.parametrize("name", [STRANGE, os.fsdecode(b"\xff\xfe latin"), "#; section]", "-c"])
def test_any_path_is_listed_exactly(name: str, templates: Templates, tmp_path: Path) -> None:
    paths = [tmp_path / f"{name}{end}" for end in ("", "x")]
    for path in paths:
        templates.copy("sha1", path)
        (path / "a.txt").write_text("changed\n")
        assert gitstate("save", cwd=path).exit_status == 0
    assert listed() == sorted(paths)
    assert gitstate("unregister", str(paths[0]), cwd=tmp_path).exit_status == 0
    assert listed() == paths[1:]


def test_forty_savers_at_once_are_all_listed_and_none_fails(templates: Templates, tmp_path: Path) -> None:
    places = [tmp_path / f"w{number}" for number in range(40)]
    for place in places:
        templates.copy("sha1", place)
        (place / "a.txt").write_text("changed\n")
    argv = [sys.executable, "-m", "gitstate", "save"]
    running = [subprocess.Popen(argv, cwd=place, stderr=subprocess.DEVNULL) for place in places]
    assert [process.wait(timeout=300) for process in running] == [0] * 40
    assert sorted(listed()) == sorted(places)


def list_directory(home: Path) -> Path:
    return home / ".local" / "state" / "gitstate" / "workspaces"


def test_git_configuration_is_never_written(ws: Workspace, hermetic: Path, tmp_path: Path) -> None:
    config = hermetic / ".gitconfig"
    before = (config.stat().st_ino, config.read_bytes())
    dirty(ws)
    assert ws.save().exit_status == 0
    assert gitstate("register", cwd=ws.path).exit_status == 0
    assert gitstate("unregister", cwd=ws.path).exit_status == 0
    assert (config.stat().st_ino, config.read_bytes()) == before


def test_device_named_as_git_configuration_stays_a_device(ws: Workspace, tmp_path: Path) -> None:
    device = tmp_path / "null"
    if os.geteuid() == 0:
        os.mknod(device, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    else:
        os.mkfifo(device)
    kind = stat.S_IFMT(device.lstat().st_mode)
    dirty(ws)
    ws.cli_env = {"GIT_CONFIG_GLOBAL": str(device)} if os.geteuid() == 0 else {"GIT_CONFIG_GLOBAL": "/dev/null"}
    for command in ("save", "recover", "begin", "register", "unregister", "doctor"):
        ws.gitstate(command)
    assert stat.S_IFMT(device.lstat().st_mode) == kind
    assert stat.S_ISCHR(os.lstat("/dev/null").st_mode)


@pytest.mark.sample(3)
@pytest.mark.parametrize("planted", ["link", "file", "fifo"])
@pytest.mark.parametrize("place", ["gitstate", "gitstate/workspaces"])
def test_list_is_never_kept_behind_what_is_not_a_directory(
    planted: str, place: str, ws: Workspace, hermetic: Path, tmp_path: Path
) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    path = hermetic / ".local" / "state" / place
    path.parent.mkdir(parents=True, exist_ok=True)
    if planted == "link":
        path.symlink_to(victim)
    elif planted == "fifo":
        os.mkfifo(path)
    else:
        path.write_text("mine\n")
    dirty(ws)
    run = ws.save()
    assert run.exit_status == 0, run
    assert not list(victim.iterdir())
    run = gitstate("register", cwd=ws.path)
    assert run.exit_status == 4
    assert "is not a directory" in run.stderr


def test_list_of_a_home_that_is_not_for_this_user_is_told_with_the_way_out(ws: Workspace, hermetic: Path) -> None:
    """As where a service runs as `nobody`, with the home of root."""
    reason = why_permissions_cannot_be_tested()
    if reason is not None:
        pytest.skip(reason)
    (hermetic / ".local" / "state").mkdir(parents=True, exist_ok=True)
    (hermetic / ".local").chmod(0)
    ws.without_override = True
    dirty(ws)
    assert ws.save().exit_status == 0
    try:
        for words in (["register"], ["status", "--all"]):
            run = ws.gitstate(*words)
            assert run.exit_status == 4 and "this user may not" in run.stderr, run
            assert "next: export XDG_STATE_HOME=DIR" in run.stderr, run
        findings = ws.gitstate("doctor", "--json").json["findings"]
    finally:
        (hermetic / ".local").chmod(0o700)
    assert not [item for item in findings if "a check failed" in item["what"]]
    (told,) = [item for item in findings if item["check"] == "registry"]
    assert told["next"] == "export XDG_STATE_HOME=DIR, a directory of yours"


def test_entry_that_is_no_regular_file_is_never_replaced(ws: Workspace, hermetic: Path) -> None:
    assert gitstate("register", cwd=ws.path).exit_status == 0
    (entry,) = list_directory(hermetic).iterdir()
    entry.unlink()
    os.mkfifo(entry)
    dirty(ws)
    assert ws.save().exit_status == 0
    assert stat.S_ISFIFO(entry.lstat().st_mode)
    assert listed() == []


def test_forged_and_torn_entries_are_ignored(ws: Workspace, hermetic: Path) -> None:
    assert gitstate("register", cwd=ws.path).exit_status == 0
    directory = list_directory(hermetic)
    (directory / ("0" * 64)).write_bytes(b"/etc\0")
    (entry,) = (path for path in directory.iterdir() if path.name != "0" * 64)
    assert listed() == [ws.path]
    entry.write_bytes(entry.read_bytes()[:-4])
    assert listed() == []
    assert gitstate("register", cwd=ws.path).exit_status == 0
    assert listed() == [ws.path]


def test_unwritable_state_directory_costs_only_the_entry(ws: Workspace, hermetic: Path) -> None:
    dirty(ws)
    (hermetic / "file").touch()
    ws.cli_env = {"XDG_STATE_HOME": str(hermetic / "file" / "below")}
    run = ws.save()
    assert run.exit_status == 0, run
    assert "state" not in run.stderr


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("XDG_STATE_HOME", "{home}/elsewhere", "elsewhere/gitstate"),
        ("XDG_STATE_HOME", "relative", ".local/state/gitstate"),
        ("XDG_STATE_HOME", "", ".local/state/gitstate"),
    ],
)
def test_state_directory_follows_the_specification(
    name: str, value: str, expected: str, ws: Workspace, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    dirty(ws)
    ws.cli_env = {"HOME": str(home), name: value.format(home=home)}
    assert ws.save().exit_status == 0
    assert len(list((home / expected / "workspaces").iterdir())) == 1
    assert stat.S_IMODE((home / expected).stat().st_mode) == 0o700


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: only root can give files away")
def test_root_leaves_the_list_to_the_owner_of_the_home(ws: Workspace, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    os.chown(home, 12_345, 12_345)
    dirty(ws)
    ws.cli_env = {"HOME": str(home), "XDG_STATE_HOME": ""}
    assert ws.save().exit_status == 0
    made = list(home.rglob("*"))
    assert len(made) == 5, made
    assert {path.stat().st_uid for path in made} == {12_345}


# -- entries of version 0.1


def old_entries(home: Path, *paths: Path) -> None:
    for path in paths:
        run_git(home, "config", "--global", "--add", "gitstate.workspace", str(path))


def test_old_entries_are_taken_over_once(ws: Workspace, hermetic: Path, tmp_path: Path) -> None:
    before = (hermetic / ".gitconfig").read_bytes()
    old_entries(hermetic, ws.path, tmp_path / "two")
    assert listed() == sorted([ws.path, tmp_path / "two"])
    assert b"workspace" not in (hermetic / ".gitconfig").read_bytes()
    assert (hermetic / ".gitconfig").read_bytes().startswith(before)
    assert gitstate("unregister", str(tmp_path / "two"), cwd=tmp_path).exit_status == 0
    assert listed() == [ws.path]


def test_old_entries_behind_a_link_stay_and_do_not_come_back(ws: Workspace, hermetic: Path, tmp_path: Path) -> None:
    old_entries(hermetic, tmp_path / "two")
    config = hermetic / ".gitconfig"
    config.rename(hermetic / "dotfiles")
    config.symlink_to("dotfiles")
    before = config.read_bytes()
    assert listed() == [tmp_path / "two"]
    assert gitstate("unregister", str(tmp_path / "two"), cwd=tmp_path).exit_status == 0
    assert listed() == []
    assert (config.read_bytes(), config.is_symlink()) == (before, True)


def test_locked_configuration_is_cleared_later(ws: Workspace, hermetic: Path, tmp_path: Path) -> None:
    old_entries(hermetic, tmp_path / "two")
    lock = hermetic / ".gitconfig.lock"
    lock.touch()
    assert listed() == [tmp_path / "two"]
    lock.unlink()
    assert listed() == [tmp_path / "two"]
    assert b"workspace" not in (hermetic / ".gitconfig").read_bytes()


def test_who_does_not_want_it_is_not_listed(ws: Workspace) -> None:
    ws.git("config", "gitstate.register", "false")
    dirty(ws)
    assert ws.save().exit_status == 0
    assert listed() == []


def test_unregister_missing_takes_what_is_gone_and_nothing_else(ws: Workspace, tmp_path: Path) -> None:
    registry.add([os.fsencode(ws.path), os.fsencode(tmp_path / "gone")])
    run = gitstate("unregister", "--missing", "--json", cwd=tmp_path)
    assert [item["path"] for item in run.json["changed"]] == [str(tmp_path / "gone")]
    assert listed() == [ws.path]


# --------------------------------------------------------------------------------------------------------------------
# What a walk finds
# --------------------------------------------------------------------------------------------------------------------


def test_a_walk_finds_main_linked_and_nested_and_follows_nothing_out(templates: Templates, tmp_path: Path) -> None:
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
    found = find.find(os.fsencode(root))
    expected = [root / "a" / "b" / "nested", root / "main", root / "main" / ".worktrees" / "one"]
    assert [Path(os.fsdecode(path)) for path in found.paths] == expected
    assert found.complete


def test_a_walk_is_bounded_and_says_so(templates: Templates, tmp_path: Path) -> None:
    templates.copy("sha1", tmp_path / "1" / "2" / "3")
    assert find.find(os.fsencode(tmp_path), depth=3).paths
    shallow = find.find(os.fsencode(tmp_path), depth=2)
    assert (shallow.paths, shallow.complete) == ((), False)
    assert not find.find(os.fsencode(tmp_path), entries=2).complete
    run = gitstate("status", "--root", str(tmp_path / "none"), cwd=tmp_path)
    assert run.exit_status == 1 and "the directory does not exist" in run.text, run


def test_many_workspaces_are_on_disk_after_one_sync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One sync of the file system, and none of a file, before the first gets its name."""
    paths = [os.fsencode(tmp_path / f"w{number}") for number in range(40)]
    calls: list[str] = []

    def record(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **named: Any) -> Any:
            calls.append(name)
            return real(*args, **named)

        return call

    monkeypatch.setattr(files, "sync_filesystem", record("sync", files.sync_filesystem))
    monkeypatch.setattr(os, "fsync", record("fsync", os.fsync))
    monkeypatch.setattr(os, "rename", record("rename", os.rename))
    registry.add([*paths, paths[0]])
    last = calls.index("rename")
    assert calls[last - 1] == "sync" and calls[last:] == ["rename"] * 40 + ["fsync"]
    assert registry.registered() == sorted(paths)
    registry.add(paths)
    assert len(calls) == last + 41
