"""Notes stand where git finds them; a change of the notes ref loses nobody's note."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from gitstate.errors import RefChanged, TryAgain
from gitstate.git.command import Oid
from gitstate.git.opening import open_repository
from gitstate.git.refs import RefUpdate, move_refs
from gitstate.git.repository import Repository
from gitstate.objects.notes import NotesRef, add_note, note_paths, read_note
from gitstate.objects.pack import PackWriter
from gitstate.objects.reader import ObjectReader
from gitstate.objects.tree import TreeReader
from tests.support.workspace import Workspace

REF = "refs/notes/test"
STAMP = "me <me@here> 0 +0000"


@pytest.fixture
def ws(tmp_path: Path) -> Workspace:
    ws = Workspace(tmp_path / "ws", tmp_path)
    ws.path.mkdir()
    ws.git("init", "-q", ".")
    ws.write("f")
    ws.commit("first")
    return ws


def notes_of(ws: Workspace) -> NotesRef:
    return NotesRef(open_repository(os.fsencode(ws.path)), REF, "test")


def noted(repository: Repository, tip: Oid | None, oid: Oid, text: bytes) -> Oid:
    """A notes commit on top of `tip`, durable."""
    writer = PackWriter(repository.objects, repository.object_format, "test")
    with ObjectReader(repository.git) as reader:
        new = add_note(tip, oid, writer.add("blob", text), STAMP, reader, TreeReader(reader), writer.add)
    writer.finish()
    writer.release()
    return new


def move(notes: NotesRef, update: RefUpdate) -> None:
    move_refs(notes.repository, notes.repository.git, [update], "test")


def set_note(ws: Workspace, oid: Oid, text: bytes) -> None:
    notes = notes_of(ws)
    notes.change(lambda tip: noted(notes.repository, tip, oid, text), lambda update: move(notes, update), wait=5.0)


@pytest.mark.parametrize("path", range(3))
def test_note_in_every_fan_out_is_read_and_dropped(path: int, ws: Workspace) -> None:
    oid = ws.out("rev-parse", "HEAD")
    blob = ws.git("hash-object", "-w", "--stdin", stdin=b"a note").decode("ascii").strip()
    where = note_paths(oid)[path].decode("ascii")
    ws.git("update-index", "--add", "--cacheinfo", f"100644,{blob},{where}", env={"GIT_INDEX_FILE": ".git/notes-index"})
    tree = ws.git("write-tree", env={"GIT_INDEX_FILE": ".git/notes-index"}).decode("ascii").strip()
    ws.git("update-ref", REF, ws.out("commit-tree", "-m", "notes", tree))
    assert ws.out("notes", "--ref", REF, "show", oid) == "a note"
    notes = notes_of(ws)
    with ObjectReader(notes.repository.git) as reader:
        tip = ws.out("rev-parse", REF)
        assert read_note(tip, oid, reader, TreeReader(reader), 100) == b"a note"
        assert read_note(tip, tip, reader, TreeReader(reader), 100) is None
        assert read_note(None, oid, reader, TreeReader(reader), 100) is None
    notes.drop(notes.repository.git, [oid])
    assert ws.out("notes", "--ref", REF, "list") == ""


def test_dropping_what_has_no_note_moves_nothing(ws: Workspace) -> None:
    oid = ws.out("rev-parse", "HEAD")
    notes_of(ws).drop(notes_of(ws).repository.git, [oid])
    assert not ws.refs(REF)
    set_note(ws, oid, b"mine")
    before = ws.refs(REF)
    notes_of(ws).drop(notes_of(ws).repository.git, ["1" * 40])
    assert ws.refs(REF) == before


def test_joining_adds_what_is_missing_and_keeps_what_is_here(ws: Workspace) -> None:
    first = ws.out("rev-parse", "HEAD")
    ws.write("f", "2\n")
    second = ws.commit("second")
    set_note(ws, first, b"ours")
    notes = notes_of(ws)
    theirs = noted(notes.repository, noted(notes.repository, None, first, b"theirs"), second, b"theirs")
    notes.join(notes.repository.git, theirs)
    assert [ws.out("notes", "--ref", REF, "show", oid) for oid in (first, second)] == ["ours", "theirs"]
    assert ws.out("rev-list", "--parents", "-1", REF).split()[2] == theirs


def test_change_is_built_again_where_others_were_faster(ws: Workspace) -> None:
    """A plain git moves the ref three times between the look at its tip and the move."""
    notes, oid = notes_of(ws), ws.out("rev-parse", "HEAD")
    tips: list[Oid | None] = []

    def build(tip: Oid | None) -> Oid:
        tips.append(tip)
        if len(tips) < 4:
            ws.git("notes", "--ref", REF, "append", "-m", f"theirs {len(tips)}", f"{oid}^{{tree}}")
        return noted(notes.repository, tip, oid, b"ours")

    notes.change(build, lambda update: move(notes, update), wait=5.0)
    assert len(tips) == len(set(tips)) == 4
    assert ws.out("notes", "--ref", REF, "show", oid) == "ours"
    assert "theirs 3" in ws.out("notes", "--ref", REF, "show", f"{oid}^{{tree}}")


def test_change_gives_up_where_others_never_rest(ws: Workspace) -> None:
    notes = notes_of(ws)
    tries = []

    def refuse(update: RefUpdate) -> None:
        tries.append(update)
        raise RefChanged("it moved")

    with pytest.raises(RefChanged, match="gave up after 50 attempts"):
        notes.change(lambda tip: "1" * 40, refuse, wait=5.0)
    assert len(tries) == 50 and not ws.refs(REF)


def test_lock_is_waited_for_and_released(ws: Workspace) -> None:
    notes = notes_of(ws)
    held = notes.lock(0.0)
    begun = time.monotonic()
    with pytest.raises(TryAgain, match="the notes"):
        notes.change(lambda tip: None, lambda update: None, wait=0.2)
    assert 0.2 <= time.monotonic() - begun < 5
    os.close(held)
    notes.change(lambda tip: None, lambda update: None, wait=0.0)
    os.close(notes.lock(0.0))
