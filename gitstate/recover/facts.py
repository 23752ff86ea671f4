"""Workspaces → facts. Read-only."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable

from ..errors import BadJson, CorruptSave, NeedsPerson, UnsupportedSave
from ..format import names
from ..format.archive import read_save
from ..format.context import MAX_CONTEXT, Context, context_from_json
from ..format.manifest import Manifest, Reason, Save
from ..format.names import is_save_id, workspace_id
from ..git import refs
from ..git.oid import Oid, is_oid
from ..git.operation import operation_under_way
from ..git.repository import Repository, head_of, read_head
from ..objects.notes import read_note
from ..objects.reader import ObjectReader, commit_head
from ..objects.tree import TreeReader
from ..system import files, process
from ..system.clock import now
from ..system.jsonio import loads
from ..workspace.live_context import owner_state, read_live_context, read_state_context
from .plan import Facts, resting_places

_STACK_LIMIT = 10_000


def gather(
    repository: Repository, reader: ObjectReader, save_id: str | None = None, *, strict: bool = False
) -> tuple[Facts, str | None]:
    """The facts about one workspace, and the name of the marker that its save stands under (None without one).

    With `save_id` that save is looked at, whether it waits or not. Raises NeedsPerson where it does not exist.
    `strict`: nobody named this workspace, so an owner is taken for gone only where that is proven.
    """
    head_ref = read_head(repository.git_dir)
    head = head_of(repository.toplevel)
    operation = operation_under_way(repository.git_dir)
    archive, marker, detach = _waiting(repository, reader, head_ref, head, save_id)
    here = Facts(head_ref, head, operation, detach=detach, strict=strict)
    if archive is None:
        found = _from_trailers(repository, reader, head_ref, head)
        if found is not None:
            return _with(here, repository, reader, (found,)), None
        checkpoint = _latest_checkpoint(repository, reader)
        context = _unsaved_context(repository, checkpoint)
        return Facts(
            head_ref,
            head,
            operation,
            elsewhere=_elsewhere(repository, reader),
            strict=strict,
            context=context,
            checkpoint=checkpoint,
            owner=owner_state(context) if context else "unknown",
        ), None
    try:
        return _with(here, repository, reader, read_stack(archive, reader)), marker
    except UnsupportedSave as error:
        return Facts(head_ref, head, operation, problem=error.message, unsupported=True), marker
    except CorruptSave as error:
        earlier = _newest_readable(repository, reader, marker, archive)
        return Facts(head_ref, head, operation, problem=error.message, earlier=earlier, marker=marker), marker


def read_stack(archive: Oid, reader: ObjectReader) -> tuple[Save, ...]:
    """A save and those it stands on, newest first. Raises CorruptSave or UnsupportedSave."""
    found: list[Save] = []
    following: Oid | None = archive
    while following is not None:
        save = read_save(following, reader)
        found.append(save)
        following = save.manifest.below
        if len(found) > _STACK_LIMIT or any(item.archive == following for item in found):
            raise CorruptSave(f"the saves below {archive[:12]} never end")
    return tuple(found)


def find_save(repository: Repository, save_id: str) -> tuple[str, Oid]:
    """Ref and archive of a save by its id, in whichever workspace's list it stands. Raises NeedsPerson."""
    if is_save_id(save_id):
        for ref, oid in refs.list_refs(repository.git, names.SAVES).items():
            if ref.endswith("/" + save_id):
                return ref, oid
        with ObjectReader(repository.git) as reader:
            for ref, oid in refs.list_refs(repository.git, names.CHECKPOINTS).items():
                with contextlib.suppress(CorruptSave, UnsupportedSave):
                    if read_save(oid, reader).manifest.save_id == save_id:
                        return ref, oid
    raise NeedsPerson(f"there is no save {save_id!r} in this repository", hint="gitstate log --all")


def worktrees(repository: Repository) -> list[bytes]:
    """The directories of all worktrees of the repository, whether they exist or not; the main one first."""
    out = repository.git.run("worktree", "list", "--porcelain", "-z")
    return [line[9:] for line in out.split(b"\0") if line.startswith(b"worktree ")]


def _waiting(
    repository: Repository, reader: ObjectReader, head_ref: str | None, head: Oid | None, save_id: str | None
) -> tuple[Oid | None, str | None, bool]:
    """Archive and marker of the save that waits here, and whether HEAD has to be detached for it."""
    own = names.marker_ref(workspace_id(repository))
    if save_id is not None:
        _, archive = find_save(repository, save_id)
        markers = [ref for ref, oid in refs.list_refs(repository.git, names.PENDING).items() if oid == archive]
        return archive, markers[0] if markers else None, False
    mine = refs.read_refs(repository, [own]).get(own)
    if mine is not None:
        return mine, own, False
    fitting: list[tuple[str, Oid, bool]] = []
    for ref, oid, stack in orphans(repository, reader):
        same_path = stack[0].context.workspace_path == os.fsdecode(repository.toplevel)
        detach = stack[0].manifest.head_ref is None and head_ref is not None and head == stack[0].manifest.head
        fits = stack[0].manifest.head_ref == head_ref and (same_path or head in resting_places(stack))
        if detach or fits:
            fitting.append((ref, oid, detach))
    if len(fitting) > 1:
        fitting.sort(key=lambda item: _save_id(reader, item[1]))
        listed = ", ".join(_save_id(reader, oid) for _, oid, _ in fitting)
        raise NeedsPerson(f"several saves fit this workspace: {listed}", hint="gitstate recover --save ID")
    return (fitting[0][1], fitting[0][0], fitting[0][2]) if fitting else (None, None, False)


def _save_id(reader: ObjectReader, archive: Oid) -> str:
    return read_save(archive, reader).manifest.save_id


def orphans(repository: Repository, reader: ObjectReader) -> Iterable[tuple[str, Oid, tuple[Save, ...]]]:
    """Markers of workspaces that are no worktree of this repository: fetched, or their directory is gone."""
    waiting = refs.list_refs(repository.git, names.PENDING)
    if not waiting:
        return
    there = [path for path in worktrees(repository) if os.path.lexists(os.path.join(path, b".git"))]
    here = {names.marker_ref(names.workspace_id_at(os.path.realpath(path))) for path in there}
    for ref, oid in waiting.items():
        if ref in here:
            continue
        try:
            yield ref, oid, read_stack(oid, reader)
        except (CorruptSave, UnsupportedSave):
            continue


def _elsewhere(repository: Repository, reader: ObjectReader) -> str | None:
    """Words about saves whose workspace is not here; None where there are none."""
    words = []
    for _, _, stack in orphans(repository, reader):
        manifest = stack[0].manifest
        words.append(f"{manifest.save_id} ({manifest.head_ref or 'detached HEAD'})")
    return f"saves of workspaces that are not here wait: {', '.join(words)}" if words else None


def _latest_checkpoint(repository: Repository, reader: ObjectReader) -> Save | None:
    """This workspace's latest checkpoint, where it can be read."""
    ref = names.checkpoint_ref(workspace_id(repository))
    for oid in refs.read_refs(repository, [ref]).values():
        with contextlib.suppress(CorruptSave, UnsupportedSave):
            return read_save(oid, reader)
    return None


def _unsaved_context(repository: Repository, checkpoint: Save | None) -> Context | None:
    """What the last run was doing, where it never said that it ended: its live context, its cache, its checkpoint."""
    context, status = read_live_context(repository)
    if status is None:
        context, status = read_state_context(repository)
    if status is None and checkpoint is not None:
        return checkpoint.context
    return context if status == "active" else None


def _with(here: Facts, repository: Repository, reader: ObjectReader, stack: tuple[Save, ...]) -> Facts:
    newest = stack[0]
    context = newest.context
    lives = process.is_running(context.pid, context.pid_start, context.boot_id)
    lives = lives and (here.strict or context.pid not in process.ancestors())
    contains = (
        here.head is not None
        and here.head not in resting_places(stack)
        and reader.kinds([newest.wip])[0] is not None
        and repository.git.succeeds("merge-base", "--is-ancestor", newest.wip, here.head)
    )
    return Facts(
        here.head_ref,
        here.head,
        here.operation,
        stack,
        detach=here.detach,
        strict=here.strict,
        owner_lives=lives and context.host == process.hostname(),
        contains_wip=contains,
        operation_differs=_operation_differs(repository, reader, newest),
    )


_TELLING = (b"MERGE_HEAD", b"CHERRY_PICK_HEAD", b"REVERT_HEAD", b"rebase-merge/onto", b"rebase-apply/onto")


def _operation_differs(repository: Repository, reader: ObjectReader, save: Save) -> bool:
    if save.manifest.operation is None:
        return False
    tree = save.files.get(b"operation")
    saved = TreeReader(reader).lookup(tree[1] if tree else None, _TELLING)
    for path in _TELLING:
        data = files.read_limited(os.path.join(repository.git_dir, path), MAX_CONTEXT)
        if data is None:
            continue
        leaf = saved.get(path)
        content = reader.contents([leaf.oid], MAX_CONTEXT)[0] if leaf is not None else None
        if content is None or content[1] != data:
            return True
    return False


def _newest_readable(repository: Repository, reader: ObjectReader, marker: str | None, archive: Oid) -> str | None:
    prefix = names.SAVES + (marker or "").removeprefix(names.PENDING) + "/" if marker else names.SAVES
    for _, oid in sorted(refs.list_refs(repository.git, prefix).items(), reverse=True):
        if oid == archive:
            continue
        try:
            return read_save(oid, reader).manifest.save_id
        except (CorruptSave, UnsupportedSave):
            continue
    return None


def _from_trailers(repository: Repository, reader: ObjectReader, head_ref: str | None, head: Oid | None) -> Save | None:
    """A save made up from a WIP commit on the branch's tip, where every ref of ours was lost."""
    if head is None or head_ref is None:
        return None
    trailers = _trailers(reader, head)
    save_id, base = trailers.get("Gitstate-Save"), trailers.get("Gitstate-Base")
    if not is_save_id(save_id) or save_id is None or not is_oid(base) or base is None:
        return None
    try:
        _, archive = find_save(repository, save_id)
        return read_save(archive, reader)
    except (NeedsPerson, CorruptSave):
        pass
    content = reader.contents([head])[0]
    if content is None or not content[1].split(b"\n\n", 2)[1].startswith(b"WIP(gitstate)"):
        return None
    tree, parents = commit_head(content[1])
    below = parents[0] if parents else None
    is_index = below is not None and below != base and _trailers(reader, below).get("Gitstate-Save") == save_id
    index_commit = below if is_index else None
    old_head = None if base == repository.zero else base
    return Save(
        head,
        head,
        tree,
        {},
        _noted(repository, reader, head),
        Manifest(
            save_id=save_id,
            kind="save",
            workspace_id=workspace_id(repository),
            created=now(),
            head_ref=head_ref,
            head=old_head,
            base=old_head,
            index_commit=index_commit,
            moves_branch=True,
            below=None,
            previous=None,
            operation=None,
            operation_files=(),
            index_size=None,
            index_checksum=None,
            index_mtime_ns=None,
            shared_index=None,
            staged={},
            intent_to_add=(),
            modes={},
            directories={},
            raw={},
            absent=(),
            sparse={},
            nested=(),
            left_out=(),
            ignored=(),
            reason=Reason(),
        ),
    )


def _noted(repository: Repository, reader: ObjectReader, wip: Oid) -> Context:
    tip = refs.read_refs(repository, [names.NOTES]).get(names.NOTES)
    try:
        note = read_note(tip, wip, reader, TreeReader(reader), MAX_CONTEXT)
        return context_from_json(loads(note, MAX_CONTEXT, "the note"))
    except BadJson:
        return Context()


def _trailers(reader: ObjectReader, commit: Oid) -> dict[str, str]:
    """The trailers of ours in the last paragraph of a commit's message."""
    content = reader.contents([commit])[0]
    if content is None or content[0] != "commit":
        return {}
    last = content[1].rstrip(b"\n").rpartition(b"\n\n")[2]
    found = {}
    for line in last.split(b"\n"):
        name, _, value = line.partition(b": ")
        if name in (b"Gitstate-Save", b"Gitstate-Base"):
            found[name.decode()] = value.decode("ascii", "replace").strip()
    return found
