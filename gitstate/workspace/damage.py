"""A workspace whose repository git can't read in part: opened, saved by a git directory that stands in, and reported.

What is damaged is found in `git.damaged`, from git's files alone. Here the live context, the register and the directory
of gitstate tell what those files have lost; also the refs of a pending save, which other programs delete.
"""

from __future__ import annotations

import os

from ..errors import CorruptSave, UnsupportedSave
from ..format import names
from ..format.archive import read_stack
from ..git import refs
from ..git.attributes import conditional_includes
from ..git.command import Git, Oid, hooks_off
from ..git.damaged.broken import UNBORN, find_broken, is_readable, last_whole, make_stand_in
from ..git.damaged.files import (
    Damage,
    DamagedGitDir,
    blank_objects,
    damaged_git_dir,
    lost_backlink,
    missing_alternate,
    quoted,
)
from ..git.damaged.head import LONGEST
from ..git.damaged.refused import git_trusts, looks_like_git_dir, why_not_opened, why_strange
from ..git.gitdir import StrangeFile, common_dir_by_files, path_named_in, strange_directories
from ..git.index import as_words
from ..git.opening import settings_of
from ..git.permitted import as_permitted
from ..git.refs import RefUpdate
from ..git.repository import Repository, parse_bool
from ..objects.reader import ObjectReader
from ..system import files
from ..system.stdlib import TYPE_CHECKING, quote, suppress
from .live_context import pending_in_context, read_context
from .ownership import clear_journal, ref_locks, stand_in_git_dir, write_journal

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..format.manifest import Save
    from ..git.damaged.broken import Broken


def stand_in(repository: Repository, broken: Broken | None, damage: DamagedGitDir | None) -> Repository:
    """The repository as git can read it, where it has to be by a git dir of our own.

    Where the commit of HEAD can't be read, that is on an unborn branch.
    """
    if broken is not None and not broken.has_head:
        head = UNBORN
    elif broken is not None and broken.torn is not None:
        head = broken.torn.encode("ascii")
    elif damage is not None:
        head = damage.head or UNBORN
    else:
        return repository
    return make_stand_in(stand_in_git_dir(repository), repository, damage, head)


def open_damaged(path: bytes) -> Repository | None:
    """The repository in whose worktree `path` is, where git does not open it because its files are damaged.

    Git can be run in it by a git dir that stands in (`make_stand_in`). None where it is not that. Raises NeedsPerson
    as `open_repository` does.
    """
    top = os.path.realpath(path)
    git_dir = _git_dir_below(top)
    while git_dir is None and not os.path.lexists(os.path.join(top, b".git")):
        above = os.path.dirname(top)
        if above == top:
            return None
        top = above
        git_dir = _git_dir_below(top)
    if git_dir is None:
        return None
    common_dir = common_dir_by_files(git_dir)
    if not looks_like_git_dir(common_dir):
        return None
    damage = damaged_git_dir(top, git_dir, common_dir)
    objects = os.path.join(common_dir, b"objects", b"")
    inside = {item.path for item in damage.files if item.path.startswith(objects)} if damage is not None else set()
    if damage is None or inside - {objects + b"info/alternates"}:
        return None
    for path in (os.path.join(common_dir, name) for name in (b"refs", b"objects")):
        if os.path.lexists(path) and not os.path.isdir(path):
            # What is saved could be written nowhere.
            raise why_strange(top, StrangeFile(path, "no directory"))
    for strange in strange_directories(common_dir):
        if strange.path in (
            os.path.join(common_dir, name) for name in (b"refs/gitstate", b"refs/notes", b"objects/pack")
        ):
            raise why_strange(top, strange)
    if not git_trusts(top, os.path.join(top, b".git"), git_dir, common_dir):
        raise why_not_opened(top, b"detected dubious ownership")
    # In the worktree git would read the repository.
    branch = (
        (damage.head or b"").removeprefix(b"ref: refs/heads/") if (damage.head or b"").startswith(b"ref:") else None
    )
    git = Git(b"/", tuple(conditional_includes(git_dir, common_dir, branch, damage.config)))
    listed = git.run("config", "--list", "-z", ok_codes=range(256))
    read = ("config", "--includes", "--file", "-", "--list", "-z")
    listed += git.run(*read, input=damage.config, ok_codes=range(256))
    config = settings_of(listed.split(b"\0")[:-1])
    if parse_bool(config.get("extensions.worktreeconfig", ["false"])[-1]):
        own = damage.worktree_config
        own = files.read_limited(os.path.join(git_dir, b"config.worktree"), LONGEST) if own is None else own
        listed += git.run(*read, input=own or b"", ok_codes=range(256))
        config = settings_of(listed.split(b"\0")[:-1])
    object_format = config.get("extensions.objectformat", ["sha1"])[-1]
    return as_permitted(Repository(top, git_dir, common_dir, object_format, config, Git(top, hooks_off(config))))


def _git_dir_below(top: bytes) -> bytes | None:
    """The git dir to which `.git` leads, or led where it is a file that leads nowhere, or is gone; None without one."""
    path = os.path.join(top, b".git")
    if not os.path.isdir(path):
        named = path_named_in(path, b"gitdir: ", top)
        if named is None or not os.path.isdir(named) or not os.path.lexists(os.path.join(named, b"index")):
            return _git_dir_that_leads_to(path)
        path = named
    return os.path.realpath(path)


def _git_dir_that_leads_to(link: bytes) -> bytes | None:
    """The git dir of the linked worktree with this `.git`, of a repository above it or one that is registered.

    Where its `gitdir` is lost as well, its live context tells the worktree, or a file that its index has seen there.
    """
    from .registry import readable

    top = os.path.dirname(link)
    above = [top]
    while above[-1] != b"/":
        above.append(os.path.dirname(above[-1]))
    lost = []
    for place in dict.fromkeys((*above[1:], *readable())):
        dot_git = os.path.join(place, b".git")
        git_dir = dot_git if os.path.isdir(dot_git) else path_named_in(dot_git, b"gitdir: ", place) or place
        worktrees = os.path.join(common_dir_by_files(git_dir), b"worktrees")
        for name in os.listdir(worktrees) if os.path.isdir(worktrees) else ():
            found = os.path.realpath(os.path.join(worktrees, name))
            named = path_named_in(os.path.join(found, b"gitdir"), b"", found)
            if named == link:
                return found
            if named is None or os.path.basename(named) != b".git":
                lost.append(found)
    ours = [found for found in lost if read_context(found)[0].workspace_path == os.fsdecode(top)]
    # Any directory may have the same name.
    ours = ours or [found for found in lost if _knows_file_below(os.path.join(found, b"index"), top)]
    return ours[0] if len(ours) == 1 else None


def backlink_trouble(path: bytes, repository: Repository) -> Damage:
    """What is wrong with a `gitdir` that leads nowhere, for this worktree or one that is registered."""
    git_dir = os.path.dirname(path)
    if git_dir == repository.git_dir:
        return lost_backlink(path, repository.toplevel)
    from .registry import readable

    tops = [top for top in readable() if path_named_in(os.path.join(top, b".git"), b"gitdir: ", top) == git_dir]
    return lost_backlink(path, tops[0] if len(tops) == 1 else None)


def find_unreadable(repository: Repository) -> Iterator[Damage]:
    """What git can't read of a git dir, HEAD and index, each with the command that mends it."""
    where, git_dir = quoted(repository.toplevel), repository.git_dir
    damage = damaged_git_dir(repository.toplevel, git_dir, repository.common_dir, read_context(git_dir)[0].branch_name)
    if damage is not None:
        # Git looks no further.
        yield from damage.files
        return
    broken = find_broken(repository)
    if broken is None:
        return
    if broken.is_unsorted:
        packed = os.path.join(repository.common_dir, b"packed-refs")
        path, new = quoted(packed), quoted(packed + b".new")
        what = f"packed-refs is not sorted, though its first line says so: git does not find {broken.branch}"
        yield Damage(packed, what, f"sed '1s/ sorted//' {path} >{new} && mv {new} {path}")
    elif not broken.has_head or broken.torn:
        yield _unreadable_head(repository, broken, where)
    if broken.no_index:
        index = os.path.join(git_dir, b"index")
        what = "the index is unreadable: what was staged is only in a save"
        yield Damage(index, what, f"rm {quoted(index)} && git -C {where} reset")


def _unreadable_head(repository: Repository, broken: Broken, where: str) -> Damage:
    ref, oid = broken.branch, broken.torn or broken.head
    path = os.path.join(repository.common_dir, os.fsencode(ref)) if ref else os.path.join(repository.git_dir, b"HEAD")
    words = (key.split(".") for key in repository.config if key.startswith("remote."))
    remote = next((parts[1] for parts in words if len(parts) == 3 and parts[1] and parts[2] == "url"), None)
    blank = " ".join(quoted(item.path) for item in blank_objects(where, repository.common_dir))
    clear = f"rm -f {blank} && " if blank else ""
    wrong = None if blank or broken.head is None else _wrong_file(repository, broken.head)
    if wrong is not None:
        # Git fetches no object that it has a file of.
        clear = f"mv {quoted(wrong)} {quoted(os.path.join(repository.common_dir, b'damaged-object'))} && "
    ways = []
    if remote is not None and not broken.torn:
        stale = _stale_tracking_refs(repository, remote, broken.head)
        clear += "".join(f"git -C {where} update-ref -d {quote(name)} && " for name in stale)
        ways = [f"{clear}git -C {where} fetch --refetch {quote(remote)}"]
    good = last_whole(repository, ref)
    if good is not None:
        ways.append(f"git -C {where} update-ref {quoted(os.fsencode(ref or 'HEAD'))} {good}")
    if ref is not None and (broken.torn or broken.head is None) and os.path.isfile(path):
        # Git writes no ref over a file that it can't read.
        ways = [f"rm {quoted(path)} && {way}" for way in ways if "fetch" not in way]
        if not ways and not any(name.startswith("refs/heads/") for name in refs.list_refs(repository.git, "refs")):
            # Nothing tells of a commit: without the file the branch is unborn.
            ways = [f"rm {quoted(path)}"]
    missing = missing_alternate(repository.common_dir)
    if missing is not None:
        alternates = os.path.join(repository.objects, b"info", b"alternates")
        ways.insert(0, f"bring back {quoted(missing)}, which {quoted(alternates)} names")
    what = f"the commit of HEAD is unreadable: {oid[:12] if oid else 'its name is lost'}"
    return Damage(path, what, ", or without it: ".join(ways) or f"git -C {where} fsck")


def _wrong_file(repository: Repository, commit: Oid) -> bytes | None:
    """The loose file of a commit, where git can't read the commit from it; None where it can, or there is no file."""
    path = os.path.join(repository.common_dir, b"objects", os.fsencode(f"{commit[:2]}/{commit[2:]}"))
    if not os.path.isfile(path) or is_readable(repository.git, commit):
        return None
    return path


def _stale_tracking_refs(repository: Repository, remote: str, head: Oid | None) -> list[str]:
    """The refs of a remote's branches whose commit is HEAD's, or is missing: with them git fetches no such commit."""
    found = refs.list_refs(repository.git, f"refs/remotes/{remote}")
    asked = "".join(f"{oid}\n" for oid in found.values()).encode("ascii")
    answers = repository.git.run("cat-file", "--batch-check", input=asked).split(b"\n")
    return [ref for (ref, oid), said in zip(found.items(), answers, strict=False) if oid == head or b" missing" in said]


#: So many files of a worktree are looked at for one that an index knows.
_MOST_FILES = 1000
_FOR_ONE_FILE = 256 << 20


def _knows_file_below(index: bytes, top: bytes) -> bool:
    """Whether an index has seen a file below `top`: its path, inode and owner agree, as in no copy of it.

    An index of version 4 does not hold whole paths (`man 5 gitformat-index`): most of its files are not found.
    """
    data, seen = files.read_limited(index, _FOR_ONE_FILE) or b"", 0
    for directory, inner, others in files.walk(top) if data else ():
        inner[:] = [name for name in inner if name != b".git"]
        for name in others:
            path = os.path.join(directory, name)
            with suppress(OSError):
                if _has_seen(data, os.path.relpath(path, top), os.lstat(path)):
                    return True
        seen += len(others)
        if seen > _MOST_FILES:
            break
    return False


def _has_seen(data: bytes, path: bytes, info: os.stat_result) -> bool:
    inode, owner = as_words([info.st_ino]), as_words([info.st_uid, info.st_gid])
    place = data.find(inode, 12)
    while place >= 0:
        # Behind the inode: mode, owner, size, the id of a blob, flags.
        ending = data[place + 42 : place + 57 + len(path)]
        if data[place + 8 : place + 16] == owner and path + b"\0" in ending:
            return True
        place = data.find(inode, place + 1)
    return False


# -- a pending save whose refs another program has deleted, as `git fetch --prune` does where it fetches into `refs/*`
#
# The live context names the archive of the pending save, in the git directory. As long as git has the objects (two
# weeks, unless somebody prunes them) the refs are made again. Whoever resolves a save in another way changes that
# context, or leaves one of its refs.

#: What to say of such a save, and where its refs were made again.
REFS_DELETED = "another program has deleted its refs"
TOLD = "another program had deleted the refs of the pending save; they were made again"


def lost_save_id(repository: Repository) -> str | None:
    """The id of a pending save that has lost its refs; None where there is none to read."""
    if pending_in_context(repository.git_dir) is None:
        return None
    with ObjectReader(repository.git) as reader:
        stack = lost_stack(repository, reader)
        return stack[0].manifest.save_id if stack else None


def lost_stack(repository: Repository, reader: ObjectReader) -> tuple[Save, ...]:
    """The stack of a pending save that has lost its refs, newest first; empty where there is none to read."""
    archive = pending_in_context(repository.git_dir)
    if archive is None:
        return ()
    try:
        stack = read_stack(archive, reader)
    except (CorruptSave, UnsupportedSave):
        # Git ends at an object that it can't read.
        reader.restart()
        return ()
    newest = stack[0].manifest
    ids = {newest.workspace_id, names.workspace_id(repository)}
    own = [names.marker_ref(one) for one in ids]
    own += [make(one, newest.save_id) for one in ids for make in (names.save_ref, names.dismissed_ref)]
    return () if refs.read_refs(repository, own) else stack


def make_again(repository: Repository, git: Git, reader: ObjectReader) -> bool:
    """Make the refs of a pending save again that has lost them. Whether there was one.

    In one transaction: the save alone, without its marker, would count as resolved. For whoever has locked the
    workspace. Raises GitError.
    """
    stack = lost_stack(repository, reader)
    if not stack:
        return False
    own = names.workspace_id(repository)
    saves = {names.save_ref(own, save.manifest.save_id): save.archive for save in stack}
    there = refs.read_refs(repository, saves)
    made = {names.own_marker(repository): stack[0].archive}
    made.update((ref, archive) for ref, archive in saves.items() if ref not in there)
    write_journal(repository, ref_locks(repository, [*made]))
    refs.move_refs(repository, git, [RefUpdate(ref, archive, None) for ref, archive in made.items()], "made again")
    clear_journal(repository)
    return True
