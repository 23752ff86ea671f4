"""The command line: click parses, one call acts, `report` says. No rule of gitstate stands here."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

import click

from . import __version__, report
from .arguments import CONTEXT_TEXTS, OPTIONS, Quick, context_values
from .errors import EXIT_DONE, UsageError

_KINDS: dict[str, Any] = {"text": str, "many": str, "number": int, "seconds": click.FloatRange(0, 1e9, min_open=True)}


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
        report.say(f"gitstate: {error.format_message()}", "  next: gitstate --help")
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
                raise click.UsageError(f"--set wants KEY=VALUE, not {report.escape(pair)}")
        kept = {key: list(value) if isinstance(value, tuple) else value for key, value in given.items()}
        kept = {key: value for key, value in kept.items() if value not in (None, [], False)}
        if as_json:
            kept["json"] = True
        sys.exit(report.run_save(Quick(name, path, kept)))

    params: list[click.Parameter] = [
        click.Option([option.flag, option.name], is_flag=True, help=option.help)
        if option.kind == "flag"
        else click.Option(
            [option.flag, option.name], type=_KINDS[option.kind], multiple=option.kind == "many", help=option.help
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
    sys.exit(report.guarded(lambda: act(os.fsencode(path), as_json), command, as_json))


@group.command()
@click.argument("paths", nargs=-1, metavar="[PATH]…")
@click.option("--all", "everything", is_flag=True, help="every worktree of this repository, and every registered one")
@click.option("--dry-run", is_flag=True, help="say what would happen, touch nothing")
@click.option("--overwrite", is_flag=True, help="the saved version wins over files that were edited after the save")
@click.option("--into", metavar="PATH", help="give a save whose workspace is gone a new worktree at PATH")
@click.option("--save", "save_id", metavar="ID", help="this save, not the one that waits")
@click.option("--wait", type=click.FloatRange(0), default=60.0, help="seconds to wait for another gitstate")
@click.option("--format", "style", type=click.Choice(["text", "json", "shell"]), default="text")
@_json
def recover(
    paths: tuple[str, ...], everything: bool, dry_run: bool, overwrite: bool, into: str | None, save_id: str | None,
    wait: float, style: str, json_here: bool,
) -> None:  # fmt: skip
    """Put the workspace back as it was saved, and rebuild active_state.json. Nothing newer is overwritten."""

    def act(path: bytes, as_json: bool) -> int:
        from .git import open_repository
        from .restore import RecoverRequest, RecoverResult, recover_into
        from .restore import recover as recover_one

        request = RecoverRequest(save_id, dry_run, overwrite, wait)
        if into is not None and (paths or everything):
            raise UsageError(
                "--into goes with one save of one repository", hint="gitstate recover --into PATH --save ID"
            )
        results: list[RecoverResult] = []
        statuses: list[int] = []
        if into is not None:
            target = os.path.abspath(os.path.join(path, os.fsencode(into)))
            results.append(recover_into(open_repository(path), target, request))
        else:
            for one in _workspaces(path, paths, everything):
                if len(paths) + everything:

                    def attempt(one: bytes = one) -> int:
                        results.append(recover_one(one, request))
                        return EXIT_DONE

                    statuses.append(report.guarded(attempt, "recover", False))
                else:
                    results.append(recover_one(one, request))
        if as_json or style == "json":
            report.emit({"command": "recover", "workspaces": [report.recover_json(result) for result in results]})
        elif style == "shell":
            for result in results:
                click.echo(report.shell_lines(result), nl=False)
        for result in results:
            report.say(*report.recover_lines(result))
        return _worst([*statuses, *(result.exit_status for result in results)])

    _run("recover", json_here or style == "json", act)


def _worst(statuses: Sequence[int]) -> int:
    """One status for many workspaces: a person first, then failures, then what passes by itself."""
    for status in (4, 3, 2, 1, 75):
        if status in statuses:
            return status
    return EXIT_DONE


def _workspaces(path: bytes, paths: Sequence[str], everything: bool) -> list[bytes]:
    from . import scan
    from .errors import NotAWorkspace
    from .git import Git, open_repository

    if paths:
        return [os.path.abspath(os.path.join(path, os.fsencode(one))) for one in paths]
    if not everything:
        return [path]
    found: dict[bytes, None] = {}
    try:
        repository = open_repository(path)
        found.update(dict.fromkeys(place for place in scan.worktrees(repository) if os.path.isdir(place)))
    except NotAWorkspace:
        pass
    listed = Git(path).run("config", "--global", "-z", "--get-all", "gitstate.workspace", fine=range(256))
    found.update(dict.fromkeys(listed.split(b"\0")[:-1]))
    return list(found)


@group.command()
@click.option("--all", "everything", is_flag=True, help="every worktree of this repository, and every registered one")
@_json
def status(everything: bool, json_here: bool) -> None:
    """What is running, waiting to be recovered, or finished."""

    def act(path: bytes, as_json: bool) -> int:
        from . import scan

        found = [scan.summary(one) for one in _workspaces(path, (), everything)]
        if as_json:
            report.emit({"command": "status", "workspaces": [report.summary_json(item) for item in found]})
        else:
            for item in found:
                click.echo(report.summary_line(item))
        return EXIT_DONE

    _run("status", json_here, act)


@group.command("set")
@click.argument("pairs", nargs=-1, required=True, metavar="KEY=VALUE…")
@_json
def set_(pairs: tuple[str, ...], json_here: bool) -> None:
    """Change the context: task_id, issue_number, progress_stage, memory_refs, agent, session_id."""

    def act(path: bytes, as_json: bool) -> int:
        from .git import open_repository
        from .state import set_values

        values = _pairs(pairs, "gitstate set progress_stage=testing")
        context = set_values(open_repository(path), values)
        if as_json:
            report.emit({"command": "set", "context": context.to_json()})
        return EXIT_DONE

    _run("set", json_here, act)


@group.command()
@click.argument("keys", nargs=-1, metavar="[KEY]…")
@_json
def show(keys: tuple[str, ...], json_here: bool) -> None:
    """Show the context, or the values of some of its keys, one on a line."""

    def act(path: bytes, as_json: bool) -> int:
        from .git import open_repository
        from .state import read_live_context

        context, state = read_live_context(open_repository(path))
        fields = context.to_json()
        flat = {**fields.pop("extra"), **fields, "status": state}
        unknown = [key for key in keys if key not in flat]
        if unknown:
            raise UsageError(f"no such key: {unknown[0]!r}", hint="gitstate show")
        if as_json:
            chosen = {key: flat[key] for key in keys} if keys else {**context.to_json(), "status": state}
            report.emit({"command": "show", "context": chosen})
        else:
            for key in keys or flat:
                click.echo(
                    report.value_line(flat[key]) if keys else f"{report.escape(key)}: {report.value_line(flat[key])}"
                )
        return EXIT_DONE

    _run("show", json_here, act)


@group.command()
@click.option("--all", "everything", is_flag=True, help="of every workspace of this repository")
@click.option("-n", "most", type=click.IntRange(1), default=50, help="at most this many")
@_json
def log(everything: bool, most: int, json_here: bool) -> None:
    """The saves of this workspace, newest first."""

    def act(path: bytes, as_json: bool) -> int:
        from .git import open_repository
        from .history import list_saves

        entries = list_saves(open_repository(path), everything=everything)[:most]
        if as_json:
            report.emit({"command": "log", "saves": [report.entry_json(entry) for entry in entries]})
        else:
            for entry in entries:
                click.echo(report.entry_line(entry))
        return EXIT_DONE

    _run("log", json_here, act)


@group.command()
@click.argument("save_id", metavar="SAVE")
@_json
def diff(save_id: str, json_here: bool) -> None:
    """What a save changed against the commit it stands on, as a patch."""

    def act(path: bytes, as_json: bool) -> int:
        from .git import open_repository
        from .history import diff as diff_save

        text = diff_save(open_repository(path), save_id)
        if as_json:
            report.emit({"command": "diff", "save_id": save_id, "patch": report.escape_lines(text)})
        else:
            report.write_patch(text)
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
        from .git import open_repository
        from .restore import RecoverRequest, restore_paths

        repository = open_repository(path)
        wanted = []
        for one in paths:
            inside = os.path.relpath(os.path.normpath(os.path.join(path, os.fsencode(one))), repository.toplevel)
            if inside.startswith(b"../") or inside == b"..":
                raise UsageError(f"{one!r} is outside the workspace", hint="gitstate restore SAVE PATH…")
            wanted.append(inside)
        result = restore_paths(repository, save_id, wanted, RecoverRequest(save_id, dry_run, overwrite))
        if as_json:
            report.emit({"command": "restore", "workspaces": [report.recover_json(result)]})
        report.say(*report.recover_lines(result))
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
        from .git import open_repository
        from .state import begin as begin_task

        values = _pairs(pairs, "gitstate begin task_id=T-1")
        context = begin_task(open_repository(path), values, owner_pid)
        if as_json:
            report.emit({"command": "begin", "context": context.to_json()})
        return EXIT_DONE

    _run("begin", json_here, act)


@group.command()
@_json
def finish(json_here: bool) -> None:
    """The task is done: a save that waits is brought back first, then nothing waits any more."""

    def act(path: bytes, as_json: bool) -> int:
        from .git import open_repository
        from .restore import RecoverRequest
        from .restore import recover as recover_one
        from .state import finish as finish_task

        result = recover_one(path, RecoverRequest())
        if result.verdict != "nothing":
            report.say(*report.recover_lines(result))
        context = None if result.exit_status else finish_task(open_repository(path))
        if as_json:
            report.emit({"command": "finish", "context": None if context is None else context.to_json()})
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
@click.option("--stop-signal", type=click.Choice(["TERM", "INT", "HUP", "QUIT", "USR1", "USR2"]),
              help="what tells the agent to stop; by default what suits the agent")  # fmt: skip
@click.option("--stop-group", is_flag=True, help="tell all its processes, not the agent alone")
@click.option("--grace", type=click.FloatRange(0, 3600), help="seconds that the agent has to end  [default: 1.5]")
@click.option("--deadline", type=click.FloatRange(0.5, 3600), help="seconds for all of a save  [default: 4]")
@click.option("--interval", type=click.FloatRange(0.2, 86400), help="seconds between checkpoints  [default: 10]")
def run_(
    command: tuple[str, ...], owner_pid: int | None, stop_signal: str | None, stop_group: bool,
    grace: float | None, deadline: float | None, interval: float | None, **given: Any,
) -> None:  # fmt: skip
    """Run an agent in the foreground, watched: checkpoints meanwhile, a save however it ends, and its own status."""

    def act(path: bytes, _: bool) -> int:
        from .supervise import RunRequest, run

        values = context_values({name: _plain(value) for name, value in given.items() if value}, os.environ)
        times = {"grace": grace, "deadline": deadline, "interval": interval}
        return run(path, RunRequest(command, values, owner_pid, given.get("agent"), stop_signal, stop_group, times))

    _run("run", False, act)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


@group.command()
@click.argument("paths", nargs=-1, metavar="[PATH]…")
@click.option("--all", "everything", is_flag=True, help="every worktree of this repository, and every registered one")
@click.option("--wait", type=click.FloatRange(0), default=10.0, show_default=True,
              help="seconds from SIGTERM to SIGKILL")  # fmt: skip
@_json
def stop(paths: tuple[str, ...], everything: bool, wait: float, json_here: bool) -> None:
    """End what works in a workspace, politely: SIGTERM, wait for its save, then SIGKILL for the rest."""

    def act(path: bytes, as_json: bool) -> int:
        from .stop import StopResult
        from .stop import stop as stop_one

        results: list[StopResult] = []
        statuses: list[int] = []
        for one in _workspaces(path, paths, everything):

            def attempt(one: bytes = one) -> int:
                results.append(stop_one(one, wait))
                return results[-1].exit_status

            statuses.append(report.guarded(attempt, "stop", False))
        if as_json:
            report.emit({"command": "stop", "workspaces": [report.stop_json(result) for result in results]})
        report.say(*(line for result in results for line in report.stop_lines(result)))
        return _worst(statuses)

    _run("stop", json_here, act)


_AGENTS = click.Choice(["claude", "codex", "gemini", "kimi"])
_agent = click.option("--agent", type=_AGENTS, help="that agent's own hooks, not git's")
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
        from .git import open_repository

        if agent is None:
            from . import install_git

            if dry_run:
                raise UsageError("--dry-run goes with --agent", hint=f"gitstate {command}")
            outcome = getattr(install_git, command)(open_repository(path))
            if as_json:
                report.emit(report.install_json(command, outcome))
            report.say(*report.install_lines(outcome))
            return int(outcome.exit_status)
        from . import install_agents

        top = open_repository(path).toplevel if scope == "project" else None
        change = getattr(install_agents, command)(agent, top, os.environ)
        if not dry_run:
            install_agents.carry_out(change)
        if as_json:
            report.emit(report.change_json(command, change, dry_run))
        elif dry_run:
            report.write_patch(change.diff())
        report.say(*report.change_lines(change, dry_run))
        return EXIT_DONE

    _run(command, json_here, act)


@group.command(hidden=True, context_settings={"ignore_unknown_options": True})
@click.argument("name", metavar="AGENT")
@click.argument("arguments", nargs=-1, metavar="[EVENT] [ARGUMENT]…")
def hook(name: str, arguments: tuple[str, ...]) -> None:
    """What hooks call: `hook git EVENT …`, or `hook AGENT` with the event as JSON on stdin."""
    path, _ = click.get_current_context().obj
    os.chdir(path)
    sys.exit(report.run_hook(name, arguments))


@group.command()
@click.argument("shell", type=click.Choice(["bash"]))
def init(shell: str) -> None:
    """Print the shell library: eval "$(gitstate init bash)"."""

    def act(_: bytes, as_json: bool) -> int:
        from .shell import library

        if as_json:
            report.emit({"command": "init", "shell": shell, "library": library()})
        else:
            click.echo(library(), nl=False)
        return EXIT_DONE

    _run("init", False, act)


@group.command()
def demo() -> None:
    """The whole story on a throw-away repository, with a real kill."""
    from . import demo as story

    sys.exit(story.run(click.echo))
