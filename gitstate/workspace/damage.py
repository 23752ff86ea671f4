"""What git can't read of a repository, and how a save is taken of it all the same.

By default git syncs packs only, and renames other files into place before their bytes are on the disk: after a power
cut such a file may be empty, or hold zeros.
"""

from __future__ import annotations

import os

from ..errors import GitError
from ..git import refs
from ..git.attributes import conditional_includes
from ..git.command import Git, Oid, is_oid
from ..git.entries import list_tree_paths
from ..git.gitdir import (
    NO_HEAD,
    StrangeFile,
    common_dir_by_files,
    last_value,
    path_named_in,
    read_head_file,
    strange_directories,
    tail,
)
from ..git.index import is_cut_index, knows_file_below
from ..git.repository import Repository, as_permitted, read_head
from ..git.unusable import (
    Damage,
    DamagedGitDir,
    damaged_git_dir,
    git_trusts,
    is_cut_head,
    is_well_formed,
    last_head,
    looks_like_git_dir,
    lost_backlink,
    why_not_opened,
    why_strange,
)
from ..system import files
from ..system.stdlib import TYPE_CHECKING, Record, quote
from .live_context import read_context
from .ownership import stand_in_git_dir

if TYPE_CHECKING:
    from collections.abc import Iterator

_LOG = 16 << 20
_PACKED_REFS = 1 << 30
#: What HEAD of a git dir that stands in holds, where the commit of HEAD can't be read: an unborn branch.
_UNBORN = b"ref: refs/heads/gitstate-stand-in"


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
        # No tree tells whether the file of the commit holds another object.
        return git.succeeds("rev-parse", "-q", "--verify", f"{commit}^{{commit}}")
    except GitError as error:
        if error.status < 0:
            raise
        return False


def stand_in(repository: Repository, broken: Broken | None, damage: DamagedGitDir | None) -> Repository:
    """The repository as git can read it, where it has to be by a git dir of our own.

    Where the commit of HEAD can't be read, that is on an unborn branch.
    """
    if broken is not None and not broken.has_head:
        head = _UNBORN
    elif broken is not None and broken.torn is not None:
        head = broken.torn.encode("ascii")
    elif damage is not None:
        head = damage.head or _UNBORN
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
    if damage is None or any(item.path.startswith(os.path.join(common_dir, b"objects", b"")) for item in damage.files):
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
    listed += git.run("config", "--includes", "--file", "-", "--list", "-z", input=damage.config, ok_codes=range(256))
    config = _settings(listed)
    object_format = config.get("extensions.objectformat", ["sha1"])[-1]
    return as_permitted(Repository(top, git_dir, common_dir, object_format, config, Git(top)))


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
    from .registry import registered

    top = os.path.dirname(link)
    above = [top]
    while above[-1] != b"/":
        above.append(os.path.dirname(above[-1]))
    lost = []
    for place in dict.fromkeys((*above[1:], *registered())):
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
    ours = ours or [found for found in lost if knows_file_below(os.path.join(found, b"index"), top)]
    return ours[0] if len(ours) == 1 else None


def backlink_trouble(path: bytes, repository: Repository) -> Damage:
    """What is wrong with a `gitdir` that leads nowhere, for this worktree or one that is registered."""
    git_dir = os.path.dirname(path)
    if git_dir == repository.git_dir:
        return lost_backlink(path, repository.toplevel)
    from .registry import registered

    tops = [top for top in registered() if path_named_in(os.path.join(top, b".git"), b"gitdir: ", top) == git_dir]
    return lost_backlink(path, tops[0] if len(tops) == 1 else None)


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
            if os.path.isdir(os.path.join(common, name)) and (is_whole or name in (b"refs", b"objects")):
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
    for name, content in contents.items():
        files.write_new_file(os.path.join(directory, name), (content,), mode=0o600, durable=False)
    for name in (b"config.worktree", b"info/sparse-checkout"):
        if damage is not None and any(item.path == os.path.join(git_dir, name) for item in damage.files):
            continue
        os.symlink(os.path.join(git_dir, name), os.path.join(directory, name))
    ref = head if damage is not None and head != _UNBORN else _head_line(git_dir)
    branch = ref[16:].strip() if ref.startswith(b"ref: refs/heads/") else None
    own = None if damage is None else damage.config
    includes = tuple(conditional_includes(git_dir, common, branch, own))
    if includes:
        # With a branch that it can't read git does not see what is included for that branch.
        config = {
            **_settings(Git(b"/", includes).run("config", "--list", "-z", ok_codes=range(256))),
            **repository.config,
        }
        repository = repository._replace(config=config)
    where = (f"--git-dir={os.fsdecode(directory)}", f"--work-tree={os.fsdecode(repository.toplevel)}", *includes)
    return repository._replace(git=repository.git._replace(options=(*repository.git.options, *where)))


def _settings(listed: bytes) -> dict[str, list[str]]:
    """The values of each setting in what `git config --list -z` prints."""
    config: dict[str, list[str]] = {}
    for item in listed.split(b"\0")[:-1]:
        name, line_end, value = item.partition(b"\n")
        config.setdefault(os.fsdecode(name), []).append(os.fsdecode(value) if line_end else "true")
    return config


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
    good = _last_whole(repository, ref)
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
    if not os.path.isfile(path) or repository.git.succeeds("rev-parse", "-q", "--verify", f"{commit}^{{commit}}"):
        return None
    return path


def _stale_tracking_refs(repository: Repository, remote: str, head: Oid | None) -> list[str]:
    """The refs of a remote's branches whose commit is HEAD's, or is missing: with them git fetches no such commit."""
    found = refs.list_refs(repository.git, f"refs/remotes/{remote}")
    asked = "".join(f"{oid}\n" for oid in found.values()).encode("ascii")
    answers = repository.git.run("cat-file", "--batch-check", input=asked).split(b"\n")
    return [ref for (ref, oid), said in zip(found.items(), answers, strict=False) if oid == head or b" missing" in said]


def missing_alternate(common_dir: bytes) -> bytes | None:
    """The first object directory that `info/alternates` names and that does not exist."""
    objects = os.path.join(common_dir, b"objects")
    data = files.read_limited(os.path.join(objects, b"info", b"alternates"), 65_536) or b""
    named = [os.path.join(objects, line) for line in data.split(b"\n") if line.strip(b"\0") and line[:1] != b"#"]
    return next((path for path in named if not os.path.isdir(path.rstrip(b"\0"))), None)


def _last_whole(repository: Repository, ref: str | None) -> Oid | None:
    """The last commit of the reflog of HEAD's branch that git can read with all its trees."""
    for log in (repository.common_dir + b"/logs/" + os.fsencode(ref or "HEAD"), repository.git_dir + b"/logs/HEAD"):
        for line in reversed(tail(log).split(b"\n")):
            for word in reversed(line.split(b" ", 2)[:2]):
                oid = word.decode("latin-1")
                if is_oid(oid) and oid.strip("0") and is_whole(repository.git, oid):
                    return oid
    return None


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
    ref = read_head(git_dir) if head.startswith(NO_HEAD) else os.fsdecode(head[4:].strip())
    value = None if ref is None else refs.read_refs(repository, [ref]).get(ref)
    if ref is not None and value is not None and refs.refs_are_files(repository) and _is_hidden(common_dir, ref):
        return ref, True, value, True
    if ref is None or value is not None:
        return ref, value is not None, value, False
    last = _last_value(common_dir, ref)
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


def _last_value(common_dir: bytes, ref: str) -> Oid | None:
    """The last value of a branch by its reflog, which git removes with the branch."""
    return last_value(os.path.join(common_dir, b"logs", os.fsencode(ref)))


def has_lost_head(repository: Repository, ref: str | None) -> bool:
    """Whether a branch that git takes for unborn has a commit after all, or can't be one."""
    if ref is None or ref in refs.read_refs(repository, [ref]) or _last_value(repository.common_dir, ref) is not None:
        return True
    git_dir, common_dir = repository.git_dir, repository.common_dir
    if os.path.isfile(os.path.join(common_dir, os.fsencode(ref))) or not is_well_formed(os.fsencode(ref)):
        return True
    return is_cut_head(git_dir, common_dir, last_head(git_dir, common_dir))


def is_blank(path: bytes) -> bool:
    """Whether there is a regular file that is empty, or holds zeros only."""
    try:
        if os.lstat(path).st_size > _LOG:
            return False
    except OSError:
        return False
    data = files.read_limited(path, _LOG)
    return data is not None and not data.strip(b"\0")


def blank_objects(where: str, common_dir: bytes) -> Iterator[Damage]:
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
                command = f"rm -f {quoted(path)} && git -C {where} fsck"
                yield Damage(path, f"object {oid[:12]} is empty", command, disposable=True)


def quoted(path: bytes) -> str:
    """A path for a shell."""
    return quote(os.fsdecode(path))
