"""Whose a repository is, and whom its user trusts; why git does not open one, and the command that helps.

Imported only where a part of a repository belongs to somebody else, or none is found.
"""

from __future__ import annotations

import os
import stat

from ...errors import MOST_SAID, NeedsPerson, NotAWorkspace
from ...system import files
from ...system.stdlib import TYPE_CHECKING, quote, suppress
from ..command import Git
from ..gitdir import common_dir_by_files, is_directory_path, path_named_in
from ..repository import git_dir_of
from .files import damaged_git_dir, may_read, out_of_the_way, shown, way_to_use, what_is_there

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..gitdir import StrangeFile
    from .files import DamagedGitDir


# -- other users' repositories


def trusted_directories() -> list[bytes]:
    """The paths that the user's own configuration, or environment, names in safe.directory: a person trusts each.

    `*` trusts no repository in particular, and does not count. Nor does the repository's own configuration, as in git.
    """
    told = ("config", "--show-scope", "--includes", "-z", "--get-all", "safe.directory")
    fields = Git(b"/").run(*told, ok_codes=range(256)).split(b"\0")[:-1]
    named = [path for scope, path in zip(fields[::2], fields[1::2], strict=False) if scope in _OF_THE_USER]
    return [os.path.realpath(os.path.expanduser(path)) for path in named if path not in (b"", b"*")]


#: `command` is the environment (`git.command.environment`).
_OF_THE_USER = (b"system", b"global", b"command")


def is_trusted(toplevel: bytes, common_dir: bytes) -> bool:
    """Whether the user trusts a worktree by its path. Root's trust in the main worktree counts for all others."""
    trusted = trusted_directories()
    return toplevel in trusted or (os.geteuid() == 0 and os.path.dirname(common_dir) in trusted)


def git_trusts(toplevel: bytes, *places: bytes) -> bool:
    """Whether git opens a repository whose worktree and git directories belong to whom they do.

    It belongs to this user, or to the one who called sudo, or safe.directory names its worktree.
    """
    owners = {os.geteuid()}
    if os.geteuid() == 0 and os.environ.get("SUDO_UID", "").isdigit():
        owners.add(int(os.environ["SUDO_UID"]))
    if all(os.lstat(place).st_uid in owners for place in (toplevel, *places) if os.path.lexists(place)):
        return True
    every = Git(b"/").run("config", "--includes", "-z", "--get-all", "safe.directory", ok_codes=range(256))
    names: list[bytes] = []
    for name in every.split(b"\0")[:-1]:
        # An empty one forgets those before it.
        names = [*names, name] if name else []
    return b"*" in names or toplevel in map(os.path.realpath, map(os.path.expanduser, names))


def refuse_links(stranger: int, *git_dirs: bytes) -> None:
    """Raises NeedsPerson where a link in a stranger's git directory leads what is written there somewhere else."""
    for top in dict.fromkeys(git_dirs):
        for directory, names, entries in files.walk(top):
            for name in (*names, *entries):
                path = os.path.join(directory, name)
                if os.path.islink(path):
                    raise NeedsPerson(
                        f"this repository belongs to user {stranger}, and {os.fsdecode(path)} is a symbolic "
                        "link; nothing was run, nothing was changed",
                        hint="run gitstate as that user",
                    )


def give_back(*places: bytes) -> None:
    """Give what root has written at or below `places` to the owner of the directory around it, as far as possible.

    Git can't be told to whom its files shall belong. Links are not followed, and no file with several names changes
    its owner: another name may be somebody else's. No-op for other users.
    """
    if os.geteuid() != 0:
        return
    for place in dict.fromkeys(places):
        with suppress(OSError):
            parent = os.open(os.path.dirname(place), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                _give_below(parent, os.path.basename(place))
            finally:
                os.close(parent)


def _give_below(parent: int, name: bytes) -> None:
    """Give the entry `name` of an open directory, and all below it, to whom the directory belongs."""
    owner = os.fstat(parent)
    info = os.lstat(name, dir_fd=parent)
    is_directory = stat.S_ISDIR(info.st_mode)
    if info.st_uid == 0 != owner.st_uid and (is_directory or info.st_nlink == 1):
        os.chown(name, owner.st_uid, owner.st_gid, dir_fd=parent, follow_symlinks=False)
    if not is_directory:
        return
    below = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    try:
        for inside in _names(below):
            with suppress(OSError):
                _give_below(below, inside)
    finally:
        os.close(below)


def _names(directory: int) -> Iterator[bytes]:
    return map(os.fsencode, os.listdir(directory))


# -- why git does not open a repository

_ELSE = "gitstate -C PATH … names a git worktree"
_OF_BARE = f"{_ELSE}; all of this repository, with saved ones that are gone: gitstate recover --worktrees"
_ANEW = "what was pushed comes back in a new clone: git clone URL, and there: gitstate fetch, gitstate recover"


def why_not_opened(path: bytes, stderr: bytes) -> NotAWorkspace:
    """The error where git opens no repository at `path`: what it said, and the command that mends it."""
    lines = stderr.decode("utf-8", "replace").strip().splitlines()
    said = lines[0].removeprefix("fatal: ").removeprefix("error: ") if lines else "not a git worktree"
    name, where = os.fsdecode(path), quote(os.fsdecode(os.path.realpath(path)))
    hint = _ELSE
    dot_git = os.path.join(path, b".git")
    named = os.environ.get("GIT_DIR")
    if "dubious ownership" in said:
        hint = f"if you trust it: git config --global --add safe.directory {where}"
    elif "bad config" in said:
        hint = _mend_line(said, path)
    elif "must be run in a work tree" in said:
        said = "it is a bare repository (core.bare), and has no worktree"
        opened = git_dir_of(path) or b""
        # Of a linked worktree git heeds the setting in its own configuration only.
        scope = " --worktree" if os.path.lexists(os.path.join(opened, b"commondir")) else ""
        # Without an index it is one by intent: beside a bare repository stands a file that leads to it.
        was_worktree = os.path.lexists(dot_git) and os.path.lexists(os.path.join(opened, b"index"))
        hint = f"git -C {where} config{scope} core.bare false" if was_worktree else _OF_BARE
    elif named is not None and not os.path.lexists(dot_git):
        git_dir = quote(os.path.abspath(named))
        top = os.environ.get("GIT_WORK_TREE") or os.fsdecode(path)
        said = "it has no .git; gitstate asks .git where the repository is, and not GIT_DIR and GIT_WORK_TREE"
        place = quote(os.path.join(os.path.abspath(top), ".git"))
        hint = f"git --git-dir={git_dir} config core.bare false && echo gitdir: {git_dir} >{place}"
    elif os.path.isfile(dot_git):
        said, hint = _pruned(path, said)
    if said.startswith("not a git repository") or "Permission denied" in said:
        closed, damage, around = _damage_around(path)
        if closed is not None:
            said, hint = f"{shown(closed)}: Permission denied", way_to_use(closed)
        elif damage is not None:
            said, hint = damage.why, f"gitstate -C {quote(os.fsdecode(around))} doctor"
    return NotAWorkspace(f"{name}: {said}; nothing was changed", hint=hint)


#: How git names the file or directory that it may not write.
_UNWRITABLE = (
    (b"unable to append to '", b"'"),
    (b"nable to create '", b"'"),
    (b"unable to create directory for ", b"\n"),
)


def way_to_write(directory: bytes, stderr: bytes) -> str | None:
    """The command after which this user may write what a git in `directory` could not, by its words; None where it
    names nothing that this user may not write.
    """
    for before, after in _UNWRITABLE:
        name = stderr.partition(before)[2].partition(after)[0]
        path = what_is_there(os.path.join(directory, name)) if name else b""
        if path and not os.access(path, os.W_OK):
            return way_to_use(path)
    return None


def _damage_around(path: bytes) -> tuple[bytes | None, DamagedGitDir | None, bytes]:
    """What this user may not read of the git directory of the worktree that `path` is in, else what git can't read of
    it, and the top of that worktree.
    """
    top = os.path.realpath(path)
    while not os.path.lexists(os.path.join(top, b".git")) and len(top) > 1:
        top = os.path.dirname(top)
    git_dir = os.path.join(top, b".git")
    if os.path.isfile(git_dir):
        git_dir = path_named_in(git_dir, b"gitdir: ", top) or git_dir
    git_dir = os.path.realpath(git_dir)
    parts = [os.path.join(git_dir, name) for name in (b"", b"HEAD", b"config", b"objects", b"refs")]
    closed = next((part.rstrip(b"/") for part in parts if not may_read(part)), None)
    common_dir = common_dir_by_files(git_dir)
    is_damaged = closed is None and looks_like_git_dir(common_dir)
    return closed, damaged_git_dir(top, git_dir, common_dir) if is_damaged else None, top


def why_strange(path: bytes, strange: StrangeFile) -> NotAWorkspace:
    """The error where git would wait for ever, or fail, because something else stands in the place of its file."""
    name, hint = os.fsdecode(path), f"gitstate -C {quote(os.fsdecode(os.path.realpath(path)))} doctor"
    kind = strange.kind
    if is_directory_path(strange.path):
        kind, hint = f"{kind}, not a directory", f"{out_of_the_way(*strange)}, then run the command again"
    return NotAWorkspace(f"{name}: {shown(strange.path)} is {kind}; nothing was changed", hint=hint)


def way_without(git: Git, key: str, path: bytes) -> str:
    """The command after which git no longer reads what the setting `key` names, or what is at `path` by default."""
    argv = ("config", "--show-origin", "-z", "--get-all", key)
    found = git.run(*argv, ok_codes=(0, 1)).split(b"\0")[:-1][::2]
    origins = [origin.partition(b":")[2] for origin in found if origin.startswith(b"file:")]
    if not origins:
        return f"mv {quote(os.fsdecode(path))} {quote(os.fsdecode(path) + '.aside')}"
    place = quote(os.fsdecode(os.path.join(git.directory, origins[-1])))
    return f"git -C / config --file {place} --unset-all {key}"


def _mend_line(said: str, path: bytes) -> str:
    """How to edit the line of a configuration file that git can't read: `bad config line N in file F`."""
    words = said.partition(" in file ")
    number = words[0].rpartition(" ")[2]
    file = os.path.join(os.fsdecode(os.path.realpath(path)), words[2] or ".git/config")
    if not number.isdigit():
        return f"mend {quote(file)}"
    return f'mend line {number} of {quote(file)}: "${{EDITOR:-vi}}" +{number} {quote(file)}'


def _pruned(path: bytes, said: str) -> tuple[str, str]:
    """What to say where the `.git` file of a worktree leads to a git dir that is gone."""
    with open(os.path.join(path, b".git"), "rb") as file:
        data = file.read(65_536)
    named = os.path.normpath(os.path.join(os.path.realpath(path), data[8:].rstrip(b"\r\n")))
    worktrees = os.path.dirname(named)
    common = os.path.dirname(worktrees)
    if not data.startswith(b"gitdir: ") or os.path.isdir(named):
        return said, _ELSE
    if os.path.basename(worktrees) != b"worktrees" or not os.path.isdir(common):
        inside = named.startswith(os.path.join(os.path.realpath(path), b""))
        lost = ": it was in the worktree, with all saves" if inside else ""
        hint = _ANEW if inside else _ELSE
        if not inside and os.path.basename(worktrees) == b"worktrees":
            where = quote(os.fsdecode(os.path.realpath(path)))
            hint = f"if its repository was moved: git -C REPOSITORY worktree repair {where}"
        return f".git leads to {os.fsdecode(named)}, which does not exist{lost}", hint
    beside = quote(os.fsdecode(os.path.dirname(common) if common.endswith(b"/.git") else common))
    return (
        f"this worktree was pruned: {os.fsdecode(named)} is gone",
        f"git -C {beside} worktree add --detach PATH, and copy the files there; a save of it comes back with: "
        f"gitstate -C {beside} recover --into PATH",
    )


def looks_like_git_dir(path: bytes) -> bool:
    """Whether a directory is a git directory, damaged or not: most of the parts that each has are there."""
    parts = (b"HEAD", b"objects", b"refs", b"config", b"packed-refs", b"index")
    return sum(os.path.lexists(os.path.join(path, name)) for name in parts) >= 3


def refuse_passed_over(top: bytes, above: bytes, *, is_linked: bool) -> None:
    """Raises NotAWorkspace where `.git` of a directory is a damaged git directory: its work is not that of `above`.

    So it is where the directory is a linked worktree, and its `.git` is gone.
    """
    dot_git = os.path.join(top, b".git")
    if looks_like_git_dir(dot_git) or (is_linked and not os.path.lexists(dot_git)):
        where = quote(os.fsdecode(top))
        message = f"{where}/.git is damaged, and git goes on to the repository {os.fsdecode(above)}"
        raise NotAWorkspace(f"{message}; nothing was changed", hint=f"gitstate -C {where} doctor")


def has_worktree_elsewhere(toplevel: bytes, git_dir: bytes) -> NotAWorkspace:
    """The error where `core.worktree` names a directory whose `.git` does not lead back."""
    where = quote(os.fsdecode(git_dir))
    place = quote(os.fsdecode(os.path.join(toplevel, b".git")))
    return NotAWorkspace(
        f"{os.fsdecode(git_dir)} has its worktree at {os.fsdecode(toplevel)} (core.worktree), where no .git leads back "
        "to it; nothing was changed",
        hint=f"git --git-dir={where} config --unset core.worktree, or: echo gitdir: {where} >{place}",
    )


def is_copy_of(toplevel: bytes, original: bytes) -> NotAWorkspace:
    """The error where a linked worktree was copied, and its `.git` leads to the git dir of the original."""
    copy, other = quote(os.fsdecode(toplevel)), quote(os.fsdecode(original))
    new = quote(os.fsdecode(toplevel + b".worktree"))
    return NotAWorkspace(
        f"{os.fsdecode(toplevel)} is a copy of the linked worktree {os.fsdecode(original)}: git has one HEAD and one "
        "index for both; nothing was changed",
        hint=f"make it a worktree of its own: git -C {other} worktree add -q --detach --no-checkout {new} && "
        f"mv {new}/.git {copy}/.git && rmdir {new} && git -C {other} worktree repair {copy} && git -C {copy} reset -q",
    )


def has_other_worktree(path: bytes, toplevel: bytes, git_dir: bytes) -> NotAWorkspace:
    """The error where git works in another directory than the one that `path` is in: a copy, or `core.worktree`."""
    config = quote(os.fsdecode(os.path.join(git_dir, b"config")))
    return NotAWorkspace(
        f"{os.fsdecode(path)} is not in the worktree of its git directory, which is at {os.fsdecode(toplevel)} "
        "(core.worktree); nothing was changed",
        hint=f"gitstate -C {quote(os.fsdecode(toplevel))} …, or where the worktree was moved here: "
        f"git config -f {config} core.worktree {quote(os.fsdecode(path))}",
    )


def leads_elsewhere(toplevel: bytes, git_dir: bytes, elsewhere: bytes) -> NotAWorkspace:
    """The error where `.git` of a repository inside a workspace leads to one that does not name it as its worktree."""
    where = quote(os.fsdecode(elsewhere))
    words = f"its .git leads to {where}, which is not its own"
    command = f"git --git-dir={where} config core.worktree {quote(os.fsdecode(toplevel))}"
    # What is called `.git` is of the directory that it is in. A command that is cut would do something else.
    is_separate = elsewhere == os.path.realpath(git_dir) and os.path.basename(elsewhere) != b".git"
    fits = len(words) + len(command) < MOST_SAID - 100
    return NotAWorkspace(f"{words}; if it is: {command}" if is_separate and fits else words)


# -- a git directory with damaged files
