"""Conversions between worktree and objects: filters, encodings, line ends, ident (`man 5 gitattributes`)."""

from __future__ import annotations

import os

from ..errors import GitError
from ..system.child import OutOfTime
from ..system.clock import Deadline
from ..system.files import discard, remove_tree
from ..system.process import limit_memory
from ..system.stdlib import TYPE_CHECKING, suppress
from .command import Git, Oid, object_id, try_in_halves
from .entries import IndexEntry, list_index
from .repository import LACKED, Repository, is_attributes, lacked_files

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

#: The attributes that may convert a file's content.
_CONVERTING = ("filter", "text", "crlf", "eol", "ident", "working-tree-encoding")
#: So many blobs are read from one git.
_BLOBS_AT_ONCE = 200
_UPDATE = ("-c", "core.safecrlf=false", "-c", "core.splitIndex=false", "update-index", "-z")
_CHECKOUT = ("checkout-index", "-q", "-z", "--stdin")
_REGULAR = 0o100644


class Conversions:
    """Asks git about the conversions in one worktree; `env` is added to the environment, as which index to use."""

    def __init__(self, repository: Repository, env: Mapping[str, str]) -> None:
        self._repository = repository
        self._env = env

    def converting_attributes(self, paths: list[bytes], *, cached: bool = False) -> dict[bytes, dict[bytes, bytes]]:
        """The converting attributes of each path, name to value; a path that nothing converts is missing.

        With `cached` they come from the index alone, not from the worktree.

        Where `core.autocrlf` converts, a path without attributes maps to an empty dict, unless `-text` is set on it.
        """
        out = self._check(paths, *(("--cached",) if cached else ()))
        found: dict[bytes, dict[bytes, bytes]] = {}
        off: set[bytes] = set()
        for path, name, value in _threes(out.split(b"\0")):
            if name == b"text" and value == b"unset":
                off.add(path)
            elif value not in (b"unspecified", b"unset"):
                found.setdefault(path, {})[name] = value
        if self._repository.autocrlf:
            for path in paths:
                if path not in off:
                    found.setdefault(path, {})
        return found

    def _check(self, paths: list[bytes], *options: str) -> bytes:
        """What git says of the converting attributes of the paths. Raises GitError."""
        command = ("check-attr", "-z", "--stdin", *options, *_CONVERTING)
        lines = b"".join(path + b"\0" for path in paths)
        try:
            return self._repository.git.run(*command, input=lines, env=self._env)
        except GitError as error:
            if LACKED not in error.stderr:
                raise
        # Git ends where a partial clone lacks a .gitattributes file that a sparse checkout leaves out: it fetches that,
        # or all files in a directory of a sparse index.
        from ..system.files import temporary_directory

        with temporary_directory("gitstate-attributes-") as directory:
            held = Conversions(self._repository, {"GIT_INDEX_FILE": os.path.join(directory, "index")})
            held.write_index(attributes_files(self._repository, self._env))
            return self._repository.git.run(*command, input=lines, env=held._env)

    def checkout_oids(self, wanted: dict[bytes, Oid]) -> dict[bytes, Oid]:
        """For each path and its blob: the oid of the bytes that a checkout would write, hashed without filters.

        A path that git could not write is missing; so is one that `--batch` does not read as it is written.
        """
        found: dict[bytes, Oid] = {}
        mark = b"gitstate-" + os.urandom(12).hex().encode("ascii")
        paths = [path for path in wanted if _is_batch_path(path)]
        for start in range(0, len(paths), _BLOBS_AT_ONCE):
            some = paths[start : start + _BLOBS_AT_ONCE]
            oids = [wanted[path].encode("ascii") for path in some]
            lines = b"".join(b"%s %s\n" % pair for pair in zip(oids, some, strict=True))
            # Git prints the size before the conversion, so a random mark separates the answers. It is no object: git
            # says so where it came to the end.
            command = ("cat-file", "--filters", b"--batch=%s %%(objectname)" % mark)
            out = self._repository.git.run(*command, input=lines + mark + b"\n", ok_codes=range(256), env=self._env)
            heads = [*(b"%s %s\n" % (mark, oid) for oid in oids), mark + b" missing\n"]
            for path, content in zip(some, _between(out, heads), strict=False):
                found[path] = object_id(self._repository.object_format, "blob", content)
        return found

    def filter_reads(self, named: Mapping[bytes, bytes]) -> bool:
        """Whether a program converts what git reads of a path with these attributes."""
        return any(self._programs(named, "clean", "process"))

    def filter_writes(self, named: Mapping[bytes, bytes]) -> bool:
        """Whether a program converts what git writes at a path with these attributes. `cat` converts nothing."""
        return any(program != "cat" for program in self._programs(named, "smudge", "process") if program)

    def has_writing_filters(self) -> bool:
        """Whether any filter is configured, and may run, that converts what git writes."""
        config = self._repository.config
        steps = [key for key in config if key.startswith("filter.") and key.endswith((".smudge", ".process"))]
        return self._repository.runs_filters and any(config[key][-1].strip() not in ("", "cat") for key in steps)

    def writing_filters_required(self) -> list[str]:
        """Options for git that let it fail where a filter that writes fails. Else it writes what it holds, unsaid."""
        config, options = self._repository.config, []
        if self._repository.runs_filters:
            for name in dict.fromkeys(key.rpartition(".")[0] for key in config if key.startswith("filter.")):
                # A name with `=` can't be given.
                if "=" not in name and any(config.get(f"{name}.{step}", [""])[-1] for step in ("smudge", "process")):
                    options += ["-c", f"{name}.required=true"]
        return options

    def filters_of(self, paths: list[bytes], *, cached: bool = False) -> dict[bytes, bytes]:
        """The name of the filter of each path; a path without one is missing. `cached` is as above."""
        named = self.converting_attributes(paths, cached=cached)
        return {path: names[b"filter"] for path, names in named.items() if b"filter" in names}

    def _programs(self, named: Mapping[bytes, bytes], *steps: str) -> list[str]:
        """The programs of the path's filter, empty where it has none; none at all where no filter runs here."""
        name = os.fsdecode(named.get(b"filter", b""))
        if not name or not self._repository.runs_filters:
            return []
        return [self._repository.config.get(f"filter.{name}.{step}", [""])[-1].strip() for step in steps]

    def write_index(self, entries: Iterable[IndexEntry]) -> None:
        """Write an index with these entries alone, to the file that `env` names."""
        lines = b"".join(entry.info_line() for entry in entries)
        self._repository.git.run("update-index", "-z", "--index-info", input=lines, env=self._env)

    def hash_files(
        self,
        paths: list[bytes],
        env: Mapping[str, str] | None,
        deadline: Deadline,
        filters: Mapping[bytes, bytes | None],
    ) -> dict[bytes, Oid]:
        """The oid of each file as `git add` would hash it, filters applied; the blobs are written.

        `env` is added to the environment, as which index to read and which object directory to write to; `filters`
        maps a path to the name of its filter. A path whose conversion fails (a required filter) is missing. So are all
        paths of a filter that took too long for one; of one that prints too much it is that path alone.
        """
        command = ("-c", "core.safecrlf=false", "hash-object", "-w", "--stdin-paths")
        found: dict[bytes, Oid] = {}
        left = paths
        bounded = self._repository.filter_env(_largest(self._repository, paths)) if filters else {}
        while left and not (len(left) < len(paths) and deadline.passed()):
            process = self._repository.git.start(*command, env={**(env or {}), **bounded})
            lines = b"".join(quote_c(path) + b"\n" for path in left)
            timeout = None if deadline.seconds is None else deadline.left()
            is_late = False
            try:
                # It prints each oid at once, so that the one it works on is known.
                out, _ = process.communicate(lines, timeout=timeout, idle=self._repository.filter_limit)
            except OutOfTime as late:
                process.kill_all()
                process.wait()
                out, is_late = late.output, True
            oids = out[: out.rfind(b"\n") + 1].decode("ascii").split()
            found.update(zip(left, oids, strict=False))
            failed, left = left[len(oids) : len(oids) + 1], left[len(oids) + 1 :]
            if is_late and failed:
                left = [path for path in left if filters.get(path) != filters.get(failed[0])]
        return found

    def may_change_on_checkout(self, named: dict[bytes, bytes]) -> bool:
        """Whether a checkout of a path with these attributes may write other bytes than the blob's.

        `convert_to_working_tree` in git's `convert.c` decides the same.
        """
        if b"ident" in named or b"working-tree-encoding" in named:
            return True
        if b"eol" in named:
            return named[b"eol"] != b"lf"
        if named.get(b"crlf") == b"input":
            return False
        return (
            self._repository.is_true("core.autocrlf") or (self._repository.setting("core.eol") or "").lower() == "crlf"
        )


class IndexConversions:
    """Converts files as `git add` and `git checkout` do: with an index, here of .gitattributes files and these alone.

    `hash-object` and `cat-file` read no index. They do not know the .gitattributes files that a sparse checkout leaves
    out, nor which files were committed with the line ends of Windows, and keep them.
    """

    def __init__(self, repository: Repository, attributes: Sequence[IndexEntry], directory: bytes) -> None:
        """The index is made in `directory`, which is there from now on until the end of the body."""
        self._repository = repository
        self._attributes = attributes
        self._directory = directory
        self._index = os.path.join(directory, b"index")
        self._files = os.path.join(directory, b"files", b"")
        remove_tree(directory)
        os.mkdir(directory)

    def __enter__(self) -> IndexConversions:
        return self

    def __exit__(self, *exception: object) -> None:
        remove_tree(self._directory)

    def hash_files(
        self,
        paths: Sequence[bytes],
        env: Mapping[str, str] | None,
        deadline: Deadline,
        filters: Mapping[bytes, bytes | None],
    ) -> dict[bytes, Oid]:
        """The oid of each file as `git add` would hash it: see `Conversions.hash_files`."""
        bounded = self._repository.filter_env(_largest(self._repository, paths)) if filters else {}
        mine = self._write(list_index(self._repository.git, paths, env=env), env)
        found: dict[bytes, Oid] = {}
        late: set[bytes | None] = set()

        def added(portion: Sequence[bytes], limit: float | None = None) -> dict[bytes, Oid] | None:
            if deadline.passed():
                return {}
            process = self._repository.git.start(*_UPDATE, "--add", "--stdin", env={**mine, **bounded})
            timeout = None if deadline.seconds is None else deadline.left()
            try:
                process.communicate(_joined(portion), timeout=timeout, idle=limit)
            except OutOfTime:
                process.kill_all()
                late.update(filters.get(path) for path in portion if path in filters)
            if process.wait() != 0:
                discard(self._index + b".lock")
                return None
            listed = list_index(self._repository.git, portion, env=mine)
            return {entry.path: entry.oid for entry in listed if entry.path in asked}

        asked = {*paths}
        for _, oids in try_in_halves([path for path in paths if path not in filters], added):
            found.update(oids or {})
        for path in paths:
            if path in filters and filters[path] not in late:
                found.update(added([path], self._repository.filter_limit) or {})
        return found

    def checkout_oids(self, wanted: Mapping[bytes, Oid], *options: str, limit: float | None = None) -> dict[bytes, Oid]:
        """For each path and its blob: the oid of the bytes that a checkout would write. Raises GitError, or OSError.

        A path that another one takes the place of is missing. `options` are git's; it may take `limit` seconds.
        """
        env = self._write([IndexEntry(path, _REGULAR, oid) for path, oid in wanted.items()], None)
        git, place = self._repository.git, self._files
        process = git.start(*options, *_CHECKOUT, b"--prefix=" + place, env=env)
        if limit is not None:
            limit_memory(process.pid)
        git.finish(process, input=_joined(wanted), timeout=limit)
        found: dict[bytes, Oid] = {}
        for path in wanted:
            with suppress(FileNotFoundError, NotADirectoryError, IsADirectoryError), open(place + path, "rb") as file:
                found[path] = object_id(self._repository.object_format, "blob", file.read())
        remove_tree(place)
        return found

    def _write(self, entries: Iterable[IndexEntry], env: Mapping[str, str] | None) -> dict[str, str]:
        """Write the index, of the attributes and these entries; returns `env` with it as git's."""
        mine = {**(env or {}), "GIT_INDEX_FILE": os.fsdecode(self._index)}
        whole = (entry.info_line() for entry in (*self._attributes, *entries) if entry.stage == 0)
        discard(self._index)
        self._repository.git.run(*_UPDATE, "--index-info", input=b"".join(whole), env=mine)
        return mine


def attributes_files(repository: Repository, env: Mapping[str, str] | None = None) -> list[IndexEntry]:
    """The .gitattributes files of the index, but for those that this partial clone lacks. Raises GitError.

    `env` is added to the environment, as which index to read. A directory outside of a sparse index is not looked into.
    """
    globs = {**(env or {}), "GIT_LITERAL_PATHSPECS": "0"}
    listed = list_index(repository.git, [b":(glob)**/.gitattributes"], sparse=True, env=globs)
    found = {entry.path: entry for entry in listed if entry.stage == 0}
    lacked = lacked_files(repository, {path: entry.oid for path, entry in found.items()})
    return [entry for path, entry in found.items() if path not in lacked]


def only_in_index(repository: Repository, tracked: Iterable[bytes]) -> list[bytes]:
    """The .gitattributes files among tracked paths that are not on the disk."""
    top = repository.toplevel
    return [path for path in tracked if is_attributes(path) and not os.path.lexists(os.path.join(top, path))]


def governed(paths: Iterable[bytes], attributes: Collection[bytes]) -> list[bytes]:
    """Those of the paths of which one of these .gitattributes files may speak, but for these files themselves."""
    above = {path.rpartition(b"/")[0] for path in attributes}
    found = []
    for path in paths:
        directory = path.rpartition(b"/")[0]
        while directory and directory not in above:
            directory = directory.rpartition(b"/")[0]
        if directory in above and path not in attributes:
            found.append(path)
    return found


def _largest(repository: Repository, paths: Iterable[bytes]) -> int:
    """The size of the largest of these files, in bytes."""
    largest = 0
    for path in paths:
        with suppress(OSError):
            largest = max(largest, os.lstat(os.path.join(repository.toplevel, path)).st_size)
    return largest


def _joined(paths: Iterable[bytes]) -> bytes:
    return b"".join(path + b"\0" for path in paths)


def _is_batch_path(path: bytes) -> bool:
    """Whether git reads a path behind an object's id in a line of `cat-file --batch` as it is written there."""
    return b"\n" not in path and path[:1] not in (b" ", b"\t") and path[-1:] != b"\r"


def _between(out: bytes, heads: Sequence[bytes]) -> Iterator[bytes]:
    """What stands between each of the lines `heads` and the next one, up to the first that is missing.

    Git ends at a blob that it can't read, and has printed the line before it.
    """
    place = len(heads[0]) if out.startswith(heads[0]) else len(out)
    for head in heads[1:]:
        end = out.find(b"\n" + head, place)
        if end < 0:
            return
        yield out[place:end]
        place = end + 1 + len(head)


def _threes(fields: list[bytes]) -> Iterable[tuple[bytes, bytes, bytes]]:
    return zip(fields[0::3], fields[1::3], fields[2::3], strict=False)


def quote_c(path: bytes) -> bytes:
    """A path in git's C-style quotes, as `--stdin-paths` reads it."""
    return b'"' + b"".join(bytes((c,)) if 48 <= c < 123 and c != 92 else b"\\%03o" % c for c in path) + b'"'


# -- settings that a configuration has for one git dir alone


def conditional_includes(git_dir: bytes, common_dir: bytes, branch: bytes | None, config: bytes | None) -> list[str]:
    """Options for a git that is run by way of another git dir: they include what `includeIf` names for `git_dir`.

    `branch` is the short name of the branch that is checked out there. `config` holds the lines of the repository's
    own configuration; None: its file is read.
    """
    git = Git(b"/")
    own = ("--file", "-") if config is not None else ("--file", os.path.join(common_dir, b"config"))
    waiting = [
        (None, git.run("config", "--list", "--show-origin", "-z", ok_codes=range(256))),
        (
            common_dir,
            git.run("config", *own, "--list", "--show-origin", "-z", input=config or b"", ok_codes=range(256)),
        ),
    ]
    urls = [item[1] for _, listed in waiting for item in _settings(listed) if _is_remote_url(item[0])]
    found: list[bytes] = []
    while waiting and len(found) < _MOST_INCLUDES:
        directory, listed = waiting.pop(0)
        fields = listed.split(b"\0")[:-1]
        for origin, item in zip(fields[::2], _settings(listed), strict=True):
            place = directory or os.path.dirname(origin.partition(b":")[2])
            if item[0][:10].lower() != b"includeif." or not item[0].endswith(b".path"):
                continue
            condition, path = item[0][10:-5], os.path.join(place, os.path.expanduser(item[1]))
            if path not in found and _holds(condition, place, git_dir, branch, urls) and os.path.isfile(path):
                found.append(path)
                argv = ("config", "--file", path, "--includes", "--list", "--show-origin", "-z")
                waiting.append((None, git.run(*argv, ok_codes=range(256))))
    return [word for path in found for word in ("-c", f"include.path={os.fsdecode(path)}")]


_MOST_INCLUDES = 50


def _settings(listed: bytes) -> list[tuple[bytes, bytes]]:
    """Name and value of each setting in what `git config --list --show-origin -z` prints."""
    return [item.partition(b"\n")[::2] for item in listed.split(b"\0")[:-1][1::2]]


def _is_remote_url(name: bytes) -> bool:
    return name.startswith(b"remote.") and name.endswith(b".url")


def _holds(condition: bytes, place: bytes, git_dir: bytes, branch: bytes | None, urls: Sequence[bytes]) -> bool:
    """Whether a condition of `includeIf` holds (`man git-config`, Conditional includes)."""
    kind, _, pattern = condition.partition(b":")
    if kind in (b"gitdir", b"gitdir/i"):
        pattern = os.path.expanduser(pattern)
        if pattern.startswith(b"./"):
            pattern = os.path.join(place, pattern[2:])
        elif not pattern.startswith(b"/"):
            pattern = b"**/" + pattern
        pattern += b"**" if pattern.endswith(b"/") else b""
        return _matches(pattern, git_dir, folds=kind == b"gitdir/i")
    if kind == b"onbranch":
        return branch is not None and _matches(pattern + (b"**" if pattern.endswith(b"/") else b""), branch)
    if condition.startswith(b"hasconfig:remote.*.url:"):
        return any(_matches(condition[23:], url) for url in urls)
    return False


def _matches(pattern: bytes, text: bytes, *, folds: bool = False) -> bool:
    """Whether a pattern with `*`, `?`, `[…]` and `**` matches, as git's wildmatch does where `*` matches no slash."""
    import re

    parts = {b"/**/": b"/(?:.*/)?", b"/**": b"/.*", b"?": b"[^/]"}
    regex = b""
    for part in re.findall(rb"/\*\*/|/\*\*$|\*+|\?|\[!?\]?[^]]*\]|\\.|.", pattern, re.DOTALL):
        if part[:1] == b"[":
            regex += part.replace(b"[!", b"[^", 1)
        elif part[:1] == b"*":
            regex += b".*" if part == pattern == b"**" else b"[^/]*"
        else:
            regex += parts.get(part, re.escape(part[-1:]))
    if pattern.startswith(b"**/"):
        regex = b"(?:.*/)?" + regex.removeprefix(b"[^/]*/")
    with suppress(re.error):
        return re.fullmatch(regex, text, re.DOTALL | (re.IGNORECASE if folds else 0)) is not None
    return False
