"""A scan that starts no git calls nothing unchanged that git would not."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from gitstate.git.opening import open_repository
from gitstate.git.scan import WorktreeScan
from tests.support.workspace import Workspace

#: Long before the index is written, in nanoseconds since the epoch: nothing is racy.
OLD_NS = 1_600_000_000_123_456_789


@pytest.fixture
def settled(ws: Workspace) -> Workspace:
    """A clean worktree whose files are older than its index."""
    ws.write("in/a directory.txt", "1\n")
    ws.commit("a directory")
    for path in ws.out("ls-files", "-z").split("\0")[:-1]:
        os.utime(ws.at(path), ns=(OLD_NS, OLD_NS), follow_symlinks=False)
    ws.git("update-index", "--refresh")
    return ws


def scan(ws: Workspace) -> WorktreeScan:
    return WorktreeScan(open_repository(os.fsencode(ws.path)), os.fsencode(ws.git_dir / "index"))


def _edited_under_the_same_times(ws: Workspace) -> None:
    """Of the same size, and with its old mtime put back: its ctime alone tells."""
    ws.write("in/a directory.txt", "2\n")
    os.utime(ws.at("in/a directory.txt"), ns=(OLD_NS, OLD_NS))


def _behind_a_symlink(ws: Workspace) -> None:
    """The same inode under the same name, but git looks behind no symlink."""
    os.rename(ws.at("in"), ws.at("elsewhere"))
    os.symlink("elsewhere", ws.at("in"))


def _gone(ws: Workspace) -> None:
    ws.remove("in/a directory.txt")


def _directory_in_its_place(ws: Workspace) -> None:
    ws.remove("in/a directory.txt")
    os.mkdir(ws.at("in/a directory.txt"))


def _made_executable(ws: Workspace) -> None:
    os.chmod(ws.at("in/a directory.txt"), 0o755)


CHANGES = [_edited_under_the_same_times, _behind_a_symlink, _gone, _directory_in_its_place, _made_executable]


def test_clean_worktree_is_proven_without_git(settled: Workspace) -> None:
    assert scan(settled).proves_only(())


@pytest.mark.parametrize("change", CHANGES)
def test_changed_file_is_not_proven_to_be_as_it_was(change: Callable[[Workspace], None], settled: Workspace) -> None:
    change(settled)
    assert not scan(settled).proves_only(())
    assert scan(settled).proves_only((b"in/a directory.txt",))


def test_file_as_young_as_the_index_is_not_proven(settled: Workspace) -> None:
    """It may have changed once more within the same tick of the clock."""
    os.utime(settled.git_dir / "index", ns=(OLD_NS + 1, OLD_NS + 1))
    assert not scan(settled).proves_only(())


def test_file_hidden_from_git_is_found_where_that_is_learnt_later(settled: Workspace) -> None:
    """What git sees by an index says nothing of a file that it was told not to look at."""
    settled.git("update-index", "--assume-unchanged", "in/a directory.txt")
    begun = [
        WorktreeScan(open_repository(os.fsencode(settled.path)), os.fsencode(settled.git_dir / "index"), is_plain=None)
        for _ in range(2)
    ]
    for found, is_plain in zip(begun, (True, False), strict=True):
        found.learn(is_plain)
        assert (found.finish() is None) is not is_plain
