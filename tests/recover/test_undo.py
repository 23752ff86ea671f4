"""`undo` takes the last recover or restore back, and once more brings it again. What was edited since stays."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.patched import patched
from tests.support.workspace import Workspace


@pytest.fixture
def held(ws: Workspace) -> Workspace:
    """A checkpoint that holds an edited file, a new one and a deletion; then other content on the disk."""
    ws.write("a.txt", "saved\n")
    ws.write("new/file.txt", "saved\n", mode=0o755)
    ws.remove("b.txt")
    assert ws.gitstate("checkpoint", "--label", "held").exit_status == 0
    return ws


def files(ws: Workspace) -> dict[str, tuple[bytes, int]]:
    """Content and permissions of each file of the worktree but the state file."""
    return {
        str(path.relative_to(ws.path)): (path.read_bytes(), path.stat().st_mode & 0o777)
        for path in sorted(ws.path.rglob("*"))
        if path.is_file() and ".git" not in path.relative_to(ws.path).parts and path.name != "active_state.json"
    }


def undo(ws: Workspace, *args: str) -> dict[str, object]:
    run = ws.gitstate("undo", "--json", *args)
    assert run.exit_status == 0, run
    (result,) = run.json["workspaces"]
    assert isinstance(result, dict)
    return result


def test_undo_and_redo_of_a_restore_over_clean_files(held: Workspace) -> None:
    held.git("reset", "-q", "--hard")
    held.git("clean", "-fdq")
    before = files(held)
    assert held.gitstate("restore", "held").exit_status == 0
    restored = files(held)
    assert restored["a.txt"][0] == b"saved\n" and "b.txt" not in restored
    for expected in (before, restored, before, restored):
        undo(held)
        assert files(held) == expected


def test_undo_and_redo_of_a_restore_over_edited_files(held: Workspace) -> None:
    held.write("a.txt", "newer\n")
    held.write("new/file.txt", "newer\n", mode=0o600)
    held.write("b.txt", "newer\n")
    before = files(held)
    assert held.gitstate("restore", "--overwrite", "held").exit_status == 0
    restored = files(held)
    assert restored != before and "b.txt" not in restored
    for expected in (before, restored, before):
        undo(held)
        assert files(held) == expected


def test_undo_of_a_recover(ws: Workspace) -> None:
    ws.write("a.txt", "saved\n")
    ws.write("new.txt", "saved\n")
    ws.save()
    ws.write("a.txt", "third\n")
    ws.remove("new.txt")
    before = files(ws)
    ws.recover("--overwrite")
    restored = files(ws)
    assert restored != before
    for expected in (before, restored):
        undo(ws)
        assert files(ws) == expected


def test_undo_where_a_file_and_a_directory_changed_places(ws: Workspace) -> None:
    """The commit holds a directory where the save holds a file, and the other way round."""
    ws.write("directory/inside", "base\n")
    ws.commit("base")
    ws.remove("directory")
    ws.write("directory", "saved\n")
    ws.remove("a.txt")
    ws.write("a.txt/inside", "saved\n")
    ws.save()
    ws.git("reset", "-q", "--hard", "HEAD~1")
    before = files(ws)
    ws.recover()
    restored = files(ws)
    assert {"directory", "a.txt/inside"} <= restored.keys()
    for expected in (before, restored, before):
        undo(ws)
        assert files(ws) == expected


def test_undo_keeps_what_was_edited_since(held: Workspace) -> None:
    held.git("reset", "-q", "--hard")
    assert held.gitstate("restore", "held").exit_status == 0
    held.write("a.txt", "edited since\n")
    run = held.gitstate("undo")
    assert run.exit_status == 4 and run.stderr.splitlines()[-1].endswith(" undo --overwrite")
    assert held.read("a.txt") == b"edited since\n" and (held.path / "b.txt").exists()


def test_dry_run_of_undo_changes_nothing(held: Workspace) -> None:
    held.git("reset", "-q", "--hard")
    assert held.gitstate("restore", "held").exit_status == 0
    before = files(held)
    refs = held.refs("refs/gitstate/")
    assert undo(held, "--dry-run")["restored"] != []
    assert (files(held), held.refs("refs/gitstate/")) == (before, refs)


def test_undo_without_a_restore_exits_4(ws: Workspace) -> None:
    run = ws.gitstate("undo")
    assert run.exit_status == 4 and "nothing was recovered or restored here" in run.stderr


@pytest.mark.sample(2)
@pytest.mark.parametrize("data", [b"", b"{", b"{}", b'{"paths":["zz"],"before":{},"after":{}}', b"[1]"])
def test_damaged_note_is_no_note(held: Workspace, data: bytes) -> None:
    note = Path(held.path, ".git", "gitstate", "last-restore.json")
    note.write_bytes(data)
    assert held.gitstate("undo").exit_status == 4


def test_dry_run_of_restore_prints_the_change_as_a_patch(held: Workspace) -> None:
    held.git("reset", "-q", "--hard")
    held.git("clean", "-fdq")
    before = files(held)
    run = held.gitstate("restore", "--dry-run", "held")
    assert run.exit_status == 0 and files(held) == before
    patch = run.stdout
    held.git("apply", "--check", stdin=patch)
    assert b"+saved\n" in patch and b"+++ /dev/null\n" in patch and b"--- /dev/null\n" in patch


def test_undo_names_what_it_goes_back_to(ws: Workspace) -> None:
    """A recovery of clean files takes no safety save: before it they were as the commit has them."""
    ws.append("a.txt", "work\n")
    ws.save()
    ws.git("reset", "-q", "--hard", "HEAD~1")
    assert ws.recover().exit_status == 0
    first, second = ws.gitstate("undo").stderr, ws.gitstate("undo").stderr
    assert "restored from the commit; branch and index were not touched\n" in first
    assert "restored from the save; branch and index were not touched (save " in second
    assert ws.read("a.txt").endswith(b"work\n")


#: A disk that is full when the note for `undo` is written.
NOT_NOTED = """
import errno
real = os.fsync
def fsync(fd):
    if "/last-restore" in os.readlink("/proc/self/fd/%d" % fd):
        raise OSError(errno.ENOSPC, "No space left on device")
    real(fd)
os.fsync = fsync
"""


def test_undo_takes_no_earlier_restore_back_for_one_that_could_not_be_noted(held: Workspace) -> None:
    held.git("reset", "-q", "--hard")
    assert held.gitstate("restore", "held", "a.txt").exit_status == 0
    held.remove("new")
    assert patched(held, NOT_NOTED, "restore", "held", "new").returncode == 0
    assert held.read("new/file.txt") == b"saved\n"
    run = held.gitstate("undo")
    assert run.exit_status != 0 and held.read("a.txt") == b"saved\n", run
