"""Save, lose, recover: every nasty state of ``states.py``, through every way of losing it, compared by ``oracle.py``.

``pytest -k merge_conflict`` picks states, ``-k wiped`` a way of loss, ``-k linked`` linked worktrees. Combinations that
add little are marked slow; ``-m slow`` runs them.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from tests.states import (
    STATES,
    Loss,
    Run,
    State,
    Templates,
    Workspace,
    dirty,
    make,
    nested_repository,
    run_git,
    stop_merging,
    stop_rebasing,
)
from tests.support.oracle import (
    FileEntry,
    Fingerprint,
    Identity,
    IndexDamagedError,
    fingerprint,
    git_dir_of,
    identities,
    index_through_git,
    parents,
    parse_index,
    show,
)

SAVE_KEYS = {
    "schema_version",
    "command",
    "result",
    "save_id",
    "workspace",
    "branch",
    "wip_commit",
    "base_commit",
    "index_commit",
    "archive",
    "branch_moved",
    "incomplete",
    "left_out",
}
RECOVER_KEYS = {
    "workspace",
    "verdict",
    "save_id",
    "restored",
    "kept",
    "left_out",
    "state_file",
    "resume",
    "message",
}
RESTORED = {"restore", "context_only"}

# --------------------------------------------------------------------------------------------------------------------
# What is looked at before, between and after
# --------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Look:
    """Everything that is compared later."""

    fingerprint: Fingerprint
    identities: Mapping[bytes, Identity]
    index: bytes | None
    status: bytes
    refs: Mapping[str, str]
    locks: frozenset[Path]
    bystanders: tuple[tuple[Fingerprint, Mapping[str, str]], ...]


def index_bytes(ws: Workspace) -> bytes | None:
    index = ws.git_dir / "index"
    return index.read_bytes() if index.exists() else None


def look(ws: Workspace) -> Look:
    return Look(
        fingerprint=fingerprint(ws.path),
        identities=identities(ws.path),
        index=index_bytes(ws),
        status=porcelain(ws),
        refs=ws.refs(),
        locks=lock_files(ws),
        bystanders=look_at_bystanders(ws),
    )


def look_at_bystanders(ws: Workspace) -> tuple[tuple[Fingerprint, Mapping[str, str]], ...]:
    """Repositories that must not change, with their refs; other worktrees of this one, without."""
    found = []
    for path in ws.bystanders:
        other = Workspace(path, ws.outside)
        found.append((replace(fingerprint(path), nested={}), {} if other.common_dir == ws.common_dir else other.refs()))
    return tuple(found)


def porcelain(ws: Workspace) -> bytes:
    """``git status`` to the last detail, without stat data and without writing the index."""
    options = ("--porcelain=v2", "-z", "--untracked-files=all", "--no-renames")
    return ws.git("status", *options, env={"GIT_OPTIONAL_LOCKS": "0"}, check=False)


def lock_files(ws: Workspace) -> frozenset[Path]:
    return frozenset(ws.common_dir.rglob("*.lock"))


def paths_of(listed: Iterable[Mapping[str, Any]]) -> set[bytes]:
    """The paths in a JSON list, as bytes."""
    return {
        base64.b64decode(item["path_base64"]) if item.get("path_base64") else item["path"].encode("utf-8")
        for item in listed
    }


def covers(listed: Iterable[bytes], path: bytes) -> bool:
    """Whether a path or a directory above it is among those listed."""
    names = {name.rstrip(b"/") for name in listed}
    return path in names or any(parent in names for parent in parents(path))


# --------------------------------------------------------------------------------------------------------------------
# Save
# --------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Saved:
    document: Mapping[str, Any]
    left_out: frozenset[bytes]

    @property
    def save_id(self) -> str:
        return str(self.document["save_id"])

    @property
    def moved(self) -> bool:
        return bool(self.document["branch_moved"])

    @property
    def wip(self) -> str:
        return str(self.document["wip_commit"])


def saved_from(run: Run, *, exits: Iterable[int] = (0,)) -> Saved:
    """The answer of a save that went well."""
    assert run.exit_status in exits, str(run)
    document = run.json
    assert document.keys() >= SAVE_KEYS, SAVE_KEYS - document.keys()
    assert document["command"] == "save"
    assert document["result"] == "saved", str(run)
    left_out = frozenset(paths_of(document["left_out"]))
    assert all(item["reason"] for item in document["left_out"])
    assert document["incomplete"] is bool(left_out)
    assert run.exit_status == 0 or left_out
    return Saved(document, left_out)


def save(ws: Workspace, kind: State, before: Look) -> Saved:
    """Save, and check all that a save promises on the spot."""
    saved = saved_from(ws.save(), exits=kind.save_exits)
    check_left_out(kind, saved.left_out)
    check_refs_of(ws, saved)
    assert kind.moves is None or saved.moved is kind.moves
    check_untouched(ws, before)
    after = fingerprint(ws.path)
    expected = replace(before.fingerprint, nested={})
    if saved.moved:
        check_wip(ws, saved, before)
        if not kind.status_says_more:
            left = {record for record in ws.status() if not covers(saved.left_out, record[3:].rstrip(b"/"))}
            assert not left, f"git status is not clean after the save: {sorted(left)}"
        expected = replace(expected, commit=after.commit, index=after.index)
    else:
        check_index_bytes(ws, before)
    assert expected.diff(replace(after, nested={})) == []
    return saved


def check_left_out(kind: State, left_out: frozenset[bytes]) -> None:
    missing = {path for path in kind.left_out if not covers(left_out, path)}
    assert not missing, f"nothing says that these were left out: {sorted(missing)}"
    allowed = kind.left_out | kind.may_leave_out
    wrong = {path for path in left_out if not covers(allowed, path.rstrip(b"/"))}
    assert not wrong, f"left out without need: {sorted(wrong)}"


def check_refs_of(ws: Workspace, saved: Saved) -> None:
    archive = saved.document["archive"]
    pending = ws.refs("refs/gitstate/pending")
    assert archive in pending.values()
    kept = {name for name, oid in ws.refs("refs/gitstate/saves").items() if oid == archive}
    assert {name.rsplit("/", 1)[1] for name in kept} == {saved.save_id}
    if saved.document["wip_commit"]:
        note = json.loads(ws.git("notes", "--ref=gitstate", "show", saved.wip))
        assert note["task_id"] == "T-1"


def check_untouched(ws: Workspace, before: Look) -> None:
    """No file of the worktree was written, nobody's program ran, no lock was left, no other repository changed."""
    after = identities(ws.path)
    touched = {
        show(path) for path in before.identities.keys() | after.keys() if before.identities.get(path) != after.get(path)
    }
    assert not touched, f"written, made or deleted: {sorted(touched)}"
    check_no_trace(ws, before)


def check_index_bytes(ws: Workspace, before: Look) -> None:
    same = index_bytes(ws) == before.index
    assert same, "the index file is not what it was, byte for byte"


def check_no_trace(ws: Workspace, before: Look) -> None:
    assert [trace.read_text() for trace in ws.canaries if trace.exists()] == []
    assert lock_files(ws) - before.locks == set()
    own = ws.common_dir / "gitstate"
    assert [*own.rglob("*tmp*"), *(ws.common_dir / "objects").rglob("tmp_*")] == []
    assert look_at_bystanders(ws) == before.bystanders


def check_wip(ws: Workspace, saved: Saved, before: Look) -> None:
    """The branch is on a WIP commit that anybody can read and unwind."""
    head, commit = before.fingerprint.head, before.fingerprint.commit
    assert fingerprint(ws.path).head == head
    assert ws.out("rev-parse", "HEAD") == saved.wip
    message = ws.git("cat-file", "commit", saved.wip).split(b"\n\n", 1)[1].decode("utf-8")
    last = message.strip("\n").rsplit("\n\n", 1)[-1].splitlines()
    trailers = {line.split(": ", 1)[0]: line.split(": ", 1)[1] for line in last}
    assert trailers["Gitstate-Save"] == saved.save_id
    assert saved.document["base_commit"] == commit
    if commit is not None:
        assert trailers["Gitstate-Base"] == commit
    index_commit = saved.document["index_commit"]
    ancestors = ws.out("--no-replace-objects", "rev-list", "--first-parent", "--max-count=3", saved.wip).split()
    assert ancestors[1 : (3 if index_commit else 2)] == [oid for oid in (index_commit, commit) if oid]


# --------------------------------------------------------------------------------------------------------------------
# Ways of loss
# --------------------------------------------------------------------------------------------------------------------


def release(ws: Workspace, loss: Loss) -> None:
    """Whoever held a lock is done; whoever destroys the workspace does not care about old ones."""
    for lock in ws.held_locks:
        lock.unlink(missing_ok=True)
    if loss is not Loss.IN_PLACE:
        for lock in ws.stale_locks:
            lock.unlink(missing_ok=True)


def wipe(ws: Workspace) -> None:
    ws.git("reset", "--hard", "-q", check=False)
    ws.git("clean", "-ffdxq", check=False)


def strip_operation(ws: Workspace) -> None:
    """Every trace of an unfinished operation goes, as with a ``git worktree`` of the same HEAD made anew."""
    for name in os.listdir(ws.git_dir):
        if name.endswith(("_HEAD", "_MSG", "_MODE", "_MERGE")) or name.startswith(("BISECT_", "MERGE_")):
            (ws.git_dir / name).unlink()
        elif name in ("rebase-merge", "rebase-apply", "sequencer"):
            shutil.rmtree(ws.git_dir / name)
    for ref in ws.refs("refs/bisect", "refs/rewritten"):
        ws.git("update-ref", "-d", ref)


def forget_unreachable(where: Path) -> None:
    """What gc would do in some weeks: only what our refs keep is still there afterwards."""
    run_git(where, "reflog", "expire", "--expire=now", "--all")
    run_git(where, "prune", "--expire=now")


def make_writable(top: Path) -> None:
    for directory, _, _ in os.walk(top):
        if not os.path.islink(directory):
            os.chmod(directory, os.stat(directory).st_mode | 0o700)


def lose(ws: Workspace, loss: Loss, saved: Saved) -> tuple[Path, tuple[str, ...]]:
    """Destroy the workspace; returns where to recover from, and with which options."""
    release(ws, loss)
    where = ws.cli_path or ws.path
    if loss in (Loss.WIPED, Loss.STRIPPED):
        wipe(ws)
        if loss is Loss.STRIPPED:
            strip_operation(ws)
    elif loss is Loss.REMOVED and ws.main is not None:
        make_writable(ws.path)
        shutil.rmtree(ws.path)
        run_git(ws.main, "worktree", "prune")
        forget_unreachable(ws.main)
        ws.path = ws.path.with_name("somewhere else")
        return ws.main, ("--into", str(ws.path), "--save", saved.save_id)
    elif loss is Loss.REMOVED:
        make_writable(ws.path)
        for name in os.listdir(ws.path):
            if name != ".git":
                ws.remove(name)
        forget_unreachable(ws.path)
    elif loss is Loss.CLONED:
        original, clone = ws.path, ws.path.with_name("clone")
        wanted = ["refs/gitstate/*:refs/gitstate/*"]
        if ws.refs("refs/notes/gitstate"):
            wanted.append("refs/notes/gitstate:refs/notes/gitstate")
        run_git(ws.outside, "clone", "-q", "--no-local", original, clone)
        run_git(clone, "fetch", "-q", "origin", *wanted, "+refs/heads/*:refs/remotes/origin/*")
        original.rename(ws.outside / "the lost one")
        ws.path = clone
        return clone, ()
    return where, ()


# --------------------------------------------------------------------------------------------------------------------
# Recover
# --------------------------------------------------------------------------------------------------------------------


def recovered_from(run: Run, *, exits: Iterable[int] = (0,)) -> dict[str, Any]:
    """What recover says about the one workspace that it was asked for."""
    assert run.exit_status in exits, str(run)
    document = run.json
    assert document["command"] == "recover"
    assert document["schema_version"] >= 1
    assert len(document["workspaces"]) == 1, str(run)
    answer = document["workspaces"][0]
    assert isinstance(answer, dict)
    assert answer.keys() >= RECOVER_KEYS, RECOVER_KEYS - answer.keys()
    return answer


def check_state_file(ws: Workspace, saved: Saved | None = None) -> None:
    path = ws.path / "active_state.json"
    state = json.loads(path.read_text(encoding="utf-8"))
    assert state["task_id"] == "T-1"
    assert str(state["issue_number"]) == "7"
    assert state["progress_stage"] == "coding"
    assert state["status"] == "recovered"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert b"active_state.json" not in porcelain(ws)
    if saved is not None:
        assert state["save"]["save_id"] == saved.save_id


def check_repository(ws: Workspace) -> None:
    run_git(ws.path, "fsck", "--no-dangling", "--no-progress")
    assert not ws.refs("refs/gitstate/pending"), "the marker is still there"
    assert ws.refs("refs/gitstate/saves"), "the save is gone, before its time"


def check_recovered(ws: Workspace, kind: State, before: Look, saved: Saved, loss: Loss) -> None:
    after = fingerprint(ws.path)
    expected = before.fingerprint
    if loss is Loss.CLONED:
        expected, after = replace(expected, settings={}), replace(after, settings={})
    if loss is not Loss.IN_PLACE:
        expected, after = expected.without(saved.left_out), after.without(saved.left_out)
    assert expected.diff(after) == []
    check_state_file(ws, saved)
    check_repository(ws)
    check_no_trace(ws, before)
    if loss is Loss.IN_PLACE:
        check_untouched(ws, before)
        check_index_bytes(ws, before)
        assert porcelain(ws) == before.status
    elif loss is not Loss.CLONED and not saved.left_out and not kind.status_says_more:
        assert porcelain(ws) == before.status


# --------------------------------------------------------------------------------------------------------------------
# The round trips
# --------------------------------------------------------------------------------------------------------------------


def round_trips(*, linked: bool) -> list[Any]:
    """Each state with each way of loss that it is meant to survive."""
    cases = []
    for kind in STATES.values():
        for loss in Loss:
            if loss not in kind.losses or (linked and (not kind.linked or loss in (Loss.CLONED, Loss.PLAIN))):
                continue
            quick = loss in kind.quick or (linked and loss is Loss.REMOVED)
            marks = [pytest.mark.slow] if kind.slow or not quick else []
            cases.append(pytest.param(kind, loss, id=f"{kind.name}-{loss.value}", marks=marks))
    return cases


def go_round(kind: State, loss: Loss, ws: Workspace) -> None:
    before = look(ws)
    saved = save(ws, kind, before)
    if loss is Loss.PLAIN:
        unwind_with_git_alone(ws, before, saved)
        return
    where, options = lose(ws, loss, saved)
    # A repository inside the workspace that was wiped with it took its own save along: that is said, with a 4.
    gone = kind.name.startswith("nested_") and loss in (Loss.WIPED, Loss.REMOVED)
    exits = (*kind.recover_exits, 4) if gone else kind.recover_exits
    answer = recovered_from(ws.recover(*options, path=where), exits=exits)
    assert answer["verdict"] in RESTORED
    assert answer["save_id"] == saved.save_id
    assert answer["kept"] == []
    assert paths_of(answer["left_out"]) >= saved.left_out
    check_recovered(ws, kind, before, saved, loss)


def unwind_with_git_alone(ws: Workspace, before: Look, saved: Saved) -> None:
    """The README's promise to those who have no gitstate: two resets."""
    release(ws, Loss.PLAIN)
    if saved.moved:
        ws.git("reset", "-q", "HEAD~1", "--")
        if saved.document["index_commit"]:
            ws.git("reset", "-q", "--soft", "HEAD~1", "--")
    after = fingerprint(ws.path)
    bare = [replace(entry, flags=()) for entry in before.fingerprint.index]
    expected = replace(before.fingerprint, index=tuple(bare), nested={})
    assert expected.diff(replace(after, nested={})) == []
    assert porcelain(ws) == before.status


def skip_where_impossible(kind: State) -> None:
    reason = kind.why_not()
    if reason is not None:
        pytest.skip(reason)


@pytest.mark.parametrize(("kind", "loss"), round_trips(linked=False))
def test_round_trip(kind: State, loss: Loss, templates: Templates, tmp_path: Path) -> None:
    skip_where_impossible(kind)
    go_round(kind, loss, make(kind, templates, tmp_path))


@pytest.mark.parametrize(("kind", "loss"), round_trips(linked=True))
def test_round_trip_of_a_linked_worktree(kind: State, loss: Loss, templates: Templates, tmp_path: Path) -> None:
    skip_where_impossible(kind)
    ws = make(kind, templates, tmp_path, linked=True)
    assert ws.main is not None
    main = fingerprint(ws.main)
    go_round(kind, loss, ws)
    assert main.diff(fingerprint(ws.main)) == [], "the main worktree is not ours"


# --------------------------------------------------------------------------------------------------------------------
# More than one save, more than one recover
# --------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def ws(templates: Templates, tmp_path: Path) -> Workspace:
    """A clean workspace on agent/work."""
    return make(STATES["clean"], templates, tmp_path)


def save_quickly(ws: Workspace) -> Saved:
    return saved_from(ws.save())


def entry_of(print_: Fingerprint, path: bytes) -> list[Any]:
    return [entry for entry in print_.index if entry.path == path]


def merged_index(earlier: Fingerprint, later: Fingerprint, *staged_later: bytes) -> tuple[Any, ...]:
    """The earlier save's index with what the later one staged anew."""
    kept = [entry for entry in earlier.index if entry.path not in staged_later]
    return tuple(sorted([*kept, *(entry for path in staged_later for entry in entry_of(later, path))]))


@pytest.mark.parametrize("loss", [Loss.IN_PLACE, Loss.WIPED, Loss.REMOVED], ids=lambda loss: loss.value)
def test_a_stack_of_two_saves_unwinds_both(ws: Workspace, loss: Loss) -> None:
    dirty(ws)
    first = fingerprint(ws.path)
    one = save_quickly(ws)
    ws.append("README.md", "edited after the first save\n")
    ws.append("notes/todo.txt", "untracked, and edited after the first save\n")
    ws.append("b.txt", "edited twice\n")
    ws.append("src/app.py", "staged after the first save\n")
    ws.write("later.txt")
    ws.add("src/app.py", "later.txt")
    ws.remove("new.txt")
    second = fingerprint(ws.path)
    two = save_quickly(ws)
    assert two.document["base_commit"] == first.commit
    where, options = lose(ws, loss, two)
    answer = recovered_from(ws.recover(*options, path=where))
    assert answer["verdict"] == "restore"
    expected = replace(first, files=second.files, index=merged_index(first, second, b"src/app.py", b"later.txt"))
    assert expected.diff(fingerprint(ws.path)) == []
    check_state_file(ws, two)
    check_repository(ws)
    assert one.save_id < two.save_id, "save ids sort by time"
    assert {name.rsplit("/", 1)[1] for name in ws.refs("refs/gitstate/saves")} >= {one.save_id, two.save_id}


def test_a_stack_of_three_saves_on_the_same_file(ws: Workspace) -> None:
    first = fingerprint(ws.path)
    for text in ("one", "two", "three"):
        ws.write("a.txt", f"staged {text}\n")
        ws.add("a.txt")
        ws.write("a.txt", f"on disk {text}\n")
        ws.write(f"{text}.txt", text)
        last = fingerprint(ws.path)
        save_quickly(ws)
    recovered_from(ws.recover())
    expected = replace(first, files=last.files, index=merged_index(first, last, b"a.txt"))
    assert expected.diff(fingerprint(ws.path)) == []
    assert ws.git("cat-file", "blob", ":a.txt") == b"staged three\n"
    ws.expect_exactly("MM a.txt", "?? one.txt", "?? two.txt", "?? three.txt")


def test_a_merge_begun_after_a_save(ws: Workspace) -> None:
    """The second save finds an operation on top of the first one's WIP commit."""
    ws.append("c.txt")
    ws.write("untracked.txt")
    save_quickly(ws)
    stop_merging(ws, "side-content", "UU a.txt")
    second = fingerprint(ws.path)
    save_quickly(ws)
    wipe(ws)
    answer = recovered_from(ws.recover(), exits=(0, 4))
    assert answer["verdict"] in RESTORED
    after = fingerprint(ws.path)
    assert second.operation == after.operation
    assert second.files == after.files
    assert entry_of(second, b"a.txt") == entry_of(after, b"a.txt")


def test_save_and_recover_again_and_again(ws: Workspace) -> None:
    dirty(ws)
    before = look(ws)
    for _ in range(3):
        save_quickly(ws)
        recovered_from(ws.recover())
        assert before.fingerprint.diff(fingerprint(ws.path)) == []
        check_untouched(ws, before)
    check_repository(ws)


def test_a_second_save_without_changes_writes_nothing(ws: Workspace) -> None:
    dirty(ws)
    save_quickly(ws)
    refs, objects = ws.refs(), ws.git("count-objects", "-v")
    before = look(ws)
    run = ws.save()
    assert run.exit_status == 0, str(run)
    assert run.json["result"] == "unchanged"
    assert ws.refs() == refs
    assert ws.git("count-objects", "-v") == objects
    check_index_bytes(ws, before)


def test_a_new_context_is_worth_a_save(ws: Workspace) -> None:
    dirty(ws)
    before = fingerprint(ws.path)
    save_quickly(ws)
    run = ws.save(task_id="T-2")
    assert run.json["result"] == "saved", str(run)
    recovered_from(ws.recover())
    assert before.diff(fingerprint(ws.path)) == []
    assert json.loads((ws.path / "active_state.json").read_text())["task_id"] == "T-2"


def test_nothing_to_recover(ws: Workspace) -> None:
    dirty(ws)
    before = look(ws)
    answer = recovered_from(ws.recover())
    assert answer["verdict"] == "nothing"
    assert before.fingerprint.diff(fingerprint(ws.path)) == []
    assert ws.refs() == before.refs
    check_untouched(ws, before)


def test_recovering_twice_does_nothing_the_second_time(ws: Workspace) -> None:
    dirty(ws)
    save_quickly(ws)
    recovered_from(ws.recover())
    before = look(ws)
    answer = recovered_from(ws.recover())
    assert answer["verdict"] == "nothing"
    assert before.fingerprint.diff(fingerprint(ws.path)) == []
    assert ws.refs() == before.refs


def test_a_dry_run_touches_nothing(ws: Workspace) -> None:
    dirty(ws)
    saved = save_quickly(ws)
    wipe(ws)
    before = look(ws)
    answer = recovered_from(ws.recover("--dry-run"))
    assert answer["verdict"] == "restore"
    assert answer["save_id"] == saved.save_id
    assert before.fingerprint.diff(fingerprint(ws.path)) == []
    assert ws.refs() == before.refs
    check_index_bytes(ws, before)
    assert not (ws.path / "active_state.json").exists()


def test_the_branch_reset_to_its_base_by_hand(ws: Workspace) -> None:
    """Somebody undid the WIP commit, and the work with it: the branch is at H."""
    dirty(ws)
    before = fingerprint(ws.path)
    saved = save_quickly(ws)
    ws.git("reset", "-q", "--hard", saved.document["base_commit"])
    ws.git("clean", "-ffdxq")
    answer = recovered_from(ws.recover())
    assert answer["verdict"] == "restore"
    assert before.diff(fingerprint(ws.path)) == []


def test_the_refs_were_lost(ws: Workspace) -> None:
    """Only the branch came through: the WIP commit's trailers are enough to find what it holds."""
    dirty(ws)
    before = fingerprint(ws.path)
    save_quickly(ws)
    for ref in ws.refs("refs/gitstate"):
        ws.git("update-ref", "-d", ref)
    answer = recovered_from(ws.recover(), exits=(0, 4))
    assert answer["verdict"] != "nothing"
    after = fingerprint(ws.path)
    assert after.commit == before.commit
    assert before.files == after.files


# --------------------------------------------------------------------------------------------------------------------
# The work that came after the save
# --------------------------------------------------------------------------------------------------------------------


def test_a_file_edited_after_the_save_stays(ws: Workspace) -> None:
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


def test_work_done_after_a_wipe_stays(ws: Workspace) -> None:
    """Disk equals base: the saved version is written. Otherwise the disk wins, and is reported."""
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


def test_a_file_deleted_after_the_save(ws: Workspace) -> None:
    """Nobody can tell a wipe from a deletion, and to write a file that is gone overwrites nothing: it comes back."""
    dirty(ws)
    before = fingerprint(ws.path)
    save_quickly(ws)
    ws.remove("b.txt")
    ws.remove("notes/todo.txt")
    answer = recovered_from(ws.recover())
    assert answer["verdict"] in RESTORED
    assert paths_of(answer["restored"]) >= {b"b.txt", b"notes/todo.txt"}
    assert before.diff(fingerprint(ws.path)) == []


def test_something_else_stands_where_a_file_was_saved(ws: Workspace) -> None:
    """A directory, a symlink and a FIFO in the way: none is removed, none is followed."""
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


def test_a_branch_that_went_elsewhere_is_left_alone(ws: Workspace) -> None:
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


def test_another_branch_is_checked_out(ws: Workspace) -> None:
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


# --------------------------------------------------------------------------------------------------------------------
# Many at once
# --------------------------------------------------------------------------------------------------------------------


def start_save(path: Path, task_id: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "gitstate", "-C", str(path), "save", "--task-id", task_id, "--json"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL)


@pytest.mark.slow
def test_forty_worktrees_save_at_the_same_moment(ws: Workspace) -> None:
    trees = {}
    for number in range(40):
        path = ws.path.with_name(f"tree-{number}")
        ws.git("worktree", "add", "-q", "-b", f"agent/{number}", path)
        tree = Workspace(path, ws.outside, main=ws.path)
        tree.append("a.txt", f"{number}\n")
        tree.write("untracked.txt", f"{number}\n")
        tree.append("b.txt")
        tree.add("b.txt")
        trees[f"T-{number}"] = (tree, fingerprint(path))
    running = {task: start_save(tree.path, task) for task, (tree, _) in trees.items()}
    for task, process in running.items():
        stdout, stderr = process.communicate(timeout=300)
        assert process.returncode == 0, stderr
        document = json.loads(stdout)
        assert document["result"] == "saved"
        note = json.loads(ws.git("notes", "--ref=gitstate", "show", document["wip_commit"]))
        assert note["task_id"] == task
    assert len(ws.refs("refs/gitstate/pending")) == 40
    for task, (tree, before) in list(trees.items())[::8]:
        recovered_from(tree.recover())
        assert before.diff(fingerprint(tree.path)) == []
        assert json.loads((tree.path / "active_state.json").read_text())["task_id"] == task
    run_git(ws.path, "fsck", "--no-dangling", "--no-progress")
    assert lock_files(ws) == frozenset()


# --------------------------------------------------------------------------------------------------------------------
# The oracle itself
# --------------------------------------------------------------------------------------------------------------------


def _replace_by_fifo(ws: Workspace) -> None:
    ws.remove("a.txt")
    os.mkfifo(ws.at("a.txt"))


ALTERATIONS: dict[str, tuple[Callable[[Workspace], object], str]] = {
    "bytes": (lambda ws: ws.append("b.txt"), "file b.txt"),
    "bytes of an untracked file": (lambda ws: ws.append("notes/todo.txt"), "file notes/todo.txt"),
    "mode": (lambda ws: ws.chmod("b.txt", 0o600), "file b.txt"),
    "mode of a directory": (lambda ws: ws.chmod("hollow/inner", 0o700), "file hollow/inner"),
    "file gone": (lambda ws: ws.remove("b.txt"), "file b.txt"),
    "file appeared": (lambda ws: ws.write("fresh"), "file fresh"),
    "empty directory gone": (lambda ws: os.rmdir(ws.at("hollow/inner")), "file hollow/inner"),
    "empty directory appeared": (lambda ws: ws.mkdir("fresh"), "file fresh"),
    "symlink's target": (lambda ws: ws.symlink("b.txt", "link"), "file link"),
    "type": (_replace_by_fifo, "file a.txt: file 0644"),
    "staged content": (lambda ws: ws.add("b.txt"), "index b.txt"),
    "staged mode": (lambda ws: ws.git("update-index", "--chmod=+x", "b.txt"), "index b.txt"),
    "assume-valid": (lambda ws: ws.git("update-index", "--assume-unchanged", "b.txt"), "assume-valid"),
    "skip-worktree": (lambda ws: ws.git("update-index", "--skip-worktree", "b.txt"), "skip-worktree"),
    "intent-to-add": (lambda ws: ws.git("add", "-N", "notes/todo.txt"), "index notes/todo.txt"),
    "unstaged": (lambda ws: ws.git("reset", "-q", "new.txt"), "index new.txt"),
    "branch": (lambda ws: ws.git("symbolic-ref", "HEAD", "refs/heads/main"), "HEAD: ref: refs/heads/agent/work"),
    "detached": (lambda ws: ws.git("update-ref", "--no-deref", "HEAD", "HEAD^0"), "HEAD: ref: refs/heads/agent/work"),
    "commit": (lambda ws: ws.git("update-ref", "HEAD", "HEAD~1"), "commit: "),
    "merge head": (lambda ws: (ws.git_dir / "MERGE_HEAD").write_text("x"), "operation MERGE_HEAD"),
    "rebase": (lambda ws: stop_rebasing(ws, "--autostash", "side-content"), "operation rebase-merge/onto"),
    "bisect ref": (lambda ws: ws.git("update-ref", "refs/bisect/bad", "HEAD"), "operation refs/bisect/bad"),
    "sparse patterns": (lambda ws: (ws.git_dir / "info/sparse-checkout").write_text("/*"), "setting info/sparse"),
    "sparse setting": (lambda ws: ws.config("core.sparseCheckout", "true"), "setting core.sparsecheckout"),
    "nested repository": (lambda ws: ws.git("init", "-q", "nested"), "repository nested: appeared"),
    "work in a nested repository": (lambda ws: ws.append("inner/inner.txt"), "repository inner: file inner.txt"),
}


@pytest.mark.parametrize("what", ALTERATIONS)
def test_the_oracle_sees(what: str, ws: Workspace) -> None:
    dirty(ws)
    nested_repository(ws, "inner", commit=True)
    before = fingerprint(ws.path)
    assert before == fingerprint(ws.path)
    assert before.diff(fingerprint(ws.path)) == []
    alter, said = ALTERATIONS[what]
    alter(ws)
    after = fingerprint(ws.path)
    assert before != after
    assert [line for line in before.diff(after) if line.startswith(said) or line.endswith(said)], before.diff(after)


def test_the_oracle_looks_away_from_stat_data_reflogs_and_ignored_files(ws: Workspace) -> None:
    dirty(ws)
    before = fingerprint(ws.path)
    everything = fingerprint(ws.path, keep_ignored=True)
    ws.write("x.log")
    ws.write("build/out/x.o")
    ws.write("src/only/x.log")
    ws.write("active_state.json", "{}")
    os.utime(ws.at("b.txt"), (1, 1))
    ws.write("README.md", ws.read("README.md"))
    ws.git("update-index", "-q", "--refresh", check=False)
    ws.git("update-ref", "ORIG_HEAD", "HEAD")
    ws.git("reflog", "expire", "--expire=now", "--all")
    ws.git("gc", "-q")
    after = fingerprint(ws.path)
    assert before.diff(after) == []
    assert b"src/only" in after.hollow
    kept = fingerprint(ws.path, keep_ignored=True)
    assert {path for path in kept.files if path not in everything.files} == {
        b"build", b"build/out", b"build/out/x.o", b"src/only", b"src/only/x.log", b"x.log"
    }  # fmt: skip


def test_the_oracle_asks_and_never_writes(ws: Workspace) -> None:
    dirty(ws)
    ws.config("core.fsmonitor", ws.canary("fsmonitor"))
    before = {path: os.lstat(path) for path in ws.path.rglob("*")}
    fingerprint(ws.path)
    after = {path: os.lstat(path) for path in ws.path.rglob("*")}
    assert {path: (status.st_mtime_ns, status.st_ino) for path, status in before.items()} == {
        path: (status.st_mtime_ns, status.st_ino) for path, status in after.items()
    }
    assert not any(trace.exists() for trace in ws.canaries)


@pytest.mark.parametrize(
    "name",
    [
        "everything_at_once",
        "index_v4",
        "sha256",
        "sha256_index_v4_intent_to_add",
        "sha256_merge_conflict",
        "intent_to_add",
        "skip_worktree_on_staged_content",
        "unmerged_stages_in_odd_combinations",
        "untracked_cache",
        "names_of_255_bytes",
        "deep_nesting",
    ],
)
def test_the_oracle_reads_an_index_as_git_does(name: str, templates: Templates, tmp_path: Path) -> None:
    ws = make(STATES[name], templates, tmp_path)
    data = (git_dir_of(ws.path) / "index").read_bytes()
    parsed = parse_index(data, 32 if STATES[name].template == "sha256" else 20)
    assert sorted(parsed.entries) == sorted(index_through_git(ws.path))
    with pytest.raises(IndexDamagedError):
        parse_index(data[:40] + bytes([data[40] ^ 1]) + data[41:], 32 if STATES[name].template == "sha256" else 20)


def test_the_oracle_can_look_away_from_a_path(ws: Workspace) -> None:
    ws.write("fresh/inner.txt")
    before = fingerprint(ws.path)
    ws.remove("fresh")
    after = fingerprint(ws.path)
    assert before.diff(after) == ["file fresh: directory 0755 is gone", "file fresh/inner.txt: " + _described(before)]
    assert before.without([b"fresh/inner.txt"]).diff(after) == []
    assert before.without([b"fresh"]).diff(after) == []
    assert before.without([b"fres"]).diff(after) != []


def _described(print_: Fingerprint) -> str:
    entry = print_.files[b"fresh/inner.txt"]
    assert entry == FileEntry("file", 0o644, hashlib.sha256(b"text\n").hexdigest())
    return f"{entry} is gone"


@pytest.mark.parametrize("name", ["merge_conflict", "rebase_with_autostash", "bisect", "intent_to_add", "mode_0600"])
def test_a_wiped_workspace_is_not_the_same(name: str, templates: Templates, tmp_path: Path) -> None:
    """Without gitstate, these are lost: a round trip that passes has done something."""
    ws = make(STATES[name], templates, tmp_path)
    before = fingerprint(ws.path)
    wipe(ws)
    strip_operation(ws)
    assert before.diff(fingerprint(ws.path)) != []
