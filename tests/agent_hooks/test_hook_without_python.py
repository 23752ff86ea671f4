"""The rule of the command's script for an event where nothing is due, tied to Python's rule."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gitstate.agents.base import Agent
from gitstate.agents.registry import all_agents
from tests.agent_hooks.test_destroying import DESTROYING
from tests.support.agents import hooks_are_done, wait_until
from tests.support.environment import ROOT
from tests.support.typed import git, state_file
from tests.support.workspace import GITSTATE, Workspace

SLOW = {"GITSTATE_HOOK_INTERVAL": "3600"}
#: What stands beside the script in place of pip's: it shows that Python would have been started, and with which event.
ASKED = b"Python is asked: "


@pytest.fixture
def script(tmp_path: Path) -> Path:
    """A copy of the script that has no Python."""
    place = tmp_path / "bin"
    place.mkdir()
    (place / "gitstate").write_bytes((ROOT / "bin" / "gitstate").read_bytes())
    (place / "git-gitstate").write_text(f"#!/bin/sh\nprintf '{ASKED.decode()}%s ' \"$@\"\ncat\n")
    for name in ("gitstate", "git-gitstate"):
        (place / name).chmod(0o755)
    return place / "gitstate"


def told(repo: Workspace, name: str = "PostToolUse", agent: str = "claude", **more: object) -> bytes:
    keys = agent_called(agent).payload
    directory: object = [str(repo.path), "/elsewhere"] if keys.names_many_directories else str(repo.path)
    event = {keys.session_id: "s-1", keys.transcript_path: "/t/s-1.jsonl", keys.directory: directory, keys.event: name}
    return json.dumps({**event, **more}, separators=(",", ":")).encode()


def agent_called(name: str) -> Agent:
    return next(agent for agent in all_agents() if agent.name == name)


def python(repo: Workspace, event: bytes, agent: str = "claude", **env: str) -> None:
    """Let Python handle an event."""
    argv = [*GITSTATE, "hook", agent]
    subprocess.run(argv, input=event, cwd=repo.path, env={**os.environ, **SLOW, **env}, check=True)
    wait_until(lambda: hooks_are_done(own(repo, "").parent), "what the hook has begun")


def handle_tool(repo: Workspace, event: bytes, agent: str = "claude") -> None:
    """Let Python handle a tool's event, and another one, so that a process waits for the end of the interval."""
    python(repo, event, agent)
    python(repo, event, agent)
    memory, waits = own(repo, "agent-hook.json"), own(repo, "agent-hook.wait")
    wait_until(lambda: waits.exists() and waits.stat().st_mtime_ns > memory.stat().st_mtime_ns, "somebody waits")


def queued(repo: Workspace) -> list[bytes]:
    """The events in the queue, the oldest first. It is empty then."""
    files = sorted(own(repo, "agent-hook.events").glob("1*"))
    texts = [file.read_bytes() for file in files]
    for file in files:
        file.unlink()
    return texts


def is_queued(script: Path, repo: Workspace, event: bytes, agent: str = "claude", **env: str) -> bool:
    """Whether the script puts an event into the queue, and gives the agent back."""
    return not asks_python(script, repo, event, agent, **env) and queued(repo) == [event + b"\n"]


def asks_python(script: Path, repo: Workspace, event: bytes, agent: str = "claude", **env: str) -> bool:
    """Whether the script leaves an event to Python, which must then read all of it."""
    argv = [os.fspath(script), "hook", agent]
    done = subprocess.run(argv, input=event, cwd=repo.path, env={**os.environ, **env}, capture_output=True, timeout=30)
    assert not done.stderr
    if not done.stdout:
        assert done.returncode == 0
        return False
    assert done.stdout.rstrip(b"\n").endswith(b"hook " + ASKED + agent.encode() + b" " + event), done.stdout
    return True


def own(repo: Workspace, name: str) -> Path:
    return Path(git(repo, "rev-parse", "--absolute-git-dir")) / "gitstate" / name


@pytest.mark.sample(3)
@pytest.mark.parametrize("agent", [agent.name for agent in all_agents()])
def test_agent_waits_for_python_only_where_it_reads_an_answer(agent: str, script: Path, repo: Workspace) -> None:
    names = {event.meaning: event.name for event in agent_called(agent).events}
    tool = told(repo, names["tool"], agent)
    assert asks_python(script, repo, tool, agent)
    repo.write("new", "new\n")
    handle_tool(repo, tool, agent)
    before = git(repo, "for-each-ref"), own(repo, "agent-hook.json").read_bytes()
    assert before[0]
    for more in ({}, {"tool_response": "x" * 200_000}, {"tool_input": {"text": 'a "quoted" \\ text\n'}}):
        assert not asks_python(script, repo, told(repo, names["tool"], agent, **more), agent)
    assert (queued(repo), git(repo, "for-each-ref"), own(repo, "agent-hook.json").read_bytes()) == ([], *before)
    briefed = agent_called(agent).briefing.event
    for meaning in ("session_start", "prompt", "turn_end", "compaction", "session_end"):
        if meaning in names:
            event = told(repo, names[meaning], agent)
            waits = meaning in ("session_start", "session_end") or names[meaning] == briefed
            assert asks_python(script, repo, event, agent) == waits, meaning
            assert queued(repo) == ([] if waits else [event + b"\n"])


def test_space_behind_a_colon_changes_nothing(script: Path, repo: Workspace) -> None:
    handle_tool(repo, told(repo))
    spaced = [json.dumps(json.loads(told(repo, name))).encode() for name in ("PostToolUse", "Stop")]
    assert not asks_python(script, repo, spaced[0]) and queued(repo) == []
    assert is_queued(script, repo, spaced[1])


@pytest.mark.sample(4)
@pytest.mark.parametrize("shell", [name for name in ("dash", "busybox", "bash") if shutil.which(name)])
@pytest.mark.parametrize("blocked", [(), (signal.SIGTERM,)], ids=["none", "SIGTERM"])
def test_agent_that_leaves_its_end_open_does_not_wait(
    blocked: tuple[signal.Signals, ...], shell: str, script: Path, repo: Workspace, tmp_path: Path
) -> None:
    """A program that reads its signals from a descriptor hands its mask on to what it starts."""
    python(repo, told(repo))
    argv = [shell, *(["sh"] if shell == "busybox" else []), os.fspath(script), "hook", "claude"]
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, blocked)
    try:
        with (tmp_path / "said").open("wb") as said, (tmp_path / "words").open("wb") as words:
            process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=said, stderr=words, cwd=repo.path)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    assert process.stdin is not None
    process.stdin.write(told(repo, "SessionStart"))
    process.stdin.flush()
    try:
        status = process.wait(60)
    finally:
        process.stdin.close()
    assert (status, (tmp_path / "words").read_bytes()) == (0, b"")
    assert (tmp_path / "said").read_bytes().startswith(b"Python is asked: hook ")
    assert (tmp_path / "said").read_bytes().rstrip(b"\n").endswith(told(repo, "SessionStart"))


def test_queue_keeps_the_order_and_loses_none_of_twenty_at_once(script: Path, repo: Workspace) -> None:
    python(repo, told(repo))
    events = [told(repo, "Stop", number=number) for number in range(12)]
    for event in events:
        assert not asks_python(script, repo, event)
    assert queued(repo) == [event + b"\n" for event in events]
    argv = [os.fspath(script), "hook", "claude"]
    running = [
        subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, cwd=repo.path) for _ in range(20)
    ]
    together = [told(repo, "Stop", number=number) for number in range(20)]
    for process, event in zip(running, together, strict=True):
        assert process.stdin is not None
        process.stdin.write(event)
        process.stdin.close()
    assert [process.wait(60) for process in running] == [0] * 20
    # Who finds no free number in eight tries asks Python.
    assert {*queued(repo)} <= {event + b"\n" for event in together}


def test_event_that_nobody_could_queue_is_left_to_python(script: Path, repo: Workspace) -> None:
    python(repo, told(repo))
    own(repo, "agent-hook.events/100499.claude").write_bytes(b"{}\n")
    assert asks_python(script, repo, told(repo, "Stop"))


def quoted_in_a_string(repo: Workspace) -> bytes:
    return told(repo, "SessionStart", source=told(repo).decode())


def touch(name: str, seconds: float) -> Callable[[Workspace], None]:
    def change(repo: Workspace) -> None:
        path, when = own(repo, name), time.time() + seconds
        path.touch()
        os.utime(path, (when, when))

    return change


def no_change(repo: Workspace) -> None:
    pass


@pytest.mark.sample(3)
@pytest.mark.parametrize(
    ("change", "event", "env"),
    [
        (no_change, lambda repo: told(repo, session_id="s-2"), {}),
        (no_change, lambda repo: told(repo, cwd=str(repo.outside)), {}),
        (no_change, lambda repo: told(repo, "Unknown"), {}),
        (no_change, quoted_in_a_string, {}),
        (no_change, lambda repo: b"no JSON", {}),
        (no_change, told, {"GITSTATE_PROGRESS_STAGE": "testing"}),
        (touch("lease.json", 60), told, {}),
        (lambda repo: own(repo, "agent-hook.known").unlink(), told, {}),
    ],
    ids=["session", "directory", "event", "quoted event", "no JSON", "stage", "somebody else works here", "not known"],
)
def test_other_events_are_left_to_python(
    change: Callable[[Workspace], Any],
    event: Callable[[Workspace], bytes],
    env: dict[str, str],
    script: Path,
    repo: Workspace,
) -> None:
    handle_tool(repo, told(repo))
    assert not asks_python(script, repo, told(repo))
    own(repo, "agent-hook.now").unlink()
    change(repo)
    assert asks_python(script, repo, event(repo), **env)
    assert queued(repo) == []


@pytest.mark.sample(3)
@pytest.mark.parametrize(
    ("change", "event"),
    [
        (no_change, lambda repo: told(repo, transcript_path="/t/s-2.jsonl")),
        (touch("agent-hook.due", -1), told),
        (touch("agent-hook.json", 60), told),
        (touch("context.json", 60), told),
        (lambda repo: own(repo, "agent-hook.due").unlink(), told),
        (lambda repo: own(repo, "agent-hook.wait").unlink(), told),
        (lambda repo: os.mkfifo(own(repo, "agent-hook.now")), told),
        (lambda repo: own(repo, "agent-hook.now").symlink_to(repo.path / "a"), told),
    ],
    ids=["transcript", "due", "clock set back", "context changed", "no stamp", "nobody waits", "FIFO", "symlink"],
)
def test_tool_event_that_may_change_something_is_queued(
    change: Callable[[Workspace], Any], event: Callable[[Workspace], bytes], script: Path, repo: Workspace
) -> None:
    handle_tool(repo, told(repo))
    assert not asks_python(script, repo, told(repo)) and queued(repo) == []
    own(repo, "agent-hook.now").unlink()
    change(repo)
    assert is_queued(script, repo, event(repo))


def test_checkpoint_is_due_for_the_script_when_it_is_for_python(script: Path, repo: Workspace) -> None:
    """The stamp's time is the last checkpoint and the pause of `is_due`."""

    def memory() -> dict[str, int]:
        return dict(json.loads(own(repo, "agent-hook.json").read_bytes()))

    def pause() -> int:
        return own(repo, "agent-hook.due").stat().st_mtime_ns - memory()["last_ns"]

    python(repo, told(repo))
    # The stamp is dated when the memory is written.
    wait_until(lambda: pause() == 3600 * 10**9, "the stamp of an hour")
    python(repo, told(repo), GITSTATE_HOOK_INTERVAL="0")
    wait_until(lambda: pause() == 20 * memory()["cost_ns"] > 0, "the stamp of what the checkpoint cost")


def test_script_does_not_wait_for_what_it_begins(script: Path, repo: Workspace, tmp_path: Path) -> None:
    gate, done = tmp_path / "gate", tmp_path / "done"
    os.mkfifo(gate)
    slow = f'#!/bin/sh\nread -r go <"{gate}"\necho "$@" >>"{done}"\n'
    (script.parent / "git-gitstate").write_text(slow)
    python(repo, told(repo))
    # It returns while its child still waits at the gate.
    assert is_queued(script, repo, told(repo, "Stop"))
    assert not done.exists()
    gate.write_text("go\n")
    wait_until(lambda: done.exists() and done.read_bytes() == b"hook claude background\n", "its child")


def background(repo: Workspace, *events: bytes, **env: str) -> None:
    """Queue events as the script does, and let Python handle them."""
    for number, event in enumerate(events, 100_001):
        own(repo, f"agent-hook.events/{number}.claude").write_bytes(event + b"\n")
    argv = [*GITSTATE, "hook", "claude", "background"]
    subprocess.run(argv, stdin=subprocess.DEVNULL, cwd=repo.path, env={**os.environ, **SLOW, **env}, check=True)
    assert queued(repo) == []


def test_queued_events_are_handled_in_their_order(repo: Workspace) -> None:
    python(repo, told(repo))
    before = git(repo, "for-each-ref", "refs/gitstate/checkpoints")
    repo.write("new", "newer\n")
    background(repo, told(repo, "UserPromptSubmit"), told(repo, "Stop"))
    assert own(repo, "turn").read_bytes() == b"closed"
    assert git(repo, "for-each-ref", "refs/gitstate/checkpoints") != before
    background(repo, told(repo, "Stop"), b"no JSON", told(repo, "UserPromptSubmit"))
    assert own(repo, "turn").read_bytes() == b"open"


def test_event_whose_writer_was_killed_stops_no_other(repo: Workspace) -> None:
    python(repo, told(repo))
    own(repo, "agent-hook.events/100001.claude").write_bytes(told(repo, "UserPromptSubmit"))
    os.utime(own(repo, "agent-hook.events/100001.claude"), (1, 1))
    own(repo, "agent-hook.events/100002.claude").write_bytes(told(repo, "Stop") + b"\n")
    background(repo)
    assert own(repo, "turn").read_bytes() == b"closed"


def test_event_that_waits_for_an_answer_comes_after_those_in_the_queue(repo: Workspace) -> None:
    python(repo, told(repo))
    own(repo, "agent-hook.events/100001.claude").write_bytes(told(repo, "UserPromptSubmit") + b"\n")
    repo.write("new", "newer\n")
    python(repo, told(repo, "SessionEnd"))
    assert (queued(repo), own(repo, "turn").read_bytes()) == ([], b"closed")
    assert state_file(repo)["status"] == "finished"


def test_late_event_does_not_begin_an_ended_session_again(repo: Workspace) -> None:
    python(repo, told(repo))
    python(repo, told(repo, "SessionEnd"))
    ended = state_file(repo)
    assert ended["status"] == "finished"
    background(repo, told(repo, "Stop"))
    assert state_file(repo) == ended
    python(repo, told(repo))
    assert state_file(repo)["status"] == "active"


def test_another_event_or_a_text_that_json_escapes_leaves_no_stamp(script: Path, repo: Workspace) -> None:
    python(repo, told(repo))
    assert own(repo, "agent-hook.due").exists()
    python(repo, told(repo, "UserPromptSubmit"))
    assert not own(repo, "agent-hook.due").exists()
    python(repo, told(repo, session_id='s"1'))
    assert not own(repo, "agent-hook.due").exists()


@pytest.mark.parametrize("is_relative", [False, True], ids=["absolute", "relative"])
def test_linked_worktree_has_a_stamp_of_its_own(
    is_relative: bool, script: Path, repo: Workspace, tmp_path: Path
) -> None:
    git(repo, "worktree", "add", "-q", str(tmp_path / "linked"))
    linked = Workspace(tmp_path / "linked", repo.outside)
    if is_relative:
        # As `git worktree add --relative-paths` of git 2.48 does.
        (linked.path / ".git").write_text(f"gitdir: {os.path.relpath(linked.git_dir, linked.path)}\n")
    handle_tool(linked, told(linked))
    assert not asks_python(script, linked, told(linked))
    assert asks_python(script, repo, told(repo))


def test_agent_that_does_not_close_its_end_does_not_wait(script: Path, repo: Workspace) -> None:
    python(repo, told(repo))
    with subprocess.Popen(
        [script, "hook", "claude"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=repo.path
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(told(repo))
        process.stdin.flush()
        assert ASKED in process.stdout.read()


# -- before a command


def before(repo: Workspace, command: str, agent: str = "claude") -> bytes:
    name = next(event.name for event in agent_called(agent).events if event.meaning == "before_tool")
    return told(repo, name, agent, tool_name="Bash", tool_input={"command": command})


def test_harmless_command_starts_no_python(script: Path, repo: Workspace) -> None:
    python(repo, told(repo))
    for command in ("ls -l", "npm run build", 'grep -rn "format" src | head', "pytest -q tests/test_a.py 2>&1"):
        assert not asks_python(script, repo, before(repo, command)), command
        assert not queued(repo)


ANNOUNCING = [one.name for one in all_agents() if any(event.meaning == "before_tool" for event in one.events)]


@pytest.mark.parametrize("agent", ANNOUNCING)
def test_python_is_asked_before_a_command_that_destroys(script: Path, repo: Workspace, agent: str) -> None:
    names = {event.meaning: event.name for event in agent_called(agent).events}
    python(repo, told(repo, names["tool"], agent), agent)
    assert not asks_python(script, repo, before(repo, "ls", agent), agent)
    assert asks_python(script, repo, before(repo, "cd x && rm a", agent), agent)


def test_no_command_that_destroys_passes_the_script(script: Path, repo: Workspace) -> None:
    """The script knows names, Python knows the shell."""
    python(repo, told(repo))
    for command in (*DESTROYING, "> a", "echo x>a", "echo x >| a"):
        assert asks_python(script, repo, before(repo, command)), command
