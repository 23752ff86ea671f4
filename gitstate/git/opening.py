"""Opens a repository: git tells where all of it is, and its configuration."""

from __future__ import annotations

import os

from ..errors import GitstateError, NotAWorkspace
from ..system.child import Child
from ..system.stdlib import TYPE_CHECKING, Record
from .command import Git, hooks_off
from .gitdir import linked_places, path_named_in, strange_files_above
from .permitted import as_permitted
from .repository import Repository, git_dir_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from .gitdir import StrangeFile


def open_repository(path: bytes, *, bare_too: bool = False) -> Repository:
    """The repository of the worktree that `path` is in, or with `bare_too` a bare one.

    Of a repository of another user no program runs, unless its path is trusted. Raises NotAWorkspace where there is
    none, git refuses to open it (safe.directory), or it is bare; NeedsPerson where a link stands for a directory.
    """
    return _opened(start_opening(path), bare_too)


def open_inside(repository: Repository, full: bytes) -> Repository:
    """The repository at `full`, an absolute path below the top of `repository`.

    Who works in a workspace can write a `.git` there that leads to any repository of this user. Nothing is written
    there, and its saves are not brought back here, unless it names the directory as its worktree. Raises GitstateError.
    """
    inside = open_repository(full)
    if inside.toplevel != os.path.realpath(full):
        raise GitstateError("its .git file points outside the directory")
    elsewhere = _leads_to(inside, repository)
    if elsewhere is not None:
        from .damaged.refused import leads_elsewhere

        raise leads_elsewhere(inside.toplevel, inside.git_dir, elsewhere)
    return inside


_SETTINGS = ("config", "--list", "--show-origin", "-z")
_WHERE = ("rev-parse", "--path-format=absolute")
_QUESTIONS = ("--absolute-git-dir", "--git-common-dir", "--show-object-format", "--show-toplevel")


class Opening(Record):
    """A repository that is being opened: git works while the caller does something else."""

    path: bytes
    listed: Child | None
    """`git config --list`; None where `path` is no directory."""
    asked: Child | None
    """`git rev-parse`, which tells where all is; None where the configuration is expected to tell (`_is_plain`)."""
    known: Repository | None = None
    """The repository, where the caller has opened it a moment ago."""
    strange: StrangeFile | None = None
    """At what git would wait for ever, or fail: no git is started."""

    def is_plain(self) -> bool:
        """Whether a directory `.git` stands at `path`, and its configuration alone is asked where all is."""
        return self.listed is not None and self.asked is None

    def finish(self) -> Repository:
        """The repository. Raises as `open_repository` does."""
        return _opened(self, False) if self.known is None else self.known


def start_opening(path: bytes) -> Opening:
    """Start what `open_repository` does."""
    if not os.path.isdir(path):
        return Opening(path, None, None)
    strange = strange_files_above(path)
    if strange:
        return Opening(path, None, None, strange=strange[0])
    above = os.path.dirname(os.path.realpath(path))
    if b":" in above or not _has_git_dir(path):
        return _ask_both(path)
    # Git must not go on to a repository above: its configuration would have the same origin, `file:.git/config`.
    env = {"GIT_CEILING_DIRECTORIES": os.fsdecode(above)}
    return Opening(path, Git(path).start(*_SETTINGS, env=env), None)


def _ask_both(path: bytes) -> Opening:
    git = Git(path)
    listed = git.start(*_SETTINGS)
    return Opening(path, listed, git.start(*_WHERE, *_QUESTIONS))


def _has_git_dir(path: bytes) -> bool:
    dot_git = os.path.join(path, b".git")
    return os.path.isdir(dot_git) and not os.path.islink(dot_git)


def _opened(opening: Opening, bare_too: bool) -> Repository:
    path, listed, asked = opening.path, opening.listed, opening.asked
    git = Git(path)
    if opening.strange is not None:
        from .damaged.refused import why_strange

        raise why_strange(path, opening.strange)
    if listed is None:
        what = "not a directory" if os.path.lexists(path) else "no such directory"
        hint = "gitstate status --all (the workspaces that are known)"
        raise NotAWorkspace(f"{os.fsdecode(path)}: {what}", hint=hint)
    settings = git.finish(listed, ok_codes=range(256))
    fields = settings.split(b"\0")[:-1]
    config = settings_of(fields[1::2])
    if asked is None and (listed.returncode != 0 or not _is_plain(config, fields[::2])):
        return _opened(_ask_both(path), bare_too)
    if asked is None:
        toplevel = os.path.realpath(path)
        git_dir = common_dir = os.path.join(toplevel, b".git")
        object_format = b"sha1"
    else:
        git_dir, common_dir, object_format, toplevel = _where(path, asked, bare_too)
        if toplevel != git_dir:
            _refuse_other_worktree(toplevel, git_dir)
            if git_dir != common_dir:
                _refuse_copy(toplevel, git_dir)
            _refuse_repository_above(path, toplevel, git_dir, common_dir)
    git = Git(toplevel, hooks_off(config))
    return as_permitted(Repository(toplevel, git_dir, common_dir, object_format.decode("ascii"), config, git))


def settings_of(items: Iterable[bytes]) -> dict[str, list[str]]:
    """The values of each setting in the items that `git config --list -z` prints."""
    config: dict[str, list[str]] = {}
    for item in items:
        name, line_end, value = item.partition(b"\n")
        config.setdefault(os.fsdecode(name), []).append(os.fsdecode(value) if line_end else "true")
    return config


def _is_plain(config: Mapping[str, Sequence[str]], origins: Sequence[bytes]) -> bool:
    """Whether all of a repository is where it is by default, so that `git rev-parse` need not be asked.

    Git was started beside a directory `.git`, took its configuration from there, and nothing in it says that the
    worktree is elsewhere, the repository is bare, or its format has an extension.
    """
    # All values count, not the last: `git config` shows included files too, which git ignores for this purpose.
    special = "core.worktree" in config or any(value != "false" for value in config.get("core.bare", ()))
    extended = any(key.startswith("extensions.") for key in config)
    return b"file:.git/config" in origins and not special and not extended


def _where(path: bytes, asked: Child, bare_too: bool) -> list[bytes]:
    """The answers to `_QUESTIONS`. Raises NotAWorkspace."""
    git = Git(path)
    out, stderr = asked.communicate()
    if (
        asked.returncode != 0
        and bare_too
        and git.run("rev-parse", "--is-bare-repository", ok_codes=(0, 128)) == b"true\n"
    ):
        out = git.run(*_WHERE, *_QUESTIONS[:-1], "--absolute-git-dir")
    elif asked.returncode != 0:
        from .damaged.refused import why_not_opened

        raise why_not_opened(path, stderr)
    lines = out.split(b"\n")[:-1]
    if len(lines) == len(_QUESTIONS):
        return lines
    # A path contains a line end: ask one question at a time.
    return [git.run(*_WHERE, question)[:-1] for question in _QUESTIONS]


def _refuse_other_worktree(toplevel: bytes, git_dir: bytes) -> None:
    """Raises NotAWorkspace where the worktree's own `.git` does not lead to its git dir: git run there finds another.

    `core.worktree` may name any directory, and that of a submodule that was moved names its old place.
    """
    if git_dir_of(toplevel) != os.path.realpath(git_dir):
        from .damaged.refused import has_worktree_elsewhere

        raise has_worktree_elsewhere(toplevel, git_dir)


def _refuse_copy(toplevel: bytes, git_dir: bytes) -> None:
    """Raises NotAWorkspace where a linked worktree was copied: HEAD, index and saves are those of the one it is of."""
    link, mine = path_named_in(os.path.join(git_dir, b"gitdir"), b"", git_dir), os.path.join(toplevel, b".git")
    if link is None or link == mine or not os.path.lexists(link) or os.path.samefile(link, mine):
        return
    if git_dir_of(os.path.dirname(link)) == os.path.realpath(git_dir):
        from .damaged.refused import is_copy_of

        raise is_copy_of(toplevel, os.path.dirname(link))


def _refuse_repository_above(path: bytes, toplevel: bytes, git_dir: bytes, common_dir: bytes) -> None:
    """Raises NotAWorkspace where git passed a git directory that it can't read, and found the repository above it.

    So it does where a linked worktree inside of another one has lost its `.git`. And where `path` is in no worktree of
    the git directory: `core.worktree` names another place.
    """
    place = os.path.realpath(path)
    if place != toplevel and not place.startswith(os.path.join(toplevel, b"")):
        above = place
        while len(above) > 1 and not os.path.samefile(above, toplevel):
            above = os.path.dirname(above)
        if len(above) == 1:
            from .damaged.refused import has_other_worktree

            raise has_other_worktree(place, toplevel, git_dir)
        # It was named in other letters, on a file system that folds case.
        toplevel = above
    links = linked_places(common_dir) if place != toplevel else ()
    while place != toplevel and len(place) > 1:
        dot_git = os.path.join(place, b".git")
        if os.path.isdir(dot_git) or dot_git in links:
            from .damaged.refused import refuse_passed_over

            refuse_passed_over(place, toplevel, is_linked=dot_git in links)
        place = os.path.dirname(place)


def _leads_to(inside: Repository, repository: Repository) -> bytes | None:
    """The place of another repository to which the `.git` of `inside` leads; None where all is its own."""
    top, outer = os.path.realpath(inside.toplevel), os.path.realpath(repository.toplevel)
    git_dir, common = os.path.realpath(inside.git_dir), os.path.realpath(inside.common_dir)
    if git_dir != common:
        link = path_named_in(os.path.join(git_dir, b"gitdir"), b"", git_dir)
        is_named = link is not None and (link == os.path.join(top, b".git") or not os.path.lexists(link))
        return None if is_named and os.path.dirname(git_dir) == os.path.join(common, b"worktrees") else common
    is_own = _is_below(git_dir, top, os.path.realpath(repository.common_dir)) or (
        _is_below(git_dir, outer) and os.path.basename(git_dir) != b".git"
    )
    # Where `core.worktree` is set, git has found the worktree by it.
    if not is_own and "core.worktree" not in inside.config:
        return git_dir
    parts = (os.path.realpath(os.path.join(common, name)) for name in (b"objects", b"refs"))
    return next((part for part in parts if not _is_below(part, git_dir, outer)), None)


def _is_below(path: bytes, *tops: bytes) -> bool:
    return any(path.startswith(os.path.join(top, b"")) for top in tops)
