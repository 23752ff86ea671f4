"""`doctor`: what is wrong, and the command that mends it. Each check is a generator of findings.

Only `fix` changes anything, and only where nothing can be lost: locks that are older than this boot, or that a disk did
not remove for us, files that a power cut left without content, and the list of workspaces.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import NamedTuple

from ..agent_hooks.install import agent_problems
from ..agent_hooks.memory import last_problem
from ..agents.registry import all_agents
from ..errors import GitError, GitstateError, NotAWorkspace, TryAgain, words_of
from ..format import names
from ..format.archive import unfinished_here
from ..git import gitdir, refs
from ..git.command import Git
from ..git.damaged.files import among_files, is_blank
from ..git.index import is_own_lock
from ..git.opening import open_repository
from ..git.permitted import MULTI_PACK_INDEX, has_damaged_pack_index, left_unread
from ..git.repository import Repository
from ..history.receipt import read_receipt
from ..integrations import schedulers
from ..integrations.git_hooks_install import hook_problems
from ..integrations.scheduler import answer
from ..objects.reader import ObjectReader
from ..recover import unfinished
from ..system import files
from ..system.clock import Deadline
from ..system.locks import locked
from ..system.stdlib import quote
from ..system.terminal import counted
from ..workspace import registry, settings
from ..workspace.damage import REFS_DELETED, backlink_trouble, find_unreadable, lost_save_id, open_damaged
from ..workspace.live_context import read_live_context, state_name
from ..workspace.ownership import locked_workspace
from ..workspace.peek import Peeker, WorkspacePeek
from ..workspace.run_record import failing_checkpoints
from . import damage

OLDEST_GIT = (2, 39)
#: With fewer free bytes a save may not fit.
_ROOM = 256 << 20
_MANY_PACKS = 200
_BY_HAND = "read that file: gitstate does not change a file that it cannot parse"
#: A save that is pending for longer than this, in seconds, was forgotten.
_FORGOTTEN = 24 * 3600.0


class Finding(NamedTuple):
    """One thing that is wrong: `what` it is, and the `command` that mends it. If it is not `serious`, it is advice."""

    check: str
    what: str
    command: str
    serious: bool = True
    fix: Callable[[], bool] | None = None
    """Mends it, and returns whether it did. None if that needs a person."""


def examine(path: bytes) -> list[Finding]:
    """Everything that is wrong with this installation, and with the workspace that contains `path`."""
    checks: list[Callable[[], Iterator[Finding]]] = [_git_version, _list_of_workspaces, _boot, _agents]
    try:
        repository = open_repository(path)
        checks.append(partial(_settings, repository))
        # The other checks use the default of a setting that is unreadable.
        repository, _ = settings.with_defaults(repository, settings.OF_SAVE)
        for check in (
            _ownership,
            _git_dir_place,
            _unused,
            _locks,
            _pack_index,
            _damage,
            _unreadable,
            _backlinks,
            _disk,
            _durability,
            _state_file,
            _waiting,
            _not_back,
            _fetched_over,
            _checkpoints,
            _proven,
            _pushed,
            _hooks,
            _listed,
            _packs,
        ):
            checks.append(partial(check, repository))
    except NotAWorkspace as error:
        checks.append(partial(_unopened, path, error))
    found: list[Finding] = []
    for one in checks:
        try:
            found += one()
        except (GitstateError, OSError) as error:
            hint = error.hint if isinstance(error, GitstateError) else None
            what = f"a check failed: {words_of(error)}"[:300]
            found.append(Finding("check", what, hint or "git config --list; git fsck"))
    return found


def fix(findings: list[Finding]) -> list[Finding]:
    """Mend what can be mended safely. Returns what was mended."""
    done = []
    for finding in findings:
        try:
            if finding.fix is not None and finding.fix():
                done.append(finding)
        except (GitstateError, OSError):
            continue
    return done


# -- the installation


def _git_version() -> Iterator[Finding]:
    output = Git(b"/").run("version").decode("ascii", "replace")
    numbers = re.search(r"(\d+)\.(\d+)", output)
    version = (int(numbers[1]), int(numbers[2])) if numbers else (0, 0)
    if version < OLDEST_GIT:
        what = f"git {version[0]}.{version[1]} is older than {OLDEST_GIT[0]}.{OLDEST_GIT[1]}: saves may fail"
        yield Finding("git", what, "install a newer git")


def _list_of_workspaces() -> Iterator[Finding]:
    try:
        listed = registry.registered()
    except (GitstateError, OSError) as error:
        what = f"the list of workspaces is unreadable: {words_of(error)}"[:300]
        hint = error.hint if isinstance(error, GitstateError) else None
        look = f"ls -ld {quote(os.fsdecode(registry.list_directory()))}"
        yield Finding("registry", what, hint or look, serious=False)
        return
    gone = [path for path in listed if not os.path.isdir(path) and registry.not_mounted(path) is None]
    if gone:
        verb = "exists" if len(gone) == 1 else "exist"
        what = f"{counted(len(gone), 'registered workspace')} no longer {verb}, such as {os.fsdecode(gone[0])}"
        yield Finding("registry", what, "gitstate unregister --missing", serious=False)


def _boot() -> Iterator[Finding]:
    status = schedulers.status()
    if not status.enabled:
        can = schedulers.any_works()
        command = "gitstate boot enable" if can else "let whatever starts your agents run: gitstate recover --all"
        why = "" if can else ": neither systemd nor cron nor launchd works here"
        yield Finding("boot", f"recovery at boot is not enabled{why}", command, serious=False)
    for what, command in status.troubles:
        yield Finding("boot", what, command)


def _agents() -> Iterator[Finding]:
    """Agent programs that are stubs, and agents whose hooks do not call this gitstate."""
    for agent in all_agents():
        program = shutil.which(agent.commands[0]) if agent.stub_advice else None
        if program is not None and not re.search(rb"\d+\.\d+", answer([program, "--version"])):
            what = f"{program} prints no version: it is an old stub that does nothing and exits with 0"
            yield Finding("agent", what, agent.stub_advice or "", serious=False)
    for what, command in agent_problems(os.environ):
        yield Finding("agent", what, command or _BY_HAND, serious=False)


# -- the workspace


def _unopened(path: bytes, error: NotAWorkspace) -> Iterator[Finding]:
    """Why git does not open the repository, if there is a `.git`."""
    top = path
    while not os.path.lexists(os.path.join(top, b".git")):
        if os.path.dirname(top) == top:
            break
        top = os.path.dirname(top)
    seen = Peeker().peek(top)
    quoted = quote(os.fsdecode(top))
    if seen.problem == "foreign":
        what = f"it belongs to user {seen.uid}, so git does not open it"
        yield Finding("ownership", what, f"git config --global --add safe.directory {quoted}")
        return
    with suppress(GitstateError):
        repository = open_damaged(path)
        if repository is not None:
            seen = WorkspacePeek(repository.toplevel, git_dir=repository.git_dir, common_dir=repository.common_dir)
    if not seen.git_dir and not os.path.lexists(os.path.join(top, b".git")):
        return
    broken = list(_damaged_files(seen)) if seen.git_dir else []
    yield from broken or [Finding("repository", error.message, error.hint or f"git -C {quoted} fsck")]


def _backlinks(repository: Repository) -> Iterator[Finding]:
    """Linked worktrees that git takes for gone."""
    for path in gitdir.lost_backlinks(repository.git_dir, repository.common_dir):
        item = backlink_trouble(path, repository)
        yield Finding(
            "damage", item.what, item.command, True, partial(damage.repair_damage, item) if item.repairable else None
        )


def _damaged_files(seen: WorkspacePeek) -> Iterator[Finding]:
    for item in damage.find_damage(seen.workspace, seen.git_dir, seen.common_dir):
        yield Finding(
            "damage", item.what, item.command, True, partial(damage.repair_damage, item) if item.repairable else None
        )


def _ownership(repository: Repository) -> Iterator[Finding]:
    uid = repository.stranger
    if uid is not None:
        quoted = quote(os.fsdecode(repository.toplevel))
        what = f"it belongs to user {uid}: no program of its configuration is run"
        yield Finding("ownership", what, f"git config --global --add safe.directory {quoted}")


def _git_dir_place(repository: Repository) -> Iterator[Finding]:
    if gitdir.is_among_files(repository.toplevel, repository.common_dir):
        found = among_files(repository.toplevel, repository.common_dir)
        yield Finding("git_dir", found.what, found.command, serious=False)


def _locks(repository: Repository) -> Iterator[Finding]:
    for lock in gitdir.find_locks(repository.git_dir, repository.common_dir):
        quoted = quote(os.fsdecode(lock.path))
        if lock.dead:
            what = f"{os.fsdecode(lock.path)} is older than this boot: the process that made it is gone"
            yield Finding("lock", what, f"rm {quoted}", True, partial(_remove_dead, lock.path))
        elif _is_left(repository, lock.path):
            what = f"{os.fsdecode(lock.path)} stops git: gitstate made it, and the disk did not remove it"
            yield Finding("lock", what, "gitstate recover", True, partial(_remove_own, repository, lock.path))
        elif time.time() - os.lstat(lock.path).st_mtime > 600:
            what = f"{os.fsdecode(lock.path)} exists for more than ten minutes"
            yield Finding("lock", what, f"rm {quoted}, after the last git here has ended", serious=False)


def _unreadable(repository: Repository) -> Iterator[Finding]:
    for item in find_unreadable(repository):
        if not is_blank(item.path):
            yield Finding("damage", item.what, item.command)


def _pack_index(repository: Repository) -> Iterator[Finding]:
    if has_damaged_pack_index(repository.common_dir):
        path = os.path.join(repository.common_dir, MULTI_PACK_INDEX)
        command = f"rm -f {quote(os.fsdecode(path))}"
        yield Finding("damage", f"{os.fsdecode(path)} is damaged, and stops git", command)


def _damage(repository: Repository) -> Iterator[Finding]:
    return _damaged_files(
        WorkspacePeek(repository.toplevel, git_dir=repository.git_dir, common_dir=repository.common_dir)
    )


def _unused(repository: Repository) -> Iterator[Finding]:
    """Files of the user's configuration at which git waits for ever, or fails."""
    for what, command in left_unread(repository):
        yield Finding("settings", f"{what}: git waits or fails there, and gitstate does without it", command)


def _settings(repository: Repository) -> Iterator[Finding]:
    """Unreadable values, and keys that gitstate does not know: a misspelt key has no effect."""
    for problem in settings.problems(repository):
        command = problem.command or f"git config --show-origin --get-all gitstate.{problem.name}"
        yield Finding("settings", problem.message, command)
    for key in settings.unknown_keys(repository):
        if key == registry.OLD_KEY:
            continue
        nearest = settings.nearest_key(key)
        guess = f"; did you mean {nearest}?" if nearest else ""
        command = f"git config --show-origin --get-all {quote(key)}"
        yield Finding("settings", f"{key} is not a setting of gitstate{guess}", command, serious=False)


def _checkpoints(repository: Repository) -> Iterator[Finding]:
    """A failed checkpoint, of a run in progress or of a hook of an agent, if no later one succeeded."""
    problem = failing_checkpoints(repository.git_dir)
    if problem is not None:
        yield Finding("checkpoint", f"the last checkpoint of this run failed: {problem}", "gitstate checkpoint")
    for what, command in last_problem(repository):
        yield Finding("checkpoint", what, command or "gitstate checkpoint")


def _proven(repository: Repository) -> Iterator[Finding]:
    """A save that the last `verify` could not bring back."""
    receipt = read_receipt(repository.git_dir)
    if receipt is not None and receipt[2]:
        named = f"the save {receipt[0]}" if receipt[0] else "the newest save"
        yield Finding("verify", f"{named} does not come back ({receipt[1]}): {receipt[2][0]}", "gitstate verify")


def _disk(repository: Repository) -> Iterator[Finding]:
    info = os.statvfs(repository.objects)
    where = os.fsdecode(repository.objects)
    if info.f_flag & os.ST_RDONLY or not os.access(repository.objects, os.W_OK):
        yield Finding("disk", f"{where} is not writable: nothing can be saved", f"ls -ld {quote(where)}")
    elif info.f_bavail * info.f_frsize < _ROOM:
        free = info.f_bavail * info.f_frsize >> 20
        yield Finding("disk", f"only {free} MiB are free below {where}", "gitstate prune; git gc")
    elif info.f_files and info.f_favail < 1000:
        yield Finding("disk", f"only {info.f_favail} inodes are free below {where}", "gitstate prune; git gc")


def _durability(repository: Repository) -> Iterator[Finding]:
    """A save syncs what it needs, but the commits of the agent are only as durable as `core.fsync` makes them."""
    value = _configured(repository, "core.fsync") or ""
    if not {"all", "committed", "added", "loose-object", "objects"} & set(re.split(r"[,\s]+", value)):
        what = "git does not sync the commits of the agent by default: a power cut may empty them"
        yield Finding("fsync", what, "git config --global core.fsync committed,loose-object,reference", serious=False)


def _state_file(repository: Repository) -> Iterator[Finding]:
    name = state_name(repository)
    text = os.fsdecode(name)
    wanted = os.path.relpath(settings.path(repository, "stateFile"), repository.toplevel)
    if name != wanted:
        # Git lists no file of a git directory.
        what = f"gitstate did not write {os.fsdecode(wanted)} and leaves it alone: the state file is {text}"
        yield Finding("state", what, "git config gitstate.stateFile ANOTHER-NAME.json", serious=False)
        return
    if name.startswith(b"../"):
        return
    if repository.git.run("ls-files", "-z", "--", name):
        what = f"{text} is tracked by git: every save and commit would contain it"
        yield Finding("state", what, f"git rm --cached {quote(text)}")
        return
    plain = {"GIT_LITERAL_PATHSPECS": "0"}
    if not repository.git.run("check-ignore", "-z", "--stdin", input=name + b"\0", ok_codes=(0, 1), env=plain):
        exclude = os.path.join(repository.common_dir, b"info", b"exclude")
        command = f"echo /{quote(text)} >>{quote(os.fsdecode(exclude))}"
        if os.path.lexists(os.path.join(repository.toplevel, name)):
            yield Finding("state", f"{text} is not ignored by git", command, serious=False)


def _not_back(repository: Repository) -> Iterator[Finding]:
    """Repositories inside that a recovery could not bring back."""
    found = unfinished_here(repository)
    if found:
        with ObjectReader(repository.git) as reader:
            for line in unfinished.lines(unfinished.unfinished(repository, reader, found)):
                yield Finding("waiting", line.removesuffix(": gitstate recover"), "gitstate recover")


def _waiting(repository: Repository) -> Iterator[Finding]:
    seen = Peeker(lambda: [repository.toplevel]).peek(repository.toplevel)
    if seen.marker is None:
        if seen.status == "active" and seen.owner == "gone":
            yield Finding("waiting", "the last run ended without a save", "gitstate recover")
        elif lost_save_id(repository) is not None:
            yield Finding("waiting", f"a save is pending, and {REFS_DELETED}", "gitstate recover")
        return
    stamp = repository.git.run("show", "-s", "--format=%ct", seen.marker, ok_codes=range(256)).strip()
    age = time.time() - int(stamp) if stamp.isdigit() else 0.0
    since = f" for {age / 3600:.0f} hours" if age > _FORGOTTEN else ""
    yield Finding("waiting", f"a save is pending{since}", "gitstate recover", serious=age > _FORGOTTEN)


def _fetched_over(repository: Repository) -> Iterator[Finding]:
    """A remote that is fetched into the refs of saves, as by `git clone --mirror`: a fetch that prunes deletes them."""
    for key, refspecs in repository.config.items():
        if not key.startswith("remote.") or not key.endswith(".fetch"):
            continue
        places = [spec.rpartition(":")[2] for spec in refspecs if not spec.startswith("^")]
        spared = [spec[1:] for spec in refspecs if spec.startswith("^")]
        missing = [
            pattern
            for pattern in (f"{names.OWN}*", names.NOTES)
            if any(_covers(place, pattern) for place in places) and not any(_covers(one, pattern) for one in spared)
        ]
        if missing:
            remote = key.removeprefix("remote.").removesuffix(".fetch")
            what = f"{remote} is fetched into the refs of the saves: `git fetch --prune` deletes them"
            yield Finding("refs", what, "; ".join(f"git config --add {quote(key)} '^{one}'" for one in missing))


def _covers(pattern: str, other: str) -> bool:
    """Whether one side of a refspec matches all that `other` does."""
    return pattern == other or (pattern.endswith("*") and other.startswith(pattern[:-1]))


def _pushed(repository: Repository) -> Iterator[Finding]:
    """A WIP commit on a remote branch: others may build on it, but `recover` is going to undo it."""
    marker = names.own_marker(repository)
    if marker not in refs.read_refs(repository, [marker]):
        return
    wip = repository.git.run("rev-parse", "--verify", "-q", f"{marker}^1", ok_codes=(0, 1, 128)).strip()
    if not wip:
        return
    containing = repository.git.run("for-each-ref", "--format=%(refname:short)", "--contains", wip, "refs/remotes")
    for name in containing.split(b"\n")[:1]:
        if name:
            what = f"{os.fsdecode(name)} contains the WIP commit {wip[:12].decode()}"
            yield Finding("pushed", what, "gitstate recover, then: git push --force-with-lease")


def _configured(repository: Repository, name: str) -> str | None:
    """The value in the files of the configuration. The last value of all is the one that gitstate gives its git."""
    values = repository.config.get(name, [])[:-1]
    return values[-1] if values else None


def _hooks(repository: Repository) -> Iterator[Finding]:
    """Hooks that git does not run, or that do not call this gitstate."""
    for what, command in hook_problems(repository):
        yield Finding("hooks", what, command or _BY_HAND, serious=False)


def _packs(repository: Repository) -> Iterator[Finding]:
    """Each checkpoint adds a pack, and git searches all packs."""
    packs = [name for name in os.listdir(os.path.join(repository.objects, b"pack")) if name.endswith(b".pack")]
    if len(packs) > _MANY_PACKS:
        what = f"{len(packs)} packs slow git down"
        yield Finding("packs", what, "git maintenance run --task=gc, while no agent runs", serious=False)


def _listed(repository: Repository) -> Iterator[Finding]:
    try:
        listed = registry.registered()
    except (GitstateError, OSError):
        # That finding stands already.
        return
    if repository.toplevel not in listed:
        quoted = quote(os.fsdecode(repository.toplevel))
        what = "this workspace is not registered: `recover --all` does not find it"
        yield Finding("registry", what, f"gitstate register {quoted}", False, partial(_register, repository))


def _register(repository: Repository) -> bool:
    # Only a workspace with a state file: `doctor` must not register every repository that it examines.
    _, status = read_live_context(repository)
    if status is not None:
        registry.add([repository.toplevel])
    return status is not None


def _remove_dead(path: bytes) -> bool:
    return gitdir.is_dead_lock(path) and _remove(path)


def _is_left(repository: Repository, lock: bytes) -> bool:
    """Whether a lock is the index.lock of the workspace, and ours, while no gitstate holds the workspace."""
    if lock != os.path.join(repository.git_dir, b"index.lock") or not is_own_lock(lock):
        return False
    try:
        with locked(os.path.join(repository.own, b"lock"), Deadline(0.0), "it"):
            # Whoever made it may have removed it meanwhile.
            return is_own_lock(lock)
    except (TryAgain, FileNotFoundError):
        return False


def _remove_own(repository: Repository, lock: bytes) -> bool:
    with locked_workspace(repository, Deadline(0.0)):
        # Whoever holds the workspace cleans up first.
        return not os.path.lexists(lock)


def _remove(path: bytes) -> bool:
    files.remove(path)
    return not os.path.lexists(path)


def version_line() -> str:
    """The versions of Python and git, for a bug report."""
    try:
        version = Git(b"/").run("version").decode("ascii", "replace").strip()
    except (GitError, OSError) as error:
        version = f"no git: {words_of(error)}"
    return f"Python {sys.version.split()[0]}, {version}"
