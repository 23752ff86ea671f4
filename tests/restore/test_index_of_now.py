"""What somebody staged after the save stays in the index, however the index of now is compared with it."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from gitstate.git.index import cached_tree, read_plain_index
from tests.support.forgery import forged
from tests.support.look import paths_of
from tests.support.oracle import fingerprint
from tests.support.recovering import recovered_from
from tests.support.repositories import initialized
from tests.support.saving import saved_from
from tests.support.workspace import Workspace


def _stage_another(ws: Workspace) -> None:
    ws.write("b.txt", "staged after the save\n")
    ws.add("b.txt")


def _unstage(ws: Workspace) -> None:
    ws.git("rm", "-q", "--cached", "b.txt")


def _make_executable(ws: Workspace) -> None:
    ws.git("update-index", "--chmod=+x", "b.txt")


STAGING: dict[str, Callable[[Workspace], None]] = {
    "another version": _stage_another,
    "deletion": _unstage,
    "mode": _make_executable,
}


@pytest.mark.parametrize("staging", STAGING)
def test_path_that_the_save_staged_is_kept_as_it_was_staged_since(staging: str, ws: Workspace) -> None:
    ws.write("b.txt", "staged at the save\n")
    ws.add("b.txt")
    ws.append("a.txt", "edited\n")
    saved_from(ws.save())
    STAGING[staging](ws)
    listed = ws.git("ls-files", "-s", "b.txt")
    assert paths_of(recovered_from(ws.recover(), exits=(0, 4))["kept"]) == {b"b.txt"}
    assert ws.git("ls-files", "-s", "b.txt") == listed


def _left(ws: Workspace) -> list[Path]:
    return list((ws.git_dir / "gitstate").glob("left.*"))


def test_index_that_the_save_left_is_known_by_its_file(ws: Workspace) -> None:
    """Nothing was staged since. Whatever git or an agent puts in its place is another file, and is looked into."""
    ws.append("a.txt", "edited\n")
    saved_from(ws.save())
    index = ws.git_dir / "index"
    assert [os.path.samefile(path, index) for path in _left(ws)] == [True]
    shutil.copy2(index, index.with_suffix(".new"))
    index.with_suffix(".new").rename(index)
    _stage_another(ws)
    assert paths_of(recovered_from(ws.recover(), exits=(0, 4))["kept"]) == {b"b.txt"}
    assert _left(ws) == []


@pytest.mark.parametrize("at_the_save", ["staged", "edited"])
def test_index_that_was_written_in_place_since_is_looked_into(at_the_save: str, ws: Workspace) -> None:
    """So does what is not git, as go-git, isomorphic-git, or who copies an index of his own over it."""
    ws.append("a.txt", "changed\n")
    if at_the_save == "staged":
        ws.add("a.txt")
    saved_from(ws.save())
    index = ws.git_dir / "index"
    before, other = index.stat().st_ino, index.with_suffix(".other")
    shutil.copy2(index, other)
    ws.write("b.txt", "staged after the save\n")
    ws.git("add", "b.txt", env={"GIT_INDEX_FILE": str(other)})
    shutil.copyfile(other, index)
    assert index.stat().st_ino == before
    staged = ws.out("rev-parse", ":b.txt")
    assert paths_of(recovered_from(ws.recover(), exits=(0, 4))["kept"]) >= {b"b.txt"}
    assert ws.out("rev-parse", ":b.txt") == staged
    assert _left(ws) == []


@pytest.mark.parametrize("later", ["save", "stack"])
def test_index_left_by_an_earlier_save_is_forgotten(later: str, ws: Workspace) -> None:
    ws.append("a.txt", "edited\n")
    saved_from(ws.save())
    if later == "save":
        assert ws.recover().exit_status == 0
    ws.append("a.txt", "edited again\n")
    newest = saved_from(ws.save()).save_id
    assert f"left.{newest}" in {path.stem for path in _left(ws)}
    _stage_another(ws)
    assert paths_of(recovered_from(ws.recover(), exits=(0, 4))["kept"]) == {b"b.txt"}
    assert _left(ws) == []


@pytest.mark.parametrize("since", ["nothing", "staged"])
def test_index_left_where_there_was_none_is_forgotten(since: str, tmp_path: Path) -> None:
    ws = initialized(tmp_path)
    ws.write("new.txt", "new\n")
    saved_from(ws.save())
    assert len(_left(ws)) == 1
    if since == "staged":
        _stage_another(ws)
    assert ws.recover().exit_status == 0
    assert ("b.txt" in ws.out("ls-files")) == (since == "staged")
    assert _left(ws) == []


def test_index_that_a_save_left_before_a_reboot_is_looked_into(ws: Workspace) -> None:
    """It is the same file, and a power cut may have put other entries into it."""
    ws.append("a.txt", "edited\n")
    saved_from(ws.save())
    _replace_entry(ws, b"b.txt", ws.out("rev-parse", "HEAD~2:a.txt"))
    assert os.path.samefile(_left(ws)[0], ws.git_dir / "index")
    with forged(ws, "pending") as save:
        save.context["boot_id"] = "the boot before"
    assert paths_of(recovered_from(ws.recover(), exits=(0, 4))["kept"]) == {b"b.txt"}


def _replace_entry(ws: Workspace, path: bytes, oid: str) -> None:
    """As where a disk lost a part of the index: an entry is another one, and all else is as git wrote it."""
    index = ws.git_dir / "index"
    data, seen = bytearray(index.read_bytes()), index.stat()
    name = data.index(path + b"\0")
    data[name - 22 : name - 2] = bytes.fromhex(oid)
    data[-20:] = hashlib.sha1(data[:-20]).digest()
    index.write_bytes(data)
    os.utime(index, ns=(seen.st_atime_ns, seen.st_mtime_ns))


def test_large_index_of_another_boot_is_compared_entry_by_entry(ws: Workspace) -> None:
    """It notes the tree that it was made from. After a power cut that tells nothing of its entries."""
    for number in range(1500):
        ws.write(f"many/{number:0190}", "")
    ws.add("many")
    ws.commit("many")
    ws.append("a.txt", "edited\n")
    saved_from(ws.save())
    ws.git("reset", "-q", "--hard", "HEAD~1")
    index = os.path.join(os.fsencode(ws.git_dir), b"index")
    _replace_entry(ws, b"b.txt", ws.out("rev-parse", ":a.txt"))
    assert read_plain_index(index, 20) is None and cached_tree(index, 20) == ws.out("rev-parse", "HEAD^{tree}")
    with forged(ws, "pending") as save:
        save.context["boot_id"] = "the boot before"
    assert paths_of(recovered_from(ws.recover(), exits=(0, 4))["kept"]) == {b"b.txt"}
    assert ws.out("rev-parse", ":b.txt") == ws.out("rev-parse", "HEAD:a.txt")


def tags(ws: Workspace) -> dict[str, str]:
    return {line[2:]: line[0] for line in ws.out("ls-files", "-v").splitlines() if line[0] != "H"}


@pytest.mark.sample(5)
@pytest.mark.parametrize("loss", ["in place", "wiped to the base", "wiped to the tip", "files gone", "marker gone"])
@pytest.mark.parametrize("count", [1, 2])
def test_flags_that_were_set_after_the_save_stay(count: int, loss: str, ws: Workspace) -> None:
    """They are of the index of now alone; but what comes back unstaged is not hidden from `git status`."""
    for name in ("assumed.txt", "skipped.txt", "edited.txt", "staged.txt"):
        ws.write(name, "committed\n")
    base = ws.commit("more")
    for number in range(count):
        ws.append("staged.txt", f"staged {number}\n")
        ws.git("add", "staged.txt")
        ws.append("edited.txt", f"edited {number}\n")
        assert ws.save(task_id="T-1").exit_status == 0
    ws.git("update-index", "--assume-unchanged", "assumed.txt", "edited.txt", "staged.txt")
    ws.git("update-index", "--skip-worktree", "skipped.txt")
    if loss == "wiped to the base":
        ws.git("update-index", "--no-assume-unchanged", "edited.txt", "staged.txt")
        ws.git("reset", "-q", "--hard", base)
    elif loss == "wiped to the tip":
        ws.git("reset", "-q", "--hard")
    elif loss == "files gone":
        for name in ("assumed.txt", "edited.txt", "staged.txt"):
            ws.remove(name)
    elif loss == "marker gone":
        for ref in ws.refs("refs/gitstate"):
            ws.git("update-ref", "-d", ref)
    assert ws.recover().exit_status == 0
    found = tags(ws)
    assert (found.get("assumed.txt"), found.get("skipped.txt"), found.get("edited.txt")) == ("h", "S", None)
    assert b"edited.txt" in {line[3:] for line in ws.status() if line[1:2] == b"M"}
    assert ws.read("assumed.txt") == b"committed\n" and ws.read("skipped.txt") == b"committed\n"


def test_flags_that_the_save_holds_are_not_those_of_now(ws: Workspace) -> None:
    """What git has shown since the save, because it brought it into the WIP commit, is hidden as it was."""
    ws.write("hidden.txt", "committed\n")
    ws.commit("more")
    ws.git("update-index", "--assume-unchanged", "hidden.txt")
    ws.append("hidden.txt", "hidden edit\n")
    ws.append("a.txt", "work\n")
    before = fingerprint(ws.path)
    assert ws.save(task_id="T-1").exit_status in (0, 4)
    ws.git("update-index", "--assume-unchanged", "a.txt")
    assert ws.recover().exit_status == 0
    assert tags(ws) == {"hidden.txt": "h"}, "a.txt has work that came back"
    assert before.diff(fingerprint(ws.path)) == []
