"""What is tracked, what changed and what is ignored in a worktree, as git answers it while the caller goes on."""

from __future__ import annotations

import os
import select

from ..errors import GitError
from ..system.clock import Deadline
from ..system.stdlib import TYPE_CHECKING, Record, suppress
from .command import try_in_halves
from .index import is_cut_index, list_plain_index

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from ..system.child import Child
    from .command import Oid
    from .repository import Repository

#: So many bytes of paths are sent to `git check-ignore` at once: neither side of the pipes fills up.
_PORTION = 8192


class StatusQuery(Record):
    """Two gits that were asked about a worktree. The caller reads what they print."""

    listing: Child | Listing
    """`ls-files -v`: see `parse_listing`. A small ordinary index is read at once, without a process."""
    status: Child
    """`status --porcelain=v2`, without untracked files."""

    def end(self) -> None:
        """Nobody reads the answers: end both."""
        for child in self:
            if not isinstance(child, Listing):
                child.end()


def query_status(repository: Repository, frozen_index: bytes, *, lists: bool = True) -> StatusQuery:
    """Ask what is tracked in the index file `frozen_index`, and what differs from it.

    The listing is empty without `lists`, for a caller that knows it.
    """
    env = {"GIT_INDEX_FILE": os.fsdecode(frozen_index)}
    status = start_status(repository, env)
    if not lists:
        return StatusQuery(Listing([], []), status)
    paths = list_plain_index(frozen_index, len(repository.zero) // 2)
    if paths is not None:
        return StatusQuery(Listing(paths, []), status)
    if is_cut_index(frozen_index, repository.object_format):
        status.end()
        raise GitError(["ls-files"], 128, b"index file corrupt")
    return StatusQuery(repository.git.start("ls-files", "-z", "-v", "--sparse", env=env), status)


def start_status(repository: Repository, env: Mapping[str, str], *options: str, submodules: bool = True) -> Child:
    """Start `git status` with the global `options`, which switch filters off.

    Without `submodules`, or filters, it looks into none.
    """
    if not options:
        env = {**env, **repository.filter_env()}
    # One thread for git: with its twenty it takes every core, and the walk beside it waits.
    return repository.git.start(
        *("-c", "core.preloadIndex=false", *options),
        *("status", "--porcelain=v2", "-z", "--branch", "--no-ahead-behind", "-uno", "--no-renames"),
        "--ignore-submodules=none" if submodules and repository.runs_filters else "--ignore-submodules=dirty",
        env=env,
    )


def quick_status(repository: Repository, env: Mapping[str, str], timeout: float, paths: Sequence[bytes] = ()) -> bytes:
    """What `start_status` prints, of a git that reads no file: one that was touched counts as changed.

    With `paths` it looks at no other file on disk; what is staged or unmerged it tells of all.

    For who can't wait: `git status` reads a file whose times changed and whose size did not, however large it is.
    Raises GitError, also where a git takes longer than `timeout` seconds.
    """
    deadline = Deadline(timeout)
    # An entry as old as the index is read all the same, and a filter may take for ever.
    off = repository.filters_off()

    def ask(*words: str | bytes) -> bytes:
        return repository.git.run(*off, *words, ok_codes=(0, 1), env=env, timeout=deadline.left())

    head = ask("rev-parse", "-q", "--verify", "HEAD").strip()
    plain = ("--raw", "-z", "--no-renames", "--ignore-submodules=dirty")
    staged = ask(
        "diff-index",
        "--cached",
        "--ita-invisible-in-index",
        *plain,
        head or ask("hash-object", "-t", "tree", "--stdin").strip(),
    )
    worktree = ask("diff-files", *plain, "--", *paths)
    unmerged: dict[bytes, dict[bytes, tuple[bytes, bytes]]] = {}
    for line in ask("ls-files", "-z", "-u").split(b"\0")[:-1]:
        mode, oid, rest = line.split(b" ", 2)
        stage, _, path = rest.partition(b"\t")
        unmerged.setdefault(path, {})[stage] = (mode, oid)
    none = (b"000000", repository.zero.encode("ascii"))
    lines = [b"# branch.oid " + (head or b"(initial)")]
    out: dict[bytes, bytes] = {}
    for path, (mode_head, mode_index, oid_head, oid_index, state) in _raw_changes(staged):
        out[path] = b" ".join(
            (b"1", state + b".", b"N...", mode_head, mode_index, mode_index, oid_head, oid_index, path)
        )
    for path, (mode, _, oid, _, state) in _raw_changes(worktree):
        fields = out[path].split(b" ", 8) if path in out else []
        if fields:
            fields[1] = fields[1][:1] + state
        else:
            fields = [b"1", b"." + state, b"N...", mode, mode, mode, oid, oid, path]
        out[path] = b" ".join(fields)
    for path, stages in unmerged.items():
        found = [stages.get(number, none) for number in (b"1", b"2", b"3")]
        modes, oids = [mode for mode, _ in found], [oid for _, oid in found]
        out[path] = b" ".join((b"u", b"UU", b"N...", *modes, b"100644", *oids, path))
    return b"\0".join((*lines, *out.values(), b""))


def start_staged(repository: Repository, env: Mapping[str, str], head: Oid) -> Child:
    """Start the git that `staged_entries` waits for, to compare the index with the commit `head`."""
    words = ("diff-index", "--cached", "--ita-invisible-in-index", "--raw", "-z", "--no-renames")
    return repository.git.start(*words, "--ignore-submodules=dirty", head, env=env)


def staged_entries(repository: Repository, asked: Child, timeout: float) -> dict[bytes, tuple[int, Oid] | None] | None:
    """Path → mode and blob of the index where it differs from a commit, None where its deletion is staged.

    None where something is unmerged, or git takes longer than `timeout` seconds, or fails: then nothing is known.
    """
    try:
        out = repository.git.finish(asked, timeout=timeout)
    except GitError:
        return None
    changes = _raw_changes(out)
    if any(fields[4] == b"U" for _, fields in changes):
        return None
    return {
        path: None if state == b"D" else (int(mode, 8), oid.decode("ascii"))
        for path, (_, mode, _, oid, state) in changes
    }


def _raw_changes(data: bytes) -> list[tuple[bytes, list[bytes]]]:
    """Path, and the five fields before it, of each change in a raw diff that ends its lines with NUL."""
    parts = data.split(b"\0")
    return [(path, head[1:].split(b" ")) for head, path in zip(parts[0::2], parts[1::2], strict=False)]


class Listing(Record):
    """What `ls-files -v --sparse` printed."""

    paths: list[bytes]
    """Every path of the index in its order, which is that of bytes; directories of a sparse index end in a slash."""
    hidden: list[tuple[bytes, bytes]]
    """Tag and path of the files that git was told not to look at: `S` or `s` skip-worktree, `h` and `m`
    assume-unchanged, the latter unmerged too.
    """


def parse_listing(out: bytes) -> Listing:
    """Take apart what `git ls-files -z -v --sparse` printed."""
    if _is_ordinary(out):
        return Listing(out[2:-1].split(b"\0H "), [])
    items = out.split(b"\0")[:-1]
    hidden = [(item[:1], item[2:]) for item in items if item[:1] in b"Shsm" and not item.endswith(b"/")]
    return Listing([item[2:] for item in items], hidden)


def _is_ordinary(out: bytes) -> bool:
    """Whether all entries are ordinary, as a rule: two passes in C instead of a loop over every path."""
    return out.startswith(b"H ") and out.count(b"\0H ") + 1 == out.count(b"\0")


_CHECK_IGNORE = ("check-ignore", "-z", "--stdin")
_NO_INDEX = ("--no-index",)
#: `check-ignore` refuses literal pathspecs.
_WITH_GLOBS = {"GIT_LITERAL_PATHSPECS": "0"}
_IGNORE_FILES = b":(glob)**/.gitignore"


def ignored_among(repository: Repository, paths: Sequence[bytes]) -> set[bytes]:
    """Which of `paths` (relative to the top) git ignores, whether they are tracked or not.

    A path behind a symlink or in a submodule makes git refuse the whole question: such a one is not ignored.
    """
    if repository.is_true("core.sparsecheckout"):
        from ..system.files import temporary_directory
        from .entries import list_index

        with suppress(GitError, OSError), temporary_directory("gitstate-ignores-") as directory:
            listed = list_index(repository.git, [_IGNORE_FILES], tags=True, env=_WITH_GLOBS)
            left_out = left_out_ignores(repository, [(entry.tag.encode("ascii"), entry.path) for entry in listed])
            if left_out:
                env = ignores_index(repository, left_out, {}, os.path.join(os.fsencode(directory), b"index"))
                return _ignored_among(repository, paths, env)
    return _ignored_among(repository, paths, None)


def _ignored_among(repository: Repository, paths: Sequence[bytes], env: Mapping[str, str] | None) -> set[bytes]:
    """As `ignored_among`; `env` names an index of .gitignore files that are not on the disk."""
    words = (*_CHECK_IGNORE, *(_NO_INDEX if env is None else ()))

    def check(some: Sequence[bytes]) -> list[bytes] | None:
        lines = b"".join(b"./%s\0" % path for path in some)
        try:
            out = repository.git.run(*words, input=lines, env={**(env or {}), **_WITH_GLOBS}, ok_codes=(0, 1))
        except GitError:
            return None
        return out.split(b"\0")[:-1]

    return {path.removeprefix(b"./") for _, found in try_in_halves(paths, check) for path in found or ()}


def left_out_ignores(repository: Repository, hidden: Iterable[tuple[bytes, bytes]]) -> list[bytes]:
    """The .gitignore files among these tags and paths that a sparse checkout leaves out: git reads the index there."""
    named = [path for tag, path in hidden if path.endswith(b".gitignore") and tag in (b"S", b"s")]
    return [path for path in named if not os.path.lexists(os.path.join(repository.toplevel, path))]


def ignores_index(
    repository: Repository, left_out: Sequence[bytes], env: Mapping[str, str], index: bytes
) -> dict[str, str]:
    """Write an index of these .gitignore files alone to `index`, but for those that this partial clone lacks.

    `env` names the index that they are in; returns the same for the new one. In that of all files git would compare
    each path with each entry. Raises GitError.
    """
    from .entries import list_index
    from .repository import lacked_files

    git, mine = repository.git, {"GIT_INDEX_FILE": os.fsdecode(index)}
    found = {entry.path: entry for entry in list_index(git, left_out, env=env) if entry.stage == 0}
    lacked = lacked_files(repository, {path: entry.oid for path, entry in found.items()})
    lines = [entry.info_line() for path, entry in found.items() if path not in lacked]
    names = [path + b"\0" for path in found if path not in lacked]
    update = ("-c", "core.splitIndex=false", "update-index", "-z")
    git.run(*update, "--index-info", input=b"".join(lines), env=mine)
    git.run(*update, "--skip-worktree", "--stdin", input=b"".join(names), env=mine)
    return mine


def start_check_ignore(repository: Repository, env: Mapping[str, str], *, reads_index: bool = False) -> Child:
    """Start a git that `are_ignored` asks; whoever starts it ends it with `communicate`.

    `reads_index`: `env` names an index with .gitignore files that are not on the disk.
    """
    words = (*_CHECK_IGNORE, "-v", "-n", *(() if reads_index else _NO_INDEX))
    return repository.git.start(*words, env={**env, **_WITH_GLOBS})


def are_ignored(asking: Child, paths: Sequence[bytes], deadline: Deadline) -> list[bool]:
    """Whether each path (a directory's ends in a slash) is ignored. `asking` is what `start_check_ignore` started.

    Only the first of them are answered where the deadline passes.

    Raises GitError where it ends early.
    """
    answers: list[bool] = []
    portion: list[bytes] = []
    size = 0
    for path in paths:
        # The dot slash keeps a leading colon from being read as pathspec magic.
        line = b"./" + path.removesuffix(b"/") + b"\0"
        portion.append(line)
        size += len(line)
        if size > _PORTION:
            answers += _exchange(asking, portion)
            portion, size = [], 0
            if deadline.passed():
                return answers
    return answers + _exchange(asking, portion)


def _exchange(asking: Child, lines: list[bytes]) -> list[bool]:
    if not lines:
        return []
    # A git that was killed reads nothing more: its status tells.
    with suppress(BrokenPipeError):
        asking.stdin.write(b"".join(lines))
        asking.stdin.flush()
    # Four fields for each path: source, line number, pattern, path. No more is printed before the next question.
    out = b""
    answers = select.poll()
    answers.register(asking.stdout, select.POLLIN)
    while out.count(b"\0") < 4 * len(lines):
        # Nothing: it has ended, and another process keeps its pipe open.
        data = os.read(asking.stdout.fileno(), 1 << 16) if asking.ready(answers) else b""
        if not data:
            _, stderr = asking.communicate()
            raise GitError(["check-ignore"], asking.wait(), stderr)
        out += data
    patterns = out.split(b"\0")[2:-1:4]
    return [bool(pattern) and not pattern.startswith(b"!") for pattern in patterns]
