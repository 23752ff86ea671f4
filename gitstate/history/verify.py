"""`verify`: proof that the newest save of a workspace comes back.

Every object that the save needs is read and hashed, and the packs that hold its own objects are checked as a whole.
Then the save is recovered in a repository of its own below the temporary directory, which borrows the objects: each
file, permission, index entry, ref and file of an unfinished operation there is compared with the save. The workspace
itself is only read. What was found is kept as a receipt in gitstate's own directory, for `status` and `doctor`.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from ..errors import CorruptSave, GitError, GitstateError, words_of
from ..format.archive import pending_archive, read_stack
from ..format.find import own_saves
from ..format.manifest import Save
from ..format.names import marker_ref, save_ref, workspace_id
from ..git.command import Git, Oid, hooks_off, object_id
from ..git.entries import list_index, list_tree
from ..git.gitdir import RECORDED_CONFLICTS
from ..git.opening import open_repository
from ..git.permitted import without_filters
from ..git.reached import reached
from ..git.repository import Repository, head_of, read_head
from ..objects.reader import ObjectReader
from ..objects.tree import GITLINK, SYMLINK, Leaf
from ..recover.recover import recover
from ..recover.request import RecoverRequest
from ..restore.paths import SavedPaths, Workspace
from ..system import files
from ..system.clock import now
from ..system.jsonio import path_to_json, text_to_json
from ..system.terminal import counted
from ..workspace.live_context import state_name
from ..workspace.settings import with_filter_limit
from .receipt import keep_receipt

#: A result names no more problems than this.
_MOST_PROBLEMS = 100


@dataclass(frozen=True)
class Proof:
    """What `verify` found in one workspace."""

    workspace: bytes
    save_id: str | None = None
    """The save that was looked at; None where there is none, or not even its id can be read."""
    at: str = ""
    """When: UTC, ISO 8601."""
    problems: tuple[str, ...] = ()
    """What is wrong, for a person; empty where the save is proven."""
    notes: tuple[str, ...] = ()
    """What was not looked at."""
    objects: int = 0
    """How many objects were hashed."""
    paths: int = 0
    """How many files were compared."""

    @property
    def proven(self) -> bool:
        return self.save_id is not None and not self.problems


def verify(path: bytes) -> Proof:
    """Prove the newest save of the workspace that `path` is in. Raises NotAWorkspace, GitstateError, OSError.

    Where no receipt can be left, a note says so.
    """
    repository = open_repository(path)
    try:
        proof = _verify(repository)
    except (GitstateError, ValueError) as error:
        _refuse_where_git_stops(repository)
        proof = Proof(repository.toplevel, problems=(str(error)[:300],))
    proof = Proof(**{**proof.__dict__, "at": now(), "problems": proof.problems[:_MOST_PROBLEMS]})
    if proof.save_id is not None or proof.problems:
        try:
            keep_receipt(repository, proof.save_id, proof.at, proof.problems)
        except OSError as error:
            # A backup that is mounted read-only, or a full disk: what was found is true all the same.
            notes = (*proof.notes, f"`status` and `doctor` will not tell this result: {words_of(error)}")
            proof = Proof(**{**proof.__dict__, "notes": notes})
    return proof


def _refuse_where_git_stops(repository: Repository) -> None:
    """Raises GitstateError where git may read no object because of a setting: the save itself may be whole."""
    from ..workspace.damage import find_unreadable

    found = []
    with contextlib.suppress(GitstateError, OSError):
        found = [item for item in find_unreadable(repository) if item.stops_git]
    if found:
        what, command = ("; ".join(words) for words in zip(*((item.what, item.command) for item in found), strict=True))
        raise GitstateError(f"{what}; nothing was proven", hint=f"{command}, then: gitstate verify")


def _verify(repository: Repository) -> Proof:
    with ObjectReader(repository.git) as reader:
        archive = pending_archive(repository)
        if archive is None and (damaged := _damaged_marker(repository)) is not None:
            return Proof(repository.toplevel, problems=(damaged,))
        archive = archive or _newest(repository, reader)
        if archive is None:
            return Proof(repository.toplevel)
        stack = read_stack(archive, reader)
    newest = stack[0]
    proof = Proof(repository.toplevel, newest.manifest.save_id)
    needed = _needed(repository, stack)
    problems = [*_bad_objects(repository, needed), *_bad_packs(repository, stack, needed)]
    if problems:
        return Proof(**{**proof.__dict__, "problems": tuple(problems), "objects": len(needed)})
    with files.temporary_directory("gitstate-verify-") as temporary:
        top = os.path.join(os.fsencode(temporary), b"workspace")
        found = _Rebuilt(repository, stack, top)
        problems = list(found.compare())
    nested = [os.fsdecode(item.path) for save in stack for item in save.manifest.nested]
    notes = [f"the repository in {name} has a save of its own: gitstate -C {name} verify" for name in nested]
    left_out = newest.manifest.left_out
    notes += [f"not in the save: {counted(len(left_out), 'path')}"] if left_out else []
    values = {"problems": tuple(problems), "notes": tuple(notes), "objects": len(needed), "paths": found.paths}
    return Proof(**{**proof.__dict__, **values})


def _newest(repository: Repository, reader: ObjectReader) -> Oid | None:
    """The newest save of this workspace; a safety save is none that anybody waits for."""
    for held in own_saves(repository, reader):
        with contextlib.suppress(CorruptSave):
            if read_stack(held.archive, reader)[0].manifest.kind == "safety":
                continue
        return held.archive
    return None


def _damaged_marker(repository: Repository) -> str | None:
    """What is wrong with a marker that names no save; None where there is none."""
    ref = marker_ref(workspace_id(repository))
    is_there = os.path.lexists(os.path.join(repository.common_dir, os.fsencode(ref)))
    return f"{ref} holds no object id" if is_there else None


# -- objects


def _needed(repository: Repository, stack: Iterable[Save]) -> list[Oid]:
    """Every object that the saves need: all that their archives reach, down to the tree of the commit below them.

    What a partial clone lacks of that tree, and of the older commits that a save keeps alive (as ORIG_HEAD), is on its
    remote. That the files come back is seen in the scratch place.
    """
    found: dict[Oid, None] = {}
    is_partial = bool(repository.promisors())
    for save in stack:
        base = [] if save.manifest.head is None else [save.manifest.head]
        here, lacked = reached(repository, [save.archive], hidden=base)
        is_promised = is_partial and bool(lacked) and _is_promised(repository, save.archive, base)
        found.update(dict.fromkeys(here if is_promised else (*here, *lacked)))
        if base:
            # The commit hides what its tree holds too: that is needed as a whole.
            here, lacked = reached(repository, base, "--no-walk")
            found.update(dict.fromkeys(here if is_partial else (*here, *lacked)))
    return list(found)


def _is_promised(repository: Repository, archive: Oid, base: Sequence[Oid]) -> bool:
    """Whether a promisor remote has all that a partial clone lacks of what an archive reaches."""
    lines = "".join(f"{name}\n" for name in (archive, *(f"^{commit}" for commit in base))).encode("ascii")
    try:
        # Git ends at a missing object that nothing from such a remote refers to.
        repository.git.run("rev-list", "--objects", "--exclude-promisor-objects", "--quiet", "--stdin", input=lines)
    except GitError:
        return False
    return True


def _bad_objects(repository: Repository, needed: Iterable[Oid]) -> Iterator[str]:
    """What is wrong with each object: it is missing, can't be read, or its bytes are not those of its name."""
    reader = ObjectReader(repository.git)
    try:
        for oid in needed:
            try:
                (info,) = reader.kinds([oid])
                if info is None:
                    yield f"object {oid} is missing"
                    continue
                if _hashed(repository, info, reader.stream(oid)) != oid:
                    yield f"object {oid} has other content than its name says"
            except GitError:
                reader.restart()
                yield f"object {oid} is damaged"
    finally:
        reader.close()


def _hashed(repository: Repository, info: tuple[str, int], parts: Iterable[bytes]) -> Oid:
    import hashlib

    kind, size = info
    hasher = hashlib.new(repository.object_format, f"{kind} {size}\0".encode("ascii"))
    for part in parts:
        hasher.update(part)
    return hasher.hexdigest()


def _bad_packs(repository: Repository, stack: Iterable[Save], needed: Iterable[Oid]) -> Iterator[str]:
    """The packs that hold objects of the saves and are damaged anywhere. A damaged pack fails as a whole one day."""
    own = {save.archive for save in stack} | {save.wip for save in stack}
    directory = os.path.join(repository.objects, b"pack")
    try:
        names = sorted(name for name in os.listdir(directory) if name.endswith(b".pack"))
    except FileNotFoundError:
        return
    wanted = own | set(needed)
    for name in names:
        path = os.path.join(directory, name)
        index = path[: -len(b".pack")] + b".idx"
        try:
            with open(index, "rb") as file:
                listed = repository.git.run(
                    "show-index", f"--object-format={repository.object_format}", input=file.read()
                )
            oids = {line.split()[1].decode("ascii") for line in listed.splitlines()}
            if oids & wanted:
                repository.git.run("verify-pack", path)
        except (GitError, OSError, IndexError, UnicodeDecodeError):
            yield f"the pack {os.fsdecode(path)} is damaged"


# -- the save in a scratch place


class _Rebuilt:
    """The saves of a stack recovered in a repository of their own, and compared with what they say."""

    def __init__(self, repository: Repository, stack: tuple[Save, ...], top: bytes) -> None:
        self.stack = stack
        self.newest, self.oldest = stack[0], stack[-1]
        self.paths = 0
        self._make(repository, top)
        self.repository = with_filter_limit(open_repository(top))
        if not repository.runs_filters:
            self.repository = without_filters(self.repository)

    def _make(self, source: Repository, top: bytes) -> None:
        """A repository on the branch of the save that borrows all objects."""
        os.mkdir(top)
        git = Git(top, hooks_off(source.config))
        # Its refs are files, whatever git makes by default, and those of the save's repository are.
        init = ("init", "-q", f"--object-format={source.object_format}", ".")
        git.run(*init, env={"GIT_DEFAULT_REF_FORMAT": "files"})
        git_dir = os.path.join(top, b".git")
        with open(os.path.join(git_dir, b"objects", b"info", b"alternates"), "wb") as file:
            # In quotes, as git writes C strings: a path may hold a line feed.
            file.write(b'"%s"\n' % b"".join(b"\\%03o" % byte for byte in source.objects))
        if source.stranger is None:
            # Filters, line endings and attributes decide what git writes. `core.worktree` would lead back.
            _copy(os.path.join(source.common_dir, b"config"), os.path.join(git_dir, b"config"))
            _copy(os.path.join(source.common_dir, b"info"), os.path.join(git_dir, b"info"))
            config = os.path.join(git_dir, b"config")
            for key in ("core.worktree", "extensions.refStorage"):
                Git(b"/").run("config", "--file", config, "--unset-all", key, ok_codes=(0, 5))
        git.run("config", "core.bare", "false")
        # Else what `git rerere` recorded does not come back.
        git.run("config", "rerere.enabled", "true")
        manifest = self.newest.manifest
        at = self.newest.wip if manifest.moves_branch else manifest.head
        if manifest.head_ref is not None:
            git.run("symbolic-ref", "HEAD", manifest.head_ref)
            if at is not None:
                git.run("update-ref", manifest.head_ref, at)
        elif at is not None:
            git.run("update-ref", "--no-deref", "HEAD", at)
        git.run("update-ref", save_ref(manifest.workspace_id, manifest.save_id), self.newest.archive)

    def compare(self) -> Iterator[str]:
        """Recover, and say what is not as it was saved."""
        save_id, repository = self.newest.manifest.save_id, self.repository
        result = recover(repository.toplevel, RecoverRequest(save_id, runs_filters=repository.runs_filters))
        if result.verdict not in ("restore", "context_only") or result.kept:
            yield f"recover answers {result.verdict}: {result.message}"
            return
        nested = {item.path for save in self.stack for item in save.manifest.nested}
        for item in result.left_out[len(self.newest.manifest.left_out) :]:
            if item.lost and item.path not in nested:
                yield f"{os.fsdecode(item.path)}: {item.reason}"
        with ObjectReader(repository.git) as reader:
            workspace = Workspace.of(repository, repository.git, reader)
            yield from self._files(workspace)
            yield from self._index(workspace)
            yield from self._operation(workspace)
        yield from self._refs()

    def _files(self, workspace: Workspace) -> Iterator[str]:
        manifest = self.newest.manifest
        saved = SavedPaths(workspace, self.stack)
        tree = list_tree(self.repository.git, self.newest.wip_tree)
        expected: dict[bytes, Leaf] = {entry.path: Leaf(entry.mode, entry.oid) for entry in tree}
        permissions: dict[bytes, int] = dict(manifest.modes)
        for target in saved.targets():
            expected.pop(target.path, None)
            if target.saved is not None:
                expected[target.path] = target.saved
        hidden = {entry.path for entry in list_index(self.repository.git, tags=True) if entry.tag in ("S", "s")}
        self.paths = len(expected)
        for path, leaf in expected.items():
            if leaf.mode == GITLINK or (path in hidden and not _is_there(self.repository, path)):
                continue
            seen = workspace.disk.look(path)
            kind = "link" if leaf.mode == SYMLINK else "file"
            if seen.kind != kind and workspace.has_symlinks:
                yield f"{os.fsdecode(path)}: it is {seen.kind}, not a {kind}"
            elif seen.oid != leaf.oid and self._as_git_stores_it(path) != leaf.oid:
                yield f"{os.fsdecode(path)}: other content than the save has"
            elif kind == "file" and seen.permissions != permissions.get(path, leaf.mode & 0o777):
                yield f"{os.fsdecode(path)}: its mode is not the saved one"
        yield from self._unexpected({*expected, state_name(self.repository)})
        for path, mode in manifest.directories.items():
            full = os.path.join(self.repository.toplevel, path)
            if not os.path.isdir(full) or os.lstat(full).st_mode & 0o777 != mode:
                yield f"{os.fsdecode(path)}: no directory of mode {mode:o}"

    def _as_git_stores_it(self, path: bytes) -> Oid | None:
        """What git makes of a file through this repository's filters; None where they fail."""
        try:
            out = self.repository.git.run(
                *("hash-object", b"--path=" + path, "--", path),
                env=self.repository.filter_env(os.lstat(os.path.join(self.repository.toplevel, path)).st_size),
                timeout=self.repository.filter_limit,
            )
        except GitError:
            return None
        return out.decode("ascii").strip()

    def _unexpected(self, expected: set[bytes]) -> Iterator[str]:
        top = self.repository.toplevel
        for directory, names, there in files.walk(top):
            if directory == top:
                names.remove(b".git")
            for name in there:
                path = os.path.relpath(os.path.join(directory, name), top)
                if path not in expected and name != b".git":
                    yield f"{os.fsdecode(path)}: the save has no such file"

    def _index(self, workspace: Workspace) -> Iterator[str]:
        git = self.repository.git
        there = {(entry.path, entry.stage): entry for entry in list_index(git, tags=True)}
        stored = self.oldest.files.get(b"index")
        if len(self.stack) > 1:
            for path, staged in self.newest.manifest.staged.items():
                entry = there.get((path, 0))
                if (None if entry is None else (entry.mode, entry.oid)) != staged and path not in self._later():
                    yield f"{os.fsdecode(path)}: its index entry is not the saved one"
            return
        if stored is None:
            staged_tree = self.newest.files.get(b"staged")
            entries = list_tree(git, staged_tree[1]) if staged_tree else []
            saved = {(entry.path, 0): (entry.mode, entry.oid) for entry in entries}
            found = {key: (entry.mode, entry.oid) for key, entry in there.items() if not key[1]}
            added = {(path, 0) for path in self.newest.manifest.intent_to_add}
            wrong = {key for key in saved.keys() | found.keys() if saved.get(key) != found.get(key)} - added
        else:
            path = os.path.join(self.repository.git_dir, b"verify-index")
            with open(path, "wb") as file:
                file.writelines(workspace.reader.stream(stored[1]))
            env = {"GIT_INDEX_FILE": os.fsdecode(path)}
            then = {(entry.path, entry.stage): entry for entry in list_index(git, tags=True, env=env)}
            wrong = {key for key in then.keys() | there.keys() if then.get(key) != there.get(key)}
        for name, stage in sorted(wrong):
            yield f"{os.fsdecode(name)}: its index entry (stage {stage}) is not the saved one"

    def _later(self) -> set[bytes]:
        return {path for save in self.stack for path in save.manifest.intent_to_add}

    def _operation(self, workspace: Workspace) -> Iterator[str]:
        tree = self.newest.files.get(b"operation")
        names = self.newest.manifest.operation_files
        leaves = workspace.trees.lookup(None if tree is None else tree[1], names)
        for path in names:
            leaf = leaves.get(path)
            data = files.read_limited(os.path.join(self.repository.git_dir, path), 1 << 30)
            if data is None and path == RECORDED_CONFLICTS:
                # It stays away without what it names, which is compared too.
                continue
            is_same = data is not None and leaf is not None
            if not is_same or object_id(self.repository.object_format, "blob", data or b"") != (leaf and leaf.oid):
                yield f"{os.fsdecode(path)} of the unfinished operation is not the saved one"

    def _refs(self) -> Iterator[str]:
        manifest = self.oldest.manifest
        head, commit = read_head(self.repository.git_dir), head_of(self.repository.toplevel)
        if head != self.newest.manifest.head_ref:
            yield f"HEAD is on {head}, not on {self.newest.manifest.head_ref}"
        if commit != manifest.head:
            yield f"HEAD is at {commit}, not at {manifest.head}"


def _is_there(repository: Repository, path: bytes) -> bool:
    return os.path.lexists(os.path.join(repository.toplevel, path))


def _copy(source: bytes, target: bytes) -> None:
    """Copy a file, or a directory with all below it, where there is one."""
    if os.path.isdir(source):
        files.remove_tree(target)
        shutil.copytree(os.fsdecode(source), os.fsdecode(target), symlinks=True)
    elif os.path.isfile(source):
        shutil.copyfile(source, target)


def proof_json(proof: Proof) -> dict[str, object]:
    """One workspace of what `verify --json` prints."""
    return {
        "workspace": text_to_json(os.fsdecode(proof.workspace)),
        "path": path_to_json(proof.workspace),
        "save_id": proof.save_id,
        "proven": proof.proven,
        "at": proof.at,
        "problems": [text_to_json(item) for item in proof.problems],
        "notes": [text_to_json(item) for item in proof.notes],
        "objects": proof.objects,
        "files": proof.paths,
    }
