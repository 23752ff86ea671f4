"""A repository with a long past: many saves, which `git fast-import` makes from the objects of one real save."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from tests.support.workspace import Workspace

_WHO = "committer B <b@example.invalid> 1700000000 +0000\n"


def give_past(ws: Workspace, count: int) -> list[str]:
    """Give the workspace, which has a save, older ones, `count` with its newest. Returns their ids, newest first."""
    stream, ids = past_saves(ws.out, count)
    ws.git("fast-import", "--quiet", "--force", stdin=stream)
    ws.git("update-ref", "-d", "refs/past")
    return ids


def past_saves(out: Callable[..., str], count: int) -> tuple[bytes, list[str]]:
    """What `git fast-import` reads, and the ids of the saves: a WIP commit, an archive and a note for each but one.

    Each is a minute older than the one before it, and has one more file than the real save, with a text of its own.
    `out` runs git in the repository, and returns what it prints. `refs/past` is to be deleted afterwards.
    """
    listed = ("--sort=-refname", "--count=1", "--format=%(refname) %(objectname)", "refs/gitstate/saves")
    ref, archive = out("for-each-ref", *listed).split()
    kept = json.loads(out("show", f"{archive}:manifest.json"))
    note = out("notes", "--ref=gitstate", "show", f"{archive}^1")
    stage, trees = ref.rpartition("/")[0], [out("rev-parse", f"{name}^{{tree}}") for name in (f"{archive}^1", archive)]
    trees = [tree.strip() for tree in trees]
    newest = datetime.now(UTC)
    commits: list[str] = []
    notes: list[str] = []
    ids: list[str] = []
    for number in range(1, count):
        save_id = (newest - timedelta(minutes=number)).strftime("%Y%m%dT%H%M%S.%fZ-") + f"{number:06x}"
        manifest = json.dumps(kept | {"save_id": save_id, "label": f"past {number}"})
        message = f"WIP(gitstate): T-{number}\n\nGitstate-Save: {save_id}\nGitstate-Base: {kept['base']}\n"
        commits.append(f"commit refs/past\nmark :{number}\n{_WHO}data {len(message)}\n{message}from {kept['base']}\n")
        text = f"{number}\n"
        commits.append(f'M 040000 {trees[0]} ""\nM 100644 inline past.txt\ndata {len(text)}\n{text}\n')
        commits.append(f"commit {stage}/{save_id}\n{_WHO}data {len(message)}\n{message}from :{number}\ndeleteall\n")
        commits.append(f'M 040000 {trees[1]} ""\nM 100644 inline manifest.json\ndata {len(manifest)}\n{manifest}\n')
        text = note.strip().replace(kept["save_id"], save_id)
        notes.append(f"N inline :{number}\ndata {len(text.encode())}\n{text}\n")
        ids.append(save_id)
    head = f"commit refs/notes/gitstate\n{_WHO}data 5\nnotes\nfrom refs/notes/gitstate^0\n"
    return "".join([*commits, head, *notes] if notes else []).encode(), ids
