"""Repositories inside a workspace: what each of them needs, and submodules whose directory was wiped."""

from __future__ import annotations

import os

from ..errors import MOST_SAID, GitstateError, words_of
from ..format.archive import (
    checkpoint_archives,
    checkpoint_save_id,
    held_saves,
    history_saves,
    pending_archives,
    read_save,
)
from ..format.manifest import LeftOut
from ..format.names import SAVES, age_key, workspace_id
from ..git.damaged.files import named_worktree
from ..git.entries import list_index
from ..git.opening import open_inside
from ..git.permitted import without_filters
from ..git.repository import Repository, module_place
from ..objects.tree import GITLINK
from ..system import files
from ..system.stdlib import TYPE_CHECKING, Record, quote, suppress
from ..workspace.ownership import give_back
from ..workspace.settings import with_filter_limit
from .checkout import check_out_all
from .paths import SavedPaths, Workspace

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence
    from typing import Literal

    from ..format.inside import HeldRepository
    from ..format.manifest import Nested, Save
    from ..git.command import Git, Oid


#: Repositories in repositories are followed so far down.
DEEPEST = 8

#: The keys of .gitmodules that name the paths of submodules, as a regular expression.
_PATH_KEY = r"^submodule\..*\.path$"

_NOT_KNOWN = "this repository is not checked out here, and .gitmodules does not say where to clone it from"


class NestedStep(Record):
    """What the repository at one path needs."""

    path: bytes
    action: Literal["recover", "add", "lost"]
    """It is there and is recovered; a worktree is added for its save; or it can't be recovered."""
    save_id: str | None = None
    """The save to add a worktree for."""
    is_new: bool = False
    """It is a submodule whose `.git` file was just written: without a save, its files have to be checked out."""
    reason: str = ""
    """Why it is lost."""
    is_held_up: bool = False
    """It is lost as long as something stands in its way: a later recovery can bring it back."""
    held: str | None = None
    """The save that the repository should hold; None where it had nothing to save."""
    archive: Oid | None = None
    """The archive of that save; None as `held`."""
    is_cut: bool = False
    """It was made again, and what its remotes have of its history is not there."""
    refused: tuple[str, ...] = ()
    """It was made again without these settings, each with the reason."""


def nested_steps(
    workspace: Workspace, saved: SavedPaths, depth: int, recovery: str, only: Collection[bytes] | None = None
) -> Iterator[NestedStep]:
    """The repositories that the saves name, and submodules whose directory was wiped; of the first alone those at the
    paths `only`, where that is given.

    `recovery` is the command that brings back what is held up now.
    """
    nested = {item.path: item for save in saved.saves for item in save.manifest.nested}
    named = {path: item.save_id for path, item in nested.items() if only is None or path in only}
    made = _reconnect_submodules(workspace, saved, named, names_all=only is None)
    vacant = {path: nested[path] for path in named if path not in made}
    again, failed = _make_again(workspace, saved, vacant, recovery)
    made += again
    for path, save_id in {**dict.fromkeys(made), **named}.items():
        try:
            step = _step_for(workspace, saved, path, nested.get(path)) if depth <= DEEPEST else None
        except (GitstateError, OSError) as error:
            step = NestedStep(path, "lost", reason=nested_failure(error), is_held_up=True)
        if step is None or (step.action == "lost" and path in failed):
            reason = failed.get(path) or _words_of_gone(workspace, path, save_id)
            step = NestedStep(path, "lost", reason=reason, is_held_up=path in failed)
        archive = nested[path].archive if path in nested else None
        is_cut, refused = again.get(path, (False, ()))
        yield step._replace(is_new=path in made, held=save_id, archive=archive, is_cut=is_cut, refused=refused)


def _make_again(
    workspace: Workspace, saved: SavedPaths, named: Mapping[bytes, Nested], recovery: str
) -> tuple[dict[bytes, tuple[bool, tuple[str, ...]]], dict[bytes, str]]:
    """Make those of the repositories again that are gone and that this one holds. `named` maps a path to what the saves
    say, and `recovery` is as in `nested_steps`.

    Returns the paths of those, each with `is_cut` and `refused` of its step, and why others could not be made.
    """
    from ..snapshot.walk import is_nested
    from .inside import held_repositories, is_made_again, is_vacant, make_again

    top = os.path.realpath(workspace.repository.toplevel)
    # As a recovery that was killed left them.
    made: dict[bytes, tuple[bool, tuple[str, ...]]] = {}
    made.update((path, (False, ())) for path in named if is_made_again(os.path.join(top, path)))
    failed = {}
    gone = [path for path in sorted(named) if not is_nested(workspace.repository, os.path.join(top, path))]
    held = held_repositories(workspace, saved.saves) if gone else {}
    registered = _registered(workspace.git) if held else {}
    for path in gone:
        one = held.get(path)
        save_id = named[path].save_id
        in_the_way = f"something else stands in the place of the nested repository: move it away, then {recovery}"
        if one is None:
            if not _is_vacant(os.path.join(top, path)) and _has_save(workspace, saved, named[path]):
                failed[path] = in_the_way
            continue
        if one.record.is_submodule and save_id is not None and _place_with(workspace, save_id):
            continue
        if one.record.elsewhere is not None:
            place = quote(os.fsdecode(os.path.join(top, path)))
            named_save = f" --save {save_id}" if save_id else ""
            command = f"gitstate -C {quote(one.record.elsewhere)} recover{named_save} --into {place}"
            failed[path] = f"it was a worktree of another repository, which has its save: {command}"
            continue
        if not is_vacant(os.path.join(top, path)):
            failed[path] = in_the_way
            continue
        name = registered.get(path) if one.record.is_submodule else None
        try:
            refused = make_again(workspace, one, name)
            made[path] = one.record.is_cut, tuple(refused)
            if name is not None and not _is_initialised(workspace.repository, name):
                # Where it can't, as without a remote, git asks for it when it is needed.
                workspace.git.run("submodule", "--quiet", "init", "--", path, ok_codes=range(256))
        except (GitstateError, OSError) as error:
            words = f"the nested repository is gone, and could not be made again: {words_of(error)}"[:MOST_SAID]
            more = _where_the_rest_is(workspace, one.record, name) if one.record.needs else ""
            more = f"get it with: {more} && {recovery}" if more else f"once that is mended: {recovery}"
            failed[path] = f"{words}; {more}"
    return made, failed


def _where_the_rest_is(workspace: Workspace, record: HeldRepository, name: str | None) -> str:
    """The command that gets the history of a held repository from its remote; empty where none is known."""
    if name is not None:
        return _update(workspace.repository)
    urls = [value for key, value in record.settings if key.startswith("remote.") and key.endswith(".url")]
    place = os.path.join(workspace.repository.toplevel, record.path)
    return f"git clone -- {quote(urls[0])} {quote(os.fsdecode(place))}" if urls else ""


def _words_of_gone(workspace: Workspace, path: bytes, save_id: str | None) -> str:
    """That a nested repository is gone; of a submodule, how to get at least its commit, or where it stands by now."""
    place = None if save_id is None else _place_with(workspace, save_id)
    if place is not None:
        command = f"gitstate -C {quote(os.fsdecode(place))} restore {save_id}"
        return f"git has put this submodule elsewhere, with its save: {command}"
    words = "the nested repository is gone, and its save with it"
    can_update = path in _registered(workspace.git) and path in submodules_of(workspace)
    return f"{words}; its commit: {_update(workspace.repository)}" if can_update else words


def _update(repository: Repository) -> str:
    """The command that checks out the submodules of a repository, which may be a submodule itself."""
    return f"git -C {quote(os.fsdecode(repository.toplevel))} submodule update --init"


def _not_here(path: bytes, repository: Repository) -> LeftOut:
    return LeftOut(path, f"this submodule is not checked out here: {_update(repository)}", False)


def _place_with(workspace: Workspace, save_id: str) -> bytes | None:
    """Where the submodule stands whose repository in our git dir holds a save; None where none does.

    With `submodule.recurse` git puts a submodule that was moved back to where it was.
    """
    for store in _stores_with(workspace, save_id):
        named = named_worktree(store)
        if named is not None and os.path.lexists(os.path.join(os.path.realpath(named), b".git")):
            return os.path.realpath(named)
    return None


def _stores_with(workspace: Workspace, save_id: str) -> Iterator[bytes]:
    """The git dirs of submodules that hold a save."""
    for store in _stores(os.path.join(workspace.repository.git_dir, b"modules")):
        # Where its worktree is gone, git refuses.
        argv = (b"--git-dir=" + store, "for-each-ref", "--format=%(refname)", f"{SAVES}*/{save_id}")
        if workspace.git.run(*argv, ok_codes=range(256)):
            yield store


def _has_save(workspace: Workspace, saved: SavedPaths, item: Nested) -> bool:
    """Whether this repository holds the save of a worktree of its own that is gone, or of a submodule."""
    if item.save_id is None:
        return False
    if _save_of_worktree(workspace, saved, item) is not None:
        return True
    return next(_stores_with(workspace, item.save_id), None) is not None


def _registered(git: Git) -> dict[bytes, str]:
    """Path → name of the submodules that .gitmodules names."""
    listed = git.run("config", "-z", "-f", ".gitmodules", "--get-regexp", _PATH_KEY, ok_codes=range(256))
    records = [record.partition(b"\n") for record in listed.split(b"\0")[:-1]]
    return {path: os.fsdecode(key).removeprefix("submodule.").removesuffix(".path") for key, _, path in records}


def _is_initialised(repository: Repository, name: str) -> bool:
    """Whether a submodule was initialised, as by a checkout of it."""
    return f"submodule.{name}.url" in repository.config


def lacks_its_save(step: NestedStep, git: Git) -> LeftOut | None:
    """What to report where the repository at the path of `step` is another one: made again, or cloned once more."""
    if step.held is None or any(save.save_id == step.held for save in held_saves(git)):
        return None
    if step.archive is not None and git.run("cat-file", "-t", step.archive, ok_codes=range(256)):
        # One of its checkpoints: there was no time for a save of it.
        return None
    return LeftOut(step.path, other_repository(step), True)


def other_repository(step: NestedStep) -> str:
    return f"the repository here is not the one that holds the save {step.held}"


def submodules_of(workspace: Workspace) -> frozenset[bytes]:
    """The paths that are submodules in the index."""
    return frozenset(entry.path for entry in list_index(workspace.git) if entry.mode == GITLINK)


def absent_submodules(workspace: Workspace, saved: SavedPaths, made: Collection[bytes]) -> list[LeftOut]:
    """Submodules that aren't checked out here, of those in whose place nothing was (`made`); in a new clone, of all.

    Those that the newest save says were not checked out then are as they were. Those that the saves name as
    repositories are dealt with elsewhere.
    """
    known = {item.path for save in saved.saves for item in save.manifest.nested}
    known.update(saved.newest.manifest.absent_submodules)
    if saved.newest.manifest.workspace_id != workspace_id(workspace.repository):
        made = submodules_of(workspace)
    absent = [path for path in sorted({*made} - known) if workspace.disk.is_empty(path)]
    registered = _registered(workspace.git) if absent else ()
    return [
        _not_here(path, workspace.repository) if path in registered else LeftOut(path, _NOT_KNOWN, False)
        for path in absent
    ]


def nested_failure(error: Exception) -> str:
    """Why a nested repository could not be recovered."""
    return f"the nested repository: {words_of(error)}"[:MOST_SAID]


def _step_for(workspace: Workspace, saved: SavedPaths, path: bytes, item: Nested | None) -> NestedStep | None:
    """What the repository at `path` needs; None where it is gone, and its save with it. `item`: what the saves say."""
    top = workspace.repository.toplevel
    full = os.path.join(top, path)
    parent = os.path.join(os.path.realpath(top), os.path.dirname(path)).rstrip(b"/")
    if os.path.realpath(os.path.dirname(full)) != parent:
        return NestedStep(path, "lost", reason="a symlink stands on the way to the nested repository", is_held_up=True)
    pending = _pending_for(workspace, saved, full, item) if _is_vacant(full) else None
    if pending is not None:
        return NestedStep(path, "add", pending)
    from ..snapshot.walk import is_nested

    return NestedStep(path, "recover") if is_nested(workspace.repository, full) else None


def _pending_for(workspace: Workspace, saved: SavedPaths, full: bytes, item: Nested | None) -> str | None:
    """The save of a nested linked worktree of this very repository: the pending one, else see `_save_of_worktree`."""
    for oid in pending_archives(workspace.repository.git).values():
        pending = _read(workspace, oid)
        if pending is not None and pending.context.workspace_path == os.fsdecode(full):
            return pending.manifest.save_id
    return None if item is None else _save_of_worktree(workspace, saved, item)


def _save_of_worktree(workspace: Workspace, saved: SavedPaths, item: Nested) -> str | None:
    """The save that brings back a linked worktree of this very repository; None where `item` is of another one.

    It is the one named, or a later checkpoint: see `is_latest_checkpoint`.
    """
    git, own = workspace.repository.git, workspace_id(workspace.repository)
    named = None if item.archive is None else _read(workspace, item.archive)
    if named is None or named.manifest.workspace_id == own or named.manifest.save_id != item.save_id:
        return None
    is_held = any(held.save_id == item.save_id for held in (*held_saves(git), *history_saves(git)))
    if is_held and not is_latest_checkpoint(workspace.repository, saved.saves):
        return item.save_id
    latest = checkpoint_archives(git).get(named.manifest.workspace_id)
    checkpoint = None if latest is None else _read(workspace, latest)
    if checkpoint is None or age_key(checkpoint.manifest.save_id) < age_key(named.manifest.save_id):
        return item.save_id if is_held else None
    return checkpoint.manifest.save_id


def is_latest_checkpoint(repository: Repository, saves: Sequence[Save]) -> bool:
    """Whether these are the latest checkpoint: what was done since then in the repositories inside is not in the one
    of theirs that it names, but in their own latest one.
    """
    newest = saves[0].manifest
    return newest.kind == "checkpoint" and newest.save_id == checkpoint_save_id(repository)


def _read(workspace: Workspace, archive: Oid) -> Save | None:
    """A save of this repository; None where it is of another one, or can't be read."""
    with suppress(GitstateError):
        return read_save(archive, workspace.reader)
    return None


def _reconnect_submodules(
    workspace: Workspace, saved: SavedPaths, named: Collection[bytes], *, names_all: bool
) -> list[bytes]:
    """Give submodules whose directory was wiped their `.git` file again: all else of them is in our git dir.

    `named` are those that the saves name, and those alone are dealt with unless that is all of them. Returns their
    paths.
    """
    repository, disk = workspace.repository, workspace.disk
    made = []
    absent = saved.newest.manifest.absent_submodules
    for name, store, place in _submodule_stores(repository):
        if place is None:
            place = _initialise(workspace, name, os.path.join(store, b"config"), named)
        if place is None or os.path.islink(os.path.normpath(place)):
            # It had no work; or a link took the place of the submodule: what that leads to is none.
            continue
        full, path, link = _link_of(repository, store, place)
        if path not in named and not names_all:
            continue
        leaf = workspace.trees.lookup(saved.newest.wip_tree, [path]).get(path)
        is_begun = path not in named and _was_begun(full, link)
        if path in named and not os.path.lexists(full):
            disk.make_directory(path)
        elif leaf is None or leaf.mode != GITLINK or path in absent or not (is_begun or disk.is_empty(path)):
            continue
        files.write_atomic(os.path.join(full, b".git"), link, mode=0o644, staging=repository.own)
        made.append(path)
    return made


def _submodule_stores(repository: Repository) -> Iterator[tuple[str, bytes, bytes | None]]:
    """Name and git dir of each submodule in the git dir of a repository, and its worktree; None where it has none, or
    git has not initialised it.
    """
    modules = os.path.join(repository.git_dir, b"modules")
    keys = [key for key in repository.config if key.startswith("submodule.") and key.endswith(".gitdir")]
    names = [key.removeprefix("submodule.").removesuffix(".gitdir") for key in keys]
    named = {module_place(repository, name): name for name in names}
    for store in _stores(modules):
        name = named.get(store, os.fsdecode(os.path.relpath(store, modules)))
        place = named_worktree(store)
        yield name, store, place if place is not None and _is_initialised(repository, name) else None


def _link_of(repository: Repository, store: bytes, place: bytes) -> tuple[bytes, bytes, bytes]:
    """The worktree of a submodule, absolute and below the top of its repository, and the content of its `.git` file."""
    full = os.path.realpath(place)
    path = os.path.relpath(full, os.path.realpath(repository.toplevel))
    return full, path, b"gitdir: %s\n" % os.path.relpath(store, full)


def check_out_submodule(repository: Repository, depth: int, *, runs_filters: bool) -> Iterator[LeftOut]:
    """Let git write the files of a submodule whose `.git` file was just written, and of those inside it.

    No save is of it: it had no changes, and so had those. Yields what is not as it was, with its path below it.
    """
    usable = with_filter_limit(repository if runs_filters else without_filters(repository))
    yield from check_out_all(usable)
    links = {entry.path for entry in list_index(repository.git) if entry.mode == GITLINK}
    made = _reconnect_clean(repository, links) if links and depth < DEEPEST else []
    registered = _registered(repository.git) if links else {}
    top = os.path.realpath(repository.toplevel)
    for path in sorted(links.difference(made)):
        full = os.path.join(top, path)
        if os.path.realpath(full) == full and _is_vacant(full):
            # As git does where none is checked out.
            files.make_directory(full, top=os.path.realpath(repository.toplevel))
            if path in registered and _is_initialised(repository, registered[path]):
                yield _not_here(path, repository)
    for path in made:
        below = os.path.join(path, b"")
        try:
            inside = open_inside(repository, os.path.join(repository.toplevel, path))
            fill_emptied_index(inside)
            for item in check_out_submodule(inside, depth + 1, runs_filters=runs_filters):
                yield item._replace(path=below + item.path)
        except (GitstateError, OSError) as error:
            yield LeftOut(path, nested_failure(error), True)
    give_back(repository, repository.toplevel)


def _was_begun(path: bytes, link: bytes) -> bool:
    """Whether a recovery that was killed has written nothing but the `.git` file of a submodule."""
    try:
        is_alone = os.listdir(path) == [b".git"]
    except OSError:
        return False
    return is_alone and files.read_limited(os.path.join(path, b".git"), 65_536) == link


def _is_vacant(path: bytes) -> bool:
    """Whether nothing is at `path`, or an empty directory."""
    return not os.path.lexists(path) or (os.path.isdir(path) and not os.path.islink(path) and not os.listdir(path))


def _reconnect_clean(repository: Repository, links: Collection[bytes]) -> list[bytes]:
    """Give those of the submodules at `links` that were wiped their `.git` files again; returns their paths."""
    made = []
    for _, store, place in _submodule_stores(repository):
        if place is None:
            # It was not checked out.
            continue
        full, path, link = _link_of(repository, store, place)
        if path not in links or not (_is_vacant(full) or _was_begun(full, link)):
            continue
        files.make_directory(full, top=os.path.realpath(repository.toplevel))
        files.write_atomic(os.path.join(full, b".git"), link, mode=0o644, staging=repository.git_dir)
        made.append(path)
    return made


def fill_emptied_index(inside: Repository) -> None:
    """Let the index of a submodule hold its commit again, where git emptied it when it took the submodule away.

    With `submodule.recurse` it does so at a `git reset` to a commit without the submodule.
    """
    if not list_index(inside.git):
        inside.git.run("read-tree", "HEAD", ok_codes=range(256))


def _initialise(workspace: Workspace, name: str, config: bytes, named: Collection[bytes]) -> bytes | None:
    """Undo `git submodule deinit` of a submodule that had work at the save; None where it was none of those.

    `config` is the configuration in the submodule's git dir. Returns the worktree that it names now.
    """
    key = f"submodule.{name}.path"
    argv = ("config", "-z", "-f", ".gitmodules", "--get", key)
    path = workspace.git.run(*argv, ok_codes=range(256)).removesuffix(b"\0")
    if path not in named or not workspace.disk.is_empty(path):
        return None
    workspace.git.run("submodule", "--quiet", "init", "--", path)
    place = os.path.relpath(os.path.join(workspace.repository.toplevel, path), os.path.dirname(config))
    workspace.git.run("config", "-f", config, "core.worktree", place)
    return named_worktree(os.path.dirname(config))


def _stores(modules: bytes) -> Iterator[bytes]:
    """The git dirs of submodules; a submodule's name, and with it the place of its git dir, may hold slashes."""
    for directory, names, there in files.walk(modules):
        if b"HEAD" in there and b"objects" in names:
            names.clear()
            # Git waits where its configuration is a FIFO.
            if os.path.isfile(os.path.join(directory, b"config")):
                yield directory
