"""Saves the repositories inside a workspace, each as it would be by itself; refs of its own hold its save."""

from __future__ import annotations

import os

from ..errors import MOST_SAID, GitstateError, words_of
from ..format.manifest import SAVED_INSIDE, LeftOut, Nested, Reason
from ..format.names import NOTES, OWN, checkpoint_ref, marker_ref, workspace_id
from ..git.entries import list_index
from ..git.gitdir import operation_under_way
from ..git.opening import open_inside, open_repository
from ..git.permitted import without_filters
from ..git.repository import git_dir_of, shares_configuration
from ..objects.tree import GITLINK
from ..snapshot.walk import ignored_repositories
from ..system.clock import Deadline
from ..system.stdlib import TYPE_CHECKING, suppress
from ..workspace.lease import work_began_ns
from .request import PRECIOUS, until_collected

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from ..git.command import Oid
    from ..git.repository import Repository
    from ..snapshot.record import Snapshot
    from ..workspace.lease import Presence
    from .build import Builder
    from .request import SaveRequest, SaveResult

#: Repositories nested more deeply than this are listed, not saved.
_DEEPEST = 8


def begin_with_outer(request: SaveRequest) -> SaveRequest:
    """The request for the repositories inside: an early save comes to them when its own marker stands."""
    is_early = request.look_end is not None and not request.depth
    return request._replace(look_end=Deadline(0.0)) if is_early else request


#: A repository inside has so many seconds for itself in any case, until the most precious files must have been read.
_LEAST_INSIDE = 0.1
NOT_REACHED = "the repository in it was not looked at in time"
_NOT_WHOLE = "the repository in it was saved, but not all of it"


def save_nested(
    repository: Repository,
    request: SaveRequest,
    taken: Snapshot,
    save: Callable[[bytes, SaveRequest], SaveResult],
    before: Callable[[], Iterable[Nested]] = lambda: (),
    note: Callable[[bytes, Repository], object] = lambda *_: None,
    more: Iterable[bytes] = (),
) -> tuple[tuple[Nested, ...], list[LeftOut]]:
    """Save the repositories inside with `save`; what to record of each, and what was skipped.

    Refs alone hold their saves: no branch moves there. Context and reason are of this workspace, not of theirs. Of one
    that is neither a submodule of the index nor a worktree of `repository` no program runs: plain git in this
    workspace would run none either.

    Each has an equal part of the time that is left. One that is not reached, or fails, is skipped, and is recorded as
    it was `before`: a later one of these counts more. `note` is called with the path of each other one, and with it.
    `more` are paths of others.
    """
    asked = request._replace(depth=request.depth + 1, stay=True, strict=False, problems=(), keep_paths=(), broken=None)
    asked = asked._replace(growth=None, beside=None, touched=frozenset(), older=None)
    asked = asked._replace(
        values={}, owner_pid=None, reason=Reason(), known=None, unseen=False, replaces=None, label=None, expected=None
    )
    nested: dict[bytes, Nested] = {}
    skipped: list[LeftOut] = []
    failed: set[bytes] = set()
    paths = [*dict.fromkeys((*taken.nested, *more))]
    for number, path in enumerate(paths):
        seconds = _seconds_inside(request, len(paths) - number)
        asked = asked._replace(deadline=seconds, look=None if request.look is None else seconds)
        why = NOT_REACHED if seconds == 0.0 else ""
        try:
            if not why:
                nested[path], others, inside = _save_inside(repository, asked, taken, path, save)
                note(path, inside)
                skipped += others
        except (GitstateError, OSError) as error:
            why = f"the repository in it could not be saved: {words_of(error)}"[:MOST_SAID]
        if why:
            failed.add(path)
            skipped.append(LeftOut(path, why, True))
            nested[path] = Nested(path, None, None)
    if failed:
        nested.update({one.path: one for one in before() if one.path in failed})
    return tuple(nested.values()), skipped


def _seconds_inside(request: SaveRequest, count: int) -> float | None:
    """How long the save of the next of `count` repositories inside may take; 0 where there is no time for it."""
    if request.look_end is not None:
        return request.look_end.left() / count
    if request.end is None or request.deadline is None:
        return None
    if request.end.part(PRECIOUS).passed():
        return 0.0
    return max(_LEAST_INSIDE, until_collected(request).left() / count)


def _save_inside(
    repository: Repository,
    asked: SaveRequest,
    taken: Snapshot,
    path: bytes,
    save: Callable[[bytes, SaveRequest], SaveResult],
) -> tuple[Nested, list[LeftOut], Repository]:
    """Save the repository at `path`; what to record of it, what was skipped, and it. Raises GitstateError, OSError."""
    from ..workspace.lease import presence

    full = os.path.join(repository.toplevel, path)
    if asked.depth > _DEEPEST:
        raise GitstateError("it is nested too deeply")
    inside = open_inside(repository, full)
    if _others_work(presence(inside), presence(repository)):
        # Its own keeper saves it. A save from here would write this task into that one's context.
        return (
            Nested(path, None, None),
            [LeftOut(path, "an agent works in it, and its own keeper saves it", False)],
            inside,
        )
    # Of a submodule the commit counts as well: the save keeps it, and tells on which branch it is.
    is_known = path in {*taken.submodules, *taken.checked_out} or shares_configuration(inside, repository)
    result = save(full, asked._replace(even_clean=is_known, runs_filters=repository.runs_filters and is_known))
    skipped = []
    if inside.common_dir.startswith(os.path.realpath(full) + b"/"):
        skipped.append(LeftOut(path, SAVED_INSIDE, False))
    if result.lost:
        skipped.append(LeftOut(path, _NOT_WHOLE, True))
    return Nested(path, result.save_id, result.archive), skipped, inside


def nested_before(builder: Builder, request: SaveRequest, seen: Mapping[str, Oid]) -> Iterable[Nested]:
    """The repositories inside that are saved, as the last checkpoint has them, then the save that is replaced."""
    own = workspace_id(builder.repository)
    for ref in (checkpoint_ref(own), marker_ref(own)):
        save = builder.earlier(seen.get(ref))
        if save is not None and (ref != marker_ref(own) or save.manifest.save_id == request.replaces):
            yield from (one for one in save.manifest.nested if one.save_id is not None)


def _others_work(inside: Presence, here: Presence) -> bool:
    """Whether somebody works in a nested repository who does not work here, too, as an agent without a keeper may."""
    if not inside.live or inside.holder is None or here.holder is None:
        return inside.live
    return inside.holder.kind == "keeper" or inside.holder.owner != here.holder.owner


#: So many repositories in ignored directories, or clean submodules, are asked for their work, in so many seconds
#: without a deadline; under one they have this share of what is left.
_MOST_ASKED, _SECONDS_ASKED, _SHARE_ASKED = 16, 10.0, 0.25
_NOT_ASKED = "nobody looked whether the repository in it has unsaved work: {}"


def with_work(repository: Repository, request: SaveRequest, taken: Snapshot) -> tuple[list[bytes], list[LeftOut]]:
    """The repositories in ignored directories that have unsaved work: changes, or commits that no remote has.

    A clean clone is as good as its remote. A clean submodule with such commits is one of them in a linked worktree,
    which takes them along. Of those that were not looked at, those that changed in this run are named.
    """
    is_linked = repository.git_dir != repository.common_dir
    clean = {*taken.checked_out} - {*taken.nested} if is_linked else set()
    paths = [*ignored_repositories(repository, taken.ignored), *clean]
    if not paths:
        return [], []
    end = Deadline(min(_SECONDS_ASKED, _SHARE_ASKED * until_collected(request).left()))
    order = sorted(paths, key=lambda path: -_changed_ns(os.path.join(repository.toplevel, path)))
    found: list[bytes] = []
    skipped: list[LeftOut] = []
    began = work_began_ns(repository)
    for number, path in enumerate(order):
        full = os.path.join(repository.toplevel, path)
        why = "there are too many" if number >= _MOST_ASKED else "there was no time for it" if end.passed() else ""
        try:
            if not why and _has_work(open_repository(full), end, is_clean=path in clean):
                found.append(path)
        except (GitstateError, OSError) as error:
            why = words_of(error)
        if why and began is not None and _changed_ns(full) >= began:
            skipped.append(LeftOut(path, _NOT_ASKED.format(why)[:MOST_SAID], True))
    return found, skipped


def _changed_ns(directory: bytes) -> int:
    """When git last worked in a repository, as far as its files tell."""
    times = [0]
    git_dir = git_dir_of(directory) or b""
    for name in (b"", b"HEAD", b"index", b"logs/HEAD"):
        with suppress(OSError):
            times.append(os.lstat(os.path.join(git_dir, name)).st_mtime_ns)
    return max(times)


def _has_work(inside: Repository, end: Deadline, *, is_clean: bool) -> bool:
    """Whether a repository has changes, unless it `is_clean`, or commits that no remote has. It runs no program."""
    git, limit = without_filters(inside).git, end.left()
    words = ("status", "--porcelain", "-z", "--untracked-files=normal", "--ignore-submodules=dirty")
    if not is_clean and git.run(*words, timeout=limit):
        return True
    if operation_under_way(inside.git_dir) is not None:
        return True
    others = (f"--exclude={name}*" for name in (OWN, NOTES, "refs/remotes/", "refs/tags/"))
    tips = (*others, "--all", "--not", "--remotes", "--tags")
    if git.run("rev-list", "--max-count=1", *tips, timeout=end.left()):
        return True
    links = list_index(git) if os.path.isdir(os.path.join(inside.git_dir, b"modules")) else ()
    places = [os.path.join(inside.toplevel, entry.path) for entry in links if entry.mode == GITLINK]
    below = [open_repository(place) for place in places if git_dir_of(place) is not None]
    return any(_has_work(one, end, is_clean=False) for one in below)
