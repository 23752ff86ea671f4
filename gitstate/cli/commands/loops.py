"""`loop` and `resume`: the agent at work again."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from ...agents.registry import agent_named, agent_names
from ...errors import UsageError
from ...recover.request import worst_of
from ...system.terminal import escape, say
from .. import quick
from ..command import Call, Count, Seconds, command, everything_option, paths_argument, roots_option
from ..options import context_values

if TYPE_CHECKING:
    from ...loops.resume import ResumeResult
    from ...loops.start import Manner
    from ...workspace.peek import WorkspacePeek

#: The options of `resume` that say how an agent is started.
_MANNERS: tuple[Manner, ...] = ("tmux", "unit", "detached")
#: What a task may leave to the environment.
_OF_A_TASK = ("issue_number", "progress_stage", "memory_refs")


@command("loop", json=False, before=f"AGENT is {', '.join(agent_names()[:-1])} or {agent_names()[-1]}.")
@click.argument("agent", type=click.Choice(agent_names()), metavar="AGENT")
@click.argument("options", nargs=-1, type=click.UNPROCESSED, metavar="[-- ARGUMENT…]")
@click.option("--workspace", metavar="DIR", help="where to work  [default: here]")
@click.option("--tasks", metavar="FILE", help="the tasks, one a line; a line is removed when it is done")
@click.option("--next", "next_", metavar="COMMAND", help="shell command that prints the next task, or nothing")
@click.option("--prompt", metavar="TEMPLATE", default="{}", help="prompt of the agent; {} stands for the task")
@click.option("--retries", type=Count(0), metavar="N", default=2, show_default=True, help="tries after a failure")
@click.option("--max-runs", "--max", type=Count(0), metavar="N", default=0, help="stop after N runs")
@click.option("--once", is_flag=True, help="the same as --max-runs 1")
@click.option("--max-time", type=Seconds(0), metavar="SECONDS", help="begin no run after this time")
@click.option(
    "--min-seconds",
    type=Seconds(0),
    metavar="SECONDS",
    default=5.0,
    show_default=True,
    help="shorter runs that change nothing are no work; three end the loop",
)
@click.option("--stop-file", metavar="FILE", help="stop before the next run where this file exists")
@click.option("--log-dir", metavar="DIR", help="copy the output of each run into a file in DIR")
def loop(call: Call, agent: str, options: tuple[str, ...], **given: Any) -> int:
    """Each ARGUMENT goes to the agent. A pending save is recovered first, and its task continued in the agent's own
    session. After a failure the task is tried again; a usage limit is waited out. A task may begin with values:
    `task_id=T-1 issue_number=7 Fix it`; --next may print a JSON object with these keys and `prompt`. ISSUE_NUMBER,
    PROGRESS_STAGE and MEMORY_REFS count for tasks that name none. In a file, lines that begin with # are comments, and
    several loops may share it.
    """
    from ...loops.command import CommandTasks
    from ...loops.loop import LoopRequest
    from ...loops.loop import loop as run_loop
    from ...loops.tasks import FileTasks, TaskSource

    record = agent_named(agent)
    assert record is not None
    empty = next((name.strip("_").replace("_", "-") for name, value in given.items() if value == ""), None)
    if empty is not None:
        raise UsageError(f"--{empty} is empty; nothing was started", hint="gitstate loop --help")
    if (given["tasks"] is None) == (given["next_"] is None):
        both = given["tasks"] is not None
        what = "--tasks and --next exclude each other" if both else "no tasks: give --tasks FILE or --next COMMAND"
        raise UsageError(what, hint="gitstate loop --help")
    (directory,) = call.absolute([given["workspace"] or "."])
    names = ("tasks", "stop_file", "log_dir")
    paths = {name: call.absolute([given[name]])[0] if given[name] else None for name in names}
    try:
        os.chdir(directory)
    except OSError as error:
        raise UsageError(f"{os.fsdecode(directory)}: {error.strerror}", hint="gitstate loop --help") from None
    tasks = paths["tasks"]
    source: TaskSource = CommandTasks(given["next_"]) if tasks is None else FileTasks(tasks, directory)
    values = {name: value for name, value in context_values({}, os.environ).items() if name in _OF_A_TASK}
    request = LoopRequest(
        record,
        source,
        given["prompt"],
        options,
        given["retries"],
        1 if given["once"] else given["max_runs"],
        given["max_time"],
        given["min_seconds"],
        paths["stop_file"],
        paths["log_dir"],
        values,
    )
    return run_loop(directory, request)


@command("resume")
@paths_argument
@everything_option
@roots_option
@click.option("--tmux", is_flag=True, help="in a new session of tmux")
@click.option("--unit", is_flag=True, help="as a unit of the user's systemd")
@click.option("--detach", "detached", is_flag=True, help="in the background  [default with --all]")
@click.option("--agent", type=click.Choice(agent_names()), help="this agent  [default: the one that was interrupted]")
@click.option("--stop-file", metavar="FILE", help="start nothing where this file exists")
@click.option("--force", is_flag=True, help="start it again for the same interruption")
def resume(call: Call, paths: tuple[str, ...], everything: bool, roots: tuple[str, ...], **given: Any) -> int:
    """The agent continues its own session where that still exists, else a new one, with a briefing. For each
    interruption it is started at most once, and not again after three starts that changed nothing. A file
    .gitstate-stop at the top of the workspace prevents every start. With --json the agent's output goes to stderr.
    `loop` works on further tasks.
    """
    from ...loops.resume import ResumeRequest
    from ...loops.resume import resume as resume_one

    many = everything or bool(roots)
    manner: Manner = "detached" if many or len(paths) > 1 else "foreground"
    named: list[Manner] = [way for way in _MANNERS if given[way]]
    if len(named) > 1:
        what = "--tmux, --unit and --detach exclude each other; nothing was started"
        raise UsageError(what, hint="gitstate resume --help")
    manner = named[0] if named else manner
    stop_file = None if given["stop_file"] is None else call.absolute([given["stop_file"]])[0]
    request = ResumeRequest(manner, given["agent"], stop_file, given["force"], strict=many, answers=call.as_json)
    targets = call.absolute(paths) if paths else [] if many else [call.directory]
    if many:
        from ...fleet.find import peek_all, workspaces

        below = call.absolute(roots)
        targets += [root for root in below if not os.path.isdir(root)]
        found = workspaces(call.directory, below, everything=everything).paths
        # One of another user, and one that does not answer, is left alone.
        targets += [seen.workspace for seen in peek_all(found) if seen.due or _was_recovered(seen)]
    results: list[ResumeResult] = []
    rows: list[Mapping[str, Any]] = []

    def one(path: bytes) -> int:
        result = resume_one(path, request)
        results.append(result)
        rows.append(resume_json(result))
        if not call.as_json and (result.outcome != "nothing" or not many):
            say(*resume_lines(result))
        return result.exit_status

    statuses = [quick.each_of_many("resume", path, one, rows) for path in dict.fromkeys(targets)]
    if many and not call.as_json and all(result.outcome == "nothing" for result in results):
        say("nothing to resume")
    if call.as_json:
        call.emit(workspaces=rows)
    return statuses[0] if len(statuses) == 1 else worst_of(statuses)


def _was_recovered(seen: WorkspacePeek) -> bool:
    """Whether the recovery at boot was here before, and no task has begun since."""
    return seen.problem is None and seen.status == "recovered"


# -- words


def resume_json(result: ResumeResult) -> dict[str, Any]:
    """One workspace of what `resume --json` prints."""
    return {
        "workspace": escape(result.workspace),
        "outcome": result.outcome,
        "message": escape(result.message) or None,
        "exit_status": result.exit_status,
        "argv": [escape(word) for word in result.argv],
    }


def resume_lines(result: ResumeResult) -> list[str]:
    """What `resume` tells a person about one workspace."""
    words = f": {escape(result.message)}" if result.message else ""
    return [f"{escape(result.workspace)}: {result.outcome}{words}"]
