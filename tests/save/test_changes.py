"""What counts as a change since the last save."""

from __future__ import annotations

import os

from tests.support.patched import patched
from tests.support.small import done, empty, mode, recover, save
from tests.support.workspace import Workspace


def test_operation_begun_after_a_save_is_saved(ws: Workspace) -> None:
    ws.write("a", "a1\n")
    save(ws)
    ws.git("bisect", "start")
    ws.git("bisect", "bad")
    save(ws)
    for trace in ws.git_dir.glob("BISECT_*"):
        trace.unlink()
    recover(ws)
    assert (ws.git_dir / "BISECT_LOG").exists()
    assert ws.read("a") == b"a1\n"


def test_permissions_and_empty_directories_alone_are_saved(ws: Workspace) -> None:
    ws.chmod("a", 0o600)
    ws.mkdir("empty")
    save(ws)
    ws.chmod("a", 0o644)
    ws.remove("empty")
    recover(ws)
    assert mode(ws, "a") == 0o600
    assert os.path.isdir(ws.at("empty"))


def test_permissions_reset_before_a_second_save_are_saved(ws: Workspace) -> None:
    ws.chmod("a", 0o600)
    ws.write("b", "b1\n")
    save(ws)
    ws.chmod("a", 0o644)
    save(ws)
    empty(ws)
    recover(ws)
    assert mode(ws, "a") == 0o644
    assert ws.read("b") == b"b1\n"


def test_nested_worktree_saved_twice_is_recovered(ws: Workspace) -> None:
    ws.git("worktree", "add", "-q", "-b", "wt", ".worktrees/x")
    ws.write(".worktrees/x/a", "n1\n")
    ws.write("b", "p1\n")
    save(ws)
    ws.write(".worktrees/x/a", "n2\n")
    ws.write(".worktrees/x/nu", "nu\n")
    done(ws.save())
    ws.remove(".worktrees")
    ws.recover()
    assert (ws.read(".worktrees/x/a"), ws.read(".worktrees/x/nu"), ws.read("b")) == (b"n2\n", b"nu\n", b"p1\n")
    inner = Workspace(ws.path / ".worktrees" / "x", ws.outside)
    assert inner.status() == {b" M a", b"?? nu"}


def test_host_name_change_between_two_saves_is_recovered(ws: Workspace) -> None:
    base = ws.out("rev-parse", "HEAD")
    ws.write("a", "a1\n")
    ws.add("a")
    ws.write("u", "u\n")
    save(ws)
    ws.write("a", "a2\n")
    for command in ("save", "recover"):
        run = patched(ws, "gitstate.format.names.hostname = lambda: 'otherhost'", command)
        assert run.returncode == 0, run
    assert ws.out("rev-parse", "HEAD") == base
    assert ws.status() == {b"MM a", b"?? u"}
    assert ws.git("cat-file", "blob", ":a") == b"a1\n"
