"""Recover never loses newer work."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from tests.states import STATES, make
from tests.support.patched import patched
from tests.support.repositories import Templates, three_files
from tests.support.small import done, empty, kept_somewhere, mode, recover, save
from tests.support.workspace import Workspace


@pytest.fixture
def ws(tmp_path: Path) -> Workspace:
    """A repository with one commit of three small files."""
    return three_files(tmp_path)


def test_kept_ignored_file_survives_overwrite(ws: Workspace) -> None:
    ws.write(".gitignore", "*.env\n")
    ws.commit()
    ws.write("k.env", "s1\n")
    ws.write("a", "a1\n")
    save(ws, "--include-ignored", "*.env")
    ws.write("k.env", "s2-precious\n")
    ws.write("a", "a2\n")
    save(ws)
    recover(ws, "--overwrite")
    assert kept_somewhere(ws, b"s2-precious") or ws.read("k.env") == b"s2-precious\n"
    assert os.path.exists(ws.at("k.env"))


#: A directory that is in use, as a mount point is.
BUSY = "import gitstate.workspace.files as places\nplaces.Worktree.remove_directory = lambda self, path: False\n"


def test_directory_that_can_not_go_leaves_no_temporary_file(ws: Workspace) -> None:
    ws.write("a", "edited\n")
    ws.write("new", "new\n")
    save(ws)
    ws.git("reset", "-q", "--hard", "HEAD~1")
    ws.mkdir("new")
    run = patched(ws, BUSY, "recover", "--json")
    (found,) = json.loads(run.stdout)["workspaces"]
    assert [item["path"] for item in found["kept"]] == ["new"]
    assert [path.name for path in (ws.git_dir / "gitstate").iterdir() if path.name.startswith("write-")] == []
    assert ws.read("a") == b"edited\n"


@pytest.mark.parametrize("command", ["restore", "recover"])
def test_ignored_file_is_saved_before_it_is_overwritten(ws: Workspace, command: str) -> None:
    ws.write(".gitignore", "*.log\n")
    ws.commit()
    ws.write("x.log", "L1\n")
    ws.add("x.log")
    save_id = save(ws)
    recover(ws)
    ws.git("rm", "-q", "--cached", "-f", "x.log")
    ws.write("x.log", "L2-precious\n")
    where = (save_id, "x.log") if command == "restore" else ("--save", save_id)
    ws.gitstate(command, *where, "--overwrite")
    assert kept_somewhere(ws, b"L2-precious") or ws.read("x.log") == b"L2-precious\n"


@pytest.mark.parametrize("kind", ["untracked", "tracked", "configured"])
def test_foreign_file_at_the_path_of_the_state_file_is_kept(ws: Workspace, kind: str) -> None:
    name = "mine.json" if kind == "configured" else "active_state.json"
    if kind == "configured":
        ws.config("gitstate.stateFile", name)
    if kind != "untracked":
        ws.write(name, '{"mine":1}\n')
        ws.add(name)
        ws.commit()
    ws.write(name, '{"mine":2}\n')
    ws.write("a", "a1\n")
    save(ws)
    recover(ws)
    assert ws.read(name) == b'{"mine":2}\n'
    assert ws.read("a") == b"a1\n"


def test_checkpoint_can_be_restored(ws: Workspace) -> None:
    ws.write("a", "a1\n")
    ws.write("u", "new\n")
    save_id = done(ws.gitstate("checkpoint", "--json")).json["save_id"]
    ws.git("checkout", "-q", "a")
    ws.remove("u")
    done(ws.gitstate("restore", save_id, "u"))
    assert ws.read("u") == b"new\n"
    ws.remove("u")
    recover(ws, "--save", save_id)
    assert (ws.read("a"), ws.read("u")) == (b"a1\n", b"new\n")


@pytest.mark.parametrize("new", [None, "log"])
def test_save_of_a_wiped_workspace_hides_no_earlier_save(ws: Workspace, new: str | None) -> None:
    """A loop's trap saves once more after the wipe."""
    ws.write("a", "a1\n")
    ws.write("u", "u\n")
    save(ws)
    empty(ws)
    if new:
        ws.write(new, "new\n")
    done(ws.save())
    recover(ws)
    assert {name: ws.read(name) for name in ("a", "b", "d/x", "u")} == {
        "a": b"a1\n",
        "b": b"b0\n",
        "d/x": b"x0\n",
        "u": b"u\n",
    }
    assert new is None or ws.read(new) == b"new\n"


def test_save_that_reverts_an_edit_keeps_its_context(ws: Workspace) -> None:
    ws.git("checkout", "-q", "--detach")
    ws.write("a", "a1\n")
    done(ws.save(task_id="T1"))
    ws.write("a", "a0\n")
    done(ws.save(task_id="T2"))
    recover(ws)
    assert done(ws.gitstate("show", "task_id")).stdout == b"T2\n"


def test_wipe_that_spares_hidden_files_is_recovered(ws: Workspace) -> None:
    ws.write(".gitignore", "o\n")
    ws.commit()
    ws.write("a", "a1\n")
    ws.add("a")
    ws.write("a", "a2\n")
    ws.write("u", "u\n")
    save(ws)
    empty(ws)
    recover(ws)
    assert ws.status() == {b"MM a", b"?? u"}
    assert (ws.read("a"), ws.git("cat-file", "blob", ":a"), ws.read("u")) == (b"a2\n", b"a1\n", b"u\n")


def test_version_staged_after_intent_to_add_is_kept(ws: Workspace) -> None:
    ws.write("f", "one\n")
    ws.git("add", "-N", "f")
    save(ws)
    ws.write("f", "two\n")
    ws.git("add", "f")
    ws.write("f", "three\n")
    ws.recover()
    assert ws.git("cat-file", "blob", ":f") == b"two\n"
    assert ws.read("f") == b"three\n"


def test_permissions_set_after_the_save_are_kept(ws: Workspace) -> None:
    ws.write("a", "secret\n")
    save(ws)
    ws.chmod("a", 0o600)
    (found,) = ws.recover().json["workspaces"]
    assert mode(ws, "a") == 0o600
    assert [item["path"] for item in found["kept"]] == ["a"]


def test_identical_files_with_new_inodes_are_not_rewritten(ws: Workspace) -> None:
    """After a restore from a backup every inode differs, but no byte does."""
    ws.write("a", "edited\n")
    save(ws)
    for name in ("a", "b", "d/x"):
        shutil.copy2(ws.path / name, ws.outside / "copy")
        os.replace(ws.outside / "copy", ws.path / name)
    before = {name: (ws.path / name).stat().st_ino for name in ("a", "b", "d/x")}
    (found,) = recover(ws).json["workspaces"]
    assert found["restored"] == []
    assert {name: (ws.path / name).stat().st_ino for name in before} == before


def test_versions_of_a_later_conflict_stay_within_reach(templates: Templates, tmp_path: Path) -> None:
    """They stand in the index alone, in the place of the conflict that was saved."""
    ws = make(STATES["merge_conflict"], templates, tmp_path)
    ours = ws.out("rev-parse", "HEAD")
    save(ws)
    ws.git("reset", "-q", "--hard", ours)
    versions = [ws.git("hash-object", "-w", "--stdin", stdin=text).decode().strip() for text in (b"1", b"2", b"3")]
    lines = "".join(f"100644 {oid} {stage}\ta.txt\n" for stage, oid in enumerate(versions, 1))
    ws.git("rm", "-q", "--cached", "a.txt")
    ws.git("update-index", "--index-info", stdin=lines.encode())
    recover(ws)
    assert versions[2] in ws.out("rev-list", "--objects", "--all")
