"""The blank files of a repository, as after a power cut, and their repair.

To replace such a file loses nothing, and `repair_damage` replaces nothing else.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress

from ..errors import GitError, GitstateError
from ..format import names
from ..format.archive import pending_in_files, read_save
from ..git import refs
from ..git.command import Git, Oid
from ..git.damaged.files import Damage, blank_objects, damaged_git_dir, is_blank, quoted
from ..git.damaged.head import last_value
from ..git.gitdir import read_head_file
from ..objects.reader import ObjectReader
from ..system import files
from ..workspace.live_context import read_context


def find_damage(workspace: bytes, git_dir: bytes, common_dir: bytes) -> list[Damage]:
    """The blank files of a workspace and its repository. Git is asked only whether an object exists."""
    where = quoted(workspace)
    found = [*_git_dir(workspace, git_dir, common_dir)]
    if not found:
        found += _branch(where, git_dir, common_dir)
    found += _index(where, git_dir)
    found += _markers(where, common_dir, has_head=not any(item.path.endswith(b"/HEAD") for item in found))
    found += blank_objects(where, common_dir)
    config = os.path.join(common_dir, b"config")
    if is_blank(config) and not any(item.path == config for item in found):
        found.append(Damage(config, "the repository's config is empty", f"git -C {where} init"))
    return found


def repair_damage(damage: Damage) -> bool:
    """Write the known content, or remove the file. False where it is blank no longer, or nothing is known.

    Raises OSError.
    """
    if not damage.repairable or not is_blank(damage.path):
        return False
    if damage.content is None:
        files.remove(damage.path)
    else:
        directory = os.path.dirname(damage.path)
        files.write_atomic(damage.path, damage.content, staging=directory, mode=0o644)
    return True


def _git_dir(workspace: bytes, git_dir: bytes, common_dir: bytes) -> Iterator[Damage]:
    damage = damaged_git_dir(workspace, git_dir, common_dir, read_context(git_dir)[0].branch_name)
    for item in () if damage is None else damage.files:
        is_head = item.path == os.path.join(git_dir, b"HEAD")
        known = damage.head + b"\n" if is_head and damage is not None and damage.head is not None else None
        yield item._replace(content=known)


def _branch(where: str, git_dir: bytes, common_dir: bytes) -> Iterator[Damage]:
    head = b""
    with suppress(OSError):
        head = read_head_file(git_dir)
    ref = head[5:].strip() if head.startswith(b"ref: refs/") else b""
    path = os.path.join(common_dir, ref)
    if not ref or b".." in ref or not is_blank(path):
        return
    name = os.fsdecode(ref)
    for log in (os.path.join(common_dir, b"logs", ref), os.path.join(git_dir, b"logs", b"HEAD")):
        oid = last_value(log)
        if oid is not None and _is_commit(common_dir, oid):
            what = f"{name} is empty; its reflog ends at {oid[:12]}"
            command = f"rm {quoted(path)} && git -C {where} update-ref {quoted(ref)} {oid}"
            yield Damage(path, what, command, oid.encode("ascii") + b"\n")
            return
    yield Damage(path, f"{name} is empty, and has no reflog", f"gitstate -C {where} log")


def _index(where: str, git_dir: bytes) -> Iterator[Damage]:
    path = os.path.join(git_dir, b"index")
    if is_blank(path):
        what = "the index is empty: what was staged is only in a save"
        yield Damage(path, what, f"gitstate -C {where} recover, or without a save: git -C {where} reset")


def _markers(where: str, common_dir: bytes, *, has_head: bool) -> Iterator[Damage]:
    for workspace, oid in pending_in_files(common_dir).items():
        if oid:
            continue
        path = os.path.join(common_dir, os.fsencode(names.marker_ref(workspace)))
        (held,) = refs.read_refs_below(common_dir, names.save_ref(workspace, ""))
        newest = _newest_save(common_dir, held) if has_head else None
        if newest is not None:
            what = f"the marker of the pending save is empty; the newest save is {newest}"
            command = f"gitstate -C {where} recover --save {newest}"
            yield Damage(path, what, command, held[newest].encode("ascii") + b"\n")
        else:
            yield Damage(path, "the marker of the pending save is empty", f"gitstate -C {where} log --all")


def _newest_save(common_dir: bytes, held: Mapping[str, Oid]) -> str | None:
    """The newest save that can have been pending: no safety save, no checkpoint. None where it can't be read.

    An older one never takes its place.
    """
    with ObjectReader(Git(common_dir)) as reader:
        for save_id in sorted(held, key=names.age_key, reverse=True):
            try:
                if not held[save_id] or read_save(held[save_id], reader).manifest.kind == "save":
                    return save_id if held[save_id] else None
            except (GitstateError, OSError):
                return None
    return None


def _is_commit(common_dir: bytes, oid: Oid) -> bool:
    """Whether git can read this commit."""
    try:
        return Git(common_dir).run("cat-file", "-t", oid).strip() == b"commit"
    except (GitError, OSError):
        return False
