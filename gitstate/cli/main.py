"""The command line: click parses, one call acts, `report` says. No rule of gitstate stands here."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

import click

from .. import __version__
from ..agents.registry import agent_names
from ..errors import EXIT_DONE, EXIT_PERSON, UsageError
from ..recover.words import recover_json, recover_lines, shell_lines, worst_of
from ..system import terminal
from ..system.jsonio import path_to_json
from ..system.table import terminal_width
from ..workspace.settings import help_text, setting_named
from . import quick
from .options import CONTEXT_TEXTS, OPTIONS, Quick, context_values
from .words import (
    boot_json,
    boot_lines,
    change_json,
    change_lines,
    doctor_lines,
    entry_json,
    entry_line,
    exchange_json,
    exchange_lines,
    finding_json,
    fleet_lines,
    install_json,
    install_lines,
    stop_json,
    stop_lines,
    summary_json,
    summary_lines,
    value_line,
)

_KINDS: dict[str, Any] = {"text": str, "many": str, "number": int, "seconds": click.FloatRange(0, 1e9, min_open=True)}


def _range(name: str) -> click.FloatRange | click.IntRange:
    """The type of the option that has the same effect as a setting."""
    setting = setting_named(name)
    if setting.kind == "count":
        return click.IntRange(int(setting.least), int(setting.most))
    return click.FloatRange(setting.least, setting.most)


def main() -> None:
    """Run the click group; click's own usage errors end with 2, Ctrl-C with 130."""
    try:
        group.main(prog_name="gitstate", standalone_mode=False)
    except click.exceptions.Exit as done:
        sys.exit(done.exit_code)
    except click.Abort:
        sys.exit(130)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        sys.exit(2)
    except click.ClickException as error:
        terminal.say(f"gitstate: {error.format_message()}", "  next: gitstate --help")
        sys.exit(2)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("-C", "directory", multiple=True, metavar="PATH", help="run as if started in PATH")
@click.option("--json", "as_json", is_flag=True, help="print JSON on stdout")
@click.version_option(__version__, prog_name="gitstate")
@click.pass_context
def group(context: click.Context, directory: tuple[str, ...], as_json: bool) -> None:
    """Save what an agent was doing into git, and bring it back exactly.

    Exit status: 0 done, 1 failed, 2 usage, 3 a bug, 4 a person must decide, 75 try again later.
    """
    context.obj = (os.path.abspath(os.path.join(".", *directory)), as_json)


def _quick_command(name: str, text: str) -> None:
    def callback(**given: Any) -> None:
        path, as_json = click.get_current_context().obj
        for pair in given.get("extra", ()):
            if "=" not in pair:
                raise click.UsageError(f"--set wants KEY=VALUE, not {terminal.escape(pair)}")
        kept = {key: list(value) if isinstance(value, tuple) else value for key, value in given.items()}
        kept = {key: value for key, value in kept.items() if value not in (None, [], False)}
        if as_json:
            kept["json"] = True
        sys.exit(quick.run_save(Quick(name, path, kept)))

    params: list[click.Parameter] = [
        click.Option([option.flag, option.name], is_flag=True, help=option.help)
        if option.kind == "flag"
        else click.Option(
            [option.flag, option.name],
            type=_KINDS[option.kind],
            multiple=option.kind == "many",
            help=option.help or help_text("includeIgnored"),
        )
        for option in OPTIONS
    ]
    group.add_command(click.Command(name, callback=callback, params=params, help=text))


_quick_command("save", "Save the workspace and its context, now: WIP commit, note, archive, marker.")
_quick_command("checkpoint", "The same without moving the branch; nothing is written where nothing changed.")

_json = click.option("--json", "json_here", is_flag=True, help="print JSON on stdout")


def _run(command: str, json_here: bool, act: Callable[[bytes, bool], int]) -> None:
    path, as_json = click.get_current_context().obj
    as_json = as_json or json_here
    sys.exit(quick.guarded(lambda: act(os.fsencode(path), as_json), command, as_json))


@group.command()
@click.argument("paths", nargs=-1, metavar="[PATH]…")
@click.option("--all", "everything", is_flag=True, help="every worktree of this repository, and every registered one")
@click.option("--root", "roots", multiple=True, metavar="DIR", help="every workspace that is found in and below DIR")
@click.option("--dry-run", is_flag=True, help="say what would happen, touch nothing")
@click.option("--overwrite", is_flag=True, help="the saved version wins over files that were edited after the save")
@click.option("--into", metavar="PATH", help="give a save whose workspace is gone a new worktree at PATH")
@click.option("--save", "save_id", metavar="ID", help="this save, not the one that waits")
@click.option("--dismiss", is_flag=True, help="what waits was dealt with by hand: touch nothing, let it wait no longer")
@click.option(
    "--wait", type=click.FloatRange(0), default=None, help="seconds to wait for another gitstate: 60, for many 5"
)
@click.option("--format", "style", type=click.Choice(["text", "json", "shell"]), default="text")
@_json
def recover(
    paths: tuple[str, ...],
    everything: bool,
    roots: tuple[str, ...],
    dry_run: bool,
    overwrite: bool,
    into: str | None,
    save_id: str | None,
    dismiss: bool,
    wait: float | None,
    style: str,
    json_here: bool,
) -> None:
    """Put the workspace back as it was saved, and rebuild active_state.json. Nothing newer is overwritten."""

    def act(path: bytes, as_json: bool) -> int:
        from ..git.repository import open_repository
        from ..recover.recover import dismiss as dismiss_one
        from ..recover.recover import recover as recover_one
        from ..recover.recover import recover_into
        from ..recover.request import RecoverRequest

        many = everything or bool(roots)
        if into is not None and (paths or many):
            raise UsageError(
                "--into goes with one save of one repository", hint="gitstate recover --into PATH --save ID"
            )
        if dismiss and (many or len(paths) > 1 or into is not None or save_id is not None):
            raise UsageError("--dismiss goes with one workspace", hint="gitstate recover --dismiss")
        if save_id is not None and (many or len(paths) > 1):
            raise UsageError("--save goes with one workspace", hint="gitstate recover PATH --save ID")
        patience = wait if wait is not None else 5.0 if many else 60.0
        request = RecoverRequest(save_id, dry_run, overwrite, patience, strict=many)
        places = [os.path.abspath(os.path.join(path, os.fsencode(one))) for one in paths]
        complete = True
        if into is not None:
            target = os.path.abspath(os.path.join(path, os.fsencode(into)))
            results = [recover_into(open_repository(path, bare_too=True), target, request)]
        elif dismiss:
            results = [dismiss_one((places or [path])[0], request)]
        elif not many and len(places) < 2:
            results = [recover_one((places or [path])[0], request)]
        else:
            from ..fleet import recover_all

            if many:
                known, complete = recover_all.workspaces(
                    path, [os.path.join(path, os.fsencode(root)) for root in roots]
                )
                results = recover_all.recover_all(list(dict.fromkeys([*places, *known])), request, terminal.progress)
            else:
                results = recover_all.recover_each(places, request)
        status = worst_of(result.exit_status for result in results)
        if as_json or style == "json":
            quick.emit(
                {
                    "command": "recover",
                    "workspaces": [recover_json(result) for result in results],
                    "complete": complete,
                    "exit_status": status,
                }
            )
        elif style == "shell":
            for result in results:
                click.echo(shell_lines(result), nl=False)
        if many:
            terminal.say(*fleet_lines(results, terminal_width(sys.stderr)))
        else:
            for result in results:
                terminal.say(*recover_lines(result))
        if not complete:
            terminal.say("the search below --root was cut short: name a directory nearer to the workspaces")
        return status

    _run("recover", json_here or style == "json", act)


@group.command()
@click.argument("paths", nargs=-1, metavar="[PATH]…")
@click.option("--all", "everything", is_flag=True, help="every worktree of this repository, and every registered one")
@click.option("--root", "roots", multiple=True, metavar="DIR", help="every workspace that is found in and below DIR")
@_json
def status(paths: tuple[str, ...], everything: bool, roots: tuple[str, ...], json_here: bool) -> None:
    """What is running, waiting to be recovered, or finished."""

    def act(path: bytes, as_json: bool) -> int:
        from ..fleet import recover_all

        places = [os.path.abspath(os.path.join(path, os.fsencode(one))) for one in paths]
        complete = True
        if everything or roots:
            known, complete = recover_all.workspaces(path, [os.path.join(path, os.fsencode(root)) for root in roots])
            places = list(dict.fromkeys([*places, *known]))
        found = recover_all.summaries(places or [path]) if places or not (everything or roots) else []
        if as_json:
            workspaces = [summary_json(item) for item in found]
            quick.emit({"command": "status", "workspaces": workspaces, "complete": complete})
        else:
            for line in summary_lines(found, terminal_width(sys.stdout)):
                click.echo(line)
        if not complete:
            terminal.say("the search below --root was cut short: name a directory nearer to the workspaces")
        return EXIT_DONE

    _run("status", json_here, act)


@group.command("set")
@click.argument("pairs", nargs=-1, required=True, metavar="KEY=VALUE…")
@_json
def set_(pairs: tuple[str, ...], json_here: bool) -> None:
    """Change the context: task_id, issue_number, progress_stage, memory_refs, agent, session_id."""

    def act(path: bytes, as_json: bool) -> int:
        from ..git.repository import open_repository
        from ..workspace.live_context import set_values

        values = _pairs(pairs, "gitstate set progress_stage=testing")
        context = set_values(open_repository(path), values)
        if as_json:
            quick.emit({"command": "set", "context": context.to_json()})
        return EXIT_DONE

    _run("set", json_here, act)


@group.command()
@click.argument("keys", nargs=-1, metavar="[KEY]…")
@_json
def show(keys: tuple[str, ...], json_here: bool) -> None:
    """Show the context, or the values of some of its keys, one on a line."""

    def act(path: bytes, as_json: bool) -> int:
        from ..git.repository import open_repository
        from ..workspace.live_context import read_live_context

        context, state = read_live_context(open_repository(path))
        fields = context.to_json()
        flat = {**fields.pop("extra"), **fields, "status": state}
        unknown = [key for key in keys if key not in flat]
        if unknown:
            raise UsageError(f"no such key: {unknown[0]!r}", hint="gitstate show")
        if as_json:
            chosen = {key: flat[key] for key in keys} if keys else {**context.to_json(), "status": state}
            quick.emit({"command": "show", "context": chosen})
        else:
            for key in keys or flat:
                click.echo(value_line(flat[key]) if keys else f"{terminal.escape(key)}: {value_line(flat[key])}")
        return EXIT_DONE

    _run("show", json_here, act)


@group.command()
@click.option("--all", "everything", is_flag=True, help="of every workspace of this repository")
@click.option("-n", "most", type=click.IntRange(1), default=50, help="at most this many")
@_json
def log(everything: bool, most: int, json_here: bool) -> None:
    """The saves of this workspace, newest first."""

    def act(path: bytes, as_json: bool) -> int:
        from ..git.repository import open_repository
        from ..history.listing import list_saves

        entries = list_saves(open_repository(path), everything=everything)[:most]
        if as_json:
            quick.emit({"command": "log", "saves": [entry_json(entry) for entry in entries]})
        else:
            for entry in entries:
                click.echo(entry_line(entry))
        return EXIT_DONE

    _run("log", json_here, act)


@group.command()
@click.argument("save_id", metavar="SAVE")
@_json
def diff(save_id: str, json_here: bool) -> None:
    """What a save changed against the commit it stands on, as a patch."""

    def act(path: bytes, as_json: bool) -> int:
        from ..git.repository import open_repository
        from ..history.listing import diff as diff_save

        text = diff_save(open_repository(path), save_id)
        if as_json:
            quick.emit({"command": "diff", "save_id": save_id, "patch": terminal.escape_lines(text)})
        else:
            terminal.write_patch(text)
        return EXIT_DONE

    _run("diff", json_here, act)


@group.command()
@click.argument("save_id", metavar="SAVE")
@click.argument("paths", nargs=-1, metavar="[PATH]…")
@click.option("--overwrite", is_flag=True, help="also over files that hold something else (they are saved first)")
@click.option("--dry-run", is_flag=True, help="say what would happen, touch nothing")
@_json
def restore(save_id: str, paths: tuple[str, ...], overwrite: bool, dry_run: bool, json_here: bool) -> None:
    """Take files out of a save. Index, branch and marker stay as they are."""

    def act(path: bytes, as_json: bool) -> int:
        from ..git.repository import open_repository
        from ..recover.elsewhere import restore_paths
        from ..recover.request import RecoverRequest

        repository = open_repository(path)
        wanted = []
        for one in paths:
            inside = os.path.relpath(os.path.normpath(os.path.join(path, os.fsencode(one))), repository.toplevel)
            if inside.startswith(b"../") or inside == b"..":
                raise UsageError(f"{one!r} is outside the workspace", hint="gitstate restore SAVE PATH…")
            wanted.append(inside)
        result = restore_paths(repository, save_id, wanted, RecoverRequest(save_id, dry_run, overwrite))
        if as_json:
            quick.emit({"command": "restore", "workspaces": [recover_json(result)]})
        terminal.say(*recover_lines(result))
        return result.exit_status

    _run("restore", json_here, act)


def _pairs(pairs: Sequence[str], example: str) -> dict[str, str]:
    """KEY=VALUE words as values by name."""
    values = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise UsageError(f"{pair[:80]!r} is not KEY=VALUE", hint=example)
        values[key] = value
    return values


@group.command()
@click.argument("pairs", nargs=-1, metavar="[KEY=VALUE]…")
@click.option("--owner-pid", type=click.IntRange(1), help="the process that owns this workspace while it lives")
@_json
def begin(pairs: tuple[str, ...], owner_pid: int | None, json_here: bool) -> None:
    """A new task begins here: its context takes the place of the one before."""

    def act(path: bytes, as_json: bool) -> int:
        from ..git.repository import open_repository
        from ..workspace.live_context import begin as begin_task

        values = _pairs(pairs, "gitstate begin task_id=T-1")
        context = begin_task(open_repository(path), values, owner_pid)
        if as_json:
            quick.emit({"command": "begin", "context": context.to_json()})
        return EXIT_DONE

    _run("begin", json_here, act)


@group.command()
@_json
def finish(json_here: bool) -> None:
    """The task is done: a save that waits is brought back first, then nothing waits any more."""

    def act(path: bytes, as_json: bool) -> int:
        from ..git.repository import open_repository
        from ..recover.recover import recover as recover_one
        from ..recover.request import RecoverRequest
        from ..workspace.live_context import finish as finish_task

        result = recover_one(path, RecoverRequest(waiting_only=True))
        if result.verdict != "nothing":
            terminal.say(*recover_lines(result))
        context = None if result.exit_status else finish_task(open_repository(path))
        if as_json:
            quick.emit({"command": "finish", "context": None if context is None else context.to_json()})
        return result.exit_status

    _run("finish", json_here, act)


_RUN_OPTIONS = [option for option in OPTIONS if option.name in (*CONTEXT_TEXTS, "memory_refs", "extra")]


def _context_options(command: Callable[..., None]) -> Callable[..., None]:
    for option in reversed(_RUN_OPTIONS):
        many = option.kind == "many"
        command = click.option(option.flag, option.name, multiple=many, help=option.help)(command)
    return command


@group.command("run", context_settings={"allow_interspersed_args": False})
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED, metavar="-- COMMAND…")
@_context_options
@click.option("--owner-pid", type=click.IntRange(1), help="the loop that this run belongs to")
@click.option(
    "--stop-signal",
    type=click.Choice(["TERM", "INT", "HUP", "QUIT", "USR1", "USR2"]),
    help="what tells the agent to stop; by default what suits the agent",
)
@click.option("--stop-group", is_flag=True, help="tell all its processes, not the agent alone")
@click.option("--grace", type=_range("grace"), help=help_text("grace"))
@click.option("--deadline", type=_range("deadline"), help=help_text("deadline"))
@click.option("--interval", type=_range("interval"), help=help_text("interval"))
def run_(
    command: tuple[str, ...],
    owner_pid: int | None,
    stop_signal: str | None,
    stop_group: bool,
    grace: float | None,
    deadline: float | None,
    interval: float | None,
    **given: Any,
) -> None:
    """Run an agent in the foreground, watched: checkpoints meanwhile, a save however it ends, and its own status."""

    def act(path: bytes, _: bool) -> int:
        from ..run.supervisor import RunRequest, run

        values = context_values({name: _plain(value) for name, value in given.items() if value}, os.environ)
        times = {"grace": grace, "deadline": deadline, "interval": interval}
        return run(path, RunRequest(command, values, owner_pid, given.get("agent"), stop_signal, stop_group, times))

    _run("run", False, act)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


@group.command()
@click.argument("paths", nargs=-1, metavar="[PATH]…")
@click.option("--all", "everything", is_flag=True, help="every worktree of this repository, and every registered one")
@click.option(
    "--wait", type=click.FloatRange(0), default=10.0, show_default=True, help="seconds from SIGTERM to SIGKILL"
)
@_json
def stop(paths: tuple[str, ...], everything: bool, wait: float, json_here: bool) -> None:
    """End what works in a workspace, politely: SIGTERM, wait for its save, then SIGKILL for the rest."""

    def act(path: bytes, as_json: bool) -> int:
        from ..fleet import recover_all
        from ..run.stop import StopResult
        from ..run.stop import stop as stop_one

        places = [os.path.abspath(os.path.join(path, os.fsencode(one))) for one in paths]
        known = recover_all.workspaces(path)[0] if everything else []
        results: list[StopResult] = []
        statuses: list[int] = []
        for one in dict.fromkeys([*places, *known]) if paths or everything else [path]:

            def attempt(one: bytes = one) -> int:
                results.append(stop_one(one, wait))
                return results[-1].exit_status

            statuses.append(quick.guarded(attempt, "stop", False))
        if as_json:
            quick.emit({"command": "stop", "workspaces": [stop_json(result) for result in results]})
        terminal.say(*(line for result in results for line in stop_lines(result)))
        return worst_of(statuses)

    _run("stop", json_here, act)


_agent = click.option("--agent", type=click.Choice(agent_names()), help="that agent's own hooks, not git's")
_scope = click.option("--scope", type=click.Choice(["user", "project"]), default="user", help="whose settings of it")
_try = click.option("--dry-run", is_flag=True, help="with --agent: print the change as a diff, touch nothing")


@group.command()
@_agent
@_scope
@_try
@_json
def install(agent: str | None, scope: str, dry_run: bool, json_here: bool) -> None:
    """Put gitstate into this repository's git hooks, beside what is there; with --agent into an agent's hooks."""
    _change_hooks("install", agent, scope, dry_run, json_here)


@group.command()
@_agent
@_scope
@_try
@_json
def uninstall(agent: str | None, scope: str, dry_run: bool, json_here: bool) -> None:
    """Take out what `install` put in, and nothing else."""
    _change_hooks("uninstall", agent, scope, dry_run, json_here)


def _change_hooks(command: str, agent: str | None, scope: str, dry_run: bool, json_here: bool) -> None:
    def act(path: bytes, as_json: bool) -> int:
        from ..git.repository import open_repository

        if agent is None:
            from ..integrations import git_hooks_install

            if dry_run:
                raise UsageError("--dry-run goes with --agent", hint=f"gitstate {command}")
            outcome = getattr(git_hooks_install, command)(open_repository(path))
            if as_json:
                quick.emit(install_json(command, outcome))
            terminal.say(*install_lines(outcome))
            return int(outcome.exit_status)
        from ..integrations import agent_hooks_install

        top = open_repository(path).toplevel if scope == "project" else None
        change = getattr(agent_hooks_install, command)(agent, top, os.environ)
        if not dry_run:
            agent_hooks_install.carry_out(change)
        if as_json:
            quick.emit(change_json(command, change, dry_run))
        elif dry_run:
            terminal.write_patch(change.diff())
        terminal.say(*change_lines(change, dry_run))
        return EXIT_DONE

    _run(command, json_here, act)


@group.command(hidden=True, context_settings={"ignore_unknown_options": True})
@click.argument("name", metavar="AGENT")
@click.argument("arguments", nargs=-1, metavar="[EVENT] [ARGUMENT]…")
def hook(name: str, arguments: tuple[str, ...]) -> None:
    """What hooks call: `hook git EVENT …`, or `hook AGENT` with the event as JSON on stdin."""
    path, _ = click.get_current_context().obj
    os.chdir(path)
    sys.exit(quick.run_hook(name, arguments))


def _absolute(path: bytes, paths: Sequence[str]) -> list[bytes]:
    return [os.path.abspath(os.path.join(path, os.fsencode(one))) for one in paths]


@group.command()
@click.argument("paths", nargs=-1, metavar="[PATH]…")
@_json
def register(paths: tuple[str, ...], json_here: bool) -> None:
    """Put workspaces on the list that `recover --all` and `status --all` go through. Every save does that by itself."""

    def act(path: bytes, as_json: bool) -> int:
        from ..git.repository import open_repository
        from ..workspace import registry

        tops = [open_repository(one).toplevel for one in _absolute(path, paths) or [path]]
        registry.add(tops)
        return _tell_list("register", tops, as_json)

    _run("register", json_here, act)


@group.command()
@click.argument("paths", nargs=-1, metavar="[PATH]…")
@click.option("--missing", is_flag=True, help="those that are not there any more")
@_json
def unregister(paths: tuple[str, ...], missing: bool, json_here: bool) -> None:
    """Take workspaces off the list. Their saves stay."""

    def act(path: bytes, as_json: bool) -> int:
        from ..workspace import registry

        wanted = _absolute(path, paths)
        if missing:
            wanted += [one for one in registry.registered() if not os.path.lexists(os.path.join(one, b".git"))]
        elif not paths:
            wanted = [path]
        # A registered path is the one that git resolves; what is gone can't be resolved any more.
        names = dict.fromkeys([*wanted, *(os.path.realpath(one) for one in wanted)])
        return _tell_list("unregister", registry.remove(names), as_json)

    _run("unregister", json_here, act)


def _tell_list(command: str, changed: Sequence[bytes], as_json: bool) -> int:
    from ..workspace import registry

    if as_json:
        lists = {"changed": changed, "registered": registry.registered()}
        shown = {name: [path_to_json(path) for path in found] for name, found in lists.items()}
        quick.emit({"command": command, **shown})
    terminal.say(*(f"{command}ed {terminal.escape(path)}" for path in changed))
    return EXIT_DONE


@group.group()
def boot() -> None:
    """Recovery after a reboot: a systemd user unit, else cron, else launchd."""


_scheduler = click.option(
    "--scheduler", type=click.Choice(["systemd", "cron", "launchd"]), help="this one, not the first that works here"
)


@boot.command("enable")
@_scheduler
@_json
def boot_enable(scheduler: str | None, json_here: bool) -> None:
    """Let `gitstate recover --all` run at every boot. Twice is once."""

    def act(_: bytes, as_json: bool) -> int:
        from ..integrations.schedulers import enable

        return _tell_boot("enable", enable(scheduler), as_json)

    _run("boot enable", json_here, act)


@boot.command("disable")
@_json
def boot_disable(json_here: bool) -> None:
    """Take that away again, and nothing else."""

    def act(_: bytes, as_json: bool) -> int:
        from ..integrations.schedulers import disable

        removed = disable()
        if as_json:
            quick.emit({"command": "boot disable", "removed": removed})
        terminal.say(f"removed from {', '.join(removed)}" if removed else "recovery at boot was not enabled")
        return EXIT_DONE

    _run("boot disable", json_here, act)


@boot.command("status")
@_scheduler
@_json
def boot_status(scheduler: str | None, json_here: bool) -> None:
    """Whether recovery runs at boot, and what keeps it from that."""

    def act(_: bytes, as_json: bool) -> int:
        from ..integrations.schedulers import status as standing

        return _tell_boot("status", standing(scheduler), as_json)

    _run("boot status", json_here, act)


def _tell_boot(command: str, standing: Any, as_json: bool) -> int:
    if as_json:
        quick.emit({"command": f"boot {command}", **boot_json(standing)})
    terminal.say(*boot_lines(standing))
    return EXIT_PERSON if standing.troubles else EXIT_DONE


@group.command()
@click.option("--fix", "mend", is_flag=True, help="mend what can be mended without losing anything")
@_json
def doctor(mend: bool, json_here: bool) -> None:
    """What is wrong here, and the command that mends it. Exit status 4 where something needs a person."""

    def act(path: bytes, as_json: bool) -> int:
        from ..fleet.doctor import examine, fix, version_line

        mended = fix(examine(path)) if mend else []
        found = examine(path)
        if as_json:
            quick.emit(
                {
                    "command": "doctor",
                    "versions": version_line(),
                    "findings": [finding_json(item) for item in found],
                    "fixed": [finding_json(item) for item in mended],
                }
            )
        terminal.say(*doctor_lines(found, mended))
        return EXIT_PERSON if any(item.serious for item in found) else EXIT_DONE

    _run("doctor", json_here, act)


@group.command()
@click.argument("names", nargs=-1, metavar="[SAVE]…")
@click.option("--all", "everything", is_flag=True, help="of every workspace of this repository")
@click.option("--keep", "keep_saves", type=_range("keepSaves"), help=help_text("keepSaves"))
@click.option("--days", "keep_days", type=_range("keepDays"), help=help_text("keepDays"))
@click.option("--dry-run", is_flag=True, help="say what would go, touch nothing")
@_json
def prune(
    names: tuple[str, ...],
    everything: bool,
    keep_saves: int | None,
    keep_days: float | None,
    dry_run: bool,
    json_here: bool,
) -> None:
    """Remove old saves and their notes, or those that are named. What was not recovered stays."""

    def act(path: bytes, as_json: bool) -> int:
        from ..git.repository import open_repository
        from ..history.prune import prune as prune_saves

        result = prune_saves(
            open_repository(path),
            everything=everything,
            names=names,
            keep_saves=keep_saves,
            keep_days=keep_days,
            dry_run=dry_run,
        )
        pruned = [item.save_id for item in result.pruned]
        if as_json:
            quick.emit({"command": "prune", "pruned": pruned, "kept": result.kept, "dry_run": dry_run})
        verb = "would go" if dry_run else "pruned"
        terminal.say(*(f"{verb}: {save_id}" for save_id in pruned), f"{len(pruned)} {verb}, {result.kept} stay")
        return EXIT_DONE

    _run("prune", json_here, act)


@group.command()
@click.argument("remote", required=False)
@click.option("--dry-run", is_flag=True, help="say what would go over, send nothing")
@_json
def push(remote: str | None, dry_run: bool, json_here: bool) -> None:
    """Send this workspace's saves and the notes to a git remote. They may hold secrets: it must be named."""

    def act(path: bytes, as_json: bool) -> int:
        from ..git.repository import open_repository
        from ..history.remote import push as push_saves

        return _tell_exchange("push", push_saves(open_repository(path), remote, dry_run=dry_run), dry_run, as_json)

    _run("push", json_here, act)


@group.command()
@click.argument("remote", required=False)
@click.option("--dry-run", is_flag=True, help="say what would come, take nothing")
@_json
def fetch(remote: str | None, dry_run: bool, json_here: bool) -> None:
    """Take the saves and notes of a git remote. `gitstate recover` brings one back that waits there."""

    def act(path: bytes, as_json: bool) -> int:
        from ..git.repository import open_repository
        from ..history.remote import fetch as fetch_saves

        return _tell_exchange("fetch", fetch_saves(open_repository(path), remote, dry_run=dry_run), dry_run, as_json)

    _run("fetch", json_here, act)


def _tell_exchange(command: str, exchange: Any, dry_run: bool, as_json: bool) -> int:
    if as_json:
        quick.emit({"command": command, **exchange_json(exchange), "dry_run": dry_run})
    terminal.say(*exchange_lines(exchange, command, dry_run))
    return EXIT_DONE


@group.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print what makes a shell complete gitstate's commands: eval "$(gitstate completion bash)"."""
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(group, {}, "gitstate", "_GITSTATE_COMPLETE").source())


@group.command(hidden=True)
def manual() -> None:
    """Print the manual page, as it stands in man/git-gitstate.1."""
    from .manual import page

    summary = "save what an agent was doing into git, and bring it back"
    with click.Context(group, info_name="gitstate") as top:
        text = " ".join((group.help or "").split("\n\n")[0].split())
        click.echo(page(__version__, summary, text, _described(group, top), _commands(group, top, "")), nl=False)


def _commands(of: click.Group, context: click.Context, prefix: str) -> list[Any]:
    from .manual import Command

    found: list[Any] = []
    for name in of.list_commands(context):
        command = of.get_command(context, name)
        if command is None or command.hidden:
            continue
        with click.Context(command, parent=context, info_name=name) as inner:
            if isinstance(command, click.Group):
                found += _commands(command, inner, f"{prefix}{name} ")
                continue
            usage = " ".join(command.collect_usage_pieces(inner)[1:])
            words = " ".join((command.help or "").split())
            found.append(Command(f"{prefix}{name}", usage, words, tuple(_described(command, inner))))
    return found


def _described(command: click.Command, context: click.Context) -> list[Any]:
    from .manual import Option

    options = [option for option in command.get_params(context) if isinstance(option, click.Option)]
    records = [option.get_help_record(context) for option in options if option.name != "help"]
    return [Option(*record) for record in records if record is not None]


@group.command()
@click.argument("shell", type=click.Choice(["bash"]))
def init(shell: str) -> None:
    """Print the shell library: eval "$(gitstate init bash)"."""

    def act(_: bytes, as_json: bool) -> int:
        from ..system.program import shipped

        library = shipped("gitstate.bash").decode("utf-8")
        if as_json:
            quick.emit({"command": "init", "shell": shell, "library": library})
        else:
            click.echo(library, nl=False)
        return EXIT_DONE

    _run("init", False, act)


@group.command()
def demo() -> None:
    """The whole story on a throw-away repository, with a real kill."""
    from . import demo as story

    sys.exit(story.run(click.echo))
