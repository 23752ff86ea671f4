"""What git can't read: an index, a commit of HEAD, an object's file; a git directory and an index that stand in."""

from __future__ import annotations

import os
import zlib

from ...errors import GitError
from ...system import files
from ...system.stdlib import TYPE_CHECKING, Record, suppress
from .. import refs
from ..attributes import conditional_includes
from ..command import Git, Oid, is_oid, object_id
from ..entries import latest_values, list_tree_paths
from ..gitdir import NO_HEAD, read_head_file
from ..index import is_cut_index
from ..opening import settings_of
from ..repository import Repository, read_head
from .head import is_cut_head, is_well_formed, last_head, last_of_ref, tail

if TYPE_CHECKING:
    from .files import DamagedGitDir

_PACKED_REFS = 1 << 30
#: What HEAD of a git dir that stands in holds, where the commit of HEAD can't be read: an unborn branch.
UNBORN = b"ref: refs/heads/gitstate-stand-in"
#: A larger object is left to a person.
_LARGEST_OBJECT = 256 << 20


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
    branch: str | None = None
    """The full name of the branch that HEAD is on, as far as is known; None where HEAD is detached."""
    torn: Oid | None = None
    """The commit of that branch, by its reflog or `packed-refs`, where git does not find its ref; else None."""
    is_unsorted: bool = False
    """Whether git does not find that ref because `packed-refs` is not sorted."""


def find_broken(repository: Repository, damage: DamagedGitDir | None = None) -> Broken | None:
    """What git can't read of index and HEAD; None where it can read both.

    With `damage`, `repository` is used by way of a git dir that stands in.
    """
    git, what = repository.git, [] if damage is None else [damage.why]
    index = os.path.join(repository.git_dir, b"index")
    has_index = (os.path.isfile(index) or not os.path.lexists(index)) and not is_cut_index(
        index, repository.object_format
    )
    try:
        if has_index:
            git.run("ls-files", "-z", "--", "no such file", env={"GIT_INDEX_FILE": os.fsdecode(index)})
    except GitError as error:
        if error.status < 0:
            raise
        has_index = False
    if not has_index:
        what.append("the index is unreadable, and with it what was staged")
    branch, is_named, head, is_torn = _named_commit(repository, damage)
    has_head = not is_named or (head is not None and is_whole(git, head))
    if not has_head:
        what.append(f"the commit of HEAD{f' ({head[:12]})' if head else ''} is unreadable")
    elif is_torn and head is not None:
        what.append(f"the commit of HEAD is unreadable in {branch}; by its reflog it was {head[:12]}")
    is_unsorted = has_head and is_named and not is_torn and branch is not None and _is_unsorted(repository, branch)
    if is_unsorted:
        what.append(f"git does not find {branch} in packed-refs, which is not sorted")
    if not what:
        return None
    torn = head if (is_torn or is_unsorted) and has_head else None
    known = None if has_head else head
    return Broken("; ".join(what), known, has_head, not has_index, branch=branch, torn=torn, is_unsorted=is_unsorted)


def _named_commit(repository: Repository, damage: DamagedGitDir | None) -> tuple[str | None, bool, Oid | None, bool]:
    """What HEAD names, by the files alone: its branch; whether it names a commit, as no unborn branch does; which.

    The last is whether the ref of the branch is lost, as after a power cut: then the commit is the last one of its
    reflog, None where that is gone too.
    """
    git_dir, common_dir = repository.git_dir, repository.common_dir
    head = read_head_file(git_dir).strip() if damage is None else damage.head
    if head is None:
        return None, True, None, False
    if not head.startswith(b"ref:"):
        return None, True, head.decode("ascii"), False
    if head.startswith(NO_HEAD) and damage is not None:
        # By way of the git dir that stands in: it leads to the table.
        asked = repository.git.run("symbolic-ref", "--quiet", "--no-recurse", "HEAD", ok_codes=(0, 1))
        ref = os.fsdecode(asked.strip()) or None
    else:
        ref = read_head(git_dir) if head.startswith(NO_HEAD) else os.fsdecode(head[4:].strip())
    value = None if ref is None else refs.read_refs(repository, [ref]).get(ref)
    if ref is not None and value is not None and refs.refs_are_files(repository) and _is_hidden(common_dir, ref):
        return ref, True, value, True
    if ref is None or value is not None:
        return ref, value is not None, value, False
    last = last_of_ref(common_dir, os.fsencode(ref))
    path = os.path.join(common_dir, os.fsencode(ref))
    is_there = os.path.lexists(path) and not os.path.isdir(path)
    if not refs.refs_are_files(repository) or not (last or is_there):
        return ref, False, None, False
    return ref, True, last, True


def _is_hidden(common_dir: bytes, ref: str) -> bool:
    """Whether something else stands in the place of a directory above a ref: git takes a packed one for missing."""
    place = os.path.dirname(os.path.join(common_dir, os.fsencode(ref)))
    while len(place) > len(common_dir) and not os.path.lexists(place):
        place = os.path.dirname(place)
    return not os.path.isdir(place)


def _is_unsorted(repository: Repository, ref: str) -> bool:
    """Whether `packed-refs` claims to be sorted, and is not; and `ref` is found nowhere else."""
    if os.path.lexists(os.path.join(repository.common_dir, os.fsencode(ref))):
        return False
    data = files.read_limited(os.path.join(repository.common_dir, b"packed-refs"), _PACKED_REFS) or b""
    first, _, rest = data.partition(b"\n")
    if not first.startswith(b"#") or b"sorted" not in first.split():
        return False
    found = [line.partition(b" ")[2] for line in rest.split(b"\n") if line and line[:1] != b"^"]
    return found != sorted(found)


def is_whole(git: Git, commit: Oid) -> bool:
    """Whether git can read a commit and all its trees."""
    try:
        list_tree_paths(git, commit)
    except GitError as error:
        if error.status < 0:
            raise
        return False
    # No tree tells whether the file of the commit holds another object.
    return is_readable(git, commit)


def is_readable(git: Git, oid: Oid, kind: str = "commit") -> bool:
    """Whether git can read an object of this kind. It fails where the file of one holds no object at all."""
    try:
        return git.succeeds("rev-parse", "-q", "--verify", f"{oid}^{{{kind}}}")
    except GitError as error:
        if error.status < 0:
            raise
        return False


def has_lost_head(repository: Repository, ref: str | None) -> bool:
    """Whether a branch that git takes for unborn has a commit after all, or can't be one."""
    git_dir, common_dir = repository.git_dir, repository.common_dir
    if ref is None or ref in refs.read_refs(repository, [ref]) or last_of_ref(common_dir, os.fsencode(ref)) is not None:
        return True
    if os.path.isfile(os.path.join(common_dir, os.fsencode(ref))) or not is_well_formed(os.fsencode(ref)):
        return True
    return is_cut_head(git_dir, common_dir, last_head(git_dir, common_dir))


def last_whole(repository: Repository, ref: str | None) -> Oid | None:
    """The last commit of the reflog of HEAD's branch that git can read with all its trees."""
    if not refs.refs_are_files(repository):
        logs = (latest_values(repository.git, name) for name in dict.fromkeys((ref or "HEAD", "HEAD")))
        return next((oid for values in logs for oid in values if is_whole(repository.git, oid)), None)
    for log in (repository.common_dir + b"/logs/" + os.fsencode(ref or "HEAD"), repository.git_dir + b"/logs/HEAD"):
        for line in reversed(tail(log).split(b"\n")):
            for word in reversed(line.split(b" ", 2)[:2]):
                oid = word.decode("latin-1")
                if is_oid(oid) and oid.strip("0") and is_whole(repository.git, oid):
                    return oid
    return None


def make_stand_in(directory: bytes, repository: Repository, damage: DamagedGitDir | None, head: bytes) -> Repository:
    """The repository, used by way of a git dir made at `directory`, which holds `head` and all that git can read.

    The directory is that of `git-new-workdir`: links to what is whole. What is missing of `refs` and `objects` is made.
    """
    common, git_dir = repository.common_dir, repository.git_dir
    files.remove_tree(directory)
    files.make_directory(os.path.join(directory, b"info"), top=git_dir, durable=False)
    contents = {b"HEAD": head + b"\n"}
    if damage is None or damage.shared_is_whole:
        contents[b"commondir"] = common
    else:
        contents[b"config"], contents[b"packed-refs"] = damage.config, damage.packed_refs
        for name in (b"refs", b"objects"):
            files.make_directory(os.path.join(common, name), top=common)
        for name in (b"refs", b"objects", b"logs", b"modules", b"lfs", b"annex", b"git-crypt"):
            # `git status` looks up the branch that the log of a detached HEAD names.
            tops = [os.path.join(common, top, b"") for top in ((b"logs", b"refs") if name == b"logs" else (name,))]
            is_whole = not any(item.path.startswith(top) for item in damage.files for top in tops)
            if name == b"objects" and not is_whole:
                _link_objects(os.path.join(common, name), os.path.join(directory, name))
            elif os.path.isdir(os.path.join(common, name)) and (is_whole or name == b"refs"):
                os.symlink(os.path.join(common, name), os.path.join(directory, name))
        for name in (b"info/exclude", b"info/attributes"):
            places = (os.path.join(common, name), os.path.join(common, b"info"))
            if not any(item.path in places for item in damage.files):
                os.symlink(os.path.join(common, name), os.path.join(directory, name))
        packed, shallow = os.path.join(common, b"packed-refs"), os.path.join(common, b"shallow")
        if not any(item.path == packed for item in damage.files):
            # A deletion has to rewrite the real one.
            del contents[b"packed-refs"]
            os.symlink(packed, os.path.join(directory, b"packed-refs"))
        if os.path.isfile(shallow) and not any(item.path == shallow for item in damage.files):
            os.symlink(shallow, os.path.join(directory, b"shallow"))
    tables = os.path.join(git_dir if b"commondir" in contents else common, b"reftable")
    if os.path.isdir(tables) and head != UNBORN:
        # HEAD is there, whatever its file holds.
        os.symlink(tables, os.path.join(directory, b"reftable"))
    if damage is not None and damage.worktree_config is not None:
        contents[b"config.worktree"] = damage.worktree_config
    for name, content in contents.items():
        files.write_new_file(os.path.join(directory, name), (content,), mode=0o600, durable=False)
    for name in (b"config.worktree", b"info/sparse-checkout"):
        if damage is not None and any(item.path == os.path.join(git_dir, name) for item in damage.files):
            continue
        os.symlink(os.path.join(git_dir, name), os.path.join(directory, name))
    ref = head if damage is not None and head != UNBORN else _head_line(git_dir)
    branch = ref[16:].strip() if ref.startswith(b"ref: refs/heads/") else None
    own = None if damage is None else damage.config
    includes = tuple(conditional_includes(git_dir, common, branch, own))
    if includes:
        # With a branch that it can't read git does not see what is included for that branch.
        config = {
            **settings_of(Git(b"/", includes).run("config", "--list", "-z", ok_codes=range(256)).split(b"\0")[:-1]),
            **repository.config,
        }
        repository = repository._replace(config=config)
    where = (f"--git-dir={os.fsdecode(directory)}", f"--work-tree={os.fsdecode(repository.toplevel)}", *includes)
    return repository._replace(git=repository.git._replace(options=(*repository.git.options, *where)))


def _link_objects(objects: bytes, directory: bytes) -> None:
    """Make an object directory that leads to all of `objects`, in which git looks for no other one.

    All directories of loose objects are there: git writes what is new through the links.
    """
    os.mkdir(directory)
    os.mkdir(os.path.join(directory, b"info"))
    for name in (b"pack", *(b"%02x" % number for number in range(256))):
        place = os.path.join(objects, name)
        if not os.path.isdir(place):
            os.mkdir(place)
        os.symlink(place, os.path.join(directory, name))


def _head_line(git_dir: bytes) -> bytes:
    try:
        return read_head_file(git_dir)
    except OSError:
        return b""


def make_index(repository: Repository, broken: Broken, path: bytes) -> None:
    """Make an index at `path` in place of one that can't be read: that of HEAD's commit, or an empty one."""
    files.remove(path)
    git = repository.git
    tree = "HEAD" if broken.has_head and git.run("rev-parse", "-q", "--verify", "HEAD", ok_codes=(0, 1)) else "--empty"
    git.run("read-tree", tree, env={"GIT_INDEX_FILE": os.fsdecode(path)})


def discard_torn(git: Git, oid: Oid) -> bool:
    """Remove the file of an object where it holds something else, and a pack holds the object; whether it is removed.

    From git 2.55 on the file is read first, and git ends at it. An older git reads the pack.
    """
    with suppress(GitError, OSError):
        objects = git.run("rev-parse", "--path-format=absolute", "--git-path", "objects").removesuffix(b"\n")
        name = oid.encode("ascii")
        path = os.path.join(objects, name[:2], name[2:])
        if os.path.isfile(path) and not _holds_object(path, oid) and _is_packed(git, objects, oid):
            files.remove(path)
            files.fsync_path(os.path.dirname(path))
            return True
    return False


def _holds_object(path: bytes, oid: Oid) -> bool:
    """Whether the file of an object holds it. Raises OSError."""
    data = files.read_limited(path, _LARGEST_OBJECT)
    if data is None:
        return True
    unpacker = zlib.decompressobj()
    try:
        header, end, content = unpacker.decompress(data, _LARGEST_OBJECT).partition(b"\0")
    except zlib.error:
        return False
    kind = header.partition(b" ")[0].decode("latin-1")
    return bool(end) and unpacker.eof and object_id(_format_of(oid), kind, content) == oid


def _is_packed(git: Git, objects: bytes, oid: Oid) -> bool:
    """Whether the packs alone hold an object. Raises GitError, OSError."""
    with files.temporary_directory("gitstate-packs-") as directory:
        os.symlink(os.path.join(objects, b"pack"), os.path.join(os.fsencode(directory), b"pack"))
        env = {"GIT_OBJECT_DIRECTORY": os.fsdecode(directory)}
        if int(git.run("cat-file", "-s", oid, env=env)) > _LARGEST_OBJECT:
            return False
        kind = git.run("cat-file", "-t", oid, env=env).decode("ascii").strip()
        return object_id(_format_of(oid), kind, git.run("cat-file", kind, oid, env=env)) == oid


def _format_of(oid: Oid) -> str:
    return "sha1" if len(oid) == 40 else "sha256"
