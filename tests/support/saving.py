"""Save a workspace, and check all that a save promises."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from gitstate.format.manifest import SAVED_INSIDE
from tests.states import State
from tests.support.index_reader import show
from tests.support.look import Look, covers, index_bytes, lock_files, look_at_bystanders, paths_of
from tests.support.oracle import Fingerprint, fingerprint, identities
from tests.support.workspace import Run, Workspace

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
    skipped = [item for item in document["left_out"] if item["lost"] or not item["reason"].startswith(SAVED_INSIDE)]
    assert document["incomplete"] is bool(skipped)
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
        check_wip(ws, saved, before, after)
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
    named = {name for name, oid in ws.refs("refs/gitstate/pending", "refs/gitstate/saves").items() if oid == archive}
    kept = {name for name in named if name.startswith("refs/gitstate/saves/")}
    assert named - kept, "no marker names the archive"
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


def check_wip(ws: Workspace, saved: Saved, before: Look, after: Fingerprint) -> None:
    """The branch is on a WIP commit that anybody can read and unwind."""
    head, commit = before.fingerprint.head, before.fingerprint.commit
    assert after.head == head
    assert after.commit == saved.wip
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
