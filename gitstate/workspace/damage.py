"""What a power cut does to a repository's files, and how they are repaired.

By default git syncs packs only, and renames other files into place before their bytes are on the disk: after a power
cut such a file may be empty, or hold zeros. To replace it loses nothing, and `repair_damage` replaces nothing else.
"""

from __future__ import annotations

import os

from ..errors import GitError, GitstateError
from ..format import names
from ..format.archive import read_save
from ..format.context import Context
from ..format.saves import pending_in_files
from ..git import refs
from ..git.command import Git, Oid, is_oid
from ..git.entries import list_tree_paths
from ..git.index import is_cut_index
from ..git.repository import Repository, read_head, read_head_file
from ..objects.reader import ObjectReader
from ..system import files
from ..system.stdlib import TYPE_CHECKING, Record, quote, suppress
from .live_context import read_context
from .ownership import stand_in_git_dir

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_SMALL = 65_536
_LOG = 16 << 20


class Damage(Record):
    """One blank file."""

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


class Broken(Record):
    """What git can't read of a repository: a save is taken without it."""

    why: str
    """What it is, as a clause."""
    head: Oid | None = None
    """The commit that HEAD names, where it or one of its trees can't be read; None where its name is lost too."""
    has_head: bool = True
    """Whether git can read HEAD's commit and trees, or the branch is unborn."""
    no_index: bool = False
    """The index: one that is made from HEAD takes its place."""
    worktree: bool = False
    """All of it: only the context is saved."""


def find_broken(repository: Repository) -> Broken | None:
    """What git can't read of index and HEAD; None where it can read both."""
    git, what = repository.git, []
    has_index = not is_cut_index(os.path.join(repository.git_dir, b"index"), repository.object_format)
    try:
        git.run("ls-files", "-z", "--", "no such file")
    except GitError as error:
        if error.status < 0:
            raise
        has_index = False
    if not has_index:
        what.append("the index is unreadable, and with it what was staged")
    named, head, torn = _named_commit(repository)
    has_head = not named or (head is not None and not torn and is_whole(git, head))
    if not has_head:
        what.append(f"the commit of HEAD{f' ({head[:12]})' if head else ''} is unreadable")
    return Broken("; ".join(what), None if has_head else head, has_head, not has_index) if what else None


def is_whole(git: Git, commit: Oid) -> bool:
    """Whether git can read a commit and all its trees."""
    try:
        list_tree_paths(git, commit)
        return True
    except GitError as error:
        if error.status < 0:
            raise
        return False


def stand_in(repository: Repository, broken: Broken) -> Repository:
    """The repository as git can read it: where HEAD can't be read, on an unborn branch, by a git dir of our own."""
    if broken.has_head:
        return repository
    directory = stand_in_git_dir(repository)
    files.remove_tree(directory)
    files.make_directory(os.path.join(directory, b"info"), top=repository.git_dir, durable=False)
    for name, content in ((b"HEAD", b"ref: refs/heads/gitstate-stand-in\n"), (b"commondir", repository.common_dir)):
        files.write_new_file(os.path.join(directory, name), (content,), mode=0o600, durable=False)
    for name in (b"config.worktree", b"info/sparse-checkout"):
        os.symlink(os.path.join(repository.git_dir, name), os.path.join(directory, name))
    where = (f"--git-dir={os.fsdecode(directory)}", f"--work-tree={os.fsdecode(repository.toplevel)}")
    return repository._replace(git=repository.git._replace(options=(*repository.git.options, *where)))


def make_index(repository: Repository, broken: Broken, path: bytes) -> None:
    """Make an index at `path` in place of one that can't be read: that of HEAD's commit, or an empty one."""
    files.remove(path)
    tree = "HEAD" if broken.has_head and _named_commit(repository).is_named else "--empty"
    repository.git.run("read-tree", tree, env={"GIT_INDEX_FILE": os.fsdecode(path)})


def find_unreadable(repository: Repository, broken: Broken | None = None) -> Iterator[Damage]:
    """What `find_broken` found, each with the command that mends it."""
    broken = broken or find_broken(repository)
    if broken is None:
        return
    where, git_dir = _quoted(repository.toplevel), repository.git_dir
    if not broken.has_head:
        ref, oid = read_head(git_dir), broken.head
        path = os.path.join(repository.common_dir, os.fsencode(ref)) if ref else os.path.join(git_dir, b"HEAD")
        words = (key.split(".") for key in repository.config if key.startswith("remote."))
        remote = next((parts[1] for parts in words if len(parts) == 3 and parts[1] and parts[2] == "url"), None)
        blank = " ".join(_quoted(item.path) for item in _objects(where, repository.common_dir))
        clear = f"rm -f {blank} && " if blank else ""
        ways = [f"{clear}git -C {where} fetch --refetch {quote(remote)}"] if remote is not None else []
        good = _last_whole(repository, ref)
        if good is not None:
            ways.append(f"git -C {where} update-ref {_quoted(os.fsencode(ref or 'HEAD'))} {good}")
        if ref is not None and is_blank(path):
            ways = [f"rm {_quoted(path)} && {way}" for way in ways if "update-ref" in way]
        what = f"the commit of HEAD is unreadable: {oid[:12] if oid else 'its name is lost'}"
        yield Damage(path, what, ", or without it: ".join(ways) or f"git -C {where} fsck")
    if broken.no_index:
        index = os.path.join(git_dir, b"index")
        what = "the index is unreadable: what was staged is only in a save"
        yield Damage(index, what, f"rm {_quoted(index)} && git -C {where} reset")


def _last_whole(repository: Repository, ref: str | None) -> Oid | None:
    """The last commit of the reflog of HEAD's branch that git can read with all its trees."""
    for log in (repository.common_dir + b"/logs/" + os.fsencode(ref or "HEAD"), repository.git_dir + b"/logs/HEAD"):
        for line in reversed(_tail(log).split(b"\n")):
            for word in reversed(line.split(b" ", 2)[:2]):
                oid = word.decode("latin-1")
                if is_oid(oid) and oid.strip("0") and is_whole(repository.git, oid):
                    return oid
    return None


class _Named(Record):
    """What HEAD names, by the files alone."""

    is_named: bool
    """Whether HEAD names a commit: the branch is not unborn."""
    commit: Oid | None
    """Which commit: of a torn branch the last one of its reflog, None where that is gone too."""
    is_torn: bool = False
    """Whether the branch is a file without an object id, as after a power cut."""


def _named_commit(repository: Repository) -> _Named:
    git_dir, common_dir = repository.git_dir, repository.common_dir
    head = read_head_file(git_dir).strip()
    if is_oid(head.decode("latin-1")):
        return _Named(True, head.decode("latin-1"))
    ref = read_head(git_dir)
    value = None if ref is None else refs.read_refs(repository, [ref]).get(ref)
    if ref is None or value is not None:
        return _Named(value is not None, value)
    if not refs.refs_are_files(repository) or not os.path.isfile(os.path.join(common_dir, os.fsencode(ref))):
        return _Named(False, None)
    return _Named(True, _last_value(os.path.join(common_dir, b"logs", os.fsencode(ref))), True)


def find_damage(workspace: bytes, git_dir: bytes, common_dir: bytes) -> list[Damage]:
    """The blank files of a workspace and its repository. Git is asked only whether an object exists."""
    context, _ = read_context(git_dir)
    where = _quoted(workspace)
    found = [*_head(git_dir, common_dir, context)]
    if not found:
        found += _branch(where, git_dir, common_dir)
    found += _index(where, git_dir)
    found += _markers(where, common_dir, has_head=not any(item.path.endswith(b"/HEAD") for item in found))
    found += _objects(where, common_dir)
    config = os.path.join(common_dir, b"config")
    if is_blank(config):
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


def is_blank(path: bytes) -> bool:
    """Whether there is a regular file that is empty, or holds zeros only."""
    try:
        if os.lstat(path).st_size > _LOG:
            return False
    except OSError:
        return False
    data = files.read_limited(path, _LOG)
    return data is not None and not data.strip(b"\0")


def _head(git_dir: bytes, common_dir: bytes, context: Context) -> Iterator[Damage]:
    head = os.path.join(git_dir, b"HEAD")
    if os.path.lexists(head) and not is_blank(head):
        return
    name = _last_checkout(git_dir) or (context.branch_name or "").encode("utf-8", "surrogateescape")
    ref = b"refs/heads/" + name
    known = name and b".." not in name and _has_ref(common_dir, ref)
    text = os.fsdecode(ref)
    path = _quoted(head)
    if known:
        line = b"ref: " + ref
        yield Damage(head, f"HEAD is empty; it was on {text}", f"echo {_quoted(line)} >{path}", line + b"\n")
    else:
        yield Damage(head, "HEAD is empty; its branch is unknown", f"echo ref: refs/heads/BRANCH >{path}")


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
        oid = _last_value(log)
        if oid is not None and _is_commit(common_dir, oid):
            what = f"{name} is empty; its reflog ends at {oid[:12]}"
            command = f"rm {_quoted(path)} && git -C {where} update-ref {_quoted(ref)} {oid}"
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


def _objects(where: str, common_dir: bytes) -> Iterator[Damage]:
    """Empty loose objects. Git fails at them; where they are gone it looks into the packs."""
    objects = os.path.join(common_dir, b"objects")
    for number in range(256):
        try:
            with os.scandir(os.path.join(objects, b"%02x" % number)) as listing:
                blank = [entry.path for entry in listing if entry.stat(follow_symlinks=False).st_size == 0]
        except OSError:
            continue
        for path in blank:
            oid = os.fsdecode(b"%02x" % number + os.path.basename(path))
            if is_oid(oid):
                command = f"rm -f {_quoted(path)} && git -C {where} fsck"
                yield Damage(path, f"object {oid[:12]} is empty", command, disposable=True)


def _last_checkout(git_dir: bytes) -> bytes | None:
    """The branch that HEAD was on, by the last checkout in its reflog; None where that is unknown."""
    import re

    data = _tail(os.path.join(git_dir, b"logs", b"HEAD"))
    moves = re.findall(rb"\tcheckout: moving from [^\n]* to ([^\n ]+)$", data, re.MULTILINE)
    return moves[-1] if moves and not is_oid(moves[-1].decode("latin-1")) else None


def _last_value(log: bytes) -> Oid | None:
    """The last value of a reflog; None where there is none. A torn line does not count."""
    lines = [line.split(b" ", 2) for line in _tail(log).split(b"\n")]
    values = [words[1].decode("latin-1") for words in lines if len(words) == 3 and is_oid(words[1].decode("latin-1"))]
    return values[-1] if values and values[-1].strip("0") else None


def _quoted(path: bytes) -> str:
    return quote(os.fsdecode(path))


def _tail(path: bytes) -> bytes:
    try:
        with open(path, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - (1 << 20)))
            return file.read(1 << 20)
    except OSError:
        return b""


def _has_ref(common_dir: bytes, ref: bytes) -> bool:
    loose = files.read_limited(os.path.join(common_dir, ref), _SMALL)
    packed = files.read_limited(os.path.join(common_dir, b"packed-refs"), 256 << 20) or b""
    return bool(loose and loose.strip(b"\0 \n")) or (b" " + ref + b"\n") in packed


def _is_commit(common_dir: bytes, oid: Oid) -> bool:
    """Whether git can read this commit."""
    try:
        return Git(common_dir).run("cat-file", "-t", oid).strip() == b"commit"
    except (GitError, OSError):
        return False
