"""Carries out a plan: files, operation, index, branch, `active_state.json`, and the marker last.

Each step looks first and does nothing where it is done already, so that recovery may be killed anywhere and run
again. No file is written or deleted before a safety save, and none that holds what is in no save and no commit.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from ..agents.sessions import resume_command
from ..errors import EXIT_PERSON, GitError, GitstateError, NeedsPerson, TryAgain, UsageError
from ..format.archive import read_save, refuse_unsafe, stage_paths, tree_of_base
from ..format.context import Context
from ..format.manifest import LeftOut, Manifest, Reason, Save
from ..format.names import PENDING, SAVES, branch_name, marker_ref, save_time_ns, workspace_id
from ..git import locks, refs
from ..git.command import Git
from ..git.oid import Oid, object_id
from ..git.operation import is_operation_file
from ..git.refs import RefUpdate
from ..git.repository import Repository, foreign_owner, open_repository, without_filters
from ..objects.reader import LARGE, ObjectReader
from ..objects.tree import DIRECTORY, GITLINK, REGULAR, SYMLINK, Leaf, TreeReader
from ..save.request import SaveRequest
from ..save.save import save_owned
from ..snapshot.record import MODES_LIMIT
from ..snapshot.walk import is_repository
from ..system import files
from ..system.clock import Deadline
from ..system.process import boot_id, wait_for
from ..workspace.files import MISSING, FileState, Worktree
from ..workspace.live_context import owner_state, read_live_context, with_measured_fields
from ..workspace.ownership import checkout_staging, clear_journal, locked_workspace, ref_locks, write_journal
from ..workspace.run_record import read_run_record
from ..workspace.settings import require
from ..workspace.state_file import ACTIVE, RECOVERED, describe_save, state_name, write_state
from .facts import find_save, gather, orphans, read_stack
from .index import IndexRecovery
from .plan import Facts, Target, Verdict, decide, step, wanted_permissions
from .request import RecoverRequest, RecoverResult
from .words import briefing, instruction

#: The kernel stamps files with the time of its last tick: at most this long ago.
_COARSE_CLOCK_NS = 10_000_000
#: The settings that a recovery and its safety checkpoint read.
_SETTINGS = ("stateFile", "includeIgnored")
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)


def recover(path: bytes, request: RecoverRequest) -> RecoverResult:
    """Recover the workspace that `path` is in. Raises NotAWorkspace, UsageError, TryAgain, GitError, OSError."""
    repository = open_repository(path)
    require(repository, *_SETTINGS)
    _let_keeper_finish(repository, Deadline(request.wait))
    stranger = foreign_owner(repository)
    if stranger is not None:
        repository = without_filters(repository)
    with locked_workspace(repository, Deadline(request.wait)) as git, ObjectReader(repository.git) as reader:
        facts, marker = gather(repository, reader, request.save_id, strict=request.strict)
        if request.waiting_only:
            facts = replace(facts, context=None)
        if facts.context is not None and facts.checkpoint is not None:
            facts = replace(facts, disk=_against_checkpoint(repository, git, reader, facts, facts.checkpoint))
        verdict = decide(facts)
        if verdict.acts and not facts.saves and facts.context is not None and verdict.verdict == "restore":
            assert facts.checkpoint is not None
            facts = replace(facts, saves=(facts.checkpoint._replace(context=facts.context),))
        cleared = () if request.dry_run or verdict.verdict == "live" else _clear_locks(repository)
        result = _Recovery(repository, git, reader, facts, marker, verdict, request).run()
    if stranger is not None:
        words = f"it belongs to user {stranger}: no filter that it names was run"
        result = result._replace(message="; ".join(word for word in (result.message, words) if word))
    return result._replace(cleared=cleared)


def dismiss(path: bytes, request: RecoverRequest) -> RecoverResult:
    """What waits here has been dealt with by hand: it waits no longer. No file, index or branch is touched.

    The save stays in the log, and retention never takes it. Raises NeedsPerson where HEAD stands on its WIP commit,
    for that is to be unwound first.
    """
    repository = open_repository(path)
    with locked_workspace(repository, Deadline(request.wait)) as git, ObjectReader(repository.git) as reader:
        marker = marker_ref(workspace_id(repository))
        archive = refs.read_refs(repository, [marker]).get(marker)
        if archive is None:
            return RecoverResult(repository.toplevel, "nothing", "nothing waits to be recovered")
        facts, _ = gather(repository, reader)
        if any(save.wip == facts.head and save.manifest.moves_branch for save in facts.saves):
            raise NeedsPerson("HEAD is the WIP commit of the save that waits", hint="gitstate recover")
        save_id = facts.saves[0].manifest.save_id if facts.saves else None
        if not request.dry_run:
            write_journal(repository, ref_locks(repository, [marker]))
            refs.move_refs(repository, git, [RefUpdate(marker, None, archive)], "dismissed")
            clear_journal(repository)
    words = "it waits no longer; it stays in the log"
    return RecoverResult(repository.toplevel, "dismissed", words, save_id=save_id, dry_run=request.dry_run)


def _let_keeper_finish(repository: Repository, deadline: Deadline) -> None:
    """Where the last run was killed and its keeper is still at work, wait for the save that it makes."""
    context, status = read_live_context(repository)
    if status != ACTIVE or owner_state(context) != "gone" or context.boot_id != boot_id():
        return
    keeper = read_run_record(repository).keeper
    if keeper is not None and not wait_for([keeper], deadline):
        raise TryAgain(
            f"the last run's keeper still saves what it left (pid {keeper.pid})", hint="try again in a moment"
        )


def _clear_locks(repository: Repository) -> tuple[bytes, ...]:
    return locks.remove_dead_locks(repository.git_dir, repository.common_dir)


def _against_checkpoint(repository: Repository, git: Git, reader: ObjectReader, facts: Facts, checkpoint: Save) -> str:
    """How the disk stands to the latest checkpoint: see `plan.Facts.disk`."""
    manifest = checkpoint.manifest
    if (facts.head_ref, facts.head) != (manifest.head_ref, manifest.head):
        # What was committed since took the work over, or history went on from elsewhere.
        return "same"
    seen = _Recovery(
        repository, git, reader, replace(facts, saves=(checkpoint,)), None, Verdict("restore"), RecoverRequest()
    ).actions()
    unfinished = manifest.operation is not None and facts.operation is None
    if not set(seen) - {"same"} and not unfinished:
        return "same"
    tracked = repository.git.run("ls-files", "-z").split(b"\0")[:-1]
    emptied = bool(tracked) and not any(os.path.lexists(os.path.join(repository.toplevel, path)) for path in tracked)
    wiped = emptied or not repository.git.run("status", "--porcelain", "-z", "-unormal", "--ignore-submodules=dirty")
    return "gone" if wiped and facts.operation is None else "differs"


def recover_into(repository: Repository, path: bytes, request: RecoverRequest) -> RecoverResult:
    """Give a save whose workspace is gone a new worktree at `path`, and recover it there.

    Raises NeedsPerson where the save's branch is checked out in a worktree that exists, UsageError where `path` is
    in use.
    """
    if os.path.lexists(path) and not (os.path.isdir(path) and not os.listdir(path)):
        raise UsageError(f"{os.fsdecode(path)} exists and is not empty", hint="gitstate recover --into ANOTHER-PATH")
    require(repository, *_SETTINGS)
    with ObjectReader(repository.git) as reader:
        save_id = request.save_id or _only_orphan(repository)
        _, archive = find_save(repository, save_id)
        stack = read_stack(archive, reader)
    if request.dry_run:
        return RecoverResult(path, "elsewhere", "would be given a worktree here", save_id=save_id)
    manifest = stack[0].manifest
    _refuse_second_checkout(repository, manifest.head_ref)
    commit = stack[0].wip if manifest.moves_branch else manifest.head
    if commit is None:
        raise NeedsPerson("the save has no commit to stand on", hint=f"gitstate restore {save_id} PATH…")
    branch = manifest.head_ref
    on_branch = branch is not None and branch.startswith("refs/heads/")
    if branch is not None and on_branch:
        tip = refs.read_refs(repository, [branch]).get(branch)
        if tip is None:
            refs.move_refs(repository, repository.git, [RefUpdate(branch, commit, None)], f"recover {save_id}")
        commit = tip or commit
    # By its id, and the branch afterwards: as a name git might take it for something else (a branch called HEAD).
    words = ("worktree", "add", "--force", "--quiet", "--detach", "--no-checkout", "--", path, commit)
    repository.git.run(*words)
    there = Git(path, repository.git.options)
    if branch is not None and on_branch:
        there.run("symbolic-ref", "HEAD", branch)
    with _usual_umask(repository, stack[0]), contextlib.suppress(GitError):
        # A filter that fails ends git's checkout: then `recover` writes the files, and goes on without the filter.
        there.run("read-tree", "-m", "-u", "HEAD")
    return recover(path, request._replace(save_id=save_id))


def restore_paths(
    repository: Repository, save_id: str, paths: Sequence[bytes], request: RecoverRequest
) -> RecoverResult:
    """Take files out of a save: all that it changed, or `paths` (directories stand for all below them).

    Index, branch and marker stay. A file that holds something else is kept unless `request.overwrite`.
    Raises NeedsPerson where there is no such save, UsageError where it holds none of `paths`.
    """
    require(repository, *_SETTINGS)
    with locked_workspace(repository, Deadline(request.wait)) as git, ObjectReader(repository.git) as reader:
        _, archive = find_save(repository, save_id)
        stack = read_stack(archive, reader)
        facts = Facts(None, stack[0].manifest.head, None, stack)
        return _Recovery(repository, git, reader, facts, None, Verdict("restore"), request).take_out(paths)


def _only_orphan(repository: Repository) -> str:
    with ObjectReader(repository.git) as reader:
        found = [stack[0].manifest.save_id for _, _, stack in orphans(repository, reader)]
        marker = marker_ref(workspace_id(repository))
        for archive in refs.read_refs(repository, [marker]).values():
            found.append(read_stack(archive, reader)[0].manifest.save_id)
    if len(found) != 1:
        listed = ", ".join(sorted(found)) or "none"
        raise NeedsPerson(
            f"which save? Those without a workspace: {listed}", hint="gitstate recover --into PATH --save ID"
        )
    return found[0]


def _refuse_second_checkout(repository: Repository, branch: str | None) -> None:
    out = repository.git.run("worktree", "list", "--porcelain", "-z")
    place = b""
    for line in out.split(b"\0"):
        if line.startswith(b"worktree "):
            place = line[9:]
        elif line.startswith(b"branch ") and os.fsdecode(line[7:]) == branch and os.path.isdir(place):
            raise NeedsPerson(
                f"the save's branch is checked out in {os.fsdecode(place)}",
                hint=f"gitstate -C {os.fsdecode(place)} recover",
            )


class _Recovery:
    """One workspace."""

    def __init__(
        self,
        repository: Repository,
        git: Git,
        reader: ObjectReader,
        facts: Facts,
        marker: str | None,
        verdict: Verdict,
        request: RecoverRequest,
    ) -> None:
        self.repository = repository
        self.git = git
        self.reader = reader
        self.trees = TreeReader(reader)
        self.facts = facts
        self.marker = marker
        self.verdict = verdict
        self.request = request
        self.index = IndexRecovery(repository, git, reader, facts.saves)
        self.disk = Worktree(repository.toplevel, repository.own, repository.object_format)
        self.restored: list[bytes] = []
        self.deleted: list[bytes] = []
        self.kept: list[bytes] = []
        self.failed: list[LeftOut] = []
        self.safety: str | None = None
        self.stuck = False
        self.inner_trouble = False
        self.umask = _umask()

    def run(self) -> RecoverResult:
        verdict = self.verdict
        if not verdict.acts:
            return self._result(verdict.verdict)
        if not self.facts.saves:
            return self._context_alone()
        newest = self.facts.saves[0]
        if verdict.verdict == "buried":
            return self._finish("buried")
        if not self.request.dry_run:
            self.index.set_broken_aside()
        targets = self._targets()
        plan = [(target, seen, self._decide(target, seen)) for target, seen in self._look(targets)]
        self.kept = [target.path for target, _, action in plan if action == "keep"]
        if self.request.dry_run:
            self.restored = [target.path for target, _, action in plan if action == "write"]
            self.deleted = [target.path for target, _, action in plan if action == "delete"]
            return self._result("changed" if self.kept else "restore")
        self._journal()
        if any(action in ("write", "delete") for _, _, action in plan):
            self._save_for_safety(plan)
        with _usual_umask(self.repository, newest):
            self._carry_out(plan)
        self._operation(newest)
        self._sparse(newest)
        self.index.restore()
        self.kept += [path for path in self.index.kept if path not in self.kept]
        with _usual_umask(self.repository, newest):
            self._missing(targets)
            self._directories(newest.manifest)
        if newest.archive != newest.wip:
            self._permissions(targets)
        self._branch()
        if self.restored or self.deleted:
            self.index.refresh()
        self.disk.sync()
        nested = self._nested()
        return self._finish(self._word())._replace(nested=nested)

    def actions(self) -> list[str]:
        """What `run` would do with each path that the save speaks of."""
        return [self._decide(target, seen) for target, seen in self._look(self._targets())]

    def take_out(self, paths: Sequence[bytes]) -> RecoverResult:
        """Only files, and only those that were asked for."""
        if b"." in paths:
            paths = ()
        newest = self.facts.saves[0]
        targets = [t for t in self._targets() if not paths or any(_is_below(t.path, path) for path in paths)]
        known = {target.path for target in targets}
        for path in paths:
            below = [name for name in self._below(newest.wip_tree, path) if name not in known]
            if not below and not any(_is_below(name, path) for name in known):
                raise UsageError(
                    f"the save {newest.manifest.save_id} holds no {os.fsdecode(path)}",
                    hint=f"gitstate diff {newest.manifest.save_id}",
                )
            for name, leaf in self._leaves(newest.wip_tree, below).items():
                targets.append(Target(name, leaf, newest.manifest.modes.get(name), frozenset({leaf})))
        plan = [(target, seen, self._decide(target, seen)) for target, seen in self._look(targets)]
        self.kept = [target.path for target, _, action in plan if action == "keep"]
        if not self.request.dry_run:
            write_journal(self.repository, [])
            if any(action in ("write", "delete") for _, _, action in plan):
                self._save_for_safety(plan)
            self._carry_out(plan)
            self._permissions(targets)
            self.disk.sync()
            clear_journal(self.repository)
        else:
            self.restored = [target.path for target, _, action in plan if action == "write"]
            self.deleted = [target.path for target, _, action in plan if action == "delete"]
        result = self._result("changed" if self.kept else "restore")
        if self.kept:
            hint = f"gitstate restore --overwrite {newest.manifest.save_id} PATH…"
            result = result._replace(message=f"{len(self.kept)} paths hold something else and stay", hint=hint)
        return result._replace(exit_status=EXIT_PERSON if self.kept else result.exit_status, files_only=True)

    def _below(self, tree: Oid, path: bytes) -> list[bytes]:
        """The files that a tree holds at and below a path."""
        out = self.repository.git.run("ls-tree", "-r", "-z", "--name-only", "--full-tree", tree, "--", path)
        found = out.split(b"\0")[:-1]
        refuse_unsafe(found)
        return found

    def _word(self) -> str:
        if self.kept:
            return "changed"
        newest, oldest = self.facts.saves[0], self.facts.saves[-1]
        base = tree_of_base(self.reader, oldest.manifest.head)
        manifest = newest.manifest
        raw = any(why != "clean" for why in manifest.raw.values())
        uncommitted = newest.wip_tree != base or manifest.staged or manifest.operation or raw
        return "restore" if uncommitted or self.restored or self.deleted else "context_only"

    # -- what was, what is

    def _targets(self) -> list[Target]:
        """Every path that a save of the stack speaks of, with what it was and what git may have put there since."""
        newest = self.facts.saves[0]
        roots: list[Oid | None] = []
        paths: set[bytes] = set()
        for save in self.facts.saves:
            head_tree = tree_of_base(self.reader, save.manifest.head)
            staged = save.files.get(b"staged")
            roots += [head_tree, save.wip_tree, *([staged[1]] if staged else [])]
            paths.update(self._changed(head_tree, save.wip_tree), save.manifest.staged)
            paths.update(self._raw_paths(save), save.manifest.absent)
            for stage in (b"1", b"2", b"3"):
                paths.update(stage_paths(self.repository, self.trees, save, stage))
        refuse_unsafe(paths)
        lookups = [self._leaves(root, paths) for root in dict.fromkeys(roots)]
        wip = self._leaves(newest.wip_tree, paths)
        raw = self._raw(wip)
        modes = self._modes(wip)
        absent = set(newest.manifest.absent)
        never = state_name(self.repository)
        found = []
        for path in sorted(paths):
            if path == never and path not in wip:
                continue
            saved = None if path in absent else raw.get(path) or wip.get(path)
            bases = frozenset(leaf for lookup in lookups if (leaf := lookup.get(path)) is not None)
            found.append(Target(path, saved, modes.get(path), bases))
        return found

    def _leaves(self, root: Oid | None, paths: Iterable[bytes]) -> dict[bytes, Leaf]:
        """What a tree holds at each path, directories aside. Where there are no symlinks, they are regular files."""
        found = {path: leaf for path, leaf in self.trees.lookup(root, paths).items() if leaf.mode != DIRECTORY}
        if self.repository.is_true("core.symlinks", True):
            return found
        return {path: Leaf(REGULAR, leaf.oid) if leaf.mode == SYMLINK else leaf for path, leaf in found.items()}

    def _changed(self, old: Oid | None, new: Oid) -> list[bytes]:
        if old == new:
            return []
        if old is None:
            out = self.repository.git.run("ls-tree", "-r", "-z", "--name-only", "--full-tree", new)
        else:
            # Two trees are compared, but git reads the index first, and ends where it is torn: there it finds none.
            out = self.repository.git.run(
                *("diff-tree", "-r", "-z", "--no-renames", "--name-only", "--ignore-submodules=none", old, new),
                env={"GIT_INDEX_FILE": os.fsdecode(os.path.join(self.repository.own, b"no-index"))},
            )
        return out.split(b"\0")[:-1]

    def _raw(self, wip: Mapping[bytes, Leaf]) -> dict[bytes, Leaf]:
        """Raw bytes by path: the newest save's, and those of older ones for files that did not change since."""
        found: dict[bytes, Leaf] = {}
        for number, save in enumerate(self.facts.saves):
            names = self._raw_paths(save)
            tree = save.files.get(b"raw")
            mine = self.trees.lookup(tree[1] if tree else None, names)
            theirs = self.trees.lookup(save.wip_tree, names)
            for path, leaf in mine.items():
                if number == 0 or theirs.get(path) == wip.get(path) or save.manifest.raw[path] == "ignored":
                    found.setdefault(path, leaf)
        return found

    def _raw_paths(self, save: Save) -> list[bytes]:
        """Paths whose raw bytes count: each save tells of all hidden and clean files, only the newest's are true."""
        newest = save is self.facts.saves[0]
        return [path for path, why in save.manifest.raw.items() if newest or why not in ("hidden", "clean")]

    def _modes(self, wip: Mapping[bytes, Leaf]) -> dict[bytes, int]:
        found: dict[bytes, int] = dict(self.facts.saves[0].manifest.modes)
        for save in self.facts.saves[1:]:
            theirs = self.trees.lookup(save.wip_tree, save.manifest.modes)
            for path, mode in save.manifest.modes.items():
                if path in theirs and theirs[path] == wip.get(path):
                    found.setdefault(path, mode)
        return found

    def _look(self, targets: Iterable[Target]) -> Iterable[tuple[Target, FileState]]:
        for target in targets:
            try:
                yield target, self.disk.look(target.path)
            except OSError as error:
                if not self._was_left_out(target.path):
                    self._failed(target.path, error)

    def _was_left_out(self, path: bytes) -> bool:
        """Whether the save could not look at this path either: then there is nothing that could be brought back."""
        return any(item.path and _is_below(path, item.path) for item in self.facts.saves[0].manifest.left_out)

    def _decide(self, target: Target, seen: FileState) -> str:
        if seen.kind == "special" and self._was_left_out(target.path):
            return "same"
        action = step(target, seen, overwrite=self.request.overwrite)
        if action == "keep" and seen.kind == "directory" and target.saved is not None:
            return "write"
        if action != "look":
            return action
        return "write" if seen.oid in self._checkouts(target) or self._is_cut_short(target) else "keep"

    def _is_cut_short(self, target: Target) -> bool:
        """Whether a power cut left only the beginning of a file that the agent had never synced, or that and zeros.

        File systems that allocate late (ext4, xfs, btrfs) then keep its name and times, and often not one byte. What
        was edited, or moved into place, after the save changed later; what did not, and was read in full, was cut.
        Files of a directory that was moved, or edited under a clock that was set back, look like that too: so the
        save has to be of another boot, where it is known of which.
        """
        assert target.saved is not None
        boot = boot_id()
        if boot is not None and boot == self.facts.saves[0].context.boot_id:
            return False
        stamp = self.disk.stamp(target.path)
        info = self.reader.kinds([target.saved.oid])[0]
        if stamp is None or info is None or target.saved.mode in (SYMLINK, GITLINK):
            return False
        if not self._was_made_here():
            return False
        size, changed_ns = stamp
        if size > info[1] or changed_ns >= (save_time_ns(self.facts.saves[0].manifest.save_id) or 0) - _COARSE_CLOCK_NS:
            return False
        ours, theirs = b"", self.disk.read(target.path)
        whole = fits = True  # so far: the same, and the same or zeros after that
        for part in self.reader.stream(target.saved.oid):  # has to be read to its end
            while fits and len(ours) < len(part) and (more := next(theirs, b"")):
                ours += more
            mine, ours = ours[: len(part)], ours[len(part) :]
            kept = mine.rstrip(b"\0")
            fits = fits and (part.startswith(kept) if whole else not kept)
            whole = whole and part.startswith(mine)
        return fits and not (whole and size == info[1])

    def _was_made_here(self) -> bool:
        """Whether the save read the files of this very directory. What stands elsewhere was never whole there.

        A save that was made up from its WIP commit alone (`scan`) does not know where it was made.
        """
        newest = self.facts.saves[0]
        return newest.archive != newest.wip and newest.manifest.workspace_id == workspace_id(self.repository)

    def _checkouts(self, target: Target) -> Iterator[Oid | None]:
        """What git itself writes for each base through this repository's filters; None where they fail."""
        for leaf in target.bases:
            if leaf.mode in (SYMLINK, GITLINK):
                continue
            try:
                out = self.repository.git.run("cat-file", "--filters", b"--path=" + target.path, leaf.oid, timeout=60)
                yield object_id(self.repository.object_format, "blob", out)
            except GitError:
                yield None

    # -- acting

    def _journal(self) -> None:
        names = [self.marker] if self.marker else []
        head = self.facts.saves[0].manifest.head_ref
        write_journal(self.repository, ref_locks(self.repository, [*names, *([head] if head else [])]))

    def _save_for_safety(self, plan: Sequence[tuple[Target, FileState, str]]) -> None:
        """Save the workspace as it is now, and by name every file that is going to be replaced or deleted."""
        endangered = [t.path for t, seen, action in plan if action != "same" and seen.kind in ("file", "link")]
        result = save_owned(self.repository, self.git, SaveRequest(kind="safety", keep_paths=endangered, depth=99))
        self.safety = result.save_id
        self._journal()

    def _carry_out(self, plan: Sequence[tuple[Target, FileState, str]]) -> None:
        for target, seen, action in plan:
            if action == "delete":
                self._try(self._delete, target, seen)
        directories = self.facts.saves[0].manifest.directories
        for target, seen, _ in plan:
            if target.saved is not None:
                continue
            linked = any(leaf.mode == GITLINK for leaf in target.bases) and target.path not in directories
            if seen.kind == "directory" and linked and self.disk.remove_directory(target.path):
                # The empty place that git makes for a submodule; it was deleted.
                self.deleted.append(target.path)
            elif seen.kind == "missing":
                self._remove_emptied(target.path)
        for target, seen, action in plan:
            if action == "write":
                self._try(self._write, target, seen)

    def _try(self, act: Callable[[Target, FileState], None], target: Target, seen: FileState) -> None:
        try:
            act(target, seen)
        except (FileExistsError, NotADirectoryError, IsADirectoryError):
            self.kept.append(target.path)
        except OSError as error:
            if error.errno in _FULL:
                raise GitstateError(
                    f"{os.fsdecode(target.path)}: {error.strerror}; the save still waits, nothing was lost",
                    hint="make room, then: gitstate recover",
                ) from None
            self._failed(target.path, error)

    def _failed(self, path: bytes, error: OSError) -> None:
        """A path could not be brought back for a reason that someone can mend: then the save goes on waiting."""
        self.failed.append(LeftOut(path, f"it could not be written: {error.strerror}", True))
        self.stuck = True

    def _delete(self, target: Target, seen: FileState) -> None:
        self.disk.delete(target.path, seen)
        self.deleted.append(target.path)
        self._remove_emptied(target.path)

    def _remove_emptied(self, path: bytes) -> None:
        """Remove the directories above a deleted path that are empty now and were not there at the save."""
        keep = self.facts.saves[0].manifest.directories
        directory = path.rpartition(b"/")[0]
        while directory and directory not in keep and self.disk.remove_directory(directory):
            directory = directory.rpartition(b"/")[0]

    def _write(self, target: Target, seen: FileState) -> None:
        saved = target.saved
        assert saved is not None
        if seen.kind == "directory":
            self._empty_directories(target.path)
            if not self.disk.remove_directory(target.path) and self.disk.look(target.path).kind == "directory":
                raise FileExistsError
            seen = self.disk.look(target.path)
        if saved.mode == GITLINK:
            self.disk.make_directory(target.path)
        elif saved.mode == SYMLINK and self.repository.is_true("core.symlinks", True):
            content = self.reader.contents([saved.oid], LARGE)[0]
            if content is None:
                raise NeedsPerson(f"object {saved.oid} is missing", hint="git fsck")
            self.disk.write_link(target.path, content[1], seen)
        else:
            if self.reader.kinds([saved.oid])[0] is None:
                raise NeedsPerson(f"object {saved.oid} is missing", hint="git fsck")
            permissions = target.permissions if target.permissions is not None else saved.mode & 0o777
            self.disk.write_file(target.path, self.reader.stream(saved.oid), permissions or 0o644, seen)
        self.restored.append(target.path)

    def _empty_directories(self, path: bytes) -> None:
        top = os.path.join(self.repository.toplevel, path)
        for directory, _, _ in os.walk(top, topdown=False):
            self.disk.remove_directory(os.path.relpath(directory, self.repository.toplevel))

    def _operation(self, newest: Save) -> None:
        """Put the files of the unfinished operation back that are not there; what is there stays."""
        tree = newest.files.get(b"operation")
        names = [path for path in newest.manifest.operation_files if is_operation_file(path)]
        for path, leaf in self.trees.lookup(tree[1] if tree else None, names).items():
            full = os.path.join(self.repository.git_dir, path)
            if os.path.lexists(full):
                continue
            content = self.reader.contents([leaf.oid], LARGE * 4)[0]
            if content is None:
                continue
            files.make_directory(os.path.dirname(full), top=self.repository.git_dir)
            files.write_atomic(
                full, content[1], mode=0o755 if leaf.mode & 0o100 else 0o644, staging=self.repository.own
            )

    def _sparse(self, newest: Save) -> None:
        """Where the save is of a sparse checkout and this worktree is none: make it one, for this worktree alone."""
        entry = newest.files.get(b"sparse-checkout")
        if entry is None or self.repository.is_true("core.sparsecheckout"):
            return
        content = self.reader.contents([entry[1]], LARGE)[0]
        if content is None:
            return
        path = os.path.join(self.repository.git_dir, b"info", b"sparse-checkout")
        files.make_directory(os.path.dirname(path), top=self.repository.git_dir)
        files.write_atomic(path, content[1], mode=0o644, staging=self.repository.own)
        self.git.run("config", "extensions.worktreeConfig", "true")
        for name in ("core.sparseCheckoutCone", "index.sparse", "core.sparseCheckout"):
            value = newest.manifest.sparse.get(name.lower())
            if value is not None:
                self.git.run(
                    "config", "--worktree", name, "true" if value.lower() in ("true", "1", "yes", "on") else "false"
                )

    def _directories(self, manifest: Manifest) -> None:
        there: list[bytes] = []
        for path in sorted(manifest.directories):
            try:
                self.disk.make_directory(path)
                there.append(path)
            except NotADirectoryError:
                # Something else stands there now, or above it: it stays as it is.
                continue
            except OSError as error:
                self._failed(path, error)
        for path in reversed(there):
            mode = manifest.directories[path]
            try:
                current = self.disk.permissions(path)
                if current is not None and current != mode and current in (0o755, 0o775, 0o700, 0o777):
                    self.disk.set_permissions(path, mode)
            except OSError as error:
                self.failed.append(LeftOut(path, f"its permissions can't be set: {error.strerror}", False))

    def _permissions(self, targets: Sequence[Target]) -> None:
        """Permissions of files whose content is the saved one, the unchanged tracked ones among them."""
        known = {target.path: target for target in targets}
        newest = self.facts.saves[0]
        others = [path for path in newest.manifest.modes if path not in known]
        leaves = self.trees.lookup(newest.wip_tree, others)
        more = [
            Target(path, leaf, newest.manifest.modes[path], frozenset({leaf}))
            for path, leaf in leaves.items()
            if self.disk.permissions(path) not in (None, newest.manifest.modes[path])
        ]
        for target in (*targets, *more):
            try:
                if target.saved is None or self.disk.permissions(target.path) is None:
                    continue
                seen = self.disk.look(target.path)
                if seen.oid != target.saved.oid and target in targets:
                    continue
                wanted, mine = wanted_permissions(target, seen, self.umask)
                if wanted is not None and mine:
                    self.disk.set_permissions(target.path, wanted)
                    self.restored.append(target.path)
                elif wanted is not None:
                    self.kept.append(target.path)
            except OSError as error:
                self.failed.append(LeftOut(target.path, f"its permissions can't be set: {error.strerror}", False))
        self.restored = list(dict.fromkeys(self.restored))

    # -- tracked files that were not changed, but are gone

    def _modified(self) -> list[bytes]:
        """Tracked files that git takes for changed. A required filter that fails ends it: then without filters."""
        words = ("diff-files", "-z", "--name-only", "--diff-filter=M", "--ignore-submodules=all")
        try:
            out = self.git.run(*words)
        except GitError:
            out = without_filters(self.repository).git.run(*words)
        return out.split(b"\0")[:-1]

    def _missing(self, targets: Sequence[Target]) -> None:
        """Unchanged tracked files that are gone or cut short: git writes them beside, each is moved in whole."""
        known = {target.path for target in targets}
        listed = self.git.run("ls-files", "-z", "-d").split(b"\0")[:-1] + self._hidden_and_gone()
        dirty = self._modified()
        missing = [path for path in dict.fromkeys(listed) if path not in known and not self._was_left_out(path)]
        leaves = self._leaves(self.facts.saves[0].wip_tree, {*missing, *(path for path in dirty if path not in known)})
        refuse_unsafe(leaves)
        cut = {
            path: self.disk.look(path)
            for path in dict.fromkeys(dirty)
            if path in leaves and self._is_cut_short(Target(path, leaves[path], None, frozenset()))
        }
        gone = {path: leaves[path] for path in dict.fromkeys((*missing, *cut)) if path in leaves}
        if not gone:
            return
        written = [path for path, leaf in gone.items() if leaf.mode != GITLINK]
        staging = os.path.join(checkout_staging(self.repository), b"")
        files.remove_tree(staging)
        self._check_out(written, staging)
        files.sync_filesystem(self.repository.own)
        for path, leaf in gone.items():
            try:
                if leaf.mode == GITLINK:
                    self.disk.make_directory(path)
                else:
                    self.disk.take_in(staging + path, path, cut.get(path, MISSING))
                self.restored.append(path)
            except FileExistsError:
                self.kept.append(path)
            except OSError as error:
                self._failed(path, error)
        files.remove_tree(staging)

    def _hidden_and_gone(self) -> list[bytes]:
        """Files with a skip-worktree flag that were there: git does not miss them."""
        absent = set(self.facts.saves[0].manifest.absent)
        listed = self.git.run("ls-files", "-z", "-v", "--sparse").split(b"\0")
        hidden = (item[2:] for item in listed if item[:2] in (b"S ", b"s ") and not item.endswith(b"/"))
        top = self.repository.toplevel
        return [path for path in hidden if path not in absent and not os.path.lexists(os.path.join(top, path))]

    def _check_out(self, paths: Sequence[bytes], staging: bytes, *options: str) -> None:
        """Let git write tracked files below `staging`. One whose filter fails stops git: that one goes without it."""
        command = ("checkout-index", "-q", "-z", "--ignore-skip-worktree-bits", "--stdin", b"--prefix=" + staging)
        process = self.git.start(*options, *command)
        self.git.finish(process, input=b"".join(path + b"\0" for path in paths), ok_codes=range(256))
        left = [path for path in paths if not os.path.lexists(staging + path)]
        if not left or options:
            return
        if len(left) == 1:
            self._check_out(left, staging, *self.repository.filters_off())
            why = "its filter failed: it was written as git holds it"
            self.failed.append(LeftOut(left[0], why, False))
            return
        middle = len(left) // 2
        for half in (left[:middle], left[middle:]):
            self._check_out(half, staging)

    # -- refs, state, nested repositories

    def _branch(self) -> None:
        oldest = self.facts.saves[-1]
        ref, goal, head = oldest.manifest.head_ref, oldest.manifest.head, self.facts.head
        message = f"recover {oldest.manifest.save_id}"
        if self.facts.detach:
            update = RefUpdate("HEAD", head, head)
            refs.move_refs(self.repository, self.git, [update], message, no_deref=True)
            return
        if ref is None or head == goal:
            return
        refs.move_refs(self.repository, self.git, [RefUpdate(ref, goal, head)], message)

    def _nested(self) -> tuple[RecoverResult, ...]:
        found: list[RecoverResult] = []
        paths = {item.path: item.save_id for save in self.facts.saves for item in save.manifest.nested}
        made = self._submodules(paths)
        paths = {**dict.fromkeys(made), **paths}
        for path, save_id in paths.items():
            full = os.path.join(self.repository.toplevel, path)
            parent = os.path.dirname(full)
            if os.path.realpath(parent) != os.path.join(
                os.path.realpath(self.repository.toplevel), os.path.dirname(path)
            ).rstrip(b"/"):
                self.failed.append(LeftOut(path, "a symlink leads to where the repository was", True))
                continue
            request = RecoverRequest(wait=self.request.wait, depth=self.request.depth + 1)
            try:
                waiting = None if os.path.lexists(full) else self._waiting_for(full, save_id)
                if waiting is not None and self.request.depth <= 8:
                    found.append(recover_into(self.repository, full, request._replace(save_id=waiting)))
                elif is_repository(full) and self.request.depth <= 8:
                    result = recover(full, request)
                    if path in made and result.verdict == "nothing":
                        open_repository(full).git.run("checkout-index", "-q", "-a", ok_codes=range(256))
                    else:
                        found.append(result)
                else:
                    why = "the repository in it is not here; its save went with it"
                    self.failed.append(LeftOut(path, why, True))
            except (GitstateError, OSError) as error:
                self.failed.append(LeftOut(path, f"the repository in it: {error}"[:300], True))
        fine = ("restore", "context_only", "nothing", "changed")
        self.inner_trouble = any(result.verdict not in fine or result.exit_status for result in found)
        return tuple(found)

    def _submodules(self, nested: Collection[bytes]) -> list[bytes]:
        """Give submodules whose directory was wiped their `.git` file again: all else of them is in our git dir."""
        made = []
        modules = os.path.join(self.repository.git_dir, b"modules")
        for store in _stores(modules):
            name = os.fsdecode(os.path.relpath(store, modules))
            if self.repository.setting(f"submodule.{name}.url") is None:
                continue
            said = self.git.run("config", "-z", "-f", os.path.join(store, b"config"), "core.worktree", ok_codes=(0, 1))
            full = os.path.realpath(os.path.join(store, said.removesuffix(b"\0")))
            path = os.path.relpath(full, os.path.realpath(self.repository.toplevel))
            leaf = self.trees.lookup(self.facts.saves[0].wip_tree, [path]).get(path)
            if path in nested and not os.path.lexists(full):
                self.disk.make_directory(path)
            elif leaf is None or leaf.mode != GITLINK or not self.disk.is_empty(path):
                continue
            link = b"gitdir: %s\n" % os.path.relpath(store, full)
            files.write_atomic(os.path.join(full, b".git"), link, mode=0o644, staging=self.repository.own)
            made.append(path)
        return made

    def _waiting_for(self, full: bytes, save_id: str | None) -> str | None:
        """The save of a nested linked worktree of this very repository: the one that waits, else the one named."""
        for oid in refs.list_refs(self.repository.git, PENDING).values():
            with contextlib.suppress(GitstateError):
                save = read_save(oid, self.reader)
                if save.context.workspace_path == os.fsdecode(full):
                    return save.manifest.save_id
        mine = {save.manifest.save_id for save in self.facts.saves}
        held = any(ref.endswith(f"/{save_id}") for ref in refs.list_refs(self.repository.git, SAVES))
        return save_id if held and save_id not in mine else None

    def _context_alone(self) -> RecoverResult:
        """The run ended without a save: its context is all there is to bring back."""
        assert self.facts.context is not None
        context = with_measured_fields(self.repository, self.facts.context, self.facts.head_ref)
        result = self._result("context_only")._replace(context=context)
        if self.request.dry_run:
            return result
        resume = resume_command(context, os.environ) or instruction(context)
        told = briefing(context, Reason(), restored=(), kept=(), left_out=(), operation=self.facts.operation)
        state_file = write_state(self.repository, context, RECOVERED, resume=resume, briefing=told)
        return result._replace(state_file=state_file, resume=resume, briefing=told)

    def _finish(self, word: str) -> RecoverResult:
        if self.request.dry_run:
            return self._result(word)
        newest, oldest = self.facts.saves[0], self.facts.saves[-1]
        context = with_measured_fields(self.repository, newest.context, self.facts.head_ref)
        resume = resume_command(context, os.environ) or instruction(context)
        told = briefing(
            context,
            newest.manifest.reason,
            restored=self.restored,
            kept=list(dict.fromkeys(self.kept)),
            left_out=(*newest.manifest.left_out, *self.failed),
            operation=newest.manifest.operation,
        )
        described = describe_save(newest.manifest, wip=newest.wip, archive=newest.archive)
        described["base_commit"] = oldest.manifest.base
        described["left_out"] = [item.to_json() for item in (*newest.manifest.left_out, *self.failed)][:1000]
        state_file = write_state(
            self.repository,
            context,
            RECOVERED,
            reason=newest.manifest.reason.to_json(),
            save=described,
            resume=resume,
            briefing=told,
        )
        if self.marker is not None and not self.stuck:
            seen = refs.read_refs(self.repository, [self.marker]).get(self.marker)
            if seen == newest.archive:
                refs.move_refs(self.repository, self.git, [RefUpdate(self.marker, None, seen)], "recovered")
        clear_journal(self.repository)
        return self._result(word)._replace(state_file=state_file, resume=resume, briefing=told, context=context)

    def _result(self, word: str) -> RecoverResult:
        newest = self.facts.saves[0] if self.facts.saves else None
        left_out = (*(newest.manifest.left_out if newest else ()), *self.failed)
        message, hint = self.verdict.message, self.verdict.hint
        if word == "changed":
            message = "what was changed after the save stays as it is; all else is back"
            hint = (
                f"gitstate restore --overwrite {newest.manifest.save_id if newest else 'ID'} PATH… (the saved version)"
            )
        elif newest is not None and newest.manifest.previous and not message:
            message = f"an earlier save was never recovered: {newest.manifest.previous}"
            hint = f"gitstate diff {newest.manifest.previous}; gitstate restore {newest.manifest.previous} PATH…"
        status = self.verdict.exit_status
        if self.stuck:
            message, hint = "not all of it could be brought back: the save goes on waiting", "gitstate recover"
        if status == 0 and (any(item.lost for item in self.failed) or self.inner_trouble):
            status = EXIT_PERSON
        return RecoverResult(
            workspace=self.repository.toplevel,
            verdict=word,
            message=message,
            hint=hint,
            exit_status=status,
            save_id=newest.manifest.save_id if newest else None,
            branch=None if self.facts.head_ref is None else branch_name(self.facts.head_ref),
            restored=tuple(self.restored),
            deleted=tuple(self.deleted),
            kept=tuple(dict.fromkeys(self.kept)),
            left_out=left_out,
            safety_save=self.safety,
            context=newest.context if newest else Context(),
            dry_run=self.request.dry_run,
        )


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


@contextlib.contextmanager
def _usual_umask(repository: Repository, save: Save) -> Iterator[None]:
    """Permissions that a save does not mention are 644 and 755, whatever the umask of who recovers."""
    mask, usual = _umask(), 0o022
    if mask == usual or save.archive == save.wip:
        yield
        return
    listed = repository.git.run("ls-tree", "-r", "-z", "--name-only", "--full-tree", save.wip_tree)
    os.umask(usual if listed.count(b"\0") <= MODES_LIMIT else mask)
    try:
        yield
    finally:
        os.umask(mask)


def _stores(modules: bytes) -> Iterator[bytes]:
    """The git dirs of submodules; a submodule's name, and with it the place of its git dir, may hold slashes."""
    for directory, names, there in os.walk(modules):
        if b"HEAD" in there and b"objects" in names:
            names.clear()
            yield directory


def _is_below(path: bytes, top: bytes) -> bool:
    return path == top or path.startswith(top.rstrip(b"/") + b"/")
