"""`run` without click: its process stays for as long as the agent works, and click takes a third of its memory."""

from __future__ import annotations

import os

from ..errors import GitstateError, UsageError
from ..system.stdlib import TYPE_CHECKING, suppress
from ..system.terminal import say
from .options import RUN, check_pairs, context_values, pair_values
from .quick import EXIT_ON_INTERRUPT, guarded, working_directory

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from ..git.repository import Repository
    from .options import Quick


def run_quick(quick: Quick) -> int | None:
    """Carry out `run`; None for a command line that click must look at: it has no command, or a number out of range."""
    from ..workspace.settings import setting_named

    given = dict(quick.given)
    argv = given.pop("paths", None)
    as_json = bool(given.pop("json", False))
    owner_pid = given.get("owner_pid", 1)
    if not isinstance(argv, list) or not isinstance(owner_pid, int) or owner_pid < 1:
        return None
    for name in ("grace", "deadline", "interval"):
        setting, value = setting_named(name), given.get(name)
        if isinstance(value, float) and not setting.least <= value <= setting.most:
            return None
    try:
        return guarded(lambda: run(working_directory(quick.directory), argv, given), "run", as_json, quick.directory)
    except KeyboardInterrupt:
        say("")
        return EXIT_ON_INTERRUPT


def run(directory: bytes, argv: Sequence[str], given: Mapping[str, Any]) -> int:
    """Run the command `argv`: `given` holds the other options by their names; one that is missing is None."""
    from ..git.opening import open_repository
    from ..run import supervisor

    options: dict[str, Any] = {name: given.get(name) for name, _ in RUN.values()}
    times = {name: options.pop(name) for name in ("grace", "deadline", "interval")}
    context = {name: value for name, value in given.items() if value and name not in options and name not in times}
    words, argv = _split_pairs(argv)
    check_pairs(given.get("extra") or (), "gitstate run --set KEY=VALUE -- COMMAND", "; nothing was started")
    if not argv or not argv[0]:
        raise UsageError("no command is named; nothing was started", hint="gitstate run -- COMMAND")
    values = context_values(context, os.environ) | pair_values(words)
    with suppress(GitstateError):
        say(*unknown_settings(open_repository(directory)))
    request = supervisor.RunRequest(
        argv,
        values,
        options["owner_pid"],
        given.get("agent"),
        options["stop_signal"],
        bool(options["stop_group"]),
        bool(options["keep"]),
        times,
    )
    return supervisor.run(directory, request)


def _split_pairs(argv: Sequence[str]) -> tuple[Sequence[str], Sequence[str]]:
    """The words KEY=VALUE before a `--`, and the command after it; without such words the command is all."""
    if "--" in argv:
        at = argv.index("--")
        are_pairs = all("=" in word and word.partition("=")[0].isidentifier() for word in argv[:at])
        if are_pairs and at:
            return argv[:at], argv[at + 1 :]
    return (), argv


def unknown_settings(repository: Repository) -> list[str]:
    """A line for each `gitstate.*` key of git's configuration that is no setting: it has no effect."""
    from ..workspace.registry import OLD_KEY
    from ..workspace.settings import nearest_key, unknown_keys

    lines = []
    for key in unknown_keys(repository):
        if key != OLD_KEY:
            guess = nearest_key(key)
            lines.append(f"{key} is not a setting of gitstate" + (f"; did you mean {guess}?" if guess else ""))
    return lines
