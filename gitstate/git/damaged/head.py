"""What HEAD named, by what git's other files tell: a file that a power cut has emptied names nothing any more.

And which settings of a configuration git refuses, by what it says of them in an empty repository.
"""

from __future__ import annotations

import os

from ...system import files
from ...system.stdlib import TYPE_CHECKING, suppress
from ..command import Git, Oid, hooks_off, is_oid
from ..gitdir import NO_HEAD, read_head_file
from ..strange import split_section

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

LONGEST = 64 << 20
#: So much of the end of a reflog is read.
_LOG = 1 << 20
#: So many branches are named where any may be the right one.
_MOST_BRANCHES = 5


def is_cut_head(git_dir: bytes, common_dir: bytes, known: bytes | None) -> bool:
    """Whether the end of HEAD is lost: it has no line end, names no ref that exists, and was `known` before."""
    data = read_head_file(git_dir)
    has_end = data.endswith(b"\n") or os.path.islink(os.path.join(git_dir, b"HEAD"))
    is_ref = data.startswith(b"ref:") and not _has_ref(common_dir, data[4:].strip())
    return is_ref and not has_end and known not in (None, data.strip())


def last_head(git_dir: bytes, common_dir: bytes, branch: str | None = None) -> bytes | None:
    """What HEAD held, by its reflog and by the branch of the context; None where neither proves it.

    In a rebase HEAD is detached, whatever was checked out before. Beside a reftable the file always holds the same.
    """
    if os.path.isdir(os.path.join(git_dir, b"reftable")):
        return NO_HEAD
    last = last_value(os.path.join(git_dir, b"logs", b"HEAD"))
    detached = None if last is None else last.encode("ascii")
    if any(os.path.isdir(os.path.join(git_dir, name)) for name in (b"rebase-merge", b"rebase-apply")):
        return detached
    moved_to = last_checkout(git_dir)
    if moved_to is not None and is_oid(moved_to.decode("latin-1")):
        return detached
    for name in (moved_to, (branch or "").encode("utf-8", "surrogateescape")):
        ref = b"refs/heads/" + (name or b"")
        if name and b".." not in name and (_has_ref(common_dir, ref) or last_of_ref(common_dir, ref) is not None):
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


def last_of_ref(common_dir: bytes, ref: bytes) -> Oid | None:
    """The last value of a branch by its reflog, which git removes with the branch."""
    return last_value(os.path.join(common_dir, b"logs", ref))


def _has_ref(common_dir: bytes, ref: bytes) -> bool:
    loose = files.read_limited(os.path.join(common_dir, ref), 65_536)
    packed = files.read_limited(os.path.join(common_dir, b"packed-refs"), LONGEST) or b""
    return bool(loose and loose.strip(b"\0 \n")) or (b" " + ref + b"\n") in packed


def is_head_ref(line: bytes) -> bool:
    """Whether git takes `ref: NAME` for a name that HEAD may have."""
    ref = line[4:].strip()
    if not line.startswith(b"ref:") or not ref.startswith(b"refs/"):
        return False
    return is_well_formed(ref)


def is_well_formed(ref: bytes) -> bool:
    """Whether a ref may have this name (`man git-check-ref-format`)."""
    return Git(b"/").succeeds("check-ref-format", ref)


def branches(common_dir: bytes) -> list[bytes]:
    """The branches of the repository, the one that moved last first; where there is none, that of a new repository."""
    heads = os.path.join(common_dir, b"refs", b"heads")
    loose = [os.path.join(directory, name) for directory, _, names in files.walk(heads) for name in names]
    found = [path[len(common_dir) + 1 :] for path in loose if not path.endswith(b".lock")]
    packed = files.read_limited(os.path.join(common_dir, b"packed-refs"), LONGEST) or b""
    lines = [line for line in packed.split(b"\n") if is_packed_ref(line) and b" refs/heads/" in line[:80]]
    found = list(dict.fromkeys([*found, *(line.partition(b" ")[2] for line in lines)]))

    def moved(ref: bytes) -> float:
        with suppress(OSError):
            return -os.stat(os.path.join(common_dir, b"logs", ref)).st_mtime
        return 0.0

    return sorted(found, key=lambda ref: (moved(ref), ref))[:_MOST_BRANCHES] or [b"refs/heads/main"]


def is_packed_ref(line: bytes) -> bool:
    oid, space, ref = line.partition(b" ")
    if line[:1] == b"^":
        return is_oid(line[1:].decode("latin-1"))
    return line[:1] == b"#" or (is_oid(oid.decode("latin-1")) and bool(space) and ref.startswith(b"refs/"))


def last_checkout(git_dir: bytes) -> bytes | None:
    """What was checked out last, by the reflog of HEAD: a branch or a commit; None where that is unknown."""
    import re

    data = tail(os.path.join(git_dir, b"logs", b"HEAD"))
    moves = re.findall(rb"\tcheckout: moving from [^\n]* to ([^\n ]+)$", data, re.MULTILINE)
    return moves[-1] if moves else None


def last_value(log: bytes) -> Oid | None:
    """The last value of a reflog; None where there is none. A torn line does not count."""
    values = _values(log)
    return values[-1] if values and values[-1].strip("0") else None


def last_commit(log: bytes) -> Oid | None:
    """The same, before the ref was deleted."""
    return next((value for value in reversed(_values(log)) if value.strip("0")), None)


def _values(log: bytes) -> list[Oid]:
    lines = [line.split(b" ", 2) for line in tail(log).split(b"\n")]
    return [words[1].decode("latin-1") for words in lines if len(words) == 3 and is_oid(words[1].decode("latin-1"))]


def tail(path: bytes) -> bytes:
    """The end of a log; empty where there is none."""
    try:
        with open(path, "rb", opener=files.open_at_once) as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _LOG))
            return file.read(_LOG)
    except OSError:
        return b""


# -- the configuration

_FORMAT = (b"core.repositoryformatversion", b"extensions.")
#: Of the settings that git does not name so many are tried, 10 ms each.
_MOST_TRIED = 100
#: Commands of git that need no commit and no file: each reads settings of its own.
_PROBES = (("status", "--porcelain", "--branch"), ("update-ref", "-d", "refs/none"), ("read-tree", "--empty"))


def refused_settings(lines: list[bytes]) -> Iterator[tuple[bytes, str]]:
    """The settings of a configuration at whose values git ends, each with git's words, in a repository that is empty.

    Git names the setting, its value alone, or neither: then it is the one without which git says something else.
    """
    with files.temporary_directory("gitstate-config-") as directory:
        # The user's own hooks would run there, too.
        listed = Git(b"/").run("config", "--list", "--name-only", "-z", ok_codes=range(256)).split(b"\0")[:-1]
        keys = [*listed, *(key for key, _, _ in _pairs(lines))]
        probe = _ConfigProbe(os.fsencode(directory), map(os.fsdecode, keys))
        said = probe.ask(lines)
        while said:
            pairs = _pairs(lines)
            # Without what says of which format the repository is git would open one that it does not know.
            pairs = [pair for pair in pairs if pair[0] != _FORMAT[0] or not pair[2].isdigit() or pair[2] in b"01"]
            if b"unknown repository extension" in said:
                return
            named = [key for key, _, _ in pairs if b"'" + key.lower() + b"'" in said.lower()]
            named += [key for key, _, value in pairs if value and value in said]
            named += [key for key, _, _ in pairs[:_MOST_TRIED] if not key.startswith(_FORMAT)]
            for key in dict.fromkeys(named):
                left = without_setting(lines, key)
                now = probe.ask(left)
                if now != said:
                    yield key, said.strip().splitlines()[0].decode("utf-8", "replace").partition(": ")[2]
                    lines, said = left, now
                    break
            else:
                return


def _pairs(lines: list[bytes]) -> list[tuple[bytes, bytes, bytes]]:
    """Each setting of a configuration: its name, a line feed where it has a value, and that value."""
    listed = Git(b"/").start("config", "--no-includes", "--file", "-", "-z", "--list")
    return [item.partition(b"\n") for item in listed.communicate(b"\n".join(lines))[0].split(b"\0")[:-1]]


class _ConfigProbe:
    """An empty repository that is given one configuration after the other, whose hooks do not run."""

    def __init__(self, directory: bytes, keys: Iterable[str]) -> None:
        self._git_dir, tree = os.path.join(directory, b"git"), os.path.join(directory, b"tree")
        for name in (tree, self._git_dir, *(os.path.join(self._git_dir, part) for part in (b"objects", b"refs"))):
            os.mkdir(name)
        files.write_new_file(
            os.path.join(self._git_dir, b"HEAD"), (b"ref: refs/heads/main\n",), mode=0o600, durable=False
        )
        # What they name may be a FIFO. Git refuses a bad value all the same.
        self._git = Git(tree, ("-c", "core.excludesFile=", "-c", "core.attributesFile=", *hooks_off(keys)))
        self._env = {"GIT_DIR": os.fsdecode(self._git_dir), "GIT_WORK_TREE": os.fsdecode(tree)}

    def ask(self, lines: list[bytes]) -> bytes:
        """What git says as it ends at this configuration; empty where it does not."""
        config = os.path.join(self._git_dir, b"config")
        files.remove(config)
        # The refs of the empty repository are files.
        asked = [line for line in lines if not _names_ref_storage(line)]
        files.write_new_file(config, (b"\n".join(asked),), mode=0o600, durable=False)
        for argv in _PROBES:
            process = self._git.start(*argv, env=self._env)
            _, said = process.communicate()
            if process.returncode:
                return said
        return b""


def _names_ref_storage(line: bytes) -> bool:
    """Whether a line says in which of the formats that git knows the refs are, or where (`man git-config`)."""
    value = line.partition(b"=")[2].strip().strip(b'"').lower()
    return _sets(line, b"extensions.refstorage") and value.partition(b"://")[0] in (b"reftable", b"files")


def without_setting(lines: list[bytes], key: bytes) -> list[bytes]:
    """Lines of a configuration without those that set a key. The section of one that begins it stays."""
    left: list[bytes] = []
    is_set = goes_on = False
    for line in lines:
        if not goes_on:
            is_set = _sets(line, key)
            if not is_set or (head := split_section(line)[0]):
                left.append(head if is_set else line)
        # A backslash at its end makes the next line a part of the value.
        goes_on = (goes_on or is_set) and line.endswith(b"\\")
    return left


def _sets(line: bytes, key: bytes) -> bool:
    """Whether a line of the configuration sets a key, by the last part of its name: sections are not looked at."""
    return split_section(line)[1].partition(b"=")[0].strip().lower() == key.rpartition(b".")[2].lower()
