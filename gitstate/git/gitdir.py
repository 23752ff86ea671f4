"""What stands in a git directory besides objects, refs and the index: unfinished operations, lock files, hooks."""

from __future__ import annotations

import os

from ..system import files, process
from ..system.files import strange_kind
from ..system.stdlib import TYPE_CHECKING, Record, suppress

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Sequence


#: Which file or directory shows that an operation is unfinished: (operation, path below the git directory).
_OPERATIONS = (
    ("rebase", b"rebase-merge"),
    ("rebase", b"rebase-apply"),
    ("merge", b"MERGE_HEAD"),
    ("cherry-pick", b"CHERRY_PICK_HEAD"),
    ("revert", b"REVERT_HEAD"),
    ("sequence", b"sequencer"),
    ("bisect", b"BISECT_LOG"),
)
#: Names the conflicts of the worktree that `git rerere` has recorded.
RECORDED_CONFLICTS = b"MERGE_RR"
#: What `git rerere` records, below the common git directory.
_RESOLUTIONS = b"rr-cache/"
#: Files and directories that an unfinished operation needs.
_FILES = (
    *(b"MERGE_HEAD", b"MERGE_MSG", b"MERGE_MODE", RECORDED_CONFLICTS, b"MERGE_AUTOSTASH", b"AUTO_MERGE", b"SQUASH_MSG"),
    *(b"CHERRY_PICK_HEAD", b"REVERT_HEAD", b"REBASE_HEAD", b"ORIG_HEAD", b"rebase-merge", b"rebase-apply"),
    *(b"sequencer", b"BISECT_START", b"BISECT_LOG", b"BISECT_NAMES", b"BISECT_TERMS", b"BISECT_EXPECTED_REV"),
    *(b"BISECT_HEAD", b"BISECT_ANCESTORS_OK", b"BISECT_FIRST_PARENT", b"BISECT_RUN", b"refs/bisect", b"refs/rewritten"),
    *(b"NOTES_MERGE_REF", b"NOTES_MERGE_PARTIAL", b"NOTES_MERGE_WORKTREE"),
)


def operation_under_way(git_dir: bytes) -> str | None:
    """The name of the unfinished operation in a git directory; None where there is none."""
    here = _present(git_dir, [path for _, path in _OPERATIONS])
    for name, path in _OPERATIONS:
        if path in here:
            is_am = path == b"rebase-apply" and os.path.exists(os.path.join(git_dir, path, b"applying"))
            return "am" if is_am else name
    return None


class LinkedWorktree(Record):
    """A linked worktree that exists, as the common git directory has it."""

    toplevel: bytes
    """Its top, symlinks resolved."""
    git_dir: bytes
    """Its own git directory, `worktrees/<name>` in the common one."""
    key: bytes
    """Its name, and when it was made: one that is removed and made anew has another key."""


def linked_worktrees(common_dir: bytes) -> list[LinkedWorktree]:
    """The linked worktrees of a repository whose `.git` leads back to it, by name; from files alone."""
    top = os.path.join(os.path.realpath(common_dir), b"worktrees")
    found = []
    for name in sorted(_listed(top)):
        git_dir = os.path.join(top, name)
        dot_git = files.read_limited(os.path.join(git_dir, b"gitdir"), 65_536)
        if not dot_git or b"\0" in dot_git:
            continue
        toplevel = os.path.realpath(os.path.dirname(os.path.join(git_dir, dot_git.rstrip(b"\r\n"))))
        try:
            # Git writes it once, and `git worktree move` leaves it alone.
            made = os.stat(os.path.join(git_dir, b"commondir")).st_mtime_ns
            here = files.read_limited(os.path.join(toplevel, b".git"), 65_536) or b""
        except OSError:
            continue
        leads_to = os.path.realpath(os.path.join(toplevel, here[8:].rstrip(b"\r\n")))
        if here.startswith(b"gitdir: ") and leads_to == git_dir:
            found.append(LinkedWorktree(toplevel, git_dir, b"%s/%d" % (name, made)))
    return found


def operation_paths(git_dir: bytes, common_dir: bytes) -> list[bytes]:
    """The files of an unfinished operation, to be read at their `operation_place`. Symlinks are not followed."""
    found: list[bytes] = []
    for name in _present(git_dir, _FILES):
        full = os.path.join(git_dir, name)
        if os.path.isdir(full) and not os.path.islink(full):
            for directory, _, names in files.walk(full):
                inside = os.path.relpath(directory, git_dir)
                found += [os.path.join(inside, file) for file in sorted(names) if not file.endswith(b".lock")]
        else:
            found.append(name)
    if RECORDED_CONFLICTS in found:
        named = preimages(files.read_limited(os.path.join(git_dir, RECORDED_CONFLICTS), _LONGEST) or b"")
        found += [path for path in named if os.path.isfile(os.path.join(common_dir, path))]
    return found


def operation_place(git_dir: bytes, common_dir: bytes, path: bytes) -> bytes:
    """Where a file of an unfinished operation is: what `git rerere` records is shared by all worktrees."""
    return os.path.join(common_dir if is_preimage(path) else git_dir, path)


def preimages(recorded: bytes) -> list[bytes]:
    """The files that `git rerere` needs of the conflicts in `recorded`, the content of `MERGE_RR`.

    Without one of them git crashes (do_rerere_one_path in git's rerere.c) and leaves its locks, at the next commit.
    """
    found = []
    for line in recorded.split(b"\0"):
        name, _, variant = line.partition(b"\t")[0].partition(b".")
        path = _RESOLUTIONS + name + b"/preimage" + (b"." + variant if variant else b"")
        found += [path] if is_preimage(path) else []
    return found


def is_preimage(path: bytes) -> bool:
    """Whether a file of an unfinished operation is one that `preimages` could return."""
    name, _, file = path.removeprefix(_RESOLUTIONS).partition(b"/")
    kind, _, variant = file.partition(b".")
    is_known = path.startswith(_RESOLUTIONS) and kind == b"preimage" and (variant.isdigit() or file == kind)
    return is_known and len(name) in (40, 64) and not name.strip(b"0123456789abcdef")


def _present(git_dir: bytes, names: Sequence[bytes]) -> list[bytes]:
    """Those of `names` that exist in a git directory; one listing of it is faster than a look at each."""
    try:
        listed = frozenset(os.listdir(git_dir))
    except OSError:
        # It is gone, or may be entered but not listed.
        listed = frozenset(names)
    if b"HEAD" not in listed:
        # A file system that lists names in lower case, as lowntfs-3g may.
        listed = frozenset(names)
    return [name for name in names if (name in listed or b"/" in name) and os.path.lexists(os.path.join(git_dir, name))]


def is_operation_file(path: bytes) -> bool:
    """Whether a path is one that `operation_paths` could return."""
    return is_preimage(path) or any(path == name or path.startswith(name + b"/") for name in _FILES)


def is_operation_ref(name: bytes) -> bool:
    """Whether a ref belongs to an unfinished operation. In a reftable it is no file; MERGE_HEAD is one in any case."""
    heads = (b"CHERRY_PICK_HEAD", b"REVERT_HEAD", b"REBASE_HEAD", b"ORIG_HEAD", b"AUTO_MERGE", b"BISECT_EXPECTED_REV")
    merges = (b"NOTES_MERGE_REF", b"NOTES_MERGE_PARTIAL")
    return name in (*heads, *merges, b"BISECT_HEAD") or name.startswith((b"refs/bisect/", b"refs/rewritten/"))


#: At most about so many loose refs are searched for locks.
_MOST_REFS = 100_000


def is_dead_lock(path: bytes) -> bool:
    """Whether a lock is provably nobody's: it is older than this boot, and no git runs in its repository.

    The second is for a clock that was set twice, back and forth: then the first proves nothing.
    """
    return process.older_than_boot(path) and not _git_runs(os.path.realpath(os.path.dirname(path)))


def is_unheld(path: bytes) -> bool:
    """Whether no process that can be seen here holds a lock: none has it open, and no git runs in its repository that
    may have made it.

    A git that began after this program can't hold a lock that is older than the program. A younger lock may be that of
    any git, as of `recover --all` in another worktree. False where the system does not tell.
    """
    if not os.path.isdir("/proc/self/fd"):
        return False
    with suppress(OSError):
        seen = os.lstat(path)
        running = process.running_before if process.is_older_than_program(path) else process.running
        if not _git_runs(os.path.realpath(os.path.dirname(path)), running) and not process.is_open(
            os.path.realpath(path)
        ):
            # That of a git which has ended meanwhile is gone.
            return os.path.samestat(seen, os.lstat(path))
    return False


#: These read alone, and those of ours run on beside all else.
_READERS = frozenset((b"cat-file", *(b"diff-" + what for what in (b"files", b"index", b"tree"))))


def _git_runs(
    directory: bytes, running: Callable[[Collection[bytes]], list[tuple[int, bytes | None]]] = process.running_before
) -> bool:
    """Whether one of the `running` gits works in the repository that a directory of git's belongs to."""
    for pid, cwd in running((b"git",)):
        words = (process.read_proc(f"/proc/{pid}/cmdline") or b"").split(b"\0")
        if any(word.endswith(b"--daemon") or word in _READERS for word in words):
            continue  # they hold no lock
        if cwd is None:
            return True  # another user's: nobody can tell
        named = [word for word in _environment(pid) if word.startswith(b"GIT_DIR=")]
        theirs = os.path.realpath(os.path.join(cwd, named[0][8:])) if named else _git_dir_at(cwd)
        common = (theirs or b"").partition(b"/worktrees/")[0]
        if common and (directory == common or directory.startswith(common + b"/")):
            return True
    return False


def _environment(pid: int) -> list[bytes]:
    return (process.read_proc(f"/proc/{pid}/environ") or b"").split(b"\0")


def _git_dir_at(directory: bytes) -> bytes | None:
    """The git directory that git finds in a directory or above it; None where there is none."""
    while True:
        dot_git = os.path.join(directory, b".git")
        if os.path.isdir(dot_git):
            return os.path.realpath(dot_git)
        named = files.read_limited(dot_git, 65_536)
        if named is not None and named.startswith(b"gitdir: "):
            return os.path.realpath(os.path.join(directory, named[8:].rstrip(b"\r\n")))
        if os.path.exists(os.path.join(directory, b"HEAD")) and os.path.isdir(os.path.join(directory, b"objects")):
            return directory
        above = os.path.dirname(directory)
        if above == directory:
            return None
        directory = above


class Lock(Record):
    """A lock file of git."""

    path: bytes
    dead: bool
    """It is provably nobody's."""


def dead_locks_among(directory: bytes, names: Iterable[bytes]) -> tuple[bytes, ...]:
    """The dead locks among the names that are directly in one git directory."""
    paths = [os.path.join(directory, name) for name in names if name.endswith(b".lock")]
    return tuple(path for path in paths if is_dead_lock(path))


def find_locks(git_dir: bytes, common_dir: bytes) -> list[Lock]:
    """Every lock of a worktree and of its repository, including those of refs."""
    places = dict.fromkeys((git_dir, common_dir))
    found = [os.path.join(place, name) for place in places for name in _listed(place) if name.endswith(b".lock")]
    found += filter(os.path.lexists, tables_locks(git_dir, common_dir))
    found += _below(os.path.join(common_dir, b"refs"))
    return [Lock(path, is_dead_lock(path)) for path in found]


def tables_locks(git_dir: bytes, common_dir: bytes) -> list[bytes]:
    """The paths of the locks of all refs in a reftable, of which a linked worktree has one of its own."""
    return [os.path.join(place, b"reftable/tables.list.lock") for place in dict.fromkeys((git_dir, common_dir))]


def locks_in_the_way(git_dir: bytes, common_dir: bytes) -> list[bytes]:
    """The locks that exist and keep git from a commit: of the index, HEAD, its branch, all refs, the configuration."""
    locks = [os.path.join(git_dir, name) for name in (b"index.lock", b"HEAD.lock")]
    locks += [os.path.join(common_dir, name) for name in (b"packed-refs.lock", b"config.lock")]
    locks += tables_locks(git_dir, common_dir)
    with suppress(OSError):
        head = read_head_file(git_dir)
        if head.startswith(b"ref:") and not head.startswith(NO_HEAD):
            locks.append(os.path.join(common_dir, head[4:].strip() + b".lock"))
    return [lock for lock in dict.fromkeys(locks) if os.path.lexists(lock)]


#: More locks that stop some command of git: of the worktree, then of what all worktrees share.
_OF_WORKTREE = (b"ORIG_HEAD.lock", b"config.worktree.lock", b"info/sparse-checkout.lock")
_SHARED = (
    b"shallow.lock",
    b"objects/info/commit-graph.lock",
    b"objects/info/commit-graphs/commit-graph-chain.lock",
    b"objects/pack/multi-pack-index.lock",
    b"objects/maintenance.lock",
)
#: Of thousands of locks, as a killed `git fetch` leaves, only so many are looked at.
_MOST_LOCKS = 50


def locks_of_any_command(git_dir: bytes, common_dir: bytes) -> list[bytes]:
    """The locks that exist and keep git from a commit, then those that stop another of its commands: of other refs, of
    a fetch, of `git gc`.
    """
    locks = [os.path.join(git_dir, name) for name in _OF_WORKTREE]
    locks += [os.path.join(common_dir, name) for name in _SHARED]
    found = [*locks_in_the_way(git_dir, common_dir), *filter(os.path.lexists, locks)]
    for place in dict.fromkeys((git_dir, common_dir)):
        found += _below(os.path.join(place, b"refs"))
    return list(dict.fromkeys(found))[:_MOST_LOCKS]


def remove_dead_locks(git_dir: bytes, common_dir: bytes) -> tuple[bytes, ...]:
    """Remove the dead locks of a workspace, as far as possible; returns the paths of those that are gone."""
    removed = []
    for lock in find_locks(git_dir, common_dir):
        try:
            # Checked again: a new git may have taken the lock meanwhile.
            if lock.dead and is_dead_lock(lock.path):
                files.remove(lock.path)
                removed.append(lock.path)
        except OSError:
            continue
    return tuple(removed)


def _listed(directory: bytes) -> list[bytes]:
    try:
        return os.listdir(directory)
    except OSError:
        return []


def _below(top: bytes) -> Iterator[bytes]:
    seen = 0
    for directory, _, names in files.walk(top):
        seen += len(names)
        yield from (os.path.join(directory, name) for name in names if name.endswith(b".lock"))
        if seen > _MOST_REFS:
            return


class StrangeFile(Record):
    """Something in a git directory in whose place git expects a regular file."""

    path: bytes
    kind: str
    """`a FIFO`, `a socket`, `a device`, `a directory`, `a link to itself`; in the place of a directory `a regular file`
    or `a broken link`.
    """


_OWN_FILES = (b"HEAD", b"index", b"commondir", b"config.worktree", b"info/sparse-checkout")
_SHARED_FILES = (
    *(b"config", b"packed-refs", b"shallow", b"info/exclude", b"info/attributes", b"info/grafts"),
    *(b"objects/info/alternates", b"objects/info/commit-graph"),
)


def strange_files(git_dir: bytes, common_dir: bytes) -> list[StrangeFile]:
    """What is no regular file, of all that git reads at each start. At a FIFO it waits for ever, deaf to signals.

    What the configuration includes is not looked at: see `included_by`.
    """
    own = [os.path.join(git_dir, name) for name in _OWN_FILES]
    shared = [os.path.join(common_dir, name) for name in _SHARED_FILES]
    logs = [os.path.join(git_dir, b"logs/HEAD")]
    with suppress(OSError):
        head = read_head_file(git_dir)
        ref = head[4:].strip()
        if head.startswith(b"ref:") and ref.startswith(b"refs/") and b".." not in ref and b"\0" not in ref:
            logs += [os.path.join(common_dir, ref), os.path.join(common_dir, b"logs", ref)]
    found = [StrangeFile(path, kind) for path in (*own, *shared, *logs) if (kind := strange_kind(path))]
    # Git removes an empty directory in the place of a ref.
    found = [item for item in found if item.kind != "a directory" or item.path not in logs]
    return [*found, *strange_directories(common_dir)]


#: Directories in which git keeps what it writes, and in which saves are kept.
_DIRECTORIES = (
    *(b"logs/refs/heads", b"refs/heads", b"refs/gitstate", b"refs/notes"),
    *(b"objects/pack", b"info"),
)


def is_directory_path(path: bytes) -> bool:
    """Whether a path that `strange_files` names is the place of a directory."""
    names = [name.rsplit(b"/", depth)[0] for name in _DIRECTORIES for depth in range(name.count(b"/") + 1)]
    return any(path.endswith(b"/" + name) for name in names if name not in (b"refs", b"objects"))


def _has_stub(common_dir: bytes) -> bool:
    """Whether `refs/heads` is what git makes of it where refs are somewhere else (`extensions.refStorage`)."""
    heads = os.path.join(common_dir, b"refs", b"heads")
    return (files.read_limited(heads, 256) or b"").startswith(b"repository uses alternate refs storage")


def strange_directories(common_dir: bytes) -> list[StrangeFile]:
    """What stands in the place of a directory of git's that is missing, `logs` for one: git fails at each write."""
    found = {}
    tops = [common_dir, os.path.join(common_dir, b"refs"), os.path.join(common_dir, b"objects")]
    # Where refs are in a reftable, or elsewhere, git makes `refs/heads` a regular file, and writes no other ref and no
    # log to a file here.
    is_elsewhere = os.path.isdir(os.path.join(common_dir, b"reftable")) or _has_stub(common_dir)
    names = [name for name in _DIRECTORIES if not is_elsewhere or not name.startswith((b"refs/", b"logs/"))]
    for name in names:
        path = os.path.join(common_dir, name)
        while path not in tops and not os.path.isdir(path):
            if os.path.lexists(path):
                kind = strange_kind(path) or ("a regular file" if os.path.exists(path) else "a broken link")
                if name == b"refs/notes" and kind in ("a regular file", "a socket"):
                    # A save can do without notes.
                    break
                found[path] = StrangeFile(path, kind)
            path = os.path.dirname(path)
    return list(found.values())


def is_among_files(toplevel: bytes, common_dir: bytes) -> bool:
    """Whether a git dir is in the worktree under another name than `.git`: `git clean -x` spares `.git` alone."""
    own = os.path.join(toplevel, b".git")
    return common_dir.startswith(os.path.join(toplevel, b"")) and not (common_dir + b"/").startswith(own + b"/")


def common_dir_by_files(git_dir: bytes) -> bytes:
    """What the worktrees share, by `commondir` of a git directory, or by its place where that leads nowhere."""
    named = path_named_in(os.path.join(git_dir, b"commondir"), b"", git_dir)
    worktrees = os.path.dirname(git_dir)
    above = os.path.dirname(worktrees) if os.path.basename(worktrees) == b"worktrees" else None
    for path in (named, above):
        if path is not None and (os.path.isdir(path + b"/objects") or os.path.isfile(path + b"/config")):
            return path
    return git_dir if named is None else named


#: The files in a worktree that git opens whatever they are.
_READ_ANYWHERE = (b".gitignore", b".gitattributes", b".gitmodules", b".mailmap")


def read_by_git(top: bytes) -> Iterator[bytes]:
    """The files of the worktree at `top` that git opens whatever they are: `.gitignore` and its like, loose refs."""
    for directory, names, found in files.walk(top):
        names[:] = [name for name in names if name != b".git"]
        yield from (os.path.join(directory, name) for name in _READ_ANYWHERE if name in found)
    dot_git = os.path.join(top, b".git")
    named = None if os.path.isdir(dot_git) else path_named_in(dot_git, b"gitdir: ", top)
    common_dir = dot_git if named is None else common_dir_by_files(named)
    for directory, _, found in files.walk(os.path.join(common_dir, b"refs")):
        yield from (os.path.join(directory, name) for name in found)


def linked_places(common_dir: bytes) -> set[bytes]:
    """Where the `.git` of each linked worktree is, or was: what their `gitdir` files name."""
    top = os.path.join(common_dir, b"worktrees")
    places = (os.path.join(top, name) for name in _listed(top))
    return {named for place in places if (named := path_named_in(os.path.join(place, b"gitdir"), b"", place))}


def lost_backlinks(git_dir: bytes, common_dir: bytes) -> list[bytes]:
    """The `gitdir` files that lead to no `.git`: of one linked worktree, or from the main one of all.

    Git works without. But `git worktree prune`, and so `git gc`, takes such a worktree for one that is gone.
    """
    worktrees = os.path.join(common_dir, b"worktrees")
    places = (
        [git_dir] if git_dir != common_dir else [os.path.join(worktrees, name) for name in sorted(_listed(worktrees))]
    )
    found = []
    for place in places:
        named = path_named_in(os.path.join(place, b"gitdir"), b"", place)
        is_lost = (
            named is None or os.path.basename(named) != b".git" or (place == git_dir and not os.path.lexists(named))
        )
        if is_lost and os.path.isdir(place):
            found.append(os.path.join(place, b"gitdir"))
    return found


def path_named_in(file: bytes, prefix: bytes, base: bytes) -> bytes | None:
    """The path in a small file of git's, after `prefix`, absolute or relative to `base`; None where there is none."""
    data = files.read_limited(file, 65_536)
    if data is None or not data.startswith(prefix):
        return None
    named = data[len(prefix) :].rstrip(b"\r\n")
    return os.path.realpath(os.path.join(base, named)) if named and b"\0" not in named else None


def strange_files_above(path: bytes) -> list[StrangeFile]:
    """`strange_files` of the repository that git would find at `path`, and what its configuration includes."""
    git_dir = _git_dir_at(os.path.realpath(path))
    if git_dir is None:
        return []
    common_dir = common_dir_by_files(git_dir)
    config = [os.path.join(common_dir, b"config"), os.path.join(git_dir, b"config.worktree")]
    return [*strange_files(git_dir, common_dir), *(item for file in config for item in included_by(file))]


def included_by(config: bytes) -> list[StrangeFile]:
    """What is no regular file, of all that a configuration file includes."""
    if b"nclude" not in (files.read_limited(config, _LONGEST) or b""):
        return []
    from .strange import strange_lines

    return [StrangeFile(*found) for found in strange_lines(config).values()]


#: A longer configuration is not looked at.
_LONGEST = 16 << 20
#: What the file HEAD contains where the real HEAD is in a reftable (git's `technical/reftable`, from 2.45 on).
NO_HEAD = b"ref: refs/heads/.invalid"


def read_head_file(git_dir: bytes) -> bytes:
    """What HEAD says. It may be a symlink to the branch (`core.preferSymlinkRefs`), which need not exist."""
    path = os.path.join(git_dir, b"HEAD")
    try:
        target = os.readlink(path)
        if target.startswith(b"refs/"):
            return b"ref: " + target
    except OSError:
        # As a rule: it is a file.
        pass
    # A file object costs more than reading a small file does, and a fleet has thousands of them.
    fd = files.open_at_once(path, os.O_RDONLY)
    try:
        return os.read(fd, 65_536)
    except BlockingIOError:
        # A FIFO to which nobody has written yet.
        return b""
    finally:
        os.close(fd)
