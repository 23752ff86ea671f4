"""With which options git runs in a repository that was just opened, and what of it may be used: a stranger's runs no
program, and a file at which git would wait or fail is left out.
"""

from __future__ import annotations

import os

from ..errors import NeedsPerson
from ..system.files import open_at_once, strange_kind
from ..system.stdlib import TYPE_CHECKING
from .command import is_readable, user_files

if TYPE_CHECKING:
    from .repository import Repository


def as_permitted(repository: Repository) -> Repository:
    """What may be done with a repository that was just opened: a stranger's runs no program. Raises NeedsPerson."""
    for path in dict.fromkeys((repository.own, os.path.join(repository.common_dir, b"gitstate"))):
        if os.path.lexists(path) and (os.path.islink(path) or not os.path.isdir(path)):
            raise NeedsPerson(
                f"{os.fsdecode(path)} is not a directory of the repository's own; nothing was changed",
                hint="look where it leads, then remove it",
            )
    if has_damaged_pack_index(repository.common_dir):
        options = (*repository.git.options, "-c", "core.multiPackIndex=false")
        repository = repository._replace(git=repository.git._replace(options=options))
    repository = _without_strange(repository)
    stranger = _stranger(repository)
    if stranger is None:
        return repository
    from .damaged.refused import refuse_links

    repository = without_filters(repository)._replace(stranger=stranger)
    refuse_links(stranger, repository.git_dir, repository.common_dir)
    return repository


def _stranger(repository: Repository) -> int | None:
    """The uid of another user who owns a part of the repository; None where all is ours, or its path is trusted."""
    mine = os.geteuid()
    places = [repository.toplevel, os.path.join(repository.toplevel, b".git"), repository.git_dir]
    if mine == 0:
        # Git does not ask who owns what worktrees share: a worktree that root added elsewhere is root's.
        places.append(repository.common_dir)
    others = [uid for uid in map(_owner, places) if uid not in (None, mine)]
    if not others:
        return None
    from .damaged.refused import is_trusted

    return None if is_trusted(repository.toplevel, repository.common_dir) else others[0]


def _owner(path: bytes) -> int | None:
    """The uid of the owner of `path`; None where there is nothing, as at `.git` in a bare repository."""
    try:
        return os.stat(path).st_uid
    except OSError:
        return None


def without_filters(repository: Repository) -> Repository:
    """The same repository with the filters of its configuration replaced by none, and without any transport.

    A push, or a git that fetches a missing object, would run programs that it names (`core.sshCommand`, `ext::`).
    """
    options = [*repository.git.options, *repository.filters_off(), "-c", "protocol.allow=never"]
    for key in repository.config:
        # It would win over `protocol.allow`.
        if key.startswith("protocol.") and key.count(".") > 1 and key.endswith(".allow") and "=" not in key:
            options += ["-c", f"{key}=never"]
    git = repository.git._replace(options=tuple(options))
    return repository._replace(git=git, runs_filters=False)


#: The settings that name a file which git reads at each look, and its name where none is set.
_NAMING = (("core.excludesFile", b"git/ignore"), ("core.attributesFile", b"git/attributes"))


def _without_strange(repository: Repository) -> Repository:
    """The same repository, whose git reads no FIFO or device in the place of the user's patterns and attributes."""
    home = os.environb.get(b"XDG_CONFIG_HOME") or os.path.expanduser(b"~/.config")
    for key, default in _NAMING:
        value = repository.setting(key)
        path = os.path.join(home, default) if value is None else os.path.expanduser(os.fsencode(value))
        kind = strange_kind(os.path.join(repository.toplevel, path)) if path else None
        if kind:
            from .damaged.refused import way_without

            options = (*repository.git.options, "-c", f"{key}=")
            unused = (*repository.unused, (f"{os.fsdecode(path)} is {kind}", way_without(repository.git, key, path)))
            repository = repository._replace(git=repository.git._replace(options=options), unused=unused)
    return repository


def left_unread(repository: Repository) -> list[tuple[str, str]]:
    """What git is run without, as `Repository.unused`; the files of the user's configuration are among it."""
    files = user_files(os.environ)
    if all(map(is_readable, files)):
        return list(repository.unused)
    from .strange import unused_configuration

    return [*repository.unused, *unused_configuration(files)]


MULTI_PACK_INDEX = b"objects/pack/multi-pack-index"


def has_damaged_pack_index(common_dir: bytes) -> bool:
    """Whether the index of several packs is no such file: git then finds no packed object. The packs have their own."""
    try:
        fd = open_at_once(os.path.join(common_dir, MULTI_PACK_INDEX), os.O_RDONLY)
    except OSError:
        return False
    try:
        return os.read(fd, 4) != b"MIDX"
    except OSError:
        return True
    finally:
        os.close(fd)
