"""Parts of a repository inside a workspace that are held with it, or named: files, commits without a ref, git-lfs."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.recover.test_inside import a_clone, state_of, wiped
from tests.recover.test_inside_forged import reason_for
from tests.support.workspace import Workspace


def broken_ref(inner: Workspace) -> None:
    (inner.git_dir / "refs" / "heads" / "bad").write_text("1" * 40 + "\n")


def large_exclude(inner: Workspace) -> None:
    inner.write(".git/info/exclude", "nothing\n" * 200_000)


def linked_exclude(inner: Workspace) -> None:
    (inner.outside / "patterns").write_text("nothing\n")
    (inner.git_dir / "info").mkdir(exist_ok=True)
    (inner.git_dir / "info" / "exclude").unlink(missing_ok=True)
    (inner.git_dir / "info" / "exclude").symlink_to(inner.outside / "patterns")


def large_stash_log(inner: Workspace) -> None:
    inner.append("f.txt")
    inner.git("stash", "-q")
    log = inner.git_dir / "logs" / "refs" / "stash"
    log.write_text(log.read_text().rstrip("\n") + "x" * (1 << 20) + "\n")


def lfs_objects(inner: Workspace) -> None:
    inner.write(".git/lfs/objects/ab/cd/abcd", "only here\n")


def pushed_lfs_objects(inner: Workspace) -> None:
    lfs_objects(inner)
    inner.commit("all of it")
    inner.git("push", "-q", "origin", "HEAD")
    inner.append("f.txt")


@pytest.mark.sample(3)
@pytest.mark.parametrize(
    ("change", "words", "is_lost"),
    [
        (broken_ref, "refs/heads/bad (the object is missing)", False),
        (large_exclude, "its info/exclude (it has more than 1 MiB)", True),
        (linked_exclude, "its info/exclude (it is a link, or unreadable)", True),
        (large_stash_log, "its logs/refs/stash (it has more than 1 MiB)", True),
        (lfs_objects, "the objects of git-lfs, which only its remote may have", True),
        (pushed_lfs_objects, "the objects of git-lfs, which only its remote may have", False),
    ],
)
def test_part_that_is_not_held_is_named_and_all_else_comes_back(
    change: Callable[[Workspace], None], words: str, is_lost: bool, ws: Workspace
) -> None:
    inner = a_clone(ws)
    change(inner)
    files, refs, head = state_of(inner)
    run = ws.save()
    assert run.exit_status == (4 if is_lost else 0), run
    [item] = run.json["left_out"]
    assert item["reason"].endswith(f"; this repository holds it without {words}")
    assert item["lost"] is is_lost
    run = wiped(ws).recover()
    assert run.exit_status == 0, run
    assert words in reason_for(run, "vendor/lib")
    back = state_of(inner)
    assert files.diff(back[0]) == []
    assert back[1:] == ({name: oid for name, oid in refs.items() if name != "refs/heads/bad"}, head)


def test_repository_with_a_missing_blob_is_not_held_and_that_is_a_loss(ws: Workspace) -> None:
    inner = a_clone(ws)
    blob = inner.out("rev-parse", "HEAD:kept.txt")
    inner.remove(f".git/objects/{blob[:2]}/{blob[2:]}")
    run = ws.save()
    assert run.exit_status == 4, run
    [item] = run.json["left_out"]
    assert item["lost"] and "this repository does not hold it: git pack-objects failed" in item["reason"]


def test_large_files_of_its_git_directory_come_back(ws: Workspace) -> None:
    """Patterns of 900 kB, and a log of 300 stashes with long subjects."""
    inner = a_clone(ws)
    inner.append("f.txt")
    inner.git("stash", "-q")
    inner.write(".git/info/exclude", "nothing\n" * 110_000)
    log = inner.git_dir / "logs" / "refs" / "stash"
    log.write_text(log.read_text().replace("WIP", "WIP" + "x" * 300) * 300)
    exclude, stashes = (inner.git_dir / "info" / "exclude").read_bytes(), inner.out("stash", "list")
    run = ws.save()
    assert (run.exit_status, run.json["left_out"]) == (0, []), run
    assert wiped(ws).recover().exit_status == 0
    assert (inner.git_dir / "info" / "exclude").read_bytes() == exclude
    assert inner.out("stash", "list") == stashes and len(stashes.splitlines()) == 300


def test_commit_of_a_linked_worktree_elsewhere_comes_back(ws: Workspace) -> None:
    """No ref leads to it; one of gitstate's then does, and the next save holds that."""
    inner = a_clone(ws)
    inner.git("worktree", "add", "-q", "--detach", str(inner.outside / "away"))
    inner.git("worktree", "add", "-q", "--detach", str(inner.outside / "same"))
    away = Workspace(inner.outside / "away", inner.outside, main=inner.path)
    away.write("q", "only in the worktree\n")
    away.commit("detached")
    commit = away.out("rev-parse", "HEAD")
    for _ in range(2):
        ws.append("a")
        assert ws.save().exit_status == 0
        assert wiped(ws).recover().exit_status == 0
        assert inner.refs("refs/gitstate/worktrees") == {f"refs/gitstate/worktrees/{commit}": commit}
        assert inner.out("show", f"{commit}:q") == "only in the worktree"
