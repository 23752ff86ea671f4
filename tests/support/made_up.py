"""Saves made up in memory, for rules that need no repository."""

from __future__ import annotations

from typing import Any

from gitstate.format.context import Context
from gitstate.format.manifest import Manifest, Reason, Save
from gitstate.git.command import Oid

BRANCH = "refs/heads/agent/work"
WORKSPACE = "0123456789abcdef"
SAVE_ID = "20260102T030405.000006Z-abcdef"
EARLIER_ID = "20260101T000000.000000Z-012345"


def oid(name: str) -> Oid:
    """An object id that can be told from others at a glance."""
    return name.encode().hex().ljust(40, "0")


HEAD = oid("H")


def made_up_save(
    *, archive: Oid | None = None, wip: Oid | None = None, context: Context | None = None, **values: Any
) -> Save:
    """A save of a clean worktree on HEAD. `values` replace fields of its manifest."""
    fields: dict[str, Any] = dict.fromkeys(Manifest._fields)
    fields |= dict.fromkeys(("operation_files", "intent_to_add", "absent", "nested", "left_out", "ignored"), ())
    fields |= {name: {} for name in ("staged", "modes", "directories", "raw", "sparse", "worktree_settings")}
    fields |= {"save_id": SAVE_ID, "kind": "save", "workspace_id": WORKSPACE, "created": "2026-01-02T03:04:05Z"}
    fields |= {"head_ref": BRANCH, "head": HEAD, "base": HEAD, "moves_branch": True, "reason": Reason()}
    assert values.keys() <= fields.keys()
    manifest = Manifest(**(fields | values))
    return Save(archive or oid("A"), wip or oid("W"), oid("tree"), {}, context or Context(pid=4242), manifest)
