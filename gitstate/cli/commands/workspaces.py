"""`register` and `unregister` for the list of workspaces, and `doctor`, which looks for what is wrong."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from ...errors import EXIT_DONE, EXIT_PERSON
from ...system.jsonio import path_to_json
from ...system.terminal import escape, say
from .. import quick
from ..command import Call, command, paths_argument, print_lines

if TYPE_CHECKING:
    from ...fleet.doctor import Finding


@command("register")
@paths_argument
def register(call: Call, paths: tuple[str, ...]) -> int:
    """Every save adds its own workspace."""
    from ...git.opening import open_repository
    from ...workspace import registry
    from ...workspace.peek import plain_toplevel

    named = call.absolute(paths) or [call.directory]
    added = [plain_toplevel(path) or open_repository(path).toplevel for path in named]
    registry.add(added)
    return _report_list(call, added)


@command("unregister")
@paths_argument
@click.option("--missing", is_flag=True, help="workspaces that no longer exist")
def unregister(call: Call, paths: tuple[str, ...], missing: bool) -> int:
    """Their saves stay."""
    from ...workspace import registry

    named = call.absolute(paths)
    if missing:
        gone = [path for path in registry.registered() if not os.path.lexists(os.path.join(path, b".git"))]
        named += [path for path in gone if registry.not_mounted(path) is None]
    elif not paths:
        named = [call.directory]
    # The list holds resolved paths, but a directory that is gone cannot be resolved.
    names = dict.fromkeys([*named, *(os.path.realpath(path) for path in named)])
    removed = registry.remove(names)
    if not removed:
        say("no registered workspace is missing" if missing and not paths else "nothing was on the list")
    return _report_list(call, removed)


def _report_list(call: Call, changed: Sequence[bytes]) -> int:
    from ...workspace import registry

    if call.as_json:
        call.emit(
            changed=[path_to_json(path) for path in changed],
            registered=[path_to_json(path) for path in registry.registered()],
        )
    say(*(f"{call.command}ed {escape(path)}" for path in changed))
    return EXIT_DONE


@command("doctor")
@click.option("--fix", "mend", is_flag=True, help="mend what can be mended without losing anything")
def doctor(call: Call, mend: bool) -> int:
    """The exit status is 4 if something needs a person."""
    from ...fleet.doctor import examine, fix, version_line

    mended = fix(examine(call.directory)) if mend else []
    found = examine(call.directory)
    where = os.fsdecode(call.directory)
    found = [item._replace(command=quick.located(item.command, where) or "") for item in found]
    if call.as_json:
        call.answer(
            versions=version_line(),
            findings=[finding_json(item) for item in found],
            fixed=[finding_json(item) for item in mended],
        )
    else:
        print_lines(doctor_lines(found, mended))
    return EXIT_PERSON if any(item.serious for item in found) else EXIT_DONE


# -- words


def finding_json(finding: Finding) -> dict[str, Any]:
    """One finding of what `doctor --json` prints."""
    return {
        "check": finding.check,
        "what": escape(finding.what),
        "next": escape(finding.command),
        "serious": finding.serious,
        "fixable": finding.fix is not None,
    }


def doctor_lines(found: Sequence[Finding], mended: Sequence[Finding]) -> list[str]:
    """What `doctor` tells a person: what was mended, what is wrong, then advice."""
    lines = [f"mended: {item.what}" for item in mended]
    for item in sorted(found, key=lambda item: not item.serious):
        lines += [f"{'wrong' if item.serious else 'advice'}: {item.what}", f"  next: {item.command}"]
    if any(item.fix is not None for item in found):
        lines.append("gitstate doctor --fix mends what can be mended without losing anything")
    return lines or ["nothing is wrong"]
