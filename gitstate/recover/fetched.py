"""Saves that were fetched from a remote: which of them fit a workspace, and what in one could run by itself."""

from __future__ import annotations

import os

from ..errors import EXIT_PERSON, CorruptSave, GitError, MissingObject, NeedsPerson, UnsupportedSave, UsageError
from ..format.archive import MAX_FETCHED_MANIFEST, read_save, tree_of_base
from ..format.fetched import fetched_saves, mark_recovered, pending_fetched
from ..format.find import find_save
from ..format.manifest import Save
from ..format.names import age_key, newest_first
from ..git.command import Git, Oid
from ..git.entries import differing_paths
from ..git.repository import Repository, hooks_path
from ..objects.reader import ObjectReader
from ..objects.tree import TreeReader
from ..restore.paths import is_below
from ..system.clock import Deadline
from ..system.stdlib import TYPE_CHECKING, Record, suppress
from ..workspace.settings import trusted_remotes
from .plan import Facts, resting_places
from .request import RecoverRequest, RecoverResult

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


# -- which fit


class FetchedSave(Record):
    """A save that is pending on a remote, and fits this workspace."""

    archive: Oid
    remote: str
    stack: tuple[Save, ...]
    """The save and those it stands on, newest first."""
    detach: bool
    """HEAD has to be detached for it."""

    @property
    def save_id(self) -> str:
        return self.stack[0].manifest.save_id


#: At most so many markers of remotes are read, for at most so many seconds: whoever can push can make any number.
_MOST, _SECONDS = 1000, 10.0


def fetched_for(here: Facts, repository: Repository, reader: ObjectReader) -> list[FetchedSave]:
    """The saves that are pending on remotes and fit this workspace, those of trusted remotes first."""
    waiting = pending_fetched(repository)
    if not waiting:
        return []
    from ..format.bounds import read_fetched_stack

    trusted = trusted_remotes(repository)
    deadline = Deadline(_SECONDS)
    fitting = []
    for item in sorted(waiting, key=lambda item: item.remote not in trusted)[:_MOST]:
        if deadline.passed():
            break
        try:
            manifest = read_save(item.archive, reader, MAX_FETCHED_MANIFEST).manifest
            detach = manifest.head_ref is None and here.head_ref is not None and here.head == manifest.head
            if manifest.workspace_id == item.workspace_id and (detach or manifest.head_ref == here.head_ref):
                stack = read_fetched_stack(item.archive, reader)
                if detach or _stands_here(stack, here, repository):
                    fitting.append(FetchedSave(item.archive, item.remote, stack, detach))
        except (CorruptSave, UnsupportedSave):
            reader.restart()
    return fitting


def _stands_here(stack: tuple[Save, ...], here: Facts, repository: Repository) -> bool:
    same_path = stack[0].context.workspace_path == os.fsdecode(repository.toplevel)
    return same_path or here.head in resting_places(stack)


def trusted_of(fitting: Sequence[FetchedSave], repository: Repository) -> FetchedSave | None:
    """The save that comes from a trusted remote; None where none does. Raises NeedsPerson where several do."""
    if not fitting:
        return None
    trusted = trusted_remotes(repository)
    taken = {item.archive: item for item in fitting if item.remote in trusted}
    if len(taken) > 1:
        listed = ", ".join(sorted(item.save_id for item in taken.values()))
        raise NeedsPerson(f"several fetched saves fit this workspace: {listed}", hint="gitstate recover --save ID")
    return next(iter(taken.values()), None)


def offer(fitting: Sequence[FetchedSave]) -> tuple[str, str] | None:
    """What is said where only saves of untrusted remotes fit, and the command that takes one; None where none does."""
    if not fitting:
        return None
    newest = max(fitting, key=lambda item: item.save_id)
    more = f" ({len(fitting) - 1} more are there)" if len(fitting) > 1 else ""
    message = f"a save of this branch was fetched from {newest.remote}, which is not trusted{more}; nothing was touched"
    take = f"gitstate recover --save {newest.save_id}"
    return message, f"{take}; to refuse it: {take} --dismiss"


def older_than_fetched(taken: FetchedSave, repository: Repository, reader: ObjectReader) -> tuple[str, str] | None:
    """What is said where the remote has a newer save of that workspace than the one that it names as pending, and the
    commands that take either; None where it has none.

    A push that was broken off leaves it so, a refused marker, and a remote that came back from an old backup.
    """
    workspace_id, age = taken.stack[0].manifest.workspace_id, age_key(taken.save_id)
    held = [
        item
        for item in fetched_saves(repository.git, taken.remote).saves
        if item.workspace_id == workspace_id and item.save_id is not None and age_key(item.save_id) > age
    ]
    for item in newest_first(held, lambda item: (item.workspace_id, item.save_id or ""))[:_MOST]:
        with suppress(CorruptSave, UnsupportedSave):
            manifest = read_save(item.archive, reader, MAX_FETCHED_MANIFEST).manifest
            if manifest.kind == "save" and manifest.save_id == item.save_id:
                message = (
                    f"{taken.remote} names the save {taken.save_id} as pending, and a newer one of that workspace was "
                    f"fetched: {item.save_id}; nothing was touched"
                )
                older = f"gitstate recover --save {taken.save_id}"
                hint = f"gitstate recover --save {item.save_id}; or the older one: {older}"
                return message, f"{hint}; to refuse that: {older} --dismiss"
    return None


# -- what could run by itself

#: Files and directories, beside those of agents, that some tool reads as soon as somebody works there: direnv, mise,
#: hook managers, editors, containers.
_READ_BY_TOOLS = frozenset(
    (
        *(b".envrc", b".autoenv.zsh", b"mise.toml", b".mise.toml", b"mise.local.toml", b".mise", b".mcp.json"),
        *(b".githooks", b".husky", b".pre-commit-config.yaml", b"lefthook.yml", b".lefthook.yml", b"lefthook.yaml"),
        *(b".vscode", b".idea", b".zed", b".devcontainer", b".devcontainer.json"),
        *(b".exrc", b".nvimrc", b".nvim.lua", b".dir-locals.el"),
    )
)
_TODO, _SEQUENCE, _STRATEGY = b"rebase-merge/git-rebase-todo", b"sequencer/todo", b"rebase-merge/strategy"
#: The commands of a todo that run a program, and the merge strategies of git itself (`man git-rebase`).
_RUN = (b"exec", b"x")
_OF_GIT = (b"ort", b"recursive", b"resolve", b"octopus", b"ours", b"subtree")
_MOST_TODO = 1 << 20


def runs_by_itself(repository: Repository, reader: ObjectReader, stack: Sequence[Save]) -> tuple[str, ...]:
    """What a stack of saves would bring that may run without being called: paths, and commands of an unfinished rebase.

    Raises CorruptSave where the commit is missing that a save stands on.
    """
    paths: set[bytes] = set()
    for save in stack:
        manifest = save.manifest
        base = tree_of_base(reader, manifest.head) if _is_known(repository, manifest.head) else None
        paths.update(differing_paths(repository, base, save.wip_tree), manifest.staged, manifest.raw)
    return (*risky_paths(repository, paths), *_commands(stack[0], reader))


def risky_paths(repository: Repository, paths: Iterable[bytes]) -> tuple[str, ...]:
    """Those of `paths` that some tool may run: settings and hooks of agents, of git, of editors; bare repositories."""
    every = set(paths)
    names = _READ_BY_TOOLS | {os.fsencode(name) for name in _agent_directories()}
    hooks = hooks_path(repository).directory
    below = _hook_directories()
    found = []
    for path in sorted(every):
        # Git takes a directory with these in it for a repository, and runs what its `config` names.
        is_bare = os.path.basename(path) == b"config" and os.path.join(os.path.dirname(path), b"HEAD") in every
        is_hook = is_below(os.path.join(repository.toplevel, path), hooks)
        # A file system may fold case.
        if is_bare or is_hook or path.lower().startswith(below) or names.intersection(path.lower().split(b"/")):
            found.append(os.fsdecode(path))
    return tuple(found)


def _is_known(repository: Repository, commit: Oid | None) -> bool:
    """Whether a branch contains the commit. Else what it holds came with the save."""
    if commit is None:
        return False
    with suppress(GitError):
        branches = ("--count=1", f"--contains={commit}", "refs/heads/", "refs/remotes/")
        if repository.git.run("for-each-ref", "--format=%(refname)", *branches):
            return True
        return repository.git.succeeds("merge-base", "--is-ancestor", commit, "HEAD")
    return False


def _hook_directories() -> tuple[bytes, ...]:
    """Where in a project agents look for hooks, if not below a directory of their own, each with a slash."""
    from ..agents.registry import all_agents

    named = (agent.settings.project_file for agent in all_agents())
    return tuple(os.fsencode(os.path.dirname(name)) + b"/" for name in named if name is not None)


def _agent_directories() -> set[str]:
    """The directories of a project in which agents look for settings and hooks."""
    from ..agents.registry import all_agents

    homes = [home for agent in all_agents() for home in (agent.settings.home, *agent.sessions.homes())]
    return {home.directory for home in homes}


def _commands(save: Save, reader: ObjectReader) -> list[str]:
    """The commands that `git rebase --continue` and its like would run."""
    tree = save.files.get(b"operation")
    held = TreeReader(reader).lookup(tree[1] if tree else None, (_TODO, _SEQUENCE, _STRATEGY))
    found = []
    for path, leaf in held.items():
        name = os.fsdecode(path)
        try:
            content = reader.contents([leaf.oid], _MOST_TODO)[0]
        except MissingObject:
            found.append(f"{name}: unreadable, or too large to be looked at")
            continue
        for line in [] if content is None else content[1].splitlines():
            words = line.split()
            if words and ((path == _STRATEGY and words[0] not in _OF_GIT) or (path != _STRATEGY and words[0] in _RUN)):
                found.append(f"{name}: {os.fsdecode(line)}")
    return found


def without_argv(save: Save) -> Save:
    """A save without the program and the options of its agent, which `gitstate resume` would start."""
    from ..agents.base import ARGV_KEY

    extra = {name: value for name, value in save.context.extra.items() if name != ARGV_KEY}
    return save if len(extra) == len(save.context.extra) else save._replace(context=save.context._replace(extra=extra))


def is_trusted(repository: Repository, remote: str | None, request: RecoverRequest) -> bool:
    """Whether a save of this remote is taken whatever it holds; True for a save of this repository."""
    return remote is None or request.trust or remote in trusted_remotes(repository)


def refusal(path: bytes, save_id: str, remote: str | None, runs: tuple[str, ...], hint: str) -> RecoverResult:
    """The result where a save that was fetched is not taken because of what could run by itself."""
    message = f"it was fetched from {remote}, which is not trusted, and could run programs; nothing was touched"
    return RecoverResult(path, "elsewhere", message, hint, EXIT_PERSON, save_id, runs=runs)


def dismiss_fetched(repository: Repository, git: Git, save_id: str, request: RecoverRequest) -> RecoverResult:
    """Refuse a save that was fetched: it is not offered again. Raises NeedsPerson, UsageError, RefChanged."""
    held = find_save(repository, save_id)
    if held.remote is None:
        hint = "gitstate recover --dismiss (for the pending save)"
        raise UsageError(f"the save {save_id} was not fetched: it is dismissed without its id", hint=hint)
    if not request.dry_run:
        mark_recovered(repository, git, held.archive)
    message = f"the save of {held.remote} is no longer offered here; `gitstate push` tells the remote"
    return RecoverResult(repository.toplevel, "dismissed", message, save_id=save_id, dry_run=request.dry_run)
