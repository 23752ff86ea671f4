"""Tampered saves: nothing in an archive writes outside of the workspace or hides other saves.

`forged` yields the parts of the pending save, and replaces it by the changed one.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.forgery import FILE, HOOK, LINK, PROGRAM, TREE, Entry, Forgery, forged, index_file
from tests.support.repositories import three_files
from tests.support.workspace import Run, Workspace


@pytest.fixture
def ws(tmp_path: Path) -> Workspace:
    """A repository with one commit of three small files, and one of them edited."""
    ws = three_files(tmp_path)
    ws.write("a", "a1\n")
    return ws


def saved(ws: Workspace, *args: str) -> Run:
    run = ws.save(*args)
    assert run.exit_status == 0, run
    return run


def assert_refused(run: Run) -> None:
    """Manual intervention is required, and it is not reported as an internal error."""
    assert run.exit_status == 4, run


# -- writing where no save may write


def git_hook(save: Forgery) -> Entry:
    hooks = save.tree(Entry(PROGRAM, b"post-checkout", save.blob(HOOK)))
    return Entry(TREE, b".git", save.tree(Entry(TREE, b"hooks", hooks)))


def git_config_in_capitals(save: Forgery) -> Entry:
    return Entry(TREE, b".GIT", save.tree(Entry(FILE, b"config", save.blob(b"[core]\n\tpager = false\n"))))


def file_above(save: Forgery) -> Entry:
    return Entry(TREE, b"..", save.tree(Entry(FILE, b"evil", save.blob(b"x"))))


@pytest.mark.sample(3)
@pytest.mark.parametrize("entry", [git_hook, git_config_in_capitals, file_above])
@pytest.mark.parametrize("command", ["recover", "restore"])
def test_unsafe_path_in_the_tree_is_rejected(ws: Workspace, command: str, entry: Callable[[Forgery], Entry]) -> None:
    save_id = saved(ws).json["save_id"]
    with forged(ws) as save:
        save.wip.insert(0, entry(save))
    config = (ws.path / ".git" / "config").read_bytes()
    assert_refused(ws.recover() if command == "recover" else ws.gitstate("restore", save_id))
    assert not (ws.path / ".git/hooks/post-checkout").exists()
    assert not (ws.path / ".GIT").exists()
    assert not (ws.path.parent / "evil").exists()
    assert (ws.path / ".git" / "config").read_bytes() == config


def test_unsafe_path_in_the_archived_index_is_rejected(ws: Workspace) -> None:
    ws.write("u", "u\n")
    saved(ws)
    with forged(ws) as save:
        save.wip[:] = [Entry(FILE, b"zz", save.blob(b"z"))]  # nothing of it is there: the workspace looks wiped
        hook, ours = save.blob(HOOK), save.blob(b"a0\n")
        index = index_file([(b".git/hooks/post-merge", 0o100755, hook), (b"a", 0o100644, ours)])
        index_oid = save.blob(index)
        save.archive[:] = [entry._replace(oid=index_oid) if entry.name == b"index" else entry for entry in save.archive]
        assert index_oid in {entry.oid for entry in save.archive}
    run = ws.recover()
    assert run.exit_status != 3, run
    assert not (ws.path / ".git/hooks/post-merge").exists()
    assert b".git/" not in ws.git("ls-files", "-z")


def test_nested_worktree_behind_a_symlink_is_not_created(ws: Workspace) -> None:
    """It is neither created outside of the workspace nor recovered inside itself, which would deadlock."""
    ws.git("checkout", "-q", "--detach")
    saved(ws)
    with forged(ws) as save:
        save.wip.append(Entry(LINK, b"zlink", save.blob(bytes(ws.outside))))
        save.manifest["nested"] = [{"path": "zlink/w", "save_id": save.manifest["save_id"], "archive": None}]
    run = ws.recover("--wait", "2")
    assert run.exit_status in (0, 4), run
    assert list(ws.outside.iterdir()) == []
    assert ws.out("worktree", "list").count("\n") == 0


# -- breaking the answer, or the whole save, with one bad value


@pytest.mark.sample(2)
@pytest.mark.parametrize("command", ["recover", "restore latest", "verify"])
def test_path_that_no_call_takes_is_refused(command: str, ws: Workspace) -> None:
    saved(ws)
    with forged(ws) as save:
        entry = Entry(FILE, b"f", save.blob(b"x"))
        for _ in range(20):
            entry = Entry(TREE, b"n" * 220, save.tree(entry))
        save.wip.append(Entry(TREE, b"zlong", entry.oid))
    run = ws.gitstate(*command.split())
    assert_refused(run)
    assert "a path that git would refuse" in run.text + run.stderr


@pytest.mark.parametrize(
    "entry", [Entry(FILE, b"zgone", "1" * 40), Entry(TREE, b"zgone", "1" * 40)], ids=["file", "tree"]
)
def test_diff_of_a_save_that_lacks_an_object_is_no_bug(entry: Entry, ws: Workspace) -> None:
    saved(ws)
    with forged(ws) as save:
        save.wip.append(entry)
    run = ws.gitstate("diff", "latest")
    assert_refused(run)
    assert "1" * 40 in run.stderr and "fsck" in run.stderr, run


@pytest.mark.sample(2)
@pytest.mark.parametrize("target", [b"one\0two", b"x" * (16 << 20)], ids=["NUL", "large"])
@pytest.mark.parametrize("command", ["recover", "restore"])
def test_symlink_that_cannot_be_made_costs_no_other_file(command: str, target: bytes, ws: Workspace) -> None:
    """Git stores any bytes as the target of a symlink."""
    save_id = saved(ws).json["save_id"]
    ws.git("reset", "-q", "--hard", "HEAD~1")
    with forged(ws) as save:
        save.wip.append(Entry(LINK, b"zlink", save.blob(target)))
    run = ws.recover() if command == "recover" else ws.gitstate("restore", save_id)
    assert run.exit_status == 4 and "no symlink has a" in run.text + run.stderr, run
    assert ws.read("a") == b"a1\n"
    assert not os.path.lexists(ws.path / "zlink")


def test_lone_surrogate_in_a_reason_is_handled(ws: Workspace) -> None:
    saved(ws)
    with forged(ws) as save:
        save.manifest["left_out"] = [{"path": "x", "reason": "\ud800", "lost": False}]
    for style in ("--json", "--format=text"):
        run = ws.gitstate("recover", style)
        assert run.exit_status in (0, 4), run
    assert ws.read("a") == b"a1\n"


def test_head_that_is_not_a_commit_is_rejected(ws: Workspace) -> None:
    saved(ws)
    with forged(ws) as save:
        save.manifest["head"] = save.blob(b"x")
    assert_refused(ws.recover())


@pytest.mark.sample(2)
@pytest.mark.parametrize("name", [b".git.", b"git~1", b".git::$INDEX_ALLOCATION"])
def test_invalid_name_in_the_archive_is_not_an_internal_error(ws: Workspace, name: bytes) -> None:
    saved(ws)
    with forged(ws) as save:
        save_id = save.manifest["save_id"]
        save.archive.append(Entry(FILE, name, save.blob(b"x")))
    for words in (("diff", save_id), ("log", "--all"), ("show", save_id)):
        run = ws.gitstate(*words)
        assert run.exit_status in (0, 2, 4), run
    assert ws.gitstate("diff", save_id).exit_status == 4


def test_save_id_without_a_time_overwrites_no_file(ws: Workspace) -> None:
    """The time in a save id decides which files a power cut may have shortened."""
    ws.write("new", "new and long\n")
    saved(ws)
    with forged(ws) as save:
        save.manifest["save_id"] = "x"
    ws.write("new", "new")
    run = ws.recover()
    assert run.exit_status in (0, 4), run
    assert ws.read("new") == b"new"


def surrogate_context(save: Forgery) -> None:
    save.context = {"task_id": "\ud800"}


def huge_context(save: Forgery) -> None:
    save.raw[b"context.json"] = b"x" * (2 << 20)


def deep_context(save: Forgery) -> None:
    save.raw[b"context.json"] = b"[" * 200_000


@pytest.mark.sample(2)
@pytest.mark.parametrize("spoil", [surrogate_context, huge_context, deep_context])
def test_bad_context_costs_no_file(ws: Workspace, spoil: Callable[[Forgery], None]) -> None:
    saved(ws)
    with forged(ws) as save:
        spoil(save)
    ws.remove("a")
    run = ws.recover()
    assert run.exit_status == 0, run
    assert ws.read("a") == b"a1\n"


def test_log_lists_the_other_saves_beside_a_bad_one(ws: Workspace) -> None:
    first = saved(ws).json["save_id"]
    assert ws.recover().exit_status == 0
    ws.write("a", "a2\n")
    second = saved(ws).json["save_id"]
    with forged(ws) as save:
        save.raw[b"manifest.json"] = b"[" * 200_000
    run = ws.gitstate("log", "--json")
    assert run.exit_status == 0, run
    assert first in {entry["save_id"] for entry in run.json["saves"]}, run
    assert second.encode() in os.fsencode(str(run))
    assert_refused(ws.recover())
