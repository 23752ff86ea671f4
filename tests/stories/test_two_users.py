"""Root, and users of one group, in the repository of another user: what runs, what is written, whose it is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fleet.crashes import give_away
from tests.support.permissions import why_permissions_cannot_be_tested
from tests.support.repositories import three_files
from tests.support.skips import NOT_ROOT
from tests.support.workspace import Workspace, run_git

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason=NOT_ROOT)

#: `give_away` gives to this user and group.
OWNER = 12_345


@pytest.fixture
def ws(tmp_path: Path) -> Workspace:
    run_git(tmp_path, "config", "--global", "safe.directory", "*")
    ws = three_files(tmp_path)
    give_away(ws.path)
    return ws


def trust(ws: Workspace) -> None:
    run_git(ws.outside, "config", "--global", "--replace-all", "safe.directory", str(ws.path))


def not_the_owners(ws: Workspace) -> list[str]:
    return [str(path) for path in (ws.path, *_all_below(ws.path)) if os.lstat(path).st_uid != OWNER]


def _all_below(top: Path) -> Iterator[Path]:
    for directory, names, entries in os.walk(top):
        yield from (Path(directory, name) for name in (*names, *entries))


def plant_filter(ws: Workspace) -> Path:
    canary = ws.outside / "canary"
    ws.write(".git/info/attributes", "* filter=x\n")
    for setting in ("clean", "smudge", "process"):
        ws.config(f"filter.x.{setting}", f"touch {canary}; cat")
    ws.config("hook.a=b.command", f"touch {canary}")
    ws.config("hook.a=b.event", "reference-transaction")
    return canary


def test_recovery_that_finds_nothing_leaves_nothing_of_roots(ws: Workspace) -> None:
    assert ws.recover().exit_status == 0
    assert not_the_owners(ws) == []


def test_whatever_root_writes_belongs_to_the_owner(ws: Workspace) -> None:
    trust(ws)
    ws.append("a")
    ws.write("new/deep/file")
    ws.symlink("a", "new/link")
    give_away(ws.path)
    assert ws.save("--task-id", "T").exit_status == 0
    assert not_the_owners(ws) == []
    ws.git("reset", "-q", "--hard", "HEAD~1")
    ws.git("clean", "-qfdx")
    (ws.path / "b").unlink()
    give_away(ws.path)
    run = ws.recover()
    assert (run.exit_status, ws.read("new/deep/file")) == (0, b"text\n"), run
    assert not_the_owners(ws) == []


@pytest.mark.sample(3)
@pytest.mark.parametrize("command", ["save", "checkpoint", "recover", "diff", "restore", "status", "prune", "begin"])
def test_no_program_of_a_stranger_runs_as_root(ws: Workspace, command: str) -> None:
    ws.append("a")
    save_id = ws.save("--json").json["save_id"]
    ws.git("reset", "-q", "--soft", "HEAD~1")
    canary = plant_filter(ws)
    ws.append("b")
    give_away(ws.path)
    argv = {"diff": ["diff", save_id], "restore": ["restore", save_id, "a"], "begin": ["begin", "task_id=x"]}
    run = ws.gitstate(*argv.get(command, [command]))
    assert run.exit_status in (0, 4), run
    assert not canary.exists()
    if command in ("save", "checkpoint"):
        assert f"user {OWNER}; none of its filters was run" in run.stderr


@pytest.mark.sample(2)
@pytest.mark.parametrize("url", ["ssh://host/path", "ext::sh -c touch% canary"])
@pytest.mark.parametrize("command", ["push", "fetch"])
def test_no_transport_of_a_stranger_runs_as_root(ws: Workspace, command: str, url: str) -> None:
    canary = ws.path / "canary"
    ws.config("remote.origin.url", url)
    ws.config("core.sshCommand", f"touch {canary}")
    ws.config("protocol.ext.allow", "always")
    ws.append("a")
    ws.save()
    give_away(ws.path)
    assert ws.gitstate(command, "origin").exit_status != 0
    assert not canary.exists()


def test_worktree_for_a_save_of_a_stranger_runs_none_of_his_filters(ws: Workspace) -> None:
    ws.git("worktree", "add", "-q", "-b", "second", ws.outside / "wt")
    second = Workspace(ws.outside / "wt", ws.outside)
    second.append("a")
    give_away(second.path)
    save_id = second.save("--json").json["save_id"]
    ws.git("worktree", "remove", "--force", second.path)
    canary = plant_filter(ws)
    give_away(ws.path)
    os.chown(ws.outside, OWNER, OWNER)
    run = ws.gitstate("recover", "--save", save_id, "--into", str(ws.outside / "again"))
    assert run.exit_status == 0 and (ws.outside / "again" / "a").exists(), run
    assert not canary.exists()
    again = Workspace(ws.outside / "again", ws.outside)
    assert not_the_owners(ws) == not_the_owners(again) == []


def test_command_that_is_named_takes_the_repository_from_nobody(ws: Workspace) -> None:
    if reason := why_permissions_cannot_be_tested():
        pytest.skip(reason)
    ws.without_override = True
    run = ws.gitstate("save")
    assert run.exit_status == 1 and f"next: sudo -u '#{OWNER}' gitstate …" in run.stderr, run
    # Only its git directory is of another user, as after `sudo git init`.
    os.chown(ws.path, 0, 0)
    run = ws.gitstate("save")
    assert run.exit_status == 1 and f"next: sudo chown -R 0 {ws.git_dir}" in run.stderr, run


@pytest.mark.parametrize("link", ["gitstate", "logs", "refs/heads", "rebase-merge"])
def test_link_in_the_git_directory_of_a_stranger_is_refused(ws: Workspace, link: str) -> None:
    target = ws.outside / "precious"
    (target / "checkout").mkdir(parents=True)
    (target / "x.tmp-1").write_text("precious")
    (target / "checkout" / "k").write_text("precious")
    place = ws.git_dir / link
    if place.exists():
        place.rename(ws.outside / "moved")
    place.symlink_to(target)
    before = sorted(map(str, target.rglob("*")))
    for command in ("recover", "save", "status"):
        run = ws.gitstate(command)
        assert run.exit_status != 0 or command == "status", run
    assert sorted(map(str, target.rglob("*"))) == before


@pytest.mark.sample(2)
@pytest.mark.parametrize("count", ["2", "2000000000", "1", "many", "-1"])
def test_environment_may_trust_a_directory(count: str, ws: Workspace) -> None:
    """Where a container has no file for it. Whatever else stands there does not count, and stops nothing."""
    canary = plant_filter(ws)
    ws.append("a")
    give_away(ws.path)
    run_git(ws.outside, "config", "--global", "--unset-all", "safe.directory")
    ws.cli_env = {"GIT_CONFIG_COUNT": count, "GIT_CONFIG_KEY_0": "core.worktree", "GIT_CONFIG_VALUE_0": "/"}
    ws.cli_env |= {"GIT_CONFIG_KEY_1": "Safe.Directory", "GIT_CONFIG_VALUE_1": str(ws.path)}
    run = ws.save()
    if not count.startswith("2"):
        assert run.exit_status == 1 and "dubious ownership" in run.stderr, run
        return
    assert run.exit_status == 0 and canary.exists(), run
    give_away(ws.path)
    run = ws.recover()
    assert run.exit_status == 0 and '"verdict": "restore"' in run.stdout.decode(), run
    assert not_the_owners(ws) == []
    ws.cli_env["GIT_CONFIG_VALUE_1"] = "*"
    ws.append("a")
    canary.unlink()
    assert ws.save().exit_status == 0 and not canary.exists()


def test_stop_kills_no_process_that_a_stranger_names(ws: Workspace) -> None:
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as victim:
        ws.gitstate("begin", "task_id=x", "--owner-pid", str(victim.pid))
        assert json.loads((ws.git_dir / "gitstate" / "context.json").read_text())["pid"] == victim.pid
        run = ws.gitstate("stop")
        assert run.exit_status == 4 and "no process was stopped" in run.stderr, run
        assert victim.poll() is None
        victim.kill()


def test_two_users_of_a_shared_repository_save(tmp_path: Path) -> None:
    """Each in a worktree of his own; what both write to lies in the common directory."""
    run_git(tmp_path, "config", "--global", "safe.directory", "*")
    ws = three_files(tmp_path)
    ws.config("core.sharedRepository", "group")
    for path in (ws.git_dir, *(path for path in _all_below(ws.git_dir) if path.is_dir())):
        path.chmod(0o2775)
    ws.append("a")
    previous = os.umask(0o022)
    try:
        assert ws.save().exit_status == 0
    finally:
        os.umask(previous)
    own = ws.git_dir / "gitstate"
    assert own.stat().st_mode & 0o2070 == 0o2070
    # The kept index is git's own file, by another name.
    for path in (path for path in own.iterdir() if not path.name.startswith("index.")):
        assert path.stat().st_mode & 0o060 == 0o060, path


def test_files_of_an_unshared_repository_are_the_owners_alone(tmp_path: Path) -> None:
    ws = three_files(tmp_path)
    ws.append("a")
    assert ws.save().exit_status == 0
    for name in ("lock", "context.json"):
        assert (ws.git_dir / "gitstate" / name).stat().st_mode & 0o077 == 0
