"""Repositories that can't be used as they are: of other users, or that git does not open; and what root gives back.

Imported only where a part of a repository belongs to somebody else, or none is found.
"""

from __future__ import annotations

import os
import stat

from ..errors import NeedsPerson, NotAWorkspace
from ..system import files
from ..system.stdlib import TYPE_CHECKING, Record, quote, suppress
from .command import Git, Oid, is_oid
from .gitdir import (
    NO_HEAD,
    common_dir_by_files,
    is_directory_path,
    last_checkout,
    last_value,
    path_named_in,
    read_head_file,
    strange_files,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from .gitdir import StrangeFile


def trusted_directories() -> list[bytes]:
    """The paths that the user's own configuration names in safe.directory: a person decided to trust each.

    `*` trusts no repository in particular, and does not count. Nor does the repository's own configuration, as in git.
    """
    found = []
    for scope in ("--system", "--global"):
        out = Git(b"/").run("config", scope, "--includes", "-z", "--get-all", "safe.directory", ok_codes=range(256))
        named = (path for path in out.split(b"\0")[:-1] if path not in (b"", b"*"))
        found += [os.path.realpath(os.path.expanduser(path)) for path in named]
    return found


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


_ELSE = "gitstate -C PATH … names a git worktree"
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
        # Of a linked worktree git heeds the setting in its own configuration only.
        scope = "" if os.path.isdir(dot_git) else " --worktree"
        hint = f"git -C {where} config{scope} core.bare false" if os.path.lexists(dot_git) else _ELSE
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
            said, hint = f"{_shown(closed)}: Permission denied", way_to_use(closed)
        elif damage is not None:
            said, hint = damage.why, f"gitstate -C {quote(os.fsdecode(around))} doctor"
    return NotAWorkspace(f"{name}: {said}; nothing was changed", hint=hint)


def way_to_use(path: bytes) -> str:
    """The command after which this user may read and write what is at `path`, or the directory that hides it."""
    path = _what_is_there(path)
    info = os.lstat(path)
    if info.st_uid == os.geteuid():
        if info.st_mode & stat.S_IWUSR and info.st_mode & stat.S_IRUSR and not os.access(path, os.W_OK):
            # Its mode allows it: it is immutable, or may only be appended to.
            return f"sudo chattr -i -a {_quoted(path)}"
        return f"chmod -R u+rwX {_quoted(path)}"
    return f"sudo chown -R {os.geteuid()} {_quoted(path)}"


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
        path = _what_is_there(os.path.join(directory, name)) if name else b""
        if path and not os.access(path, os.W_OK):
            return way_to_use(path)
    return None


def _what_is_there(path: bytes) -> bytes:
    """`path`, or the nearest directory above it that exists."""
    while not os.path.lexists(path) and len(path) > 1:
        path = os.path.dirname(path)
    return path


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
    closed = next((part.rstrip(b"/") for part in parts if not _may_read(part)), None)
    common_dir = common_dir_by_files(git_dir)
    is_damaged = closed is None and looks_like_git_dir(common_dir)
    return closed, damaged_git_dir(top, git_dir, common_dir) if is_damaged else None, top


def _may_read(path: bytes) -> bool:
    """Whether this user may read a file, or look into a directory; also where there is nothing."""
    return not os.path.lexists(path) or os.access(path, os.R_OK | (os.X_OK if os.path.isdir(path) else 0))


def _out_of_the_way(path: bytes, kind: str) -> str:
    """The command that makes room for a directory. A regular file may hold something, and below `refs` git reads it."""
    above, refs, _ = path.partition(b"/refs/")
    aside = os.path.join(above if refs else os.path.dirname(path), os.path.basename(path) + b".aside")
    return f"mv {_quoted(path)} {_quoted(aside)}" if kind == "a regular file" else f"rm {_quoted(path)}"


def why_strange(path: bytes, strange: StrangeFile) -> NotAWorkspace:
    """The error where git would wait for ever, or fail, because something else stands in the place of its file."""
    name, hint = os.fsdecode(path), f"gitstate -C {quote(os.fsdecode(os.path.realpath(path)))} doctor"
    kind = strange.kind
    if is_directory_path(strange.path):
        kind, hint = f"{kind}, not a directory", f"{_out_of_the_way(*strange)}, then run the command again"
    return NotAWorkspace(f"{name}: {_shown(strange.path)} is {kind}; nothing was changed", hint=hint)


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
        return f".git leads to {os.fsdecode(named)}, which does not exist{lost}", _ANEW if inside else _ELSE
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


# -- a git directory with damaged files

_LONGEST = 64 << 20


class Damage(Record):
    """A file or directory that git needs, and can't use as it is."""

    path: bytes
    """Absolute."""
    what: str
    """What is damaged, for people."""
    command: str
    """The command that helps."""
    content: bytes | None = None
    """What the file should contain; None where that is unknown."""
    disposable: bool = False
    """Whether removing the file is the repair."""

    @property
    def repairable(self) -> bool:
        """Whether `repair_damage` can do something."""
        return self.content is not None or self.disposable


class DamagedGitDir(Record):
    """What git can't read of a git directory, and what is known of it all the same."""

    files: tuple[Damage, ...]
    """Never empty."""
    head: bytes | None
    """What HEAD holds, or held by all that is known, without the line end; None where that is unknown."""
    config: bytes
    """The lines of the configuration that git can read."""
    packed_refs: bytes
    """The lines of `packed-refs` that git can read."""
    shared_is_whole: bool
    """Whether git can use all that the worktrees share, as it is."""

    @property
    def why(self) -> str:
        """All that is damaged, as a clause."""
        return "; ".join(item.what for item in self.files)


def damaged_git_dir(
    toplevel: bytes, git_dir: bytes, common_dir: bytes, branch: str | None = None
) -> DamagedGitDir | None:
    """What git can't read of the git directory of a worktree; None where it can read all that this looks at.

    `branch` is the branch on which the agent works, as the context has it. Objects and index are not looked at.
    """
    found: list[Damage] = []
    head = _look_at_head(git_dir, common_dir, branch, found)
    _look_at_links(os.path.join(toplevel, b".git"), git_dir, common_dir, found)
    strange = strange_files(git_dir, common_dir)
    found += _strange(strange, toplevel, [item.path for item in found])
    own = sum(_is_own(item.path, git_dir, common_dir) for item in found)
    is_shared_whole = own == len(found)
    own = len(found)
    for name, below in ((b"refs", b"heads"), (b"objects", b"pack")):
        path = os.path.join(common_dir, name)
        if not os.path.isdir(path):
            command = f"mkdir -p {_quoted(os.path.join(path, below))}"
            what = f"the directory {_shown(path)} is missing"
            if os.path.lexists(path):
                what, command = f"{_shown(path)} is no directory", f"rm {_quoted(path)} && {command}"
            found.append(Damage(path, what, command))
    config = _look_at_config(common_dir, found)
    packed_refs = _look_at_packed_refs(common_dir, found)
    _look_at_shallow(common_dir, found)
    is_shared_whole = is_shared_whole and len(found) == own
    return DamagedGitDir(tuple(found), head, config, packed_refs, is_shared_whole) if found else None


def _is_own(path: bytes, git_dir: bytes, common_dir: bytes) -> bool:
    """Whether a damaged file belongs to the one worktree, or is read through no git dir that stands in."""
    names = (b"HEAD", b"index", b"commondir", b"logs/HEAD", b"config.worktree", b"info/sparse-checkout")
    return os.path.basename(path) == b".git" or path in [os.path.join(git_dir, name) for name in names]


def _strange(strange: Iterable[StrangeFile], toplevel: bytes, known: Collection[bytes]) -> Iterator[Damage]:
    """The files in whose place something else stands, each with the command that puts it right."""
    where = _quoted(toplevel)
    for path, kind in strange:
        if path in known:
            continue
        command = f"rm -r {_quoted(path)}"
        if is_directory_path(path):
            command = _out_of_the_way(path, kind)
            yield Damage(path, f"{_shown(path)} is {kind}, not a directory", command)
            continue
        if path.endswith(b"/index"):
            command += f" && git -C {where} reset"
        elif path.endswith(b"/config"):
            command += f" && git -C {where} init"
        elif b"/refs/heads/" in path and b"/logs/" not in path:
            common, _, name = path.partition(b"/refs/heads/")
            last = last_value(os.path.join(common, b"logs/refs/heads", name))
            command += f" && git -C {where} update-ref {_quoted(b'refs/heads/' + name)} {last}" if last else ""
        yield Damage(path, f"{_shown(path)} is {kind}", command)


def _look_at_head(git_dir: bytes, common_dir: bytes, branch: str | None, found: list[Damage]) -> bytes | None:
    """What HEAD holds, or held. Where git can't read it, that is added to `found`."""
    path, data = os.path.join(git_dir, b"HEAD"), b""
    is_file = os.path.isfile(path)
    with suppress(OSError):
        data = read_head_file(git_dir)
    line = data.strip(b"\0 \t\r\n")
    known = last_head(git_dir, common_dir, branch)
    is_cut = _is_ref(line) and is_cut_head(git_dir, common_dir, known)
    if is_oid(line[:64].decode("latin-1")) or data.startswith(NO_HEAD) or (_is_ref(line) and not is_cut):
        return line
    if is_file and not _may_read(path):
        found.append(Damage(path, "HEAD may not be read by this user", way_to_use(path)))
        return known
    kinds = {item.path: item.kind for item in strange_files(git_dir, common_dir)}
    what = "is missing" if not os.path.lexists(path) else "is empty" if is_file and not line else "names no branch"
    what = f"is {kinds[path]}" if path in kinds else "is cut off" if is_cut else what
    clear = "" if is_file or not os.path.lexists(path) else f"rm -r {_quoted(path)} && "
    if known is None:
        ways = [f"{clear}echo {_quoted(b'ref: ' + ref)} >{_quoted(path)}" for ref in _branches(common_dir)]
        found.append(Damage(path, f"HEAD {what}; its branch is unknown", ", or: ".join(ways)))
    else:
        shown = os.fsdecode(known.removeprefix(b"ref: "))
        found.append(Damage(path, f"HEAD {what}; it was on {shown}", f"{clear}echo {_quoted(known)} >{_quoted(path)}"))
    return known


def is_cut_head(git_dir: bytes, common_dir: bytes, known: bytes | None) -> bool:
    """Whether the end of HEAD is lost: it has no line end, names no ref that exists, and was `known` before."""
    data = read_head_file(git_dir)
    has_end = data.endswith(b"\n") or os.path.islink(os.path.join(git_dir, b"HEAD"))
    is_ref = data.startswith(b"ref:") and not _has_ref(common_dir, data[4:].strip())
    return is_ref and not has_end and known not in (None, data.strip())


#: So many branches are named where any may be the right one.
_MOST_BRANCHES = 5


def _branches(common_dir: bytes) -> list[bytes]:
    """The branches of the repository, the one that moved last first; where there is none, that of a new repository."""
    heads = os.path.join(common_dir, b"refs", b"heads")
    loose = [os.path.join(directory, name) for directory, _, names in files.walk(heads) for name in names]
    found = [path[len(common_dir) + 1 :] for path in loose if not path.endswith(b".lock")]
    packed = files.read_limited(os.path.join(common_dir, b"packed-refs"), _LONGEST) or b""
    lines = [line for line in packed.split(b"\n") if _is_packed_ref(line) and b" refs/heads/" in line[:80]]
    found = list(dict.fromkeys([*found, *(line.partition(b" ")[2] for line in lines)]))

    def moved(ref: bytes) -> float:
        with suppress(OSError):
            return -os.stat(os.path.join(common_dir, b"logs", ref)).st_mtime
        return 0.0

    return sorted(found, key=lambda ref: (moved(ref), ref))[:_MOST_BRANCHES] or [b"refs/heads/main"]


def _is_ref(line: bytes) -> bool:
    """Whether git takes `ref: NAME` for a name that HEAD may have."""
    ref = line[4:].strip()
    if not line.startswith(b"ref:") or not ref.startswith(b"refs/"):
        return False
    return is_well_formed(ref)


def is_well_formed(ref: bytes) -> bool:
    """Whether a ref may have this name (`man git-check-ref-format`)."""
    return Git(b"/").succeeds("check-ref-format", ref)


def last_head(git_dir: bytes, common_dir: bytes, branch: str | None = None) -> bytes | None:
    """What HEAD held, by its reflog and by the branch of the context; None where neither proves it.

    In a rebase HEAD is detached, whatever was checked out before.
    """
    last = last_value(os.path.join(git_dir, b"logs", b"HEAD"))
    detached = None if last is None else last.encode("ascii")
    if any(os.path.isdir(os.path.join(git_dir, name)) for name in (b"rebase-merge", b"rebase-apply")):
        return detached
    moved_to = last_checkout(git_dir)
    if moved_to is not None and is_oid(moved_to.decode("latin-1")):
        return detached
    for name in (moved_to, (branch or "").encode("utf-8", "surrogateescape")):
        ref = b"refs/heads/" + (name or b"")
        if name and b".." not in name and (_has_ref(common_dir, ref) or _log_of(common_dir, ref) is not None):
            return b"ref: " + ref
    if moved_to is None and detached is not None:
        # Nothing but commits was ever made here: it is the only branch at that commit.
        heads = os.path.join(common_dir, b"logs", b"refs", b"heads")
        logs = [os.path.join(directory, name) for directory, _, names in files.walk(heads) for name in names]
        same = [log[len(common_dir) + len(b"/logs/") :] for log in logs if last_value(log) == last]
        if len(same) > 1:
            taken = _checked_out_elsewhere(git_dir, common_dir)
            same = [ref for ref in same if ref not in taken]
        if len(same) == 1:
            return b"ref: " + same[0]
    return detached if moved_to is not None else None


def _checked_out_elsewhere(git_dir: bytes, common_dir: bytes) -> set[bytes]:
    """The branches on which the other worktrees are: git checks none out twice."""
    worktrees = os.path.join(common_dir, b"worktrees")
    names = os.listdir(worktrees) if os.path.isdir(worktrees) else []
    taken = set()
    for place in (common_dir, *(os.path.join(worktrees, name) for name in names)):
        with suppress(OSError):
            head = read_head_file(place).strip()
            if place != git_dir and head.startswith(b"ref:"):
                taken.add(head[4:].strip())
    return taken


def _log_of(common_dir: bytes, ref: bytes) -> Oid | None:
    return last_value(os.path.join(common_dir, b"logs", ref))


def _has_ref(common_dir: bytes, ref: bytes) -> bool:
    loose = files.read_limited(os.path.join(common_dir, ref), 65_536)
    packed = files.read_limited(os.path.join(common_dir, b"packed-refs"), _LONGEST) or b""
    return bool(loose and loose.strip(b"\0 \n")) or (b" " + ref + b"\n") in packed


def _look_at_links(dot_git: bytes, git_dir: bytes, common_dir: bytes, found: list[Damage]) -> None:
    """The two small files that lead from a linked worktree to its git dir, and from there to what is shared."""
    top = os.path.dirname(dot_git)
    wanted = [] if os.path.isdir(dot_git) else [(dot_git, b"gitdir: ", top, git_dir, git_dir)]
    wanted += (
        [(os.path.join(git_dir, b"commondir"), b"", git_dir, common_dir, b"../..")] if git_dir != common_dir else []
    )
    for path, prefix, base, target, line in wanted:
        if path_named_in(path, prefix, base) != target:
            what = f"{_shown(path)} {_how_lost(path)}"
            found.append(Damage(path, what, f"echo {_quoted(prefix + line)} >{_quoted(path)}"))


def _how_lost(path: bytes) -> str:
    """What is wrong with a small file of git's that names no path which is there."""
    data = files.read_limited(path, 65_536)
    if data is None:
        return "is unreadable" if os.path.lexists(path) else "is missing"
    return "leads nowhere" if data.strip(b"\0\r\n ") else "is empty"


def lost_backlink(path: bytes, toplevel: bytes | None) -> Damage:
    """What is wrong with the `gitdir` of a linked worktree, one of `lost_backlinks`; its top is known as a rule."""
    wanted = b"PATH/.git" if toplevel is None else os.path.join(toplevel, b".git")
    what = f"{_shown(path)} {_how_lost(path)}: git worktree prune, and git gc, would remove the worktree"
    command = f"echo {_quoted(wanted)} >{_quoted(path)}"
    return Damage(path, what, command, None if toplevel is None else wanted + b"\n")


def _look_at_config(common_dir: bytes, found: list[Damage]) -> bytes:
    """The configuration without the lines that git can't read, each of which is added to `found`."""
    path = os.path.join(common_dir, b"config")
    data = files.read_limited(path, _LONGEST) or b""
    if data and not data.strip(b"\0"):
        found.append(
            Damage(
                path,
                f"{_shown(path)} holds zeros only",
                f"rm {_quoted(path)} && git -C {_quoted(os.path.dirname(common_dir))} init",
            )
        )
        return b""
    lines = data.split(b"\n")
    kinds = [*_TYPES]
    for _ in range(30):
        if not kinds:
            break
        # It lists all lines before it reads a value.
        argv = ("--no-includes", "--file", "-", f"--type={kinds[0]}", "--get-regexp", _TYPES[kinds[0]], _WORDS)
        process = Git(b"/").start("config", *argv)
        _, said = process.communicate(b"\n".join(lines))
        key = said.partition(b" config value ")[2].rpartition(b" for '")[2].split(b"'")[0]
        if key:
            bad = said.partition(b": ")[2].strip().replace(b" in standard input", b"")
            command = f"git config --file {_quoted(path)} --unset-all {_quoted(key)}"
            found.append(Damage(path, f"{_shown(path)} has a {os.fsdecode(bad)}", command))
            lines = [line for line in lines if not _sets(line, key)]
            continue
        number = said.partition(b"bad config line ")[2].split(b" ", 1)[0]
        if not number.isdigit() or not 0 < int(number) <= len(lines):
            del kinds[0]
            continue
        # Git counts a last line that is not ended as the next one.
        at = int(number) - 1 if lines[int(number) - 1].strip() else int(number) - 2
        what = f"line {at + 1} of {_shown(path)} is unreadable"
        found.append(Damage(path, what, f'"${{EDITOR:-vi}}" +{at + 1} {_quoted(path)}'))
        lines[at] = b""
    lines = list(_with_absolute_includes(lines, common_dir))
    with suppress(OSError):
        for key, why in _refused_settings(lines):
            # In the repository git ends at the setting, whatever it is asked.
            command = f"git -C / config --file {_quoted(path)} --unset-all {_quoted(key)}"
            found.append(Damage(path, f"git refuses the value of {os.fsdecode(key)} in {_shown(path)}: {why}", command))
            lines = [line for line in lines if not _sets(line, key)]
    return b"\n".join(lines)


#: Commands of git that need no commit and no file: each reads settings of its own.
_PROBES = (("status", "--porcelain"), ("update-ref", "-d", "refs/none"), ("read-tree", "--empty"))


def _refused_settings(lines: list[bytes]) -> Iterator[tuple[bytes, str]]:
    """The settings of a configuration at whose values git ends, each with git's words, in a repository that is empty.

    Git names the setting, or its value alone: then it is the one without which git says something else.
    """
    with files.temporary_directory("gitstate-config-") as directory:
        probe = _ConfigProbe(os.fsencode(directory))
        said = probe.ask(lines)
        while said:
            listed = Git(b"/").start("config", "--no-includes", "--file", "-", "-z", "--list")
            pairs = [item.partition(b"\n") for item in listed.communicate(b"\n".join(lines))[0].split(b"\0")[:-1]]
            named = [key for key, _, _ in pairs if b"'" + key.lower() + b"'" in said.lower()]
            named += [key for key, _, value in pairs if value and value in said]
            for key in dict.fromkeys(named):
                left = [line for line in lines if not _sets(line, key)]
                now = probe.ask(left)
                if now != said:
                    yield key, said.strip().splitlines()[0].decode("utf-8", "replace").partition(": ")[2]
                    lines, said = left, now
                    break
            else:
                return


class _ConfigProbe:
    """An empty repository that is given one configuration after the other."""

    def __init__(self, directory: bytes) -> None:
        self._git_dir, tree = os.path.join(directory, b"git"), os.path.join(directory, b"tree")
        for name in (tree, self._git_dir, *(os.path.join(self._git_dir, part) for part in (b"objects", b"refs"))):
            os.mkdir(name)
        files.write_new_file(
            os.path.join(self._git_dir, b"HEAD"), (b"ref: refs/heads/main\n",), mode=0o600, durable=False
        )
        self._git = Git(tree)
        self._env = {"GIT_DIR": os.fsdecode(self._git_dir), "GIT_WORK_TREE": os.fsdecode(tree)}

    def ask(self, lines: list[bytes]) -> bytes:
        """What git says as it ends at this configuration; empty where it does not."""
        config = os.path.join(self._git_dir, b"config")
        files.remove(config)
        files.write_new_file(config, (b"\n".join(lines),), mode=0o600, durable=False)
        for argv in _PROBES:
            process = self._git.start(*argv, env=self._env)
            _, said = process.communicate()
            if process.returncode:
                return said
        return b""


def _with_absolute_includes(lines: list[bytes], directory: bytes) -> Iterator[bytes]:
    """Lines of a configuration that name the same files wherever the configuration stands."""
    inside = False
    for line in lines:
        head, close, rest = line.partition(b"]") if line.lstrip().startswith(b"[") else (b"", b"", line)
        if close:
            inside = head.strip().lower().startswith(b"[include")
        key, equals, value = rest.partition(b"=")
        name = value.strip()
        is_relative = not name.removeprefix(b'"').startswith((b"/", b"~"))
        if inside and equals and key.strip().lower() == b"path" and name and is_relative:
            quote_mark = b'"' if name.startswith(b'"') else b""
            rest = key + equals + b" " + quote_mark + directory + b"/" + name.removeprefix(quote_mark)
        yield head + close + rest


#: Settings by their type: with a value that it can't read git opens no repository, or reads no file.
_TYPES = {
    "bool": r"^(core\.(bare|filemode|symlinks|ignorecase|precomposeunicode|sparsecheckout|trustctime|splitindex"
    r"|ignorestat|preloadindex|quotepath|logallrefupdates|autocrlf|safecrlf)|filter\..*\.required|diff\.renames"
    r"|status\.renames)$",
    "int": r"^core\.(bigfilethreshold|(loose)?compression|abbrev|packedgit(limit|windowsize)|deltabasecachelimit)$",
    "bool-or-int": r"^(index\.threads|status\.submodulesummary)$",
}
#: Words that some of them may have for a value.
_WORDS = "!^(always|input|warn|copies|copy|auto|no)$"


def _sets(line: bytes, key: bytes) -> bool:
    """Whether a line of the configuration sets a key, by the last part of its name: sections are not looked at."""
    return line.partition(b"=")[0].strip().lower() == key.rpartition(b".")[2].lower()


def _look_at_packed_refs(common_dir: bytes, found: list[Damage]) -> bytes:
    """The lines of `packed-refs` that git can read."""
    path = os.path.join(common_dir, b"packed-refs")
    data = files.read_limited(path, _LONGEST) or b""
    good = [line for line in data.split(b"\n") if _is_packed_ref(line)]
    text = b"".join(line + b"\n" for line in good)
    if text != data:
        # The order of what is left is still git's.
        broken = os.path.join(common_dir, b"packed-refs.broken")
        pattern = "^(#|[0-9a-f]{40,64} refs/.|\\^[0-9a-f]{40,64}$)"
        take = f"LC_ALL=C sed -nE '\\%{pattern}%p' {_quoted(broken)} >{_quoted(path)}"
        found.append(Damage(path, f"{_shown(path)} is damaged", f"mv {_quoted(path)} {_quoted(broken)}; {take}"))
    return text


def _is_packed_ref(line: bytes) -> bool:
    oid, space, ref = line.partition(b" ")
    if line[:1] == b"^":
        return is_oid(line[1:].decode("latin-1"))
    return line[:1] == b"#" or (is_oid(oid.decode("latin-1")) and bool(space) and ref.startswith(b"refs/"))


def _look_at_shallow(common_dir: bytes, found: list[Damage]) -> None:
    path = os.path.join(common_dir, b"shallow")
    data = files.read_limited(path, _LONGEST) or b""
    if not all(is_oid(line.decode("latin-1")) for line in data.split(b"\n")[:-1]) or data[-1:] not in (b"", b"\n"):
        where = _quoted(os.path.dirname(common_dir))
        command = f"rm {_quoted(path)} && git -C {where} fetch --refetch"
        found.append(Damage(path, f"{_shown(path)} is damaged", command))


def _quoted(path: bytes) -> str:
    return quote(os.fsdecode(path))


def _shown(path: bytes) -> str:
    """The last parts of a path, as people name it."""
    return os.fsdecode(path[path.rfind(b"/.git/") + 1 :] if b"/.git/" in path else path)
