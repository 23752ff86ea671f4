"""`install`, `uninstall` and `boot`: where other programs call gitstate; and the hidden `hook` that they call."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from ...agents.registry import agent_names
from ...errors import EXIT_DONE, EXIT_PERSON, UsageError
from ...git.opening import open_repository
from ...system.terminal import escape, escape_lines, say, write_patch
from .. import quick
from ..command import Call, TableGroup, command, help_text
from ..table import BY_NAME

if TYPE_CHECKING:
    from ...agent_hooks.install import Change
    from ...integrations.git_hooks_install import Outcome
    from ...integrations.schedulers import BootStatus


def _hook_options(function: Callable[..., int]) -> Callable[..., int]:
    for option in (
        click.option(
            "--scope",
            type=click.Choice(["user", "project"]),
            help="which settings of that agent  [default: user]",
        ),
        click.option("--agent", type=click.Choice(agent_names()), help="the hooks of this agent, not those of git"),
    ):
        function = option(function)
    return function


@command("install")
@_hook_options
@click.option("--dry-run", is_flag=True, help="report what would change (with --agent as a diff), change nothing")
def install(call: Call, agent: str | None, scope: str | None, dry_run: bool) -> int:
    """Hooks of others stay as they are. Git's hooks keep the recorded branch up to date, and refuse to bury or push a
    WIP commit.
    """
    return _change_hooks(call, agent, scope, dry_run)


@command("uninstall")
@_hook_options
@click.option("--dry-run", is_flag=True, help="with --agent: print what would change as a diff, change nothing")
def uninstall(call: Call, agent: str | None, scope: str | None, dry_run: bool) -> int:
    """Hooks of others stay as they are."""
    return _change_hooks(call, agent, scope, dry_run)


def _change_hooks(call: Call, agent: str | None, scope: str | None, dry_run: bool) -> int:
    if agent is None:
        from ...integrations import git_hooks_install

        if scope is not None:
            hint = f"gitstate {call.command} --agent NAME --scope {scope}"
            raise UsageError("--scope goes with --agent; nothing was changed", hint=hint)
        if dry_run and call.command == "uninstall":
            hint = "gitstate uninstall --agent NAME --dry-run"
            raise UsageError("--dry-run of uninstall goes with --agent; nothing was changed", hint=hint)
        change_git = git_hooks_install.install if call.command == "install" else git_hooks_install.uninstall
        change_git = git_hooks_install.preview if dry_run else change_git
        outcome = change_git(open_repository(call.directory))
        if call.as_json:
            call.emit(**outcome_json(outcome))
        say(*outcome_lines(outcome))
        return outcome.exit_status
    from ...agent_hooks import install as agent_hooks_install

    top = open_repository(call.directory).toplevel if scope == "project" else None
    change_agent = agent_hooks_install.install if call.command == "install" else agent_hooks_install.uninstall
    change = change_agent(agent, top, os.environ)
    if not dry_run:
        agent_hooks_install.carry_out(change)
    if call.as_json:
        call.emit(**change_json(change, dry_run))
    elif dry_run:
        write_patch(change.diff())
    say(*change_lines(change, dry_run))
    return EXIT_DONE


@click.command(help=help_text("hook"), context_settings={"ignore_unknown_options": True})
@click.argument("name", metavar="AGENT")
@click.argument("arguments", nargs=-1, metavar="[EVENT] [ARGUMENT]…")
def hook(name: str, arguments: tuple[str, ...]) -> None:
    """What hooks call: `hook git EVENT …`, or `hook AGENT` with the event as JSON on stdin."""
    directory, _ = click.get_current_context().obj
    os.chdir(directory)
    sys.exit(quick.run_hook(name, arguments))


# -- words


def outcome_json(outcome: Outcome) -> dict[str, Any]:
    """What `install --json` and `uninstall --json` print for the hooks of git."""
    return {
        "manner": outcome.manner,
        "directory": escape(outcome.directory),
        "hooks": [
            {
                "event": step.event,
                "outcome": step.outcome,
                "path": None if step.path is None else escape(step.path),
                "lines": list(step.lines),
            }
            for step in outcome.steps
        ],
        "notes": [escape(note) for note in outcome.notes],
        "exit_status": outcome.exit_status,
    }


def outcome_lines(outcome: Outcome) -> list[str]:
    """What `install` and `uninstall` tell a person about the hooks of git."""
    where = "git's configuration" if outcome.manner == "config" else escape(outcome.directory)
    by_outcome: dict[str, list[str]] = {}
    for step in outcome.steps:
        by_outcome.setdefault(step.outcome, []).append(step.event)
    titles = {
        "planned": "would be installed",
        "installed": "installed",
        "already": "already installed",
        "removed": "removed",
        "absent": "not installed",
    }
    lines = [
        f"{title}: {', '.join(by_outcome[name])}"
        + (f" ({where})" if name in ("planned", "installed", "already") else "")
        for name, title in titles.items()
        if name in by_outcome
    ]
    lines += [f"  {escape(note)}" for note in outcome.notes]
    for step in outcome.steps:
        if step.outcome == "by hand":
            lines.append(f"edit {escape(step.path or b'')} by hand:")
            lines += [f"  {line}" for line in step.lines]
    return lines


def change_json(change: Change, dry_run: bool) -> dict[str, Any]:
    """What `install --agent --json` and `uninstall --agent --json` print."""
    return {
        "agent": change.agent,
        "path": escape(change.path),
        "outcome": change.outcome,
        "dry_run": dry_run,
        "diff": escape_lines(change.diff()),
        "notes": list(change.notes),
    }


def change_lines(change: Change, dry_run: bool) -> list[str]:
    """What `install --agent` and `uninstall --agent` tell a person."""
    verb = {
        "installed": "would be installed in" if dry_run else "installed in",
        "already": "already installed in",
        "removed": "would be removed from" if dry_run else "removed from",
        "absent": "not installed in",
    }[change.outcome]
    return [f"{change.agent}: {verb} {escape(change.path)}", *(f"  {note}" for note in change.notes)]


_scheduler_option = click.option(
    "--scheduler",
    type=click.Choice(["systemd", "cron", "launchd"]),
    help="this scheduler  [default: the first that works here]",
)


@click.group(cls=TableGroup, prefix="boot ", help=help_text("boot"), short_help=BY_NAME["boot"].summary)
def boot() -> None:
    """The group of these commands."""


@command("boot enable")
@_scheduler_option
@click.option("--resume", "resumes", is_flag=True, help="then start the interrupted agents again")
def enable(call: Call, scheduler: str | None, resumes: bool) -> int:
    """With systemd this is a unit of the user, with cron a line of the user's crontab."""
    from ...integrations import schedulers

    return _report(call, schedulers.enable(scheduler, resumes=resumes))


@command("boot disable")
def disable(call: Call) -> int:
    """What `boot enable` wrote is removed; other units and lines stay as they are."""
    from ...integrations import schedulers

    removed = schedulers.disable()
    if call.as_json:
        call.emit(removed=removed)
    say(f"removed from {', '.join(removed)}" if removed else "recovery at boot was not enabled")
    return EXIT_DONE


@command("boot status")
@_scheduler_option
def status(call: Call, scheduler: str | None) -> int:
    """The exit status is 4 if something prevents it."""
    from ...integrations import schedulers

    return _report(call, schedulers.status(scheduler))


def _report(call: Call, status: BootStatus) -> int:
    if call.as_json:
        call.emit(**boot_json(status))
    from ...integrations import schedulers

    say(*boot_lines(status, status.enabled or schedulers.any_works()))
    return EXIT_PERSON if status.troubles else EXIT_DONE


# -- words


def boot_json(status: BootStatus) -> dict[str, Any]:
    """What `boot enable --json` and `boot status --json` print."""
    troubles = [{"what": escape(what), "next": escape(mend)} for what, mend in status.troubles]
    plain = {name: getattr(status, name) for name in ("scheduler", "enabled", "files", "linger", "command")}
    return {**plain, "troubles": troubles}


def boot_lines(status: BootStatus, can_enable: bool = True) -> list[str]:
    """What `boot enable` and `boot status` tell a person; `can_enable`: a scheduler works here."""
    enabled = f"enabled with {status.scheduler}: `{' '.join(status.command)} recover --all` runs at boot"
    lines = [enabled if status.enabled else "recovery at boot is not enabled"]
    lines += [f"  {path}" for path in status.files]
    if not status.enabled:
        by_hand = "let whatever starts your agents run: gitstate recover --all (no scheduler works here)"
        lines.append(f"  next: {'gitstate boot enable' if can_enable else by_hand}")
    for what, mend in status.troubles:
        lines += [what, f"  next: {mend}"]
    return lines
