"""`boot enable`, `disable` and `status`: recovery after a reboot."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from ...errors import EXIT_DONE, EXIT_PERSON
from ...system.terminal import escape, say
from ..command import Call, TableGroup, command, help_text

if TYPE_CHECKING:
    from ...integrations.schedulers import BootStatus

_scheduler_option = click.option(
    "--scheduler",
    type=click.Choice(["systemd", "cron", "launchd"]),
    help="this scheduler  [default: the first that works here]",
)


@click.group(cls=TableGroup, prefix="boot ", help=help_text("boot"))
def boot() -> None:
    """The group of these commands."""


@command("boot enable")
@_scheduler_option
def enable(call: Call, scheduler: str | None) -> int:
    """With systemd this is a unit of the user, with cron a line of the user's crontab."""
    from ...integrations import schedulers

    return _report(call, schedulers.enable(scheduler))


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
    say(*boot_lines(status))
    return EXIT_PERSON if status.troubles else EXIT_DONE


# -- words


def boot_json(status: BootStatus) -> dict[str, Any]:
    """What `boot enable --json` and `boot status --json` print."""
    troubles = [{"what": escape(what), "next": escape(mend)} for what, mend in status.troubles]
    plain = {name: getattr(status, name) for name in ("scheduler", "enabled", "files", "linger", "command")}
    return {**plain, "troubles": troubles}


def boot_lines(status: BootStatus) -> list[str]:
    """What `boot enable` and `boot status` tell a person."""
    enabled = f"enabled with {status.scheduler}: `{' '.join(status.command)} recover --all` runs at boot"
    lines = [enabled if status.enabled else "recovery at boot is not enabled"]
    lines += [f"  {path}" for path in status.files]
    if not status.enabled:
        lines.append("  next: gitstate boot enable")
    for what, mend in status.troubles:
        lines += [what, f"  next: {mend}"]
    return lines
