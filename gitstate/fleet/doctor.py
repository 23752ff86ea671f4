"""What is wrong here, and the command that mends it: each check is a function that yields what it found.

Nothing here changes anything but `fix`, and that only what is provably safe: locks older than this boot, files that
hold no byte, the ignore line of the state file, and the configuration of git's own syncing where that was asked for.
"""

from __future__ import annotations

import difflib
import os
import re
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

from ..agents.registry import all_agents
from ..errors import GitError, GitstateError, NotAWorkspace
from ..format import names
from ..git import locks, refs
from ..git.command import Git
from ..git.repository import Repository, foreign_owner, open_repository
from ..integrations import schedulers
from ..integrations.agent_hooks import last_problem
from ..integrations.agent_hooks_install import agent_problems
from ..integrations.git_hooks_install import hook_problems
from ..system import files, process
from ..workspace import damage, registry, settings
from ..workspace.live_context import read_live_context
from ..workspace.peek import Peeker, WorkspacePeek
from ..workspace.run_record import failing_checkpoints
from ..workspace.state_file import state_name

OLDEST_GIT = (2, 39)
#: Below this many free bytes, or this part of the file system, a save may not fit.
_ROOM = 256 << 20
_MANY_PACKS = 200
_BY_HAND = "look at that file: gitstate changes nothing that it can't read"
#: A save that waits for longer than this, in seconds, was forgotten.
_FORGOTTEN = 24 * 3600.0


class Finding(NamedTuple):
    """One thing that is wrong. `serious`: work may be lost or can't be brought back; the rest is advice."""

    check: str
    what: str
    command: str
    serious: bool = True
    fix: Callable[[], bool] | None = None
    """Mends it where that is safe; says whether it did."""


def examine(path: bytes) -> list[Finding]:
    """Everything that is wrong with the workspace that `path` is in, or, outside of one, with this installation."""
    checks: list[Callable[[], Iterator[Finding]]] = [_git_version, _list_of_workspaces, _boot, _agents]
    try:
        repository = open_repository(path)
        checks.append(partial(_settings, repository))
        # The other checks go on with the default of a setting that can't be read.
        repository, _ = settings.with_defaults(repository, settings.OF_SAVE)
        for check in (
            _ownership,
            _locks,
            _damage,
            _disk,
            _durability,
            _state_file,
            _waiting,
            _checkpoints,
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
            found.append(Finding("check", f"one check could not be made: {error}"[:300], "git config --list; git fsck"))
    return found


def fix(findings: list[Finding]) -> list[Finding]:
    """Mend what can be mended safely; returns what was mended."""
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
    said = Git(b"/").run("version").decode("ascii", "replace")
    numbers = re.search(r"(\d+)\.(\d+)", said)
    version = (int(numbers[1]), int(numbers[2])) if numbers else (0, 0)
    if version < OLDEST_GIT:
        what = f"git {version[0]}.{version[1]} is older than {OLDEST_GIT[0]}.{OLDEST_GIT[1]}: saves may fail"
        yield Finding("git", what, "install a newer git")


def _list_of_workspaces() -> Iterator[Finding]:
    try:
        listed = registry.registered()
    except (GitstateError, OSError) as error:
        what = f"the list of workspaces can't be read: {error}"[:300]
        yield Finding("registry", what, f"ls -ld {shlex.quote(os.fsdecode(registry.list_directory()))}", serious=False)
        return
    gone = [path for path in listed if not os.path.isdir(path)]
    if gone:
        what = f"{len(gone)} registered workspaces are gone, such as {os.fsdecode(gone[0])}"
        yield Finding("registry", what, "gitstate unregister --missing", serious=False)


def _boot() -> Iterator[Finding]:
    standing = schedulers.status()
    if not standing.enabled:
        yield Finding("boot", "after a reboot nobody recovers by itself", "gitstate boot enable", serious=False)
    for what, command in standing.troubles:
        yield Finding("boot", what, command)


def _agents() -> Iterator[Finding]:
    """Agent programs that are stubs, and agents whose hooks do not call this gitstate."""
    for agent in all_agents():
        program = shutil.which(agent.commands[0]) if agent.stub_advice else None
        if program is not None and not re.search(rb"\d+\.\d+", schedulers.answer([program, "--version"])):
            what = f"{program} names no version, as the old stub that does nothing and ends with status 0"
            yield Finding("agent", what, agent.stub_advice or "", serious=False)
    for what, command in agent_problems(os.environ):
        yield Finding("agent", what, command or _BY_HAND, serious=False)


# -- the workspace


def _unopened(path: bytes, error: NotAWorkspace) -> Iterator[Finding]:
    """Git does not open it. Where there is a `.git`, find out why."""
    top = path
    while not os.path.lexists(os.path.join(top, b".git")):
        if os.path.dirname(top) == top:
            return
        top = os.path.dirname(top)
    seen = Peeker().peek(top)
    quoted = shlex.quote(os.fsdecode(top))
    if seen.problem == "foreign":
        what = f"it belongs to user {seen.uid}, and git does not open it"
        yield Finding("ownership", what, f"git config --global --add safe.directory {quoted}")
        return
    broken = list(_blank(seen)) if seen.git_dir else []
    yield from broken or [Finding("repository", error.message, f"git -C {quoted} fsck")]


def _blank(seen: WorkspacePeek) -> Iterator[Finding]:
    for item in damage.find_damage(seen.workspace, seen.git_dir, seen.common_dir):
        yield Finding(
            "damage", item.what, item.command, True, partial(damage.repair_damage, item) if item.repairable else None
        )


def _ownership(repository: Repository) -> Iterator[Finding]:
    uid = foreign_owner(repository)
    if uid is not None:
        quoted = shlex.quote(os.fsdecode(repository.toplevel))
        what = f"it belongs to user {uid}: what its configuration names is not run"
        yield Finding("ownership", what, f"git config --global --add safe.directory {quoted}")


def _locks(repository: Repository) -> Iterator[Finding]:
    for lock in locks.find_locks(repository.git_dir, repository.common_dir):
        quoted = shlex.quote(os.fsdecode(lock.path))
        if lock.dead:
            what = f"{os.fsdecode(lock.path)} is older than this boot: its owner is gone"
            yield Finding("lock", what, f"rm {quoted}", True, partial(_remove_dead, lock.path))
        elif time.time() - os.lstat(lock.path).st_mtime > 600:
            what = f"{os.fsdecode(lock.path)} stands for more than ten minutes"
            yield Finding("lock", what, f"rm {quoted}, once no git works here any more", serious=False)


def _damage(repository: Repository) -> Iterator[Finding]:
    return _blank(WorkspacePeek(repository.toplevel, git_dir=repository.git_dir, common_dir=repository.common_dir))


def _settings(repository: Repository) -> Iterator[Finding]:
    """Values that can't be read, and keys that gitstate does not know: a misspelt one has no effect."""
    for problem in settings.problems(repository):
        command = problem.command or f"git config --show-origin --get-all gitstate.{problem.name}"
        yield Finding("settings", problem.message, command)
    known = {setting.name.lower(): setting.key for setting in settings.SETTINGS}
    for key in settings.unknown_keys(repository):
        if key == registry.OLD_KEY:
            continue
        nearest = difflib.get_close_matches(key.removeprefix("gitstate."), known, 1)
        guess = f"; did you mean {known[nearest[0]]}?" if nearest else ""
        command = f"git config --show-origin --get-all {shlex.quote(key)}"
        yield Finding("settings", f"{key} is no setting of gitstate{guess}", command, serious=False)


def _checkpoints(repository: Repository) -> Iterator[Finding]:
    """A checkpoint that failed, of a run under way or of an agent's hook, and was not followed by one that did not."""
    problem = failing_checkpoints(repository.git_dir)
    if problem is not None:
        yield Finding("checkpoint", f"the last checkpoint of this run failed: {problem}", "gitstate checkpoint")
    for what, command in last_problem(repository):
        yield Finding("checkpoint", what, command or "gitstate checkpoint")


def _disk(repository: Repository) -> Iterator[Finding]:
    info = os.statvfs(repository.objects)
    where = os.fsdecode(repository.objects)
    if info.f_flag & os.ST_RDONLY or not os.access(repository.objects, os.W_OK):
        yield Finding("disk", f"{where} can't be written: nothing can be saved", f"ls -ld {shlex.quote(where)}")
    elif info.f_bavail * info.f_frsize < _ROOM:
        free = info.f_bavail * info.f_frsize >> 20
        yield Finding("disk", f"only {free} MiB are free below {where}", "gitstate prune; git gc")
    elif info.f_files and info.f_favail < 1000:
        yield Finding("disk", f"only {info.f_favail} inodes are free below {where}", "gitstate prune; git gc")


def _durability(repository: Repository) -> Iterator[Finding]:
    """A save syncs what it needs. The agent's own commits are only as durable as git is told to make them."""
    value = _configured(repository, "core.fsync") or ""
    if not {"all", "committed", "added", "loose-object", "objects"} & set(re.split(r"[,\s]+", value)):
        what = "git's default does not sync the agent's own commits: a power cut may empty them"
        yield Finding("fsync", what, "git config --global core.fsync committed,loose-object,reference", serious=False)


def _state_file(repository: Repository) -> Iterator[Finding]:
    name = state_name(repository)
    text = os.fsdecode(name)
    if name.startswith(b"../"):
        return
    if repository.git.run("ls-files", "-z", "--", name):
        what = f"{text} is tracked by git: every save and commit would carry it"
        yield Finding("state", what, f"git rm --cached {shlex.quote(text)}")
        return
    plain = {"GIT_LITERAL_PATHSPECS": "0"}
    if not repository.git.run("check-ignore", "-z", "--stdin", input=name + b"\0", ok_codes=(0, 1), env=plain):
        exclude = os.path.join(repository.common_dir, b"info", b"exclude")
        command = f"echo /{shlex.quote(text)} >>{shlex.quote(os.fsdecode(exclude))}"
        if os.path.lexists(os.path.join(repository.toplevel, name)):
            yield Finding("state", f"{text} is not ignored by git", command, serious=False)


def _waiting(repository: Repository) -> Iterator[Finding]:
    seen = Peeker([repository.toplevel]).peek(repository.toplevel)
    if seen.marker is None:
        if seen.status == "active" and seen.owner == "gone":
            yield Finding("waiting", "the last run ended without a save", "gitstate recover")
        return
    stamp = repository.git.run("show", "-s", "--format=%ct", seen.marker, ok_codes=range(256)).strip()
    age = time.time() - int(stamp) if stamp.isdigit() else 0.0
    words = f" for {age / 3600:.0f} hours" if age > _FORGOTTEN else ""
    yield Finding("waiting", f"a save waits{words}", "gitstate recover", serious=age > _FORGOTTEN)


def _pushed(repository: Repository) -> Iterator[Finding]:
    """A WIP commit that a remote branch has: others may build on what `recover` is going to unwind."""
    marker = names.marker_ref(names.workspace_id(repository))
    if marker not in refs.read_refs(repository, [marker]):
        return
    wip = repository.git.run("rev-parse", "--verify", "-q", f"{marker}^1", ok_codes=(0, 1, 128)).strip()
    if not wip:
        return
    having = repository.git.run("for-each-ref", "--format=%(refname:short)", "--contains", wip, "refs/remotes")
    for name in having.split(b"\n")[:1]:
        if name:
            what = f"{os.fsdecode(name)} carries the WIP commit {wip[:12].decode()}"
            yield Finding("pushed", what, "gitstate recover, then: git push --force-with-lease")


def _configured(repository: Repository, name: str) -> str | None:
    """The value that files of the configuration give: the last one is what gitstate itself tells its git."""
    values = repository.config.get(name, [])[:-1]
    return values[-1] if values else None


def _hooks(repository: Repository) -> Iterator[Finding]:
    """Hooks that git does not run, or that are not whole: husky's directory in a linked worktree, an update."""
    for what, command in (*hook_problems(repository), *last_problem(repository)):
        yield Finding("hooks", what, command or _BY_HAND, serious=False)


def _packs(repository: Repository) -> Iterator[Finding]:
    """Each checkpoint that found something is a pack; git looks into all of them."""
    packs = [name for name in os.listdir(os.path.join(repository.objects, b"pack")) if name.endswith(b".pack")]
    if len(packs) > _MANY_PACKS:
        what = f"{len(packs)} packs make git slow here"
        yield Finding("packs", what, "git maintenance run --task=gc, while no agent works", serious=False)


def _listed(repository: Repository) -> Iterator[Finding]:
    if repository.toplevel not in registry.registered():
        quoted = shlex.quote(os.fsdecode(repository.toplevel))
        what = "this workspace is not registered: `recover --all` after a reboot would not look at it"
        yield Finding("registry", what, f"gitstate register {quoted}", False, partial(_register, repository))


def _register(repository: Repository) -> bool:
    # Only where the agent's work is kept already: a mere look at a repository must not enlist it.
    _, status = read_live_context(repository)
    if status is not None:
        registry.add([repository.toplevel])
    return status is not None


def _remove_dead(path: bytes) -> bool:
    return process.older_than_boot(path) and _remove(path)


def _remove(path: bytes) -> bool:
    files.remove(path)
    return not os.path.lexists(path)


def version_line() -> str:
    """Which Python and git are at work, for a report of trouble."""
    try:
        said = Git(b"/").run("version").decode("ascii", "replace").strip()
    except (GitError, OSError) as error:
        said = f"no git: {error}"
    return f"Python {sys.version.split()[0]}, {said}"
