"""Every command of the command line, in the order in which people need them.

`--help`, the manual page, docs/commands.md and completion read this table. The module of a command is imported only
when that command runs.
"""

from __future__ import annotations

from typing import NamedTuple

from ..agents.registry import agent_names


class Entry(NamedTuple):
    """One command: `attribute` of `commands.module`, under the heading `group` of `--help`.

    `name` is `boot enable` for a command of a group. `summary` is one imperative line of at most 60 characters without
    a full stop. A command without a `group` is hidden.
    """

    name: str
    module: str
    attribute: str
    group: str
    summary: str


_RUN = "Run and recover"
_SAVE = "Save"
_TASK = "Task and context"
_OLD = "Old saves"
_SETUP = "Set up"
_BOOT = "Commands"

TABLE = (
    Entry("run", "running", "run", _RUN, "Run an agent under supervision, saving unless it succeeds"),
    Entry("recover", "recovering", "recover", _RUN, "Restore the workspace and its context from a save"),
    Entry("status", "recovering", "status", _RUN, "Show what is running, pending or finished"),
    Entry("resume", "loops", "resume", _RUN, "Recover, then start the interrupted agent again"),
    Entry("loop", "loops", "loop", _RUN, "Run an agent on one task after another"),
    Entry("stop", "running", "stop", _RUN, "Stop a run: SIGTERM, wait for its save, then SIGKILL"),
    Entry("save", "saves", "save", _SAVE, "Save the workspace and its context"),
    Entry("checkpoint", "saves", "checkpoint", _SAVE, "Save without moving the branch (no-op if nothing changed)"),
    Entry("begin", "context", "begin", _TASK, "Begin a task, replacing the context of the previous one"),
    Entry("set", "context", "set_", _TASK, "Change values of the context"),
    Entry("show", "context", "show", _TASK, "Print the context, or some of its values"),
    Entry("finish", "context", "finish", _TASK, "Mark the task as done, recovering a pending save first"),
    Entry("log", "saves", "log", _OLD, "List the saves of this workspace, newest first"),
    Entry("diff", "saves", "diff", _OLD, "Print what a save changed, as a patch"),
    Entry("restore", "saves", "restore", _OLD, "Restore files from a save"),
    Entry("undo", "saves", "undo", _OLD, "Take the last recover or restore back (twice: redo it)"),
    Entry("verify", "recovering", "verify", _OLD, "Prove that the newest save comes back, byte for byte"),
    Entry("prune", "saves", "prune", _OLD, "Remove old saves and their notes, except unrecovered ones"),
    Entry("push", "saves", "push", _OLD, "Send saves and notes to a git remote"),
    Entry("fetch", "saves", "fetch", _OLD, "Fetch saves and notes from a git remote"),
    Entry("init", "shell", "init", _SETUP, 'Print the shell library, for eval "$(gitstate init bash)"'),
    Entry("install", "hooks", "install", _SETUP, "Add gitstate to the hooks of git, or of an agent"),
    Entry("uninstall", "hooks", "uninstall", _SETUP, "Remove what install added"),
    Entry("boot", "hooks", "boot", _SETUP, "Run recovery at boot: with systemd, cron or launchd"),
    Entry("register", "workspaces", "register", _SETUP, "Add workspaces to the list that recover --all reads"),
    Entry("unregister", "workspaces", "unregister", _SETUP, "Remove workspaces from that list"),
    Entry("doctor", "workspaces", "doctor", _SETUP, "Report what is wrong, and the command that mends it"),
    Entry("completion", "shell", "completion", _SETUP, "Print shell completion for bash, zsh or fish"),
    Entry("demo", "demo", "demo", _SETUP, "Show a kill and a recovery in a throw-away repository"),
    Entry("boot enable", "hooks", "enable", _BOOT, "Run recover --all at every boot (idempotent)"),
    Entry("boot disable", "hooks", "disable", _BOOT, "Stop running recovery at boot"),
    Entry("boot status", "hooks", "status", _BOOT, "Show whether recovery runs at boot, and what prevents it"),
    Entry("hook", "hooks", "hook", "", "Carry out one event of a hook of git, or of an agent"),
    Entry("manual", "shell", "manual", "", "Print the manual page, man/git-gitstate.1"),
)
BY_NAME = {entry.name: entry for entry in TABLE}

_AGENT, _OTHER = agent_names()[:2]
#: Command lines and what each does, by the name of the command; the first steps have no name.
EXAMPLES: dict[str, tuple[tuple[str, str], ...]] = {
    "": (
        ("gitstate demo", "watch a kill and a recovery"),
        (f'gitstate run -- {_AGENT} -p "Fix it"', "protect one run of an agent"),
        (f"gitstate loop {_AGENT} --tasks FILE", "let it work on one task after another"),
        ("gitstate status", "after a crash: see what is pending"),
        ("gitstate recover", "bring it back"),
        ("gitstate resume", "bring it back, and start the agent again"),
        ("gitstate boot enable", "recover after every reboot"),
    ),
    "run": (
        (f'gitstate run -- {_AGENT} -p "Fix it"', "run one agent"),
        ("gitstate run --task-id T-42 -- ./loop.sh", "run a loop of your own"),
        ("gitstate recover", "after a crash: bring its work back"),
    ),
    "recover": (
        ("gitstate recover", "recover this workspace"),
        ("gitstate recover --dry-run", "see what would happen"),
        ("gitstate recover --all", "recover everything after a reboot"),
    ),
    "resume": (
        ("gitstate resume", "recover, and start the agent here"),
        ("gitstate resume --all --tmux", "start all of them, each in tmux"),
    ),
    "loop": (
        (f"gitstate loop {_AGENT} --tasks tasks.txt", "take each line as a task"),
        (f"gitstate loop {_OTHER} --next ./next-task", "ask a command for each task"),
        (f"gitstate loop {_AGENT} --tasks FILE -- -v", "pass options to the agent"),
    ),
    "init": (
        ('eval "$(gitstate init bash)"', "load the library; zsh: init zsh"),
        ("recover_agent_state", "recover: $RECOVERED_TASK_ID, …; 1: nothing"),
        ("gitstate_begin task_id=T-42", "begin a task, and set the traps"),
        ("gitstate_stage coding", "record how far it is"),
        (f'gitstate_run {_AGENT} -p "Fix it"', "run the agent"),
        ("gitstate_finish", "mark the task as done"),
    ),
    "install": (
        ("gitstate install", "in a repository: the hooks of git"),
        (f"gitstate install --agent {_AGENT}", "the hooks of an agent, for all repositories"),
        ("gitstate doctor", "see what is missing"),
    ),
    "boot enable": (
        ("gitstate boot enable", "recover at every boot"),
        ("gitstate boot enable --resume", "start the agents again, too"),
    ),
}
