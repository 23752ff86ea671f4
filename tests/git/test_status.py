"""What changed, as a git tells it that may read no file."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from gitstate.errors import GitError
from gitstate.git.opening import open_repository
from gitstate.git.repository import Repository
from gitstate.git.status import are_ignored, quick_status, start_check_ignore, start_status
from gitstate.system.clock import Deadline
from tests.support.repositories import three_files
from tests.support.workspace import Workspace


@pytest.fixture
def ws(tmp_path: Path) -> Workspace:
    return three_files(tmp_path)


def both(ws: Workspace) -> tuple[set[bytes], set[bytes]]:
    """The lines of the quick answer, and those of `git status`: kind, states and path of each."""
    repository: Repository = open_repository(os.fsencode(ws.path))
    quick = quick_status(repository, {}, 60.0)
    whole = repository.git.finish(start_status(repository, {}))
    return _short(quick), _short(whole)


def _short(output: bytes) -> set[bytes]:
    found = set()
    for line in output.split(b"\0"):
        if line.startswith((b"1 ", b"u ")):
            fields = line.split(b" ", 8 if line[:1] == b"1" else 10)
            # Neither the mode in the worktree, nor the oid of an entry that is not staged, is asked for.
            found.add(b" ".join((fields[0], fields[1], fields[-1])))
        elif line.startswith(b"# branch.oid"):
            found.add(line)
    return found


def edit_everything(ws: Workspace) -> None:
    ws.write("a", "staged\n")
    ws.git("add", "a")
    ws.append("a", "and edited\n")
    ws.remove("b")
    ws.write("new", "new\n")
    ws.git("add", "new")
    ws.write("intended", "text\n")
    ws.git("add", "-N", "intended")
    ws.git("rm", "-q", "--cached", "d/x")


def merge_with_conflict(ws: Workspace) -> None:
    ws.git("checkout", "-q", "-b", "other")
    ws.write("a", "theirs\n")
    ws.commit()
    ws.git("checkout", "-q", "-")
    ws.write("a", "ours\n")
    ws.commit()
    ws.fails("merge", "other")


def nothing(_: Workspace) -> None:
    pass


@pytest.mark.parametrize("change", [nothing, edit_everything, merge_with_conflict])
def test_quick_status_says_what_git_status_says(ws: Workspace, change: object) -> None:
    assert callable(change)
    change(ws)
    quick, whole = both(ws)
    assert quick == whole


def test_quick_status_of_an_unborn_branch(ws: Workspace) -> None:
    ws.git("checkout", "-q", "--orphan", "empty")
    quick, whole = both(ws)
    assert quick == whole and b"# branch.oid (initial)" in quick


def test_quick_status_reads_no_file(ws: Workspace) -> None:
    """A file whose times changed counts as changed: to know better it would have to be read."""
    os.utime(ws.at("a"), (1, 1))
    quick, whole = both(ws)
    assert quick - whole == {b"1 .M a"}


def test_quick_status_of_some_paths_looks_at_no_other_file(ws: Workspace) -> None:
    for name in ("a", "b"):
        ws.write(name, "edited\n")
    ws.write("staged", "new\n")
    ws.add("staged")
    repository = open_repository(os.fsencode(ws.path))
    some = quick_status(repository, {}, 60.0, [b"a", b"none"]).split(b"\0")
    assert sorted(line.split(b" ")[-1] for line in some[1:-1]) == [b"a", b"staged"]


def test_git_that_was_killed_before_it_was_asked_is_an_error_of_git(ws: Workspace) -> None:
    """Its broken pipe is no other one's: `gitstate log | head` ends well."""
    asking = start_check_ignore(open_repository(os.fsencode(ws.path)), {})
    os.kill(asking.pid, signal.SIGKILL)
    assert os.waitid(os.P_PID, asking.pid, os.WEXITED | os.WNOWAIT) is not None
    with pytest.raises(GitError) as raised:
        are_ignored(asking, [b"a"], Deadline(None))
    assert raised.value.status == -signal.SIGKILL
