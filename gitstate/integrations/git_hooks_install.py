"""Add gitstate to the hooks of git, beside the hooks that are there, and remove it again byte for byte.

Since git 2.54 git's configuration may define hooks: one section for each event. For an older git, a hook file gets a
block of lines that call the shim beside it (`gitstate-hook`):

    no file             a new file
    a shell script      the block goes after its first line; the rest and its `$0` stay as they are
    any other file      is renamed to EVENT.gitstate-original, and a new file runs it after the block
    a hook manager      see `hook_managers`
    a tracked file      belongs to everyone who clones the repository: a person has to add a line

Each file changes by one rename. After a kill each hook is either old or new, and the same command completes the rest.
The files themselves hold everything that `uninstall` has to know.
"""

from __future__ import annotations

import os
import re
import shlex
import stat
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from ..errors import EXIT_DONE, EXIT_PERSON, GitError, NeedsPerson
from ..git.command import Git
from ..git.damaged.refused import way_without
from ..git.repository import Repository, hooks_path, parse_bool
from ..system import files
from ..system.stdlib import quote
from .git_hooks import EVENTS
from .hook_file import (
    BLOCK,
    FIRST_LINE,
    MAX_HOOK,
    ORIGINAL,
    SHIM,
    Step,
    block,
    made_directory,
    original_name,
    path_text,
    read_hook,
    shim,
    with_block,
    without_block,
)
from .hook_managers import is_husky, lefthook_step, manager_of, script_steps

#: Git reads `hook.<name>.command` and `hook.<name>.event` since this version.
CONFIGURED_HOOKS = (2, 54)


class Outcome(NamedTuple):
    """What `install` or `uninstall` did. `manner` is `config` or `files`; git looks for hook files in `directory`."""

    manner: str
    directory: bytes
    steps: tuple[Step, ...]
    notes: tuple[str, ...] = ()

    @property
    def exit_status(self) -> int:
        return EXIT_PERSON if any(step.outcome == "by hand" for step in self.steps) else EXIT_DONE


def git_version(output: bytes) -> tuple[int, int]:
    """Major and minor number from the output of `git version`; (0, 0) if it has none."""
    found = re.match(rb"git version (\d+)\.(\d+)", output)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def manner(version: tuple[int, int]) -> str:
    """Where a git of this version gets its hooks from: `config` or `files`."""
    return "config" if version >= CONFIGURED_HOOKS else "files"


# -- where git looks


def _refusal(repository: Repository, directory: bytes) -> str | None:
    """Why no hook may be written into the directory; None if it may."""
    if os.path.lexists(directory) and not os.path.isdir(directory):
        return f"core.hooksPath is {path_text(directory)}, which is not a directory: git runs no hook here"
    if is_husky(directory):
        return "husky overwrites these files whenever it is installed"
    inside = directory.startswith(repository.toplevel + b"/") and not _is_below(directory, repository.common_dir)
    if inside:
        if not os.path.isdir(directory):
            return f"core.hooksPath is {path_text(directory)}, which does not exist: git runs no hook here"
        if repository.git.run("ls-files", "-z", "--", os.path.relpath(directory, repository.toplevel)):
            return f"the files in {path_text(directory)} are tracked: they belong to everyone who clones the repository"
    return None


def _is_below(path: bytes, top: bytes) -> bool:
    return path == top or path.startswith(top + b"/")


# -- install


def install(repository: Repository) -> Outcome:
    """Add gitstate to the hooks of this repository. Other hooks stay as they are.

    Raises OSError, GitError, and NeedsPerson if a file of another program has a name that gitstate needs.
    """
    where = hooks_path(repository)
    if manner(git_version(repository.git.run("version"))) == "config":
        steps = _install_config(repository)
        _take_out(where.directory, keep_shim=_is_below(where.directory, repository.common_dir))
        return Outcome("config", where.directory, steps)
    refused = _refusal(repository, where.directory)
    if refused is not None:
        return Outcome("files", where.directory, script_steps(where.directory), (refused,))
    made = not os.path.isdir(where.directory)
    if made:
        files.make_directory(where.directory, top=b"/")
    _sweep(where.directory)
    write_shim(where.directory, made=made)
    steps = tuple(_install_file(repository, where.directory, event) for event in EVENTS)
    _remove_config(repository)
    notes: tuple[str, ...] = ()
    if where.scope in ("global", "system"):
        notes = (f"core.hooksPath is set for all your repositories; they share {path_text(where.directory)}",)
    return Outcome("files", where.directory, steps, notes)


def preview(repository: Repository) -> Outcome:
    """What `install` would do; nothing is written. Raises GitError."""
    where = hooks_path(repository)
    if manner(git_version(repository.git.run("version"))) == "config":
        steps = [
            Step(event, "already" if _local(repository.git, f"{_section(event)}.event") == [event] else "planned", None)
            for event in EVENTS
        ]
        return Outcome("config", where.directory, tuple(steps))
    refused = _refusal(repository, where.directory)
    if refused is not None:
        return Outcome("files", where.directory, script_steps(where.directory), (refused,))
    shim = os.fsencode(SHIM)
    found = [files.read_limited(os.path.join(where.directory, os.fsencode(event)), MAX_HOOK) for event in EVENTS]
    steps = [
        Step(event, "already" if content is not None and shim in content else "planned", None)
        for event, content in zip(EVENTS, found, strict=True)
    ]
    return Outcome("files", where.directory, tuple(steps))


def write_shim(directory: bytes, *, made: bool) -> None:
    """Write the shim, with the path of this gitstate. `made`: the directory was made for it, and is removed with it."""
    path = os.path.join(directory, SHIM)
    present = files.read_limited(path, MAX_HOOK)
    foreign = os.path.lexists(path) if present is None else b"gitstate" not in present
    if foreign:
        raise NeedsPerson(
            f"{path_text(path)} exists and is not of gitstate; nothing was changed", hint=_move_away(path)
        )
    content = shim(made=made or (present is not None and made_directory(present)))
    if content != present or not os.access(path, os.X_OK):
        files.write_atomic(path, content, staging=directory, mode=0o755)


def _move_away(path: bytes) -> str:
    """The command that makes room for a file of ours."""
    return f"mv {quote(os.fsdecode(path))} {quote(os.fsdecode(path) + '.other')}"


def _install_file(repository: Repository, directory: bytes, event: str) -> Step:
    path = os.path.join(directory, event.encode("ascii"))
    content = read_hook(path)
    whose = manager_of(content) if content is not None else "plain"
    if whose == "lefthook" and content is not None and without_block(content) is None:
        return lefthook_step(repository, event)
    if whose == "pre-commit" and content is not None and without_block(content) is None:
        path += b".legacy"
        content = read_hook(path)
    if content is None and not os.path.lexists(path):
        return _write(path, FIRST_LINE + block(event, "file"), 0o755, event)
    if os.path.isdir(path) and not os.path.islink(path):
        raise NeedsPerson(f"{path_text(path)} is a directory; nothing was changed", hint=_move_away(path))
    mode = stat.S_IMODE(os.lstat(path).st_mode)
    if content is not None:
        known = BLOCK.search(content)
        if known is not None:
            kind = known[1].decode("ascii")
            now = block(event, kind, original_name(content) or b"")
            if known[0] == now and mode & 0o111:
                return Step(event, "already", path)
            return _write(path, content[: known.start()] + now + content[known.end() :], mode | 0o755, event)
        edited = with_block(content, event) if mode & 0o111 else None
        if edited is not None:
            return _write(path, edited, mode, event)
    original = path + ORIGINAL
    _keep(path, original)
    return _write(path, FIRST_LINE + block(event, "chain", os.path.basename(original)), 0o755, event)


def _write(path: bytes, content: bytes, mode: int, event: str) -> Step:
    files.write_atomic(path, content, staging=os.path.dirname(path), mode=mode)
    return Step(event, "installed", path)


def _keep(path: bytes, original: bytes) -> None:
    """Link a hook of another program to a second name, from which ours runs it. Then ours replaces the first name."""
    try:
        os.link(path, original, follow_symlinks=False)
    except FileExistsError:
        # An install was killed between the two names, or our hook was overwritten: a person must see both files.
        if not os.path.samestat(os.lstat(path), os.lstat(original)):
            raise NeedsPerson(
                f"{path_text(original)} exists already; nothing was changed", hint=_move_away(original)
            ) from None
    files.fsync_path(os.path.dirname(path))


# -- git's configuration


def _section(event: str) -> str:
    # One section for each event, because git does not pass the event to a configured hook.
    return f"hook.gitstate-{event}"


def _install_config(repository: Repository) -> tuple[Step, ...]:
    hooks = os.path.join(repository.common_dir, b"hooks")
    made = not os.path.isdir(hooks)
    if made:
        files.make_directory(hooks, top=repository.common_dir)
    _sweep(hooks)
    write_shim(hooks, made=made)
    steps = []
    for event in EVENTS:
        name = _section(event)
        command = f"{shlex.quote(os.fsdecode(os.path.join(hooks, SHIM)))} {event}"
        wanted = {f"{name}.command": command, f"{name}.event": event}
        if all(_local(repository.git, key) == [value] for key, value in wanted.items()):
            steps.append(Step(event, "already", None))
            continue
        # The command first: git fails at an event that has no command.
        for key, value in wanted.items():
            repository.git.run("config", "--local", "--replace-all", key, value)
        steps.append(Step(event, "installed", None))
    return tuple(steps)


def _local(git: Git, name: str) -> list[str]:
    out = git.run("config", "--local", "-z", "--get-all", name, ok_codes=(0, 1))
    return [os.fsdecode(value) for value in out.split(b"\0")[:-1]]


def _remove_config(repository: Repository) -> list[str]:
    """Remove our sections from the configuration of the repository. Returns their events."""
    removed = []
    for event in EVENTS:
        if any(key.startswith(f"{_section(event)}.") for key in repository.config):
            try:
                repository.git.run("config", "--local", "--remove-section", _section(event))
                removed.append(event)
            except GitError:
                # It stands in a file outside of the repository, which is not ours to change.
                continue
    return removed


# -- uninstall


def uninstall(repository: Repository) -> Outcome:
    """Remove what `install` added, and nothing else. Raises OSError, GitError."""
    where = hooks_path(repository)
    configured = _remove_config(repository)
    taken = _take_out(where.directory, keep_shim=False)
    own = os.path.join(repository.common_dir, b"hooks")
    if own != where.directory:
        taken += _take_out(own, keep_shim=False)
    by_event: dict[str, Step] = {event: Step(event, "absent", None) for event in EVENTS}
    by_event.update({event: Step(event, "removed", None) for event in configured})
    by_event.update({step.event: step for step in taken})
    for step in script_steps(where.directory) if _refusal(repository, where.directory) else ():
        if step.outcome == "already" and step.path is not None:
            line = f"remove the line with: gitstate hook git {step.event}"
            by_event[step.event] = Step(step.event, "by hand", step.path, (line,))
    return Outcome("config" if configured else "files", where.directory, tuple(by_event.values()))


def _take_out(directory: bytes, *, keep_shim: bool) -> list[Step]:
    if not os.path.isdir(directory):
        return []
    _sweep(directory)
    steps = []
    for name in sorted(os.listdir(directory)):
        event = next((event for event in EVENTS if name.split(b".")[0] == event.encode("ascii")), None)
        if event is not None and not name.endswith(ORIGINAL):
            step = _restore(os.path.join(directory, name), event)
            if step is not None:
                steps.append(step)
    for name in os.listdir(directory):
        if name.endswith(ORIGINAL):
            _drop_second_name(directory, name)
    path = os.path.join(directory, SHIM)
    present = files.read_limited(path, MAX_HOOK)
    if not keep_shim and present is not None and b"gitstate" in present:
        files.remove(path)
        files.fsync_path(directory)
        if made_directory(present) and not os.listdir(directory):
            os.rmdir(directory)
    return steps


def _restore(path: bytes, event: str) -> Step | None:
    content = read_hook(path)
    found = without_block(content) if content is not None else None
    if content is None or found is None:
        return None
    kind, rest = found
    if kind == "chain":
        original = os.path.join(os.path.dirname(path), original_name(content) or os.path.basename(path) + ORIGINAL)
        if rest != FIRST_LINE:
            return Step(
                event, "by hand", path, ("somebody added lines to this file: keep what you need, then remove it",)
            )
        if os.path.lexists(original):
            os.rename(original, path)
        else:
            files.remove(path)
    elif kind == "file" and rest == FIRST_LINE:
        files.remove(path)
    else:
        mode = stat.S_IMODE(os.lstat(path).st_mode)
        files.write_atomic(path, rest, staging=os.path.dirname(path), mode=mode)
    files.fsync_path(os.path.dirname(path))
    return Step(event, "removed", path)


def _drop_second_name(directory: bytes, name: bytes) -> None:
    """Remove the second name of a hook if an install was killed between the two names. Any other file stays."""
    first, second = os.path.join(directory, name.removesuffix(ORIGINAL)), os.path.join(directory, name)
    if os.path.lexists(first) and os.path.samestat(os.lstat(first), os.lstat(second)):
        files.remove(second)


def _sweep(directory: bytes) -> None:
    """Remove temporary files that a killed install left."""
    ours: Iterable[bytes] = (SHIM, *(event.encode("ascii") for event in EVENTS))
    pattern = re.compile(rb"(?:%s)(?:\.legacy)?\.tmp-[0-9]+" % b"|".join(map(re.escape, ours)))
    for name in os.listdir(directory):
        if pattern.fullmatch(name):
            files.remove(os.path.join(directory, name))


# -- for doctor


def hook_problems(repository: Repository) -> list[tuple[str, str | None]]:
    """What keeps installed hooks from running: the problem, and the command that mends it (None: a person decides).

    Hooks that were never installed are no problem.
    """
    where = hooks_path(repository)
    problems: list[tuple[str, str | None]] = []
    if where.scope is not None and not os.path.isdir(where.directory):
        what = f"core.hooksPath is {path_text(where.directory)}, which does not exist: git runs no hook file here"
        mend = "npx husky" if is_husky(where.directory) else f"git config --{where.scope} --unset-all core.hooksPath"
        problems.append((what, mend))
    parts = _installed(repository, where.directory)
    if not any(parts.values()):
        return problems
    lost = [event for event, present in parts.items() if not present]
    if lost:
        problems.append((f"these hooks do not call gitstate: {', '.join(lost)}", "gitstate install"))
    problems += [_switched_on(repository, event, key) for event in EVENTS for key in _switched_off(repository, event)]
    present = read_hook(os.path.join(where.directory, SHIM))
    if present is None:
        present = read_hook(os.path.join(repository.common_dir, b"hooks", SHIM))
    if present is not None and present != shim(made=made_directory(present)):
        problems.append(("the git hooks start another installation of gitstate", "gitstate install"))
    return problems


def _switched_off(repository: Repository, event: str) -> Iterator[str]:
    """The settings by which git does not run our configured hook (`man git-hook`); gitstate's own do not count."""
    if f"{_section(event)}.command" not in repository.config:
        return
    for key in (f"{_section(event)}.enabled", f"hook.{event}.enabled"):
        if key in repository.config:
            listed = repository.git.run("config", "--show-scope", "-z", "--get-all", key, ok_codes=(0, 1)).split(b"\0")
            values = [value for scope, value in zip(listed[::2], listed[1::2], strict=False) if scope != b"command"]
            if values and parse_bool(os.fsdecode(values[-1])) is False:
                yield key


def _switched_on(repository: Repository, event: str, key: str) -> tuple[str, str]:
    """A problem for `hook_problems`: the setting `key` keeps our hook from running."""
    return f"{key} is false: git does not call gitstate at {event}", way_without(repository.git, key, b"")


def _installed(repository: Repository, directory: bytes) -> dict[str, bool]:
    """For each event, whether gitstate is called."""
    found = {}
    by_hand = {step.event for step in script_steps(directory) if step.outcome == "already"}
    for event in EVENTS:
        name = os.path.join(directory, event.encode("ascii"))
        ours = _calls(name) or (_calls(name + b".legacy") and manager_of(read_hook(name) or b"") == "pre-commit")
        configured = f"{_section(event)}.command" in repository.config
        lefthook = lefthook_step(repository, event).outcome == "already"
        found[event] = ours or configured or event in by_hand or lefthook
    return found


def _calls(path: bytes) -> bool:
    content = read_hook(path)
    return content is not None and without_block(content) is not None and os.access(path, os.X_OK)
