"""Work done after the save is kept."""

from __future__ import annotations

import json
import os
import stat

from tests.states import dirty
from tests.support.look import covers, look, paths_of
from tests.support.oracle import fingerprint
from tests.support.recovering import RESTORED, recovered_from
from tests.support.saving import Saved, check_index_bytes, check_untouched, saved_from
from tests.support.workspace import Workspace


def save_quickly(ws: Workspace) -> Saved:
    return saved_from(ws.save())


def test_file_edited_after_the_save_is_kept(ws: Workspace) -> None:
    dirty(ws)
    before = fingerprint(ws.path)
    saved = save_quickly(ws)
    ws.append("b.txt", "newer than the save\n")
    newer = ws.read("b.txt")
    answer = recovered_from(ws.recover(), exits=(0, 4))
    assert answer["verdict"] == "changed"
    assert paths_of(answer["kept"]) == {b"b.txt"}
    assert ws.read("b.txt") == newer
    after = fingerprint(ws.path)
    assert before.without([b"b.txt"]).diff(after.without([b"b.txt"])) == []
    assert ws.git("cat-file", "blob", f"{saved.wip}:b.txt") != newer, "the saved version is still in the WIP commit"


def test_work_done_after_a_wipe_is_kept(ws: Workspace) -> None:
    """Where the disk equals the base, the saved version is written; otherwise the disk wins, and is reported."""
    dirty(ws)
    before = fingerprint(ws.path)
    saved = save_quickly(ws)
    ws.git("reset", "-q", "--hard", saved.document["base_commit"])
    ws.git("clean", "-ffdxq")
    ws.write("a.txt", "a tracked file, edited anew\n")
    ws.write("notes/todo.txt", "an untracked file, written anew\n")
    ws.write("c.txt", "a file that the save deletes, edited anew\n")
    ws.write("unrelated.txt", "no part of the save\n")
    mine = {b"a.txt", b"notes/todo.txt", b"c.txt"}
    texts = {path: ws.read(path) for path in (*mine, b"unrelated.txt")}
    answer = recovered_from(ws.recover(), exits=(0, 4))
    assert answer["verdict"] == "changed"
    assert paths_of(answer["kept"]) - {b"unrelated.txt"} == mine
    assert {path: ws.read(path) for path in texts} == texts
    after = fingerprint(ws.path)
    assert before.without(mine).diff(after.without({*mine, b"unrelated.txt"})) == []


def test_file_deleted_after_the_save_is_restored(ws: Workspace) -> None:
    """A wipe and a deletion look the same, and restoring the file overwrites nothing."""
    dirty(ws)
    before = fingerprint(ws.path)
    save_quickly(ws)
    ws.remove("b.txt")
    ws.remove("notes/todo.txt")
    answer = recovered_from(ws.recover())
    assert answer["verdict"] in RESTORED
    assert paths_of(answer["restored"]) >= {b"b.txt", b"notes/todo.txt"}
    assert before.diff(fingerprint(ws.path)) == []


def test_obstacles_at_saved_paths_are_kept(ws: Workspace) -> None:
    """A directory, a symlink and a FIFO in the way are neither removed nor followed."""
    for name in ("one.txt", "two.txt", "three.txt", "deep/four.txt", "fine.txt"):
        ws.write(name, "saved\n")
    saved = save_quickly(ws)
    ws.git("reset", "-q", "--hard", saved.document["base_commit"])
    ws.git("clean", "-ffdxq")
    (ws.outside / "deep").mkdir()
    ws.write("one.txt/inner.txt", "mine\n")
    ws.symlink(str(ws.outside / "two.txt"), "two.txt")
    os.mkfifo(ws.at("three.txt"))
    ws.symlink(str(ws.outside / "deep"), "deep")
    answer = recovered_from(ws.recover(), exits=(0, 4))
    assert answer["verdict"] == "changed"
    assert all(covers(paths_of(answer["kept"]), path) for path in (b"one.txt", b"two.txt", b"three.txt"))
    assert ws.read("one.txt/inner.txt") == b"mine\n"
    assert os.readlink(ws.at("two.txt")) == os.fsencode(ws.outside / "two.txt")
    assert stat.S_ISFIFO(os.lstat(ws.at("three.txt")).st_mode)
    assert sorted(os.listdir(ws.outside / "deep")) == [], "written through a symlink, out of the workspace"
    assert not (ws.outside / "two.txt").exists()
    assert ws.read("fine.txt") == b"saved\n"


def test_commits_on_top_bury_a_save(ws: Workspace) -> None:
    dirty(ws)
    save_quickly(ws)
    ws.append("README.md")
    tip = ws.commit("went on without recovering")
    before = look(ws)
    run = ws.recover()
    answer = recovered_from(run, exits=(0, 4))
    assert answer["verdict"] == "buried"
    assert ws.out("rev-parse", "HEAD") == tip
    assert before.fingerprint.diff(fingerprint(ws.path)) == []
    assert json.loads((ws.path / "active_state.json").read_text())["task_id"] == "T-1"
    assert answer["message"]


def test_diverged_branch_is_left_alone(ws: Workspace) -> None:
    dirty(ws)
    saved = save_quickly(ws)
    ws.git("reset", "-q", "--hard", "main")
    ws.write("elsewhere.txt")
    ws.commit("elsewhere")
    ws.append("a.txt", "and more work\n")
    before = look(ws)
    answer = recovered_from(ws.recover(), exits=(4,))
    assert answer["verdict"] == "diverged"
    assert saved.save_id in answer["message"] or saved.save_id == answer["save_id"]
    assert before.fingerprint.diff(fingerprint(ws.path)) == []
    check_index_bytes(ws, before)
    check_untouched(ws, before)
    assert ws.refs("refs/gitstate/pending"), "the save still waits"
    assert {name: oid for name, oid in ws.refs().items() if "gitstate" not in name} == {
        name: oid for name, oid in before.refs.items() if "gitstate" not in name
    }


def test_save_of_another_branch_is_left_alone(ws: Workspace) -> None:
    dirty(ws)
    before = fingerprint(ws.path)
    save_quickly(ws)
    ws.git("checkout", "-q", "main")
    here = look(ws)
    answer = recovered_from(ws.recover(), exits=(0, 4))
    assert answer["verdict"] == "elsewhere"
    assert here.fingerprint.diff(fingerprint(ws.path)) == []
    new = ws.path.with_name("new")
    answer = recovered_from(ws.recover("--into", str(new)))
    assert answer["verdict"] in RESTORED
    assert before.diff(fingerprint(new)) == []
    assert here.fingerprint.diff(fingerprint(ws.path)) == []
